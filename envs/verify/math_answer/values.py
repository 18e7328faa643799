r"""Judges whether two expressions have the same value: exactly where both are fractions, else to 42 digits.

Expressions with variables have the same value where they agree at several points. Units are factors: one that is left
out is no difference, another one is.
"""

from __future__ import annotations

from collections.abc import Iterator

import sympy
from sympy import Add, Expr, Integer, Symbol

from envs.verify.math_answer.tokens import Unreadable
from envs.verify.math_answer.units import PERCENT, UNITS, Unit, conversion, is_base

DIGITS = 50  # that two values are computed to
MAX_DIGITS = 500  # for it, where they cancel
_TOLERANCE = sympy.Float(10) ** (8 - DIGITS)  # relative
# Values for the variables: expressions that agree at all of these are the same. Negative ones tell sqrt(x^2) from x.
_POINTS = ((17, 12), (-31, 23), (5, 7), (41, -29), (-13, 19), (23, 31))
_TINY = sympy.Float(10) ** -400  # what remains of a zero at MAX_DIGITS
_LETTER_UNITS = {name for name in UNITS if len(name) == 1}


def same_value(gold: Expr, given: Expr) -> bool:
    """Whether two expressions have the same value, and units that do not contradict each other."""
    given = _with_units_of(gold, given)
    if equal(gold, given):
        return True
    gold, gold_unit = _split_unit(gold)
    given, given_unit = _split_unit(given)
    if gold_unit not in (1, given_unit) and given_unit != 1:
        factor = conversion(gold_unit, given_unit)
        return factor is not None and equal(gold, given * factor)
    if gold_unit == given_unit or is_base(given_unit):
        return False
    # One of the two has a unit. Per cent is one that may also be meant: 50 % is 50, and is 0.5.
    if gold_unit == PERCENT:
        return equal(gold, given) or equal(gold / 100, given)
    if given_unit == PERCENT:
        # A gold answer below 1 is a share, and 0.5 % is none of its spellings.
        is_share = gold.is_number and bool(abs(gold) < 1)
        return equal(gold, given / 100) or (equal(gold, given) and not is_share)
    return equal(gold, given)


def equal(a: Expr, b: Expr) -> bool:
    """Whether two expressions are equal for all values of their variables, to 50 digits at several points."""
    if a == b:
        return True
    if a.is_Rational and b.is_Rational:
        return False
    symbols = sorted(a.free_symbols | b.free_symbols, key=str)
    if a.free_symbols != b.free_symbols or a.is_infinite or b.is_infinite:
        return False
    compared = 0
    for x, y in _values(a, b, symbols):
        compared += 1
        if abs(x - y) > max(_TOLERANCE * max(abs(x), abs(y)), _TINY):
            return False
    return compared > 0 and (not symbols or compared > 2)


def constant_ratio(a: Expr, b: Expr) -> Expr | None:
    """The constant that `a` is times `b`, wherever both have a value that is not zero; None if there is none."""
    symbols = sorted(a.free_symbols | b.free_symbols, key=str)
    if a.free_symbols != b.free_symbols or not symbols:
        return None
    ratios = [x / y for x, y in _values(a, b, symbols) if x != 0 and y != 0 and (x / y).is_real]
    if len(ratios) < 3 or any(abs(ratio - ratios[0]) > _TOLERANCE * abs(ratios[0]) for ratio in ratios):
        return None
    return ratios[0]


def _values(a: Expr, b: Expr, symbols: list[Symbol]) -> Iterator[tuple[Expr, Expr]]:
    """The values of two expressions, wherever both have one."""
    for point in _points(symbols):
        x, y = a.evalf(DIGITS, subs=point, maxn=MAX_DIGITS), b.evalf(DIGITS, subs=point, maxn=MAX_DIGITS)
        if _is_value(x) and _is_value(y):
            yield x, y


def _points(symbols: list[Symbol]) -> list[dict[Symbol, Expr]]:
    if not symbols:
        return [{}]
    return [
        {
            symbol: sympy.Rational(
                top + 3 * i * (1 if top > 0 else -1), bottom + 2 * i * (1 if bottom > 0 else -1)
            )
            for i, symbol in enumerate(symbols)
        }
        for top, bottom in _POINTS
    ]


def _is_value(x: Expr) -> bool:
    return (
        x.is_number
        and not x.has(sympy.nan, sympy.zoo, sympy.oo)
        and all(part.is_Float or part.is_Rational for part in x.as_real_imag())
    )


def _split_unit(expression: Expr) -> tuple[Expr, Expr]:
    """An expression as a value and its unit (1 if it has none): of a sum, the one of its terms, or of one of them.

    Raises:
        Unreadable: Its units do not go together, or are no factors.
    """
    values, units = [], {Integer(1)}
    for term in Add.make_args(expression):
        value, unit = term.as_independent(*_units(term), as_Add=False) if _units(term) else (term, Integer(1))
        powers = unit.as_powers_dict().items() if unit != 1 else ()
        if not all(isinstance(base, Unit) and power.is_number for base, power in powers):
            raise Unreadable("a unit that is no factor")
        values.append(value)
        units.add(unit)
    if len(units) > 2 or (len(values) > 1 and PERCENT in units):
        raise Unreadable("units that do not go together")
    return Add(*values), units.difference({1}).pop() if len(units) > 1 else Integer(1)


def _units(expression: Expr) -> list[Symbol]:
    return [symbol for symbol in expression.free_symbols if isinstance(symbol, Unit)]


def _with_units_of(gold: Expr, given: Expr) -> Expr:
    """Takes letters such as the m of `10 m` for units where the gold answer says so, or has no variables at all."""
    names = {unit.name for unit in _units(gold)} & _LETTER_UNITS
    if not gold.free_symbols.difference(_units(gold)):
        names = _LETTER_UNITS
    letters = {s: UNITS[s.name] for s in given.free_symbols if s.name in names and not isinstance(s, Unit)}
    if not letters or abs(given.as_independent(*letters, as_Add=False)[0]) == 1:
        return given  # `m` is not 1 m, nor is `5 + m` 6 m
    return given.subs(letters)
