"""A runner in name alone, for the tests of asking runners: dying and starting again takes a second.

Its process imports what stands here, and neither torch nor RLlib.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any, NamedTuple

from llmenv.episode import TextEpisode


class Request(NamedTuple):
    """What is asked for, as `llmenv.rollout.GroupRequest` has it."""

    group: int
    size: int
    first: int = 0
    seed: int = 0
    options: dict[str, Any] | None = None


class Runner:
    """Answers, or does what its file of orders says: the first line is for the call, the second for the next start.

    Args:
        orders: Empty, or "die", "die of 3" (at group 3 and no other), "raise", "hang" and a line "raise" or seconds
            to sleep.
        calls: A file that every call adds a letter to.
    """

    def __init__(self, orders: str, calls: str):
        self.orders, self.calls = Path(orders), Path(calls)
        self.version = None
        if order := self._order(1):
            if order == "raise":
                raise OSError("no model there")
            time.sleep(float(order))
            self.orders.write_text("")

    def _order(self, line: int) -> str:
        lines = self.orders.read_text().splitlines()
        return lines[line] if len(lines) > line else ""

    def ping(self) -> str:
        return "pong"

    def apply(self, func: Any) -> Any:  # RLlib's probe
        return func(self)

    def set_state(self, state: dict[str, Any]) -> None:
        self.version = state["weights_seq_no"]

    def get_version(self) -> int | None:
        return self.version

    def sample_with_metrics(self, requests: list[Request]) -> tuple[list[TextEpisode], str]:
        with self.calls.open("a") as file:
            file.write("c")
        order = self._order(0)
        if order == "die" or order in [f"die of {request.group}" for request in requests]:
            os._exit(1)
        if order == "raise":
            raise KeyError("token 99")
        if order == "hang":
            self.orders.write_text("")  # the next one will not
            time.sleep(100)
        return [TextEpisode(r.group, i) for r in requests for i in range(r.size)], "metrics"
