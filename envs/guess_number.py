"""Guess the number: a game of several turns, in which every guess is answered by higher or lower."""

from __future__ import annotations

from collections.abc import Sequence
from operator import index
from typing import Any, NamedTuple

from envs.splits import split_of_text
from envs.verify.verifiers import read_integer, verify_integer
from llmenv.env import TaskEnv
from llmenv.text import parse_response

QUESTION = (
    "I have chosen a whole number from {low} to {high}. Find it within {max_guesses} guesses. I will tell you whether "
    "it is higher or lower. Think in <think> </think> tags. And return each guess in <answer> </answer> tags, for "
    "example <answer> 5 </answer>."
)
_MAX_ATTEMPTS = 10_000


class GuessNumberTask(NamedTuple):
    """The chosen number, and the range that it is known to lie in."""

    low: int
    high: int
    number: int


def split_of(low: int, high: int) -> str:
    """The split, "train" or "test", that the games of a range belong to."""
    return split_of_text(f"guess {low} {high}")


class GuessNumberEnv(TaskEnv[GuessNumberTask]):
    """Guess the number: find a number by guessing, each guess being answered by "higher" or "lower".

    ## Description
    A number is chosen uniformly from a range of `size` numbers, and the range from `number_range`. With the defaults
    halving the range finds it always: 15 numbers, 4 guesses. The two splits are disjoint by a hash of the range.

    ## Observation Space
    `TextSpace`: the question, then "higher" or "lower", after the last step the empty text. The info of `reset` has
    `system` and `assistant_prefix`, which a prompt template places around it; that of a step with a next turn has an
    `assistant_prefix` again, `<think>` (or the argument's).

    ## Action Space
    `TextSpace`: the assistant's whole message, i.e. `assistant_prefix` followed by what the model wrote. `step`
    takes any text of any length; the work for it is bounded.

    ## Rewards
    0 for a guess that the game goes on after. The last message pays what `llmenv.env.TaskEnv` says: `correct` is the
    number in the last complete `<answer>` block outside the reasoning.

    The info of `step` has `correct`; that of the last one also `well_formed`, `answer` (the text of the block, or
    None) and `failure`: None, "no answer", "not an integer", "wrong value", or "malformed" if correct but not well
    formed.

    ## Episode End
    Terminated by the right guess, the last one, or a message without a guess. Never truncated. Another step before
    `reset` raises `gymnasium.error.ResetNeeded`.

    ## Arguments
    - `size=15`: how many numbers the range has, 2 or more.
    - `max_guesses=4`: 1 or more.
    - `number_range=(1, 99)`: least and greatest number that a range may have.
    - `question=...`: the wording, with the fields `{low}`, `{high}` and `{max_guesses}`.
    - `split="train"` or `"test"`; `reward="default"` or `"tinyzero"`; `reward_amounts=(1.0, 0.1, 0.0)`;
      `system=None`, `assistant_prefix=None`: see `llmenv.env.TaskEnv`.

    `reset(seed=s)` fully determines the task. `reset(options={"low": 1, "high": 15, "number": 7})` sets it, of either
    split.

    ## Version History
    - v0: first version.
    """

    def __init__(
        self,
        size: int = 15,
        max_guesses: int = 4,
        number_range: tuple[int, int] = (1, 99),
        question: str = QUESTION,
        split: str = "train",
        reward: str = "default",
        reward_amounts: Sequence[float] = (1.0, 0.1, 0.0),
        system: str | None = None,
        assistant_prefix: str | None = None,
    ) -> None:
        super().__init__(split, reward, reward_amounts, system, assistant_prefix)
        if max_guesses < 1:
            raise ValueError(f"max_guesses must be 1 or more, not {max_guesses}")
        if len(number_range) != 2 or not 2 <= size <= number_range[1] - number_range[0] + 1:
            raise ValueError(
                f"number_range must be (least, greatest) with room for size={size} numbers, 2 or more, not "
                f"{number_range!r}"
            )
        if not all(field in question for field in ("{low}", "{high}", "{max_guesses}")):
            raise ValueError("question must have the fields {low}, {high} and {max_guesses}")
        self.size = size
        self.max_guesses = max_guesses
        self.number_range = number_range
        self.wording = question
        self.guesses = 0

    def draw(self) -> GuessNumberTask:
        least, greatest = self.number_range
        for _ in range(_MAX_ATTEMPTS):
            low = int(self.np_random.integers(least, greatest - self.size + 2))
            high = low + self.size - 1
            if split_of(low, high) == self.split:
                return GuessNumberTask(low, high, int(self.np_random.integers(low, high + 1)))
        raise ValueError(
            f"no {self.split} range of {self.size} numbers in {self.number_range}: widen number_range"
        )

    def from_options(self, options: dict[str, Any]) -> GuessNumberTask:
        remedy = 'give options={"low": 1, "high": 15, "number": 7}, integers with low <= number <= high'
        if set(options) != {"low", "high", "number"}:
            raise ValueError(f"options has the keys {sorted(map(str, options))}: {remedy}")
        try:
            task = GuessNumberTask(**{name: index(value) for name, value in options.items()})
        except TypeError as error:
            raise ValueError(f"{error}: {remedy}") from None
        if not task.low <= task.number <= task.high:
            raise ValueError(f"{task.number} is not from {task.low} to {task.high}: {remedy}")
        return task

    def solution(self, task: GuessNumberTask) -> str:
        return str(task.number)

    def question(self, task: GuessNumberTask) -> str:
        fields = {"low": task.low, "high": task.high, "max_guesses": self.max_guesses}
        text = self.wording
        for name, value in fields.items():
            text = text.replace(f"{{{name}}}", str(value))
        return text

    def verify(self, task: GuessNumberTask, answer: str) -> str | None:
        return verify_integer(answer, task.number)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        self.guesses = 0
        return super().reset(seed=seed, options=options)

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Answer a wrong guess, or judge the last message as the whole response; then the episode ends."""
        if self.task is not None and isinstance(action, str):
            self.guesses += 1
            answer = parse_response(action).answer
            guess = None if answer is None else read_integer(answer)
            if guess not in (None, self.task.number) and self.guesses < self.max_guesses:
                hint = "higher" if guess < self.task.number else "lower"
                prefix = self.given_prompt.get("assistant_prefix", "<think>")
                return hint, 0.0, False, False, {"correct": False, "assistant_prefix": prefix}
        return super().step(action)
