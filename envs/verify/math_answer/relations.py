r"""What a relation says: the 5 of `x = 5`, the interval of `1 < x \le 3`; and whether two say the same.

A solution has its letter alone: `2x = 10` is yet to be solved, and so is `3x - 1 > 8`.
"""

from __future__ import annotations

from itertools import pairwise

import sympy
from sympy import Add, Expr, Mul, Symbol

from envs.verify.math_answer.tree import Large, Node, Relation, Tuple
from envs.verify.math_answer.units import Based, Unit
from envs.verify.math_answer.values import constant_ratio, equal, same_value

_FLIPPED = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "=": "=", "!=": "!="}


def value_of(node: Node) -> Node:
    """What a relation says about its variable: the 5 of `x = 5`, the interval of `x > 3`; itself if nothing."""
    if not isinstance(node, Relation):
        return node
    sides, operators = node.sides, node.operators
    if set(operators) == {"="}:
        if all(map(is_quantity, sides)):
            return sides[-1] if all(same_value(a, b) for a, b in pairwise(sides)) else node
        if sides[-1] == variable(node):
            sides = sides[::-1]
        if sides[0] == variable(node) and all(equal(a, b) for a, b in pairwise(sides[1:])):
            return sides[-1]
        return node
    return _interval(node) or node


def named_value(node: Relation) -> Node:
    """The 5 of `a + b = 5` or `AB = 5`, whose left side names a quantity; itself if it is yet to be solved."""
    name, *values = node.sides
    if _is_ratio(name) or (isinstance(name, sympy.Abs) and name.args[0].is_Mul):
        name = Symbol("its name")  # `V_1:V_2 = 11:21`, `|AB| = 1`
    if name.has(Large, Based):
        return node  # a number, and no name
    terms = [term.as_coeff_Mul() for term in Add.make_args(name)]
    if (
        set(node.operators) == {"="}
        and all(
            abs(sign) == 1 and all(x.is_Symbol for x in Mul.make_args(letters)) for sign, letters in terms
        )
        and name != -terms[0][1]
        and all(map(is_quantity, values))
        and all(same_value(a, b) for a, b in pairwise(values))
    ):
        return values[-1]
    return node


def _is_ratio(name: Expr) -> bool:
    """Whether this is one name over another, such as NO/BO."""
    top, bottom = name.as_numer_denom()
    return all(part.free_symbols and all(x.is_Symbol for x in Mul.make_args(part)) for part in (top, bottom))


def is_label(name: Expr) -> bool:
    """Whether the left side of a gold answer names a quantity: that of `x + y = 5` is a line, and 5 no answer."""
    return {symbol.name for symbol in name.free_symbols}.isdisjoint("xyz")


def is_quantity(side: Expr) -> bool:
    """Whether this has no letters but units."""
    return all(isinstance(symbol, Unit) for symbol in side.free_symbols)


def variable(node: Relation) -> Symbol | None:
    """The letter that a relation is about: alone on one side, and nowhere else."""
    for side in node.sides:
        others = [other for other in node.sides if other is not side]
        if (
            isinstance(side, Symbol)
            and not isinstance(side, Unit | Large)
            and not any(side in other.free_symbols for other in others)
        ):
            return side
    return None


def _interval(node: Relation) -> Tuple | None:
    """The interval of `x > 3`, `3 < x` or `1 < x <= 3`."""
    sides, operators = node.sides, node.operators
    if operators[0] in (">", ">="):
        sides, operators = sides[::-1], tuple(_FLIPPED[operator] for operator in operators[::-1])
    if not set(operators) <= {"<", "<="}:
        return None
    if len(sides) == 2:
        if isinstance(sides[0], Symbol) and sides[1].is_number:
            sides, operators = (-sympy.oo, *sides), ("<", *operators)
        elif isinstance(sides[1], Symbol) and sides[0].is_number:
            sides, operators = (*sides, sympy.oo), (*operators, "<")
    if len(sides) != 3 or not isinstance(sides[1], Symbol):
        return None
    return Tuple(
        "[" if operators[0] == "<=" else "(", "]" if operators[1] == "<=" else ")", (sides[0], sides[2])
    )


def same_equations(gold: Relation, given: Relation) -> bool:
    """Whether two relations of two sides say the same: left less right of one is a multiple of that of the other."""
    if len(gold.sides) != 2 or len(given.sides) != 2:
        return False
    operator = given.operators[0]
    # A solution is an answer, an equation yet to be solved is not: `2x = 10` does not answer `x = 5`.
    if operator == "=" and isinstance(value_of(gold), Expr) and not isinstance(value_of(given), Expr):
        return gold.sides[1].free_symbols != set() and _factor(gold, given) is not None
    if _is_solved(gold) and not _is_solved(given):
        return False
    factor = _factor(gold, given)
    if factor is None:
        return False
    return gold.operators[0] == (operator if factor > 0 or operator in "=!=" else _FLIPPED[operator])


def _factor(gold: Relation, given: Relation) -> Expr | None:
    """The constant that `left - right` of one is times that of the other, if there is one."""
    return constant_ratio(gold.sides[0] - gold.sides[1], given.sides[0] - given.sides[1])


def _is_solved(node: Relation) -> bool:
    """Whether a letter stands alone on one side, and a number on the other."""
    letter = variable(node)
    return letter is not None and all(side == letter or side.is_number for side in node.sides)
