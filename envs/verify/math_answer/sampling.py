r"""Chooses the points at which two expressions are compared, by what stands in them.

Letters are whole numbers where they count (`\binom{n}{k}`, `n!`, `(-1)^n`), else real: small and large, of both
signs.
Where a function has several pieces, as |x - 100| and \lfloor x / 7 \rfloor have, there are points in each that is
found.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise

import sympy
from mpmath import mpf
from sympy import Expr, Pow, Symbol

from envs.verify.math_answer.evaluation import real_value

Point = dict[Symbol, mpf]

_SMALL = [Fraction(*x) for x in ((5, 7), (-13, 19), (1, 3), (23, 31), (-2, 9), (3, 50), (-17, 40), (11, 13))]
_NUMBERS = [
    *(Fraction(*x) for x in ((17, 12), (-31, 23), (41, 29), (161, 50), (-77, 13))), *_SMALL, *map(Fraction, (1, 2,
    3, -1, 5, -2, 7, 10, -6, 13, 31, -17, 64, 100, -101, 255, -360, 500, 997, -999)),
    *(Fraction(x, 2) for x in (3, -7, 25, 201, -333, 1999)), *map(Fraction, (10**6 + 3, -(10**6) - 7, 10**9 + 9)),
]  # fmt: skip
_NATURALS = [*range(1, 31), 37, 48, 60, 75, 91, 100, 128, 143, 199, 200, 256, 301, 360, 500, 729, 1000, 1729]
_COUNTING = set("ijklmnpqNMK")  # letters that count where they stand in a floor
_GRID = sorted(
    sign * mpf(10) ** power * step for sign in (-1, 1) for power in range(-2, 31) for step in (1, 2, 5)
)
_LEVELS = (0, 1, -1, 2, 3, 7, 20)
_BISECTIONS = 60
_MAX_KINKS = 24  # of a letter
STEPS = (sympy.floor, sympy.ceiling)


def points(a: Expr, b: Expr) -> Iterator[Point]:
    """Points for the letters of two expressions."""
    symbols = sorted(a.free_symbols | b.free_symbols, key=str)
    counting = _counting(a, b, symbols)
    numbers = {symbol: _NATURALS if symbol in counting else _NUMBERS for symbol in symbols}
    base = list(_mixed(numbers))
    yield from base
    for more in (_SMALL, [abs(x) for x in _NUMBERS[:20]]):  # where all arcsines, and all roots, have values
        yield from _mixed({symbol: numbers[symbol] if symbol in counting else more for symbol in symbols})
    for symbol in symbols:
        others = [{s: x for s, x in point.items() if s != symbol} for point in (base[0], base[3], base[-2])]
        others = others if symbols[1:] else others[:1]
        yield from _beside_kinks(a, b, symbol, others, symbol in counting)


def pieces(*expressions: Expr) -> list[tuple[Expr, ...]]:
    """What decides which piece of a function applies: the arguments of |x|, floor and ceiling, max and min."""
    return sorted(
        {
            (node.func, *node.args)
            for expression in expressions
            for node in expression.atoms(sympy.Abs, sympy.sign, sympy.Max, sympy.Min, *STEPS)
        },
        key=str,
    )


def piece(function: tuple[Expr, ...], point: Point) -> object:
    """Which piece of a function applies at a point; None if it has no value there."""
    kind, *arguments = function
    values = [x for x in (real_value(argument, point) for argument in arguments) if x is not None]
    if len(values) < len(arguments):
        return None
    if kind in STEPS:
        return real_value(kind(arguments[0]), point)
    if kind in (sympy.Max, sympy.Min):
        return values.index(max(values))
    return (values[0] > 0) - (values[0] < 0) or None  # at the kink itself both pieces apply


def _counting(a: Expr, b: Expr, symbols: list[Symbol]) -> set[Symbol]:
    """The letters that stand for natural numbers: by a mark that one expression has, or by a floor in each."""
    certain: set[Symbol] = set()
    steps: list[set[Symbol]] = []
    for expression in (a, b):
        for node in expression.atoms(sympy.binomial, sympy.factorial, sympy.Mod):
            certain |= node.free_symbols
        for node in expression.atoms(Pow):
            if node.base.is_negative and node.exp.is_polynomial():
                certain |= node.exp.free_symbols
        steps.append(set().union(*(node.free_symbols for node in expression.atoms(*STEPS))))
    both = {s for s in steps[0] & steps[1] if s.name[0] in _COUNTING}
    return (certain | both | {s for s in steps[0] | steps[1] if s in certain}) & set(symbols)


def _mixed(numbers: dict[Symbol, list]) -> Iterator[Point]:
    """Each letter goes through its numbers, each in an order of its own."""
    source = random.Random(1)
    columns: list[list] = []
    for i, values in enumerate(numbers.values()):
        column = list(values)
        if i:
            source.shuffle(column)
        columns.append(column)
    for row in zip(*columns, strict=False):
        yield {symbol: mpf(x.numerator) / x.denominator for symbol, x in zip(numbers, row, strict=True)}


def _beside_kinks(a: Expr, b: Expr, symbol: Symbol, others: list[Point], whole: bool) -> Iterator[Point]:
    """Points on both sides of each kink of one letter, and between each two, the others being held."""
    arguments = [u for u in _kinked(a, b) if symbol in u[0].free_symbols]
    if not arguments:
        return
    for held in others:
        kinks = sorted(x for u, levels in arguments for x in _crossings(u, levels, symbol, held))
        kinks = kinks[:: 1 + len(kinks) // _MAX_KINKS]
        width = [abs(x) * mpf(10) ** -4 + mpf(10) ** -6 for x in kinks]
        places = [(x + y) / 2 for x, y in pairwise(kinks)]
        places += [x + sign * w for x, w in zip(kinks, width, strict=True) for sign in (-1, 1)]
        places += [kinks[0] - 1 - abs(kinks[0]), kinks[-1] + 1 + abs(kinks[-1])] if kinks else []
        if whole:
            places = [x for x in {_whole_below(x) + i for x in places for i in (0, 1)} if x > 0]
        for x in sorted(places):
            yield held | {symbol: x}


def _whole_below(x: mpf) -> int:
    return int(x) - (x < int(x))


def _kinked(a: Expr, b: Expr) -> list[tuple[Expr, tuple[int, ...]]]:
    """Expressions, and the values of each at which some function has a kink."""
    found: dict[Expr, tuple[int, ...]] = {}
    for kind, *arguments in pieces(a, b):
        if kind in STEPS:
            found[arguments[0]] = _LEVELS
        elif kind in (sympy.Max, sympy.Min):
            found |= {x - y: (0,) for x, y in pairwise(arguments)}
            found[arguments[0] - arguments[-1]] = (0,)
        else:
            found[arguments[0]] = (0,)
    for node in a.atoms(Pow) | b.atoms(Pow):
        if node.exp.is_Rational and not node.exp.is_Integer:
            inner = node.base.base if node.base.is_Pow else node.base  # sqrt((x - 10)^2)
            if not inner.is_Symbol:  # whose kink is 0, in the middle of all points
                found[inner] = (0,)
    return sorted(found.items(), key=str)


def _crossings(u: Expr, levels: tuple[int, ...], symbol: Symbol, held: Point) -> Iterator[mpf]:
    """Where an expression goes through a level, as one letter goes from -5e30 to 5e30."""
    values = [real_value(u, held | {symbol: x}) for x in _GRID]
    for level in levels:
        for (x, low), (y, high) in pairwise(zip(_GRID, values, strict=True)):
            if low is not None and high is not None and (low < level) != (high < level):
                yield _bisected(u, level, symbol, held, x, y, low < level)


def _bisected(u: Expr, level: int, symbol: Symbol, held: Point, x: mpf, y: mpf, rising: bool) -> mpf:
    for _ in range(_BISECTIONS):
        middle = (x + y) / 2
        value = real_value(u, held | {symbol: middle})
        if value is None:
            break
        if (value < level) == rising:
            x = middle
        else:
            y = middle
    return (x + y) / 2
