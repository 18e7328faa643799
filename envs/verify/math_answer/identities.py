"""Decides whether rational functions are identical: by their values modulo a large prime, where none can grow.

Two different ones of total degree d agree at a random point with a probability of at most d / 2^521 (Schwartz 1980,
"Fast probabilistic algorithms for verification of polynomial identities"; Zippel 1979).
"""

from __future__ import annotations

import random
from collections.abc import Mapping

from sympy import Expr, Symbol

_PRIME = 2**521 - 1  # Mersenne's 13th
_POINTS = 3


def identical(a: Expr, b: Expr) -> bool | None:
    """Whether two rational functions with rational coefficients are one; None if that is not what they are."""
    pairs = _value_pairs(a, b)
    return None if pairs is None else all(x == y for x, y in pairs)


def proportional(a: Expr, b: Expr) -> bool | None:
    """Whether two such functions are multiples of each other by a constant that is not zero."""
    pairs = _value_pairs(a, b)
    if pairs is None:
        return None
    x, y = pairs[0]
    return x != 0 and y != 0 and all((x * v - y * u) % _PRIME == 0 for u, v in pairs)


def _value_pairs(a: Expr, b: Expr) -> list[tuple[int, int]] | None:
    symbols = sorted(a.free_symbols | b.free_symbols, key=str)
    source = random.Random(0)  # verdicts are the same everywhere
    try:
        points = [{symbol: source.randrange(2, _PRIME) for symbol in symbols} for _ in range(_POINTS)]
        return [(_value(a, point), _value(b, point)) for point in points]
    except (_NotRational, ValueError):  # ValueError: a division by zero
        return None


class _NotRational(Exception):
    pass


def _value(node: Expr, point: Mapping[Symbol, int]) -> int:
    if node.is_Rational:
        return node.p * pow(node.q, -1, _PRIME) % _PRIME
    if node.is_Symbol:
        return point[node]
    if node.is_Add:
        return sum(_value(argument, point) for argument in node.args) % _PRIME
    if node.is_Mul:
        product = 1
        for argument in node.args:
            product = product * _value(argument, point) % _PRIME
        return product
    if node.is_Pow and node.exp.is_Integer:
        return pow(_value(node.base, point), int(node.exp), _PRIME)
    raise _NotRational
