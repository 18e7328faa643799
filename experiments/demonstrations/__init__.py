"""Generated demonstrations: for an environment's tasks, what a fair but fallible solver would write.

They cold-start the embedded models (`make_tiny.py`). A demonstration is the completion that follows the response
prefix, or where the environment has several turns, one completion a turn. Every calculation in it is right; what varies
is the patience of the writer.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from envs.countdown import QUESTION as COUNTDOWN_QUESTION
from envs.guess_number import QUESTION as GUESS_NUMBER_QUESTION
from envs.multiplication import QUESTION as MULTIPLICATION_QUESTION
from experiments.demonstrations.countdown import countdown
from experiments.demonstrations.guess_number import guess_number
from experiments.demonstrations.multiplication import multiplication

STYLES = ("patient", "hasty", "blind")


@dataclass(frozen=True)
class Demonstrations:
    """How an environment's tasks are demonstrated.

    Attributes:
        wording: the constant parts of its messages; each becomes one token.
        write: from a source of randomness, a task and one of STYLES, the completion of each turn, as many as are
            asked for; none for a task that is not demonstrated. A "patient" solver mostly finds the solution, a "hasty"
            one soon gives up, and a "blind" one shows the form alone.
        env_config: arguments of the environment, for tasks that so small a model can learn.
    """

    wording: tuple[str, ...]
    write: Callable[[random.Random, Any, str], Iterable[str]]
    env_config: dict[str, Any] = field(default_factory=dict)


def _wording(question: str) -> tuple[str, ...]:
    return tuple(re.split(r"{\w+}", question))


DEMONSTRATIONS = {
    "Countdown-v0": Demonstrations(_wording(COUNTDOWN_QUESTION), countdown),
    "Multiplication-v0": Demonstrations(
        _wording(MULTIPLICATION_QUESTION), multiplication, {"digits": (2, 1)}
    ),
    # with its answers, and what the template of DeepSeek-R1-Zero writes around them
    "GuessNumber-v0": Demonstrations(
        (*_wording(GUESS_NUMBER_QUESTION), "higher", "lower", "\nUser: ", "\nAssistant: "), guess_number
    ),
}
