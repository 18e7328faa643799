r"""Judges whether two expressions have the same value: exactly where both are fractions, else to 42 digits.

Expressions with variables have the same value where they agree at several points. Units are factors: one that is left
out is no difference, another one is.
"""

from __future__ import annotations

from collections.abc import Iterator

import sympy
from mpmath import mpf
from mpmath.libmp import to_rational
from sympy import Add, Expr, Integer, Symbol

from envs.verify.math_answer.evaluation import PRECISION, real_value
from envs.verify.math_answer.identities import identical, proportional
from envs.verify.math_answer.sampling import STEPS, Point, piece, pieces, points
from envs.verify.math_answer.tokens import Unreadable
from envs.verify.math_answer.units import PERCENT, UNITS, Based, Unit, conversion

DIGITS = 50  # that two values are computed to
MAX_DIGITS = 500  # for it, where they cancel
_TOLERANCE = sympy.Float(10) ** (8 - DIGITS)  # relative
_ROUNDING = mpf(10) ** (25 - PRECISION)  # relative, of real values; what differs by more is looked at closely
_ROUGHLY = sympy.Float(10) ** -12  # relative, of ratios, whose values nobody looks at closely
_TINY = sympy.Float(10) ** -400  # what remains of a zero at MAX_DIGITS
_SURE_BITS = 8  # of a number that sympy knows at all
_ENOUGH, _ENOUGH_COMPLEX = 6, 4  # points at which both sides have values
# Different letters get different ones. Negative ones tell sqrt(x^2) from x.
_COMPLEX_POINTS = [
    tuple(sympy.Rational(sign * (top + 3 * i), bottom + 2 * i) for i in range(12))
    for sign, top, bottom in ((1, 17, 12), (-1, 31, 23), (1, 5, 7), (-1, 41, 29), (-1, 13, 19), (1, 230, 31))
] + [
    tuple(sympy.Rational(1 + i, 3) + sympy.I * sympy.Rational(sign * 2, 3 + i) for i in range(12))
    for sign in (1, -1)
]
_LETTER_UNITS = {name for name in UNITS if len(name) == 1}


def same_value(gold: Expr, given: Expr) -> bool:
    """Whether two expressions have the same value, and units that do not contradict each other."""
    if gold.has(Based) or given.has(Based):
        return _same_digits(gold, given)
    given = _with_units_of(gold, given)
    if equal(gold, given):
        return True
    gold, gold_unit = _split_unit(gold)
    given, given_unit = _split_unit(given)
    if gold_unit not in (1, given_unit) and given_unit != 1:
        factor = conversion(gold_unit, given_unit)
        return factor is not None and equal(gold, given * factor)
    if gold_unit == given_unit:
        return False
    # One of the two has a unit. Per cent is one that may also be meant: 50 % is 50, and is 0.5.
    if gold_unit == PERCENT:
        return equal(gold, given) or equal(gold / 100, given)
    if given_unit == PERCENT:
        # A gold answer below 1 is a share, and 0.5 % is none of its spellings.
        is_share = gold.is_number and bool(abs(gold) < 1)
        return equal(gold, given / 100) or (equal(gold, given) and not is_share)
    return equal(gold, given)


def _same_digits(gold: Expr, given: Expr) -> bool:
    """Whether two numbers, of which one has a base, are written alike; an answer may leave the gold's base out."""
    sign, number = gold.as_coeff_Mul()
    if isinstance(number, Based) and abs(sign) == 1 and given.is_Integer:
        return sign * int(number.name.partition("_")[0]) == given
    return isinstance(number, Based) and abs(sign) == 1 and gold == given


def equal(a: Expr, b: Expr) -> bool:
    """Whether two expressions are equal for all values of their variables, as far as both are real."""
    if a == b:
        return True
    if (a.is_Rational and b.is_Rational) or a.free_symbols != b.free_symbols:
        return False
    if a.is_infinite or b.is_infinite:
        return False
    if not a.free_symbols:
        return _same_number(a, b)
    same = identical(a, b)
    return _same_function(a, b) if same is None else same


def _same_number(a: Expr, b: Expr) -> bool:
    x, y = a.evalf(DIGITS, maxn=MAX_DIGITS), b.evalf(DIGITS, maxn=MAX_DIGITS)
    if not _is_value(x) or not _is_value(y):
        return False
    near = abs(x - y) <= max(_TOLERANCE * max(abs(x), abs(y)), _TINY)
    return bool(near) and _vanishes(a - b)


def _vanishes(difference: Expr) -> bool:
    """Whether a number is zero, as far as 500 digits tell: sympy then finds no digit of it that is sure."""
    value = difference.evalf(15, maxn=MAX_DIGITS)
    return _is_value(value) and all(
        part == 0 or (part.is_Float and part._prec < _SURE_BITS) for part in value.as_real_imag()
    )


def _same_function(a: Expr, b: Expr) -> bool:
    """Whether two expressions agree wherever both are real, in each of their pieces; else at complex points."""
    functions = pieces(a, b)
    possible: list[set] = [set() for _ in functions]
    seen: list[set] = [set() for _ in functions]
    compared = []
    for point in points(a, b):
        found = [piece(function, point) for function in functions]
        x, y = real_value(a, point), real_value(b, point)
        both = x is not None and y is not None
        if x is not None and y is not None and abs(x - y) > _ROUNDING * max(abs(x), abs(y)):
            if not _vanishes(_at(a - b, point)):
                return False
            continue  # digits have cancelled
        for which, where, here in zip(found, possible, seen, strict=True):
            where.add(which)
            if both:
                here.add(which)
        compared += [point] if both else []
    if len(compared) < _ENOUGH:
        return not functions and _agree_at_complex_points(a, b)
    for (kind, *_), where, here in zip(functions, possible, seen, strict=True):
        if len(here - {None}) < 2 and (len(where - {None}) > 1 or kind in STEPS):
            return False  # seen in one of its pieces alone
    return _vanishes(_at(a - b, compared[0]))


def _at(expression: Expr, point: Point) -> Expr:
    """An expression with its letters replaced by numbers that are exact."""
    return expression.subs({symbol: sympy.Rational(*to_rational(x._mpf_)) for symbol, x in point.items()})


def _agree_at_complex_points(a: Expr, b: Expr) -> bool:
    compared = 0
    for x, y in _values(a, b):
        compared += 1
        if abs(x - y) > max(_TOLERANCE * max(abs(x), abs(y)), _TINY):
            return False
    return compared >= _ENOUGH_COMPLEX


def constant_ratio(a: Expr, b: Expr) -> Expr | None:
    """The constant that `a` is times `b`, wherever both have a value that is not zero; None if there is none."""
    if a.free_symbols != b.free_symbols or not a.free_symbols or proportional(a, b) is False:
        return None
    ratios = [sympy.Float(x / y) for x, y in _real_values(a, b) if x and y]
    if len(ratios) < _ENOUGH:
        ratios = [x / y for x, y in _values(a, b) if x != 0 and y != 0 and (x / y).is_real]
    if len(ratios) < _ENOUGH_COMPLEX or any(abs(r - ratios[0]) > _ROUGHLY * abs(ratios[0]) for r in ratios):
        return None
    return ratios[0]


def _real_values(a: Expr, b: Expr) -> Iterator[tuple[mpf, mpf]]:
    for point in points(a, b):
        x, y = real_value(a, point), real_value(b, point)
        if x is not None and y is not None:
            yield x, y


def _values(a: Expr, b: Expr) -> Iterator[tuple[Expr, Expr]]:
    """The values of two expressions, complex ones too, wherever both have one."""
    symbols = sorted(a.free_symbols | b.free_symbols, key=str)
    for numbers in _COMPLEX_POINTS:
        point = dict(zip(symbols, (numbers * len(symbols))[: len(symbols)], strict=True))
        x, y = a.evalf(DIGITS, subs=point, maxn=MAX_DIGITS), b.evalf(DIGITS, subs=point, maxn=MAX_DIGITS)
        if _is_value(x) and _is_value(y):
            yield x, y


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
