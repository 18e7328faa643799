r"""What a mathematical answer is made of: the nodes of the tree, and arithmetic that cannot grow beyond all bounds.

The leaves are sympy expressions; above them stand

- `Collection`: several answers without order, a set or a list: `\{1, 2\}`, `1, 2`, `1 \pm \sqrt{2}`, `x = 1 or x = 2`,
- `Tuple`: items in order, in brackets: points, vectors, and intervals, which are pairs,
- `Union` of intervals or sets, `Matrix`, `Relation` (`x = 5`, `1 < x \le 3`), and `Text` (`\text{Monday}`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import sympy
from sympy import Expr, Rational, Symbol

from envs.verify.math_answer.tokens import TooLarge, Unreadable

MAX_BITS = 10_000  # of an integer in a result


@dataclass(frozen=True)
class Text:
    """Words, in lower case without punctuation."""

    words: str


@dataclass(frozen=True)
class Collection:
    """Answers in any order."""

    items: tuple[Node, ...]


@dataclass(frozen=True)
class Tuple:
    """Items in order, and the brackets around them."""

    opening: str
    closing: str
    items: tuple[Node, ...]


@dataclass(frozen=True)
class Union:
    """Parts joined by the sign of union."""

    parts: tuple[Node, ...]


@dataclass(frozen=True)
class Matrix:
    """Rows of entries."""

    rows: tuple[tuple[Node, ...], ...]


@dataclass(frozen=True)
class Relation:
    """Sides with one of `=`, `<`, `<=`, `>`, `>=`, `!=` between each two."""

    sides: tuple[Expr, ...]
    operators: tuple[str, ...]


@dataclass(frozen=True)
class Named:
    r"""What is no number, and its name: `P = (1, 2)`; or what a letter is a member of: `x \in [1, 2]`."""

    name: str
    value: Node
    is_member: bool = False


@dataclass(frozen=True)
class Approximation:
    r"""`exact \approx rounded`.

    Attributes:
        exact, rounded: both sides.
        value: that of `exact`, in the units of `rounded`.
        unit: one in the last place of `rounded`.
        literal: `exact` is itself a decimal, with more digits.
        is_true: rounded rightly.
    """

    exact: Expr
    rounded: Expr
    value: Expr
    unit: Expr
    literal: bool
    is_true: bool


class Large(Symbol):
    """A number too large to be computed, such as `2004!`: a letter with its name, equal to itself alone."""


Node: TypeAlias = Expr | Text | Collection | Tuple | Union | Matrix | Relation | Named | Approximation


def as_number(node: Node) -> Expr:
    """The expression that a node is; `Unreadable` if it is something else."""
    if not isinstance(node, Expr):
        raise Unreadable("arithmetic with what is not a number")
    return node


def scaled(node: Node, factor: Expr) -> Node:
    """A number or a matrix times a factor."""
    if isinstance(node, Matrix):
        return Matrix(tuple(tuple(scaled(entry, factor) for entry in row) for row in node.rows))
    return bounded(as_number(node) * factor)


def quotient(top: Node, bottom: Node) -> Expr:
    """One number divided by another that is not zero."""
    divisor = as_number(bottom)
    if divisor.is_zero:
        raise Unreadable("a division by zero")
    return bounded(as_number(top) / divisor)


def finite(node: Node) -> Node:
    """The node, unless it has an undefined value."""
    if isinstance(node, Expr) and node.has(sympy.nan, sympy.zoo):
        raise Unreadable("an undefined value")
    return node


def bounded(value: Expr) -> Expr:
    """The value, unless it takes too many digits."""
    if isinstance(value, Rational) and max(abs(value.p), value.q).bit_length() > MAX_BITS:
        raise TooLarge("a number too large")
    return value


def small(node: Node) -> Expr:
    """The node as a natural number up to 1000."""
    value = as_number(node)
    if not value.is_Integer or value < 0:
        raise Unreadable("not a natural number")
    if value > 1000:
        raise TooLarge("a factorial or binomial coefficient too large")
    return value


def raised(base: Expr, exponent: Expr) -> Expr:
    """`base ** exponent`, unless that is undefined or would be too large to write down."""
    if (base.is_zero and not exponent.is_positive) or base.is_infinite or exponent.is_infinite:
        raise Unreadable("an undefined power")
    if exponent.is_number:
        size = abs(exponent.evalf(5))
        bits = max(abs(base.p), base.q).bit_length() if isinstance(base, Rational) else 2
        if not size.is_real:
            raise TooLarge("a power too large")
        if size > MAX_BITS or size * bits > MAX_BITS:
            return _large_power(base, exponent)
    return base**exponent


def _large_power(base: Expr, exponent: Expr) -> Expr:
    """A power by its name, of the smallest base: 4^{50000} is 2^{100000}."""
    if not isinstance(base, Rational) or base in (0, 1, -1) or not exponent.is_Integer:
        raise TooLarge("a power too large")
    if base.is_Integer and 0 < base < 10**12 and (root := sympy.perfect_power(base)):
        base, exponent = root[0], exponent * root[1]
    power = Large(f"({base})^{abs(exponent)}")
    return power if exponent > 0 else 1 / power


def factorial(value: Expr) -> Expr:
    """`value!`, of letters as it stands, and by its name if that is too large to write down."""
    if value.free_symbols and not value.has(Large):
        return sympy.factorial(value)
    if value.is_Integer and value > 1000:
        return Large(f"{value}!")
    return bounded(sympy.factorial(small(value)))
