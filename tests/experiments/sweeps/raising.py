"""An environment that raises where a sweep's trial says so. In a module of its own, for Ray's workers."""

from __future__ import annotations

from typing import Any

import gymnasium as gym

from support import NoDigitEnv


class RaisingEnv(NoDigitEnv):
    """Args:
    raises: Whether every step does.
    """

    def __init__(self, raises: int = 0):
        super().__init__()
        self.raises = raises

    def step(self, action: str) -> Any:
        if self.raises:
            raise ConnectionError("the reward service is down")
        return super().step(action)


gym.register("Raising-v0", entry_point=RaisingEnv)
