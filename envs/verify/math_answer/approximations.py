r"""Rounded values: `\frac{70}{9} \approx 7.78` says 7.78, which must be right to its last digit.

Where the gold is `A \approx b`, b was asked for, or more digits of A; A alone restates the question.
"""

from __future__ import annotations

import sympy
from sympy import Expr, Rational

from envs.verify.math_answer.tokens import Unreadable
from envs.verify.math_answer.tree import Approximation, Node
from envs.verify.math_answer.units import PERCENT, Unit
from envs.verify.math_answer.values import same_value

_SLACK = sympy.Rational(1, 10**6)  # of half a unit in the last place


def approximation(exact: Expr, rounded: Expr, digits: str, literal: bool) -> Approximation:
    r"""Reads `exact \approx rounded`, of which `digits` are the first number's.

    Raises:
        Unreadable: The right side is no decimal, or the left side no number.
    """
    number, plain, value = Rational(digits), _without_units(rounded), _without_units(exact)
    if rounded.has(PERCENT) and not exact.has(PERCENT):
        value *= 100
    if not isinstance(plain, Rational) or not value.is_number or not number:
        raise Unreadable("an approximation of what is no number")
    unit = abs(plain / number) / 10 ** len(digits.lower().partition("e")[0].partition(".")[2])
    return Approximation(exact, rounded, value, unit, literal, _is_rounded(value, plain, unit))


def _without_units(expression: Expr) -> Expr:
    return expression.subs({symbol: 1 for symbol in expression.free_symbols if isinstance(symbol, Unit)})


def rounds_to(given: Approximation, gold: Node) -> bool:
    r"""Whether an answer `A \approx b` is rightly rounded, and b is the gold answer, which is itself a decimal."""
    if not (isinstance(gold, Expr) and given.is_true and same_value(gold, given.rounded)):
        return False
    return given.literal or not gold.is_Integer


def same_rounded(gold: Approximation, given: Node) -> bool:
    r"""Whether an answer says the b of the gold `A \approx b`, or A to more digits."""
    if isinstance(given, Approximation):
        return given.is_true and same_rounded(gold, given.rounded)
    if not isinstance(given, Expr):
        return False
    if same_value(gold.rounded, given):
        return True
    number = given.as_coeff_Mul()[0]
    decimals = _decimals(number) if isinstance(number, Rational) else None
    if decimals is None or not gold.is_true or Rational(1, 10**decimals) > gold.unit:
        return False
    return same_value(gold.rounded / _without_units(gold.rounded), given / number) and _is_rounded(
        gold.value, number, Rational(1, 10**decimals)
    )


def _is_rounded(exact: Expr, rounded: Expr, unit: Expr) -> bool:
    """Whether a value is another one rounded to this unit in the last place."""
    difference = abs(exact - rounded).evalf(20)
    return bool(difference.is_Float or difference.is_Rational) and bool(difference <= unit * (1 + _SLACK) / 2)


def _decimals(number: Rational) -> int | None:
    """The digits after the point of a fraction that is a finite decimal."""
    return next((digits for digits in range(1, 31) if (number * 10**digits).is_Integer), None)
