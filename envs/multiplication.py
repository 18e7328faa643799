"""Multiplication: one number times another (TinyZero's task and question), with a reward for right steps."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from operator import index
from typing import Any, NamedTuple

from envs.splits import split_of_text
from envs.verify.verifiers import decimal_text, verify_integer
from llmenv.env import TaskEnv
from llmenv.text import Response

QUESTION = "Give me the answer of the following equation: {a} * {b} ="
_MAX_DIGITS = 18  # of a drawn factor: 64 bits hold them

# A chain is the longest run of numbers that operators join, on one line. Only a chain that is a product and its
# result is a step: `5 * 47 * 30 = 7050` and `47 * 30 = 1410 = 1420` say nothing of 47 * 30.
_TIMES = r"(?:[*×·⋅]|\\times|\\cdot)"
_OPERATOR = rf"[ \t]*+(?:{_TIMES}|[-+/=÷−^]|\\div)[ \t]*+"
_NUMBER = r"[0-9]++(?:[.,][0-9]++)*+"
_CHAIN = re.compile(rf"{_NUMBER}(?:{_OPERATOR}{_NUMBER})*+")
_STEP = re.compile(rf"([0-9]++)[ \t]*+{_TIMES}[ \t]*+([0-9]++)[ \t]*+=[ \t]*+([0-9]++)")


class MultiplicationTask(NamedTuple):
    """Two factors."""

    a: int
    b: int


def split_of(a: int, b: int) -> str:
    """The split, "train" or "test", that a task belongs to; the order of its factors does not matter."""
    return split_of_text(f"{min(a, b)} * {max(a, b)}")


def share_of_steps(text: str, a: int, b: int) -> float:
    """Share of the partial products of `a * b` that a text states rightly, each as `x * y = z`; 0.0 to 1.0.

    For each digit of a factor that is not 0, there is the other factor times that digit at its place: 47 * 36 has
    `47 * 30 = 1410` and `47 * 6 = 282`, or `36 * 40 = 1440` and `36 * 7 = 252`. Of these two ways, the one that
    more is stated of counts. The order within a product is free; one that is stated with two results counts as
    wrong. The signs of `a` and `b` are left out, and a factor 0 has no partial products. The time is linear in the
    text.
    """
    stated: dict[frozenset[str], str | None] = {}  # {x, y}: z, or None where the results differ
    for chain in _CHAIN.finditer(text):
        if step := _STEP.fullmatch(chain[0]):
            product, result = frozenset(step.group(1, 2)), step[3]
            stated[product] = result if stated.get(product, result) == result else None
    a, b = abs(a), abs(b)
    return max(_share_of_way(stated, a, b), _share_of_way(stated, b, a)) if a and b else 0.0


def _share_of_way(stated: Mapping[frozenset[str], str | None], multiplicand: int, multiplier: int) -> float:
    """The share where the digits are those of `multiplier`."""
    x, digits = decimal_text(multiplicand), decimal_text(multiplier)
    num_right = 0
    for product, z in stated.items():  # numbers of the response stay texts: none is converted, however long
        if x in product:
            (y,) = product - {x} or {x}
            digit, place = y[0], len(y) - 1
            if place < len(digits) and digits[-1 - place] == digit != "0" and y == digit + "0" * place:
                num_right += z == decimal_text(multiplicand * int(digit)) + "0" * place
    return num_right / (len(digits) - digits.count("0"))


class MultiplicationEnv(TaskEnv[MultiplicationTask]):
    """Multiplication: compute the product of two whole numbers.

    ## Description
    The second task that TinyZero trains on: a question, one response, a verdict. A drawn factor is uniform over all
    numbers of up to so many digits, 0 included. The two splits are disjoint by a hash of the sorted factors, in
    every process.

    ## Observation Space
    `TextSpace`: the question, in TinyZero's words by default; after the step the empty text. The info of
    `reset` has `system` and `assistant_prefix`, which a prompt template places around it.

    ## Action Space
    `TextSpace`: the assistant's whole message, i.e. `assistant_prefix` followed by what the model wrote. `step`
    takes any text of any length; the work for it is bounded.

    ## Rewards
    `correct`: the last complete `<answer>` block outside the reasoning is the product, as one bare integer
    (`llmenv.text` and `envs.verify.verifiers` have the fine print).
    What that pays, with good form and without, says `llmenv.env.TaskEnv`.

    `step_reward` adds to that, for a well-formed response, up to so much for the work shown in the `<think>` block:
    in proportion to how many of the partial products stand there rightly (`share_of_steps` has the rules). It is
    never so much that steps with a wrong answer earn more than a right answer in good form without them.

    The info of `step` has `correct`, `well_formed`, `answer` (the text of the block, or None) and `failure`: None,
    "no answer", "not an integer", "wrong value", or "malformed" if correct but not well formed.

    ## Episode End
    Terminated after one step, never truncated. Another step before `reset` raises `gymnasium.error.ResetNeeded`.

    ## Arguments
    - `digits=3`: how many digits a factor has at most, 1 to 18; a pair, such as `(3, 2)`, for `a` and `b` apart.
    - `question=...`: the wording, with the fields `{a}` and `{b}`.
    - `split="train"` or `"test"`; `reward="default"` or `"tinyzero"`; `reward_amounts=(1.0, 0.1, 0.0)`;
      `system=None`, `assistant_prefix=None`: see `llmenv.env.TaskEnv`.
    - `step_reward=0.0`: at most full less partial.

    `reset(seed=s)` fully determines the task. `reset(options={"a": 47, "b": 36})` sets it: any integers, of
    either split.

    ## References
    TinyZero: https://github.com/Jiayi-Pan/TinyZero.

    ## Version History
    - v0: first version.
    """

    system = (
        "The assistant first thinks about the reasoning process in the mind and then provides the user with "
        "the answer. The reasoning process and answer are enclosed within <think> </think> and <answer> </answer> "
        "tags, respectively, i.e., <think> reasoning process here </think> <answer> answer here </answer>."
    )
    assistant_prefix = "Ok let me think about it.\n<think>"

    def __init__(
        self,
        digits: int | Sequence[int] = 3,
        question: str = QUESTION,
        split: str = "train",
        reward: str = "default",
        reward_amounts: Sequence[float] = (1.0, 0.1, 0.0),
        step_reward: float = 0.0,
        system: str | None = None,
        assistant_prefix: str | None = None,
    ) -> None:
        super().__init__(split, reward, reward_amounts, system, assistant_prefix)
        self.digits = (digits, digits) if isinstance(digits, int) else tuple(digits)
        self.wording = question
        self.step_reward = float(step_reward)
        if len(self.digits) != 2 or not set(self.digits) <= set(range(1, _MAX_DIGITS + 1)):
            raise ValueError(f"digits must be 1 to {_MAX_DIGITS}, or two such numbers, not {digits!r}")
        if "{a}" not in question or "{b}" not in question:
            raise ValueError("question must have the fields {a} and {b}")
        full, partial, _ = self.reward_amounts
        if step_reward and not 0 < step_reward <= full - partial:
            raise ValueError(
                f"step_reward must be 0 to {full - partial:g} (what a right answer adds to good form), so that "
                f"steps are never worth more than a right answer, not {step_reward!r}"
            )

    def draw(self) -> MultiplicationTask:
        while True:
            a, b = (int(self.np_random.integers(10**digits)) for digits in self.digits)
            if split_of(a, b) == self.split:
                return MultiplicationTask(a, b)

    def from_options(self, options: dict[str, Any]) -> MultiplicationTask:
        remedy = 'give options={"a": 47, "b": 36}, both of them integers'
        if set(options) != {"a", "b"}:
            raise ValueError(f"options has the keys {sorted(map(str, options))}: {remedy}")
        try:
            return MultiplicationTask(index(options["a"]), index(options["b"]))
        except TypeError as error:
            raise ValueError(f"{error}: {remedy}") from None

    def solution(self, task: MultiplicationTask) -> str:
        return decimal_text(task.a * task.b)

    def question(self, task: MultiplicationTask) -> str:
        # str.replace, not str.format: the wording may have braces of its own, such as \frac{}{}
        return self.wording.replace("{a}", decimal_text(task.a)).replace("{b}", decimal_text(task.b))

    def verify(self, task: MultiplicationTask, answer: str) -> str | None:
        return verify_integer(answer, task.a * task.b)

    def bonus(self, task: MultiplicationTask, response: Response) -> float:
        if not self.step_reward or not response.well_formed:
            return 0.0
        return self.step_reward * share_of_steps(response.think or "", task.a, task.b)
