r"""Real values of expressions at a point, in time that is bounded whatever the expression.

A value is real all the way: `\sqrt{a}\sqrt{b}` has none where a and b are negative, and an odd root of a negative
number is negative. What would be too large to be worked with has none either. Knows nothing of answers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import mpmath
import sympy
from mpmath import mp, mpf
from sympy import Expr, Symbol

PRECISION = 60  # digits
_MAX_MAGNITUDE = 20_000  # bits of a value
_MAX_COUNTED = 3_000  # of a factorial's argument
_CONSTANTS = {sympy.pi: lambda: +mp.pi, sympy.E: lambda: +mp.e}  # to the precision of the moment


class NoValue(ArithmeticError):
    """There is no real value here."""


def real_value(expression: Expr, point: Mapping[Symbol, mpf]) -> mpf | None:
    """The value of an expression to about 60 digits; None if it has no real one, or a huge one."""
    with mp.workdps(PRECISION):
        try:
            return _value(expression, point)
        except (ArithmeticError, ValueError, TypeError):
            return None


def _value(node: Expr, point: Mapping[Symbol, mpf]) -> mpf:
    if node.is_Rational:
        return mpf(node.p) / node.q
    if node.is_Symbol:
        return point[node]
    if node in _CONSTANTS:
        return _CONSTANTS[node]()
    if node.is_Add:
        return _bounded(mp.fsum(_value(argument, point) for argument in node.args))
    if node.is_Mul:
        product = mpf(1)
        for argument in node.args:
            product = _bounded(product * _value(argument, point))
        return product
    if node.is_Pow or isinstance(node, sympy.exp):
        return _power(node, point)
    rule = _RULES.get(type(node))
    if rule is None:
        raise NoValue
    arguments = [_value(argument, point) for argument in node.args]
    if any(abs(x) > 0 and mpmath.mag(x) > 200 for x in arguments) and type(node) in _PERIODIC:
        raise NoValue  # to know the angle would take as many digits
    return _bounded(rule(*arguments))


def _bounded(x: mpf) -> mpf:
    if not isinstance(x, mpf) or not mpmath.isfinite(x) or (x and abs(mpmath.mag(x)) > _MAX_MAGNITUDE):
        raise NoValue
    return x


def _power(node: Expr, point: Mapping[Symbol, mpf]) -> mpf:
    base, exponent = node.as_base_exp()
    x, y = _value(base, point), _value(exponent, point)
    if x == 0:
        if y <= 0:
            raise NoValue
        return mpf(0)
    if abs(y) * (abs(mpmath.mag(abs(x))) + 1) > _MAX_MAGNITUDE:
        raise NoValue
    if y == int(y):
        return _bounded(x ** int(y))
    if x > 0:
        return _bounded(x**y)
    if exponent.is_Rational and exponent.q % 2:  # the real root
        return _bounded((-1) ** exponent.p * (-x) ** y)
    raise NoValue


def _inside(function: Callable[[mpf], mpf], low: float, high: float) -> Callable[[mpf], mpf]:
    def rule(x: mpf) -> mpf:
        if not low <= x <= high:
            raise NoValue
        return function(x)

    return rule


def _logarithm(x: mpf) -> mpf:
    if x <= 0:
        raise NoValue
    return mp.log(x)


def _natural(x: mpf) -> int:
    if x != int(x) or not 0 <= x <= _MAX_COUNTED:
        raise NoValue
    return int(x)


def _binomial(n: mpf, k: mpf) -> mpf:
    top, bottom = _natural(n), _natural(k)
    return mp.binomial(top, bottom) if bottom <= top else mpf(0)


def _floor(x: mpf) -> mpf:
    # A value that rounding has put a hair below a whole number is that number.
    nearest = mp.nint(x)
    return nearest if abs(x - nearest) < mpf(10) ** (15 - PRECISION) * max(1, abs(x)) else mp.floor(x)


_RULES: dict[type, Callable[..., mpf]] = {
    sympy.sin: mp.sin, sympy.cos: mp.cos, sympy.tan: mp.tan, sympy.cot: mp.cot, sympy.sec: mp.sec, sympy.csc: mp.csc,
    sympy.asin: _inside(mp.asin, -1, 1), sympy.acos: _inside(mp.acos, -1, 1), sympy.atan: mp.atan,
    sympy.sinh: lambda x: _inside(mp.sinh, -9999, 9999)(x), sympy.cosh: lambda x: _inside(mp.cosh, -9999, 9999)(x),
    sympy.tanh: lambda x: _inside(mp.tanh, -9999, 9999)(x),
    sympy.log: _logarithm, sympy.Abs: abs, sympy.sign: mp.sign, sympy.floor: _floor,
    sympy.ceiling: lambda x: -_floor(-x), sympy.Max: max, sympy.Min: min,
    sympy.factorial: lambda n: mp.factorial(_natural(n)), sympy.binomial: _binomial,
    sympy.Mod: lambda x, y: x - y * _floor(x / y),
}  # fmt: skip
_PERIODIC = {
    sympy.sin,
    sympy.cos,
    sympy.tan,
    sympy.cot,
    sympy.sec,
    sympy.csc,
    sympy.floor,
    sympy.ceiling,
    sympy.Mod,
}
