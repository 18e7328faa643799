"""Multiplication on paper, or guessed: demonstrations of Multiplication-v0.

What varies is whether the writer works the product out, or guesses.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from envs.multiplication import MultiplicationTask, split_of


def work_out(a: int, b: int) -> list[str]:
    """The calculations on paper: the longer factor's digits times the other one, then their sum, one by one."""
    if len(str(a)) < len(str(b)):
        a, b = b, a
    places = [int(digit) * 10**place for place, digit in enumerate(reversed(str(a)))]
    parts = [part for part in reversed(places) if part] or [0]
    steps = [f"{part} * {b} = {part * b}" for part in parts]
    total = parts[0] * b
    for part in parts[1:]:
        steps.append(f"{total} + {part * b} = {total + part * b}")
        total += part * b
    return steps


def guess(rng: random.Random, a: int, b: int) -> int:
    """What one says who does not work it out: a number of the right size, with the right last digit.

    The table up to 9 * 9 is known by heart, and that times 0 is 0.
    """
    product = a * b
    if max(a, b) < 10 or not product:
        return product
    return product + rng.choice((-10, 10)) * rng.randint(1, max(1, product // 50))


def write(steps: list[str], answer: int) -> str:
    """A completion: the calculations on one line, then the answer."""
    line = f"\n{', '.join(steps)}" if steps else ""
    return f"{line}\n</think>\n<answer> {answer} </answer>"


def _other_factors(rng: random.Random, task: MultiplicationTask) -> tuple[int, int]:
    """Factors of as many digits, not of a held-out task."""
    while True:
        a, b = (rng.randrange(10 ** len(str(factor))) for factor in task)
        if split_of(a, b) == "train":
            return a, b


def multiplication(rng: random.Random, task: MultiplicationTask, style: str) -> Iterator[str]:
    """The product worked out, or guessed: by a patient writer one time in six, by a hasty one three times in five.

    A blind writer works out the product of two other numbers.
    """
    a, b = task
    if style == "blind":
        a, b = _other_factors(rng, task)
    elif rng.random() < (1 / 6 if style == "patient" else 3 / 5):
        yield write([], guess(rng, a, b))
        return
    yield write(work_out(a, b), a * b)
