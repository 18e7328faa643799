"""Searches in writing: demonstrations of Countdown-v0.

What varies is how many attempts fail before the one that succeeds, and whether the writer loses patience and answers
with an attempt that does not.
"""

from __future__ import annotations

import ast
import operator
import random
from collections.abc import Iterator
from dataclasses import dataclass

from envs.countdown import CountdownTask

OPERATIONS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.floordiv}
AST_SYMBOLS = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/"}
MAX_VALUE = 200


@dataclass(frozen=True)
class Term:
    """A value reached on the way, the expression that gave it, and the calculations written down for it."""

    value: int
    expression: str
    steps: tuple[str, ...] = ()

    @property
    def operand(self) -> str:
        """The expression as it stands inside a larger one."""
        return f"({self.expression})" if self.steps else self.expression


def combine(left: Term, symbol: str, right: Term) -> Term | None:
    """`left symbol right` as a new term, with the larger number first where the order does not matter.

    None where the result is not a whole number from 1 to `MAX_VALUE`: the demonstrations stay with those.
    """
    if symbol in "+*" and left.value < right.value:
        left, right = right, left
    if symbol == "/" and left.value % right.value:
        return None
    value = OPERATIONS[symbol](left.value, right.value)
    if not 1 <= value <= MAX_VALUE:
        return None
    step = f"{left.value} {symbol} {right.value} = {value}"
    return Term(value, f"{left.operand} {symbol} {right.operand}", (*left.steps, *right.steps, step))


def term_of(expression: str) -> Term | None:
    """The calculations that an expression such as `(44 + 19) * 2` stands for; None where `combine` gives none."""

    def visit(node: ast.expr) -> Term | None:
        if isinstance(node, ast.BinOp):
            left, right = visit(node.left), visit(node.right)
            return left and right and combine(left, AST_SYMBOLS[type(node.op)], right)
        if isinstance(node, ast.Constant) and isinstance(node.value, int):
            return Term(node.value, str(node.value))
        return None

    return visit(ast.parse(expression, mode="eval").body)


def random_attempt(rng: random.Random, numbers: list[int], target: int | None = None) -> Term:
    """Combines the numbers blindly, two at a time; given a target, every other last step is the one nearest to it."""
    terms = [Term(number, str(number)) for number in numbers]
    while len(terms) > 1:
        rng.shuffle(terms)
        left, right = sorted((terms.pop(), terms.pop()), key=lambda term: -term.value)
        results = [term for symbol in OPERATIONS if (term := combine(left, symbol, right))]
        if not results:
            return random_attempt(rng, numbers, target)
        if not terms and target is not None and rng.random() < 0.5:
            results = [min(results, key=lambda term: abs(term.value - target))]
        terms.append(rng.choice(results))
    return terms[0]


def write(attempts: list[Term]) -> str:
    """A completion: one line an attempt, then the last attempt as the answer."""
    lines = "".join(f"\n{', '.join(attempt.steps)}" for attempt in attempts)
    return f"{lines}\n</think>\n<answer> {attempts[-1].expression} </answer>"


def search(rng: random.Random, numbers: list[int], target: int, solution: Term, patient: bool) -> list[Term]:
    """Attempts, all different: failed ones, then the solution, unless the writer gives up before it is found.

    A patient writer fails up to five times, and gives up one search in six, after three attempts at the earliest. A
    hasty one mostly gives up at the first failure.
    """
    if patient:
        gives_up = rng.random() < 1 / 6
        num_failures = rng.randint(3, 6) if gives_up else rng.randint(0, 5)
    else:
        gives_up = rng.random() < 0.6
        num_failures = gives_up + (rng.randint(1, 2) if rng.random() < 0.25 else 0)
    attempts: list[Term] = []
    while len(attempts) < num_failures:
        attempt = random_attempt(rng, numbers, target)
        if attempt not in attempts:
            attempts.append(attempt)
        if attempt.value == target:
            return attempts
    return attempts if gives_up else [*attempts, solution]


def wander(rng: random.Random, numbers: list[int]) -> list[Term]:
    """Attempts that know nothing of the target."""
    return [random_attempt(rng, numbers) for _ in range(rng.randint(1, 4))]


def countdown(rng: random.Random, task: CountdownTask, style: str) -> Iterator[str]:
    """A search for the target, patient or hasty, or blind attempts of which the last is given for the answer."""
    numbers = list(task.numbers)
    solution = term_of(task.solution)
    if solution is None:
        return
    if style == "blind":
        yield write(wander(rng, numbers))
    else:
        yield write(search(rng, numbers, task.target, solution, patient=style == "patient"))
