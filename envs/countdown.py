"""Countdown: combine some numbers into a target (TinyZero's task, question and reward scale)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from itertools import combinations
from operator import index
from typing import Any, NamedTuple

import numpy as np

from envs.splits import split_of_text
from envs.verify.verifiers import verify_arithmetic
from llmenv.env import TaskEnv

QUESTION = (
    "Using the numbers {numbers}, create an equation that equals {target}. You can use basic arithmetic operations "
    "(+, -, *, /) and each number can only be used once. Show your work in <think> </think> tags. And return the final "
    "answer in <answer> </answer> tags, for example <answer> (1 + 2) / 3 </answer>."
)
_MAX_ATTEMPTS = 100_000  # a usual task takes five


class CountdownTask(NamedTuple):
    """Numbers to combine, what they must make, and one expression that does ("" if none is known)."""

    numbers: tuple[int, ...]
    target: int
    solution: str = ""


def split_of(numbers: Sequence[int], target: int) -> str:
    """The split, "train" or "test", that a task belongs to; the order of its numbers does not matter."""
    return split_of_text(f"{sorted(numbers)} {target}")


def draw_task(
    rng: np.random.Generator,
    num_numbers: Sequence[int] = (3, 4),
    number_range: tuple[int, int] = (1, 99),
    target_range: tuple[int, int] = (10, 100),
    split: str | None = "train",
) -> CountdownTask:
    """Draw a task that is solvable using every number, with its solution.

    The count of numbers is uniform over `num_numbers`. Numbers, a tree over them and its operators are drawn
    until some operator at the root brings the value into range; one of those is taken. As in TinyZero's data
    every step gives a natural number: the larger less the smaller, and only quotients that are whole.

    Args:
        rng: source of all randomness; the task is a function of its state.
        num_numbers: the counts of numbers to choose from, each 2 to 6.
        number_range: least and greatest number, 0 or more.
        target_range: least and greatest target, 0 or more.
        split: "train", "test", or None for either.

    Raises:
        ValueError: no task could be found for these arguments.
    """
    uniform = _uniforms(rng)
    count = num_numbers[int(next(uniform) * len(num_numbers))]
    trees = _trees(count)
    operator_choices = 4 ** (count - 2)  # the one at the root is chosen by its value
    low, width = number_range[0], number_range[1] - number_range[0] + 1
    target_low, target_high = target_range
    for attempt in range(_MAX_ATTEMPTS):
        if attempt % 4 == 0:  # numbers cost more than operators: give them a few chances
            numbers = [low + int(next(uniform) * width) for _ in range(count)]
            tree = trees[int(next(uniform) * len(trees))]
        operators = int(next(uniform) * operator_choices)
        values = _root_values(numbers, tree, operators)
        fitting = [root for root, value in enumerate(values) if target_low <= value <= target_high]
        if not fitting:
            continue
        root = fitting[int(next(uniform) * len(fitting))]
        target = values[root]
        if split is None or split == split_of(numbers, target):
            solution = _expression(numbers, tree, operators + root * operator_choices)
            return CountdownTask(tuple(numbers), target, solution)
    raise ValueError(
        f"found no {split or ''} task with {count} numbers in {number_range} and a target in {target_range}: "
        "widen number_range or target_range"
    )


def _uniforms(rng: np.random.Generator) -> Iterator[float]:
    """Uniform numbers in [0, 1), drawn in blocks: one call of the generator costs as much as fifty numbers."""
    while True:
        yield from rng.random(64).tolist()


@cache
def _trees(count: int) -> list[tuple[tuple[int, int], ...]]:
    """All orders of joining two at a time: pairs of indices, the numbers' first, then the results' in turn."""

    def joinings(nodes: tuple[int, ...], result: int) -> Iterator[tuple[tuple[int, int], ...]]:
        if len(nodes) == 1:
            yield ()
        for pair in combinations(nodes, 2):
            rest = tuple(node for node in nodes if node not in pair)
            for later in joinings((*rest, result), result + 1):
                yield (pair, *later)

    return list(joinings(tuple(range(count)), count))


def _root_values(numbers: Sequence[int], tree: Sequence[tuple[int, int]], operators: int) -> Sequence[int]:
    """Compute a tree, its operators being the base-4 digits of an integer, for each of four at its root.

    Returns:
        Sum, difference, product and quotient at the root (-1 if not whole); nothing if one below is not whole.
    """
    nodes = list(numbers)
    for i, j in tree:
        a, b = nodes[i], nodes[j]
        if a < b:
            a, b = b, a
        if len(nodes) == 2 * len(numbers) - 2:  # the root
            return a + b, a - b, a * b, a // b if b and not a % b else -1
        match operators & 3:
            case 0:
                nodes.append(a + b)
            case 1:
                nodes.append(a - b)
            case 2:
                nodes.append(a * b)
            case _:
                if not b or a % b:
                    break
                nodes.append(a // b)
        operators >>= 2
    return ()


def _expression(numbers: Sequence[int], tree: Sequence[tuple[int, int]], operators: int) -> str:
    """Write a tree down with no more parentheses than it needs."""
    # (value, text, precedence: 1 of a sum, 2 of a product, 3 of a number)
    nodes = [(n, str(n), 3) for n in numbers]
    for i, j in tree:
        (b, right, right_precedence), (a, left, left_precedence) = sorted((nodes[i], nodes[j]))
        operator = operators & 3
        operators >>= 2
        precedence = 1 if operator < 2 else 2
        if left_precedence < precedence:
            left = f"({left})"
        if right_precedence < precedence or (right_precedence == precedence and operator & 1):
            right = f"({right})"
        value = (a + b, a - b, a * b, a // (b or 1))[operator]
        nodes.append((value, f"{left} {'+-*/'[operator]} {right}", precedence))
    return nodes[-1][1]


class CountdownEnv(TaskEnv[CountdownTask]):
    """Countdown: make the target from the numbers, each used exactly once, with + - * / and parentheses.

    ## Description
    The numbers game that TinyZero trains on: a question, one response, a verdict. Every drawn task is solvable
    using all its numbers. The two splits are disjoint by a hash of (sorted numbers, target), in every process.

    ## Observation Space
    `TextSpace`: the question, in TinyZero's words by default; after the step the empty text. The info of
    `reset` has `system` and `assistant_prefix`, which a prompt template places around it.

    ## Action Space
    `TextSpace`: the assistant's whole message, i.e. `assistant_prefix` followed by what the model wrote. `step`
    takes any text of any length; the work for it is bounded.

    ## Rewards
    `correct`: the last complete `<answer>` block outside the reasoning is an expression that makes the target
    exactly, using every number once (`llmenv.text` and `envs.verify.verifiers` have the fine print).
    What that pays, with good form and without, says `llmenv.env.TaskEnv`.

    The info of `step` has `correct`, `well_formed`, `answer` (the text of the block, or None) and `failure`: None,
    "no answer", "not an expression", "wrong numbers", "wrong value", or "malformed" if correct but not well formed.

    ## Episode End
    Terminated after one step, never truncated. Another step before `reset` raises `gymnasium.error.ResetNeeded`.

    ## Arguments
    - `num_numbers=(3, 4)`: the counts of numbers to choose from, or one count; each from 2 to 6.
    - `number_range=(1, 99)`, `target_range=(10, 100)`: least and greatest values, 0 or more.
    - `question=...`: the wording, with the fields `{numbers}` (written as a Python list) and `{target}`.
    - `split="train"` or `"test"`; `reward="default"` or `"tinyzero"`; `reward_amounts=(1.0, 0.1, 0.0)`;
      `system=None`, `assistant_prefix=None`: see `llmenv.env.TaskEnv`.

    `reset(seed=s)` fully determines the task. `reset(options={"numbers": [44, 19, 35], "target": 98})` sets it:
    any integers, of either split, solvable or not.

    ## Vector use
    A text has no shared-memory form, so the asynchronous mode needs `shared_memory=False`. By Gymnasium's default
    (`AutoresetMode.NEXT_STEP`) every second step of a one-turn environment only resets and ignores its action;
    with `SAME_STEP` each step is judged, and its info stands in `infos["final_info"]`:

    ```python
    gymnasium.make_vec("envs:Countdown-v0", num_envs=8, vectorization_mode="async", vector_kwargs={
        "shared_memory": False, "autoreset_mode": gymnasium.vector.AutoresetMode.SAME_STEP})
    ```

    ## References
    TinyZero: https://github.com/Jiayi-Pan/TinyZero. Gandhi et al. 2024, "Stream of Search (SoS): Learning to Search
    in Language": https://arxiv.org/abs/2404.03683.

    ## Version History
    - v0: first version.
    """

    def __init__(
        self,
        num_numbers: int | Sequence[int] = (3, 4),
        number_range: tuple[int, int] = (1, 99),
        target_range: tuple[int, int] = (10, 100),
        question: str = QUESTION,
        split: str = "train",
        reward: str = "default",
        reward_amounts: Sequence[float] = (1.0, 0.1, 0.0),
        system: str | None = None,
        assistant_prefix: str | None = None,
    ) -> None:
        super().__init__(split, reward, reward_amounts, system, assistant_prefix)
        self.num_numbers = (num_numbers,) if isinstance(num_numbers, int) else tuple(num_numbers)
        self.number_range = number_range
        self.target_range = target_range
        self.wording = question
        if not self.num_numbers or not set(self.num_numbers) <= set(range(2, 7)):
            raise ValueError(f"num_numbers must be counts from 2 to 6, such as (3, 4), not {num_numbers!r}")
        for name in ("number_range", "target_range"):
            bounds = getattr(self, name)
            if len(bounds) != 2 or not 0 <= bounds[0] <= bounds[1]:
                raise ValueError(
                    f"{name} must be (least, greatest) with 0 <= least <= greatest, not {bounds!r}"
                )
        if "{numbers}" not in question or "{target}" not in question:
            raise ValueError("question must have the fields {numbers} and {target}")

    def draw(self) -> CountdownTask:
        return draw_task(self.np_random, self.num_numbers, self.number_range, self.target_range, self.split)

    def from_options(self, options: dict[str, Any]) -> CountdownTask:
        remedy = 'give options={"numbers": [44, 19, 35], "target": 98}, all of them integers'
        if set(options) != {"numbers", "target"}:
            raise ValueError(f"options has the keys {sorted(map(str, options))}: {remedy}")
        try:
            numbers = tuple(index(n) for n in options["numbers"])
            target = index(options["target"])
        except TypeError as error:
            raise ValueError(f"{error}: {remedy}") from None
        if not numbers:
            raise ValueError(f"options has no numbers: {remedy}")
        return CountdownTask(numbers, target)

    def solution(self, task: CountdownTask) -> str | None:
        return task.solution or None

    def question(self, task: CountdownTask) -> str:
        # str.replace, not str.format: the wording may have braces of its own, such as \frac{}{}
        return self.wording.replace("{numbers}", str(list(task.numbers))).replace(
            "{target}", str(task.target)
        )

    def verify(self, task: CountdownTask, answer: str) -> str | None:
        return verify_arithmetic(answer, task.numbers, task.target)
