"""An environment that fails where a sweep's trial says so. In a module of its own, for Ray's workers."""

from __future__ import annotations

import os
import signal
from typing import Any

import gymnasium as gym

from support import NoDigitEnv


class RaisingEnv(NoDigitEnv):
    """Args:
    fails: "raises" in every step, or "is killed", the process of the learner with it, as when memory is short.
    """

    def __init__(self, fails: str = "no"):
        super().__init__()
        self.fails = fails

    def step(self, action: str) -> Any:
        if self.fails == "is killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.fails == "raises":
            raise ConnectionError("the reward service is down")
        return super().step(action)


gym.register("Raising-v0", entry_point=RaisingEnv)
