r"""Judges whether two mathematical answers are the same, as a careful human grader would; runs in a worker process.

The answer is right if it has the gold answer's value and kind: `0.5`, `1/2` and `\frac{2}{4}` are one answer, `[1,2)`
and `(1,2)` are two. Fractions are compared exactly, all else to 42 digits. Units, per cent signs and names of variables
(`x = 5`) may be left out or added, the base of a number may be left out, but where both have one they must agree. Text
is compared as text.
"""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import compress, pairwise

import sympy
from sympy import Add, Expr, Mul, Symbol

from envs.verify.math_answer.reader import read
from envs.verify.math_answer.sentences import readings
from envs.verify.math_answer.tokens import TooLarge, Unreadable, spelt, tokenize, words_of
from envs.verify.math_answer.tree import Collection, Matrix, Node, Relation, Text, Tuple, Union
from envs.verify.math_answer.units import Unit
from envs.verify.math_answer.values import constant_ratio, equal, same_value

_CHOSEN = re.compile(r"\\(?:max|min)(?![A-Za-z])")
_FLIPPED = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "=": "=", "!=": "!="}


def judge(answer: str, gold: str) -> str | None:
    """None if `answer` is right, else "wrong value" or "not an expression"."""
    if _same_spelling(answer, gold):
        return None
    failure = _judge_plainly(answer, gold)
    others = readings(answer, gold) if failure else ()
    return None if any(_same_spelling(*pair) or not _judge_plainly(*pair) for pair in others) else failure


def _same_spelling(answer: str, gold: str) -> bool:
    try:
        return spelt(answer) == spelt(gold) != []
    except Unreadable:
        return False


def _judge_plainly(answer: str, gold: str) -> str | None:
    """The verdict on an answer without sentences around it."""
    if _CHOSEN.search(answer) and not _CHOSEN.search(gold):
        return "not an expression"  # the greater of two candidates is no answer
    try:
        expected = _read_gold(gold)
    except TooLarge:
        return "wrong value"  # equal texts never come here
    except Unreadable:
        return _judge_unread(answer, gold)
    try:
        if isinstance(expected, Text):
            right = words_of(answer) == words_of(gold) or read(answer) == expected
        else:
            given = read(answer)
            right = _is_named(given, gold) if isinstance(given, Text) else same(expected, given)
        return None if right else "wrong value"
    except MemoryError:
        raise
    except Exception:  # Unreadable, and whatever sympy raises where an answer makes no sense
        return "not an expression"


def _is_named(given: Text, gold: str) -> bool:
    """Whether words say what a gold answer of letters alone does, such as the choice `(C)`."""
    return re.sub(r"[\s(){}.]", "", gold).isalpha() and given.words == words_of(gold)


_read_gold = lru_cache(maxsize=1024)(read)  # the samples of a group share it


def _judge_unread(answer: str, gold: str) -> str | None:
    """For a gold answer outside the reader's grammar: compares texts if it has words, else values."""
    try:
        expected, given = tokenize(gold), tokenize(answer)
    except Unreadable:
        return "not an expression"
    if any(
        token.kind == "text" or token.value == "\\ldots" for token in expected
    ):  # which math-verify would pass over
        spelt = [[token.value.strip().lower() for token in tokens] for tokens in (expected, given)]
        return None if spelt[0] == spelt[1] else "wrong value"
    return _judge_by_math_verify(answer, gold)


def _judge_by_math_verify(answer: str, gold: str) -> str | None:
    from math_verify import LatexExtractionConfig, parse, verify

    def parsed(text: str) -> list:
        # Its own time limit is an alarm, for the main thread alone; the worker process has one that always holds.
        return parse(f"${text.strip().strip('$')}$", [LatexExtractionConfig()], parsing_timeout=None)

    return None if verify(parsed(gold), parsed(answer), timeout_seconds=None) else "wrong value"


def same(gold: Node, given: Node) -> bool:
    """Whether two answers are the same."""
    if isinstance(gold, Union) or isinstance(given, Union):  # `x < 3 or x > 5` is a list, and a union
        return _same_collections(_parts(gold), _parts(given))
    if isinstance(gold, Tuple) and isinstance(given, Collection):
        given = _point(given) or given
    if isinstance(gold, Collection) or isinstance(given, Collection):
        return _same_collections(_items(gold), _items(given))
    if isinstance(gold, Relation) or isinstance(given, Relation):
        return _same_relations(gold, given)
    if isinstance(gold, Expr) and isinstance(given, Expr):
        return same_value(gold, given)
    if isinstance(gold, Tuple) and isinstance(given, Tuple):
        brackets = gold.opening + gold.closing == given.opening + given.closing
        return brackets and _same_items(gold.items, given.items)
    if isinstance(gold, Matrix) and isinstance(given, Matrix):
        return len(gold.rows) == len(given.rows) and all(map(_same_items, gold.rows, given.rows))
    return isinstance(gold, Text) and gold == given


def _same_items(gold: tuple[Node, ...], given: tuple[Node, ...]) -> bool:
    return len(gold) == len(given) and all(map(same, gold, given))


def _parts(node: Node) -> tuple[Node, ...]:
    return node.parts if isinstance(node, Union) else tuple(_value(item) for item in _items(node))


def _items(node: Node) -> tuple[Node, ...]:
    return node.items if isinstance(node, Collection) else (node,)


def _same_collections(gold: tuple[Node, ...], given: tuple[Node, ...]) -> bool:
    """Whether each item of one has its equal in the other; one item said twice is one item.

    Two given items that equal one gold item, but not each other, are a choice: `50 cents or 50 dollars` for 50.
    """
    if not gold:
        return not given
    equals = [[same(a, b) for b in given] for a in gold]
    return (
        all(map(any, equals))
        and all(map(any, zip(*equals, strict=True)))
        and all(same(b, c) for row in equals for b, c in pairwise(compress(given, row)))
    )


def _point(answers: Collection) -> Tuple | None:
    """The point of `x = 1, y = 2`, if the order of its coordinates is beyond doubt."""
    names = [_variable(item) if isinstance(item, Relation) else None for item in answers.items]
    values = tuple(_value(item) for item in answers.items)
    if None in names or names != sorted(set(names), key=str) or not all(isinstance(x, Expr) for x in values):
        return None
    return Tuple("(", ")", values)


# --- relations -------------------------------------------------------------------------------------------------------


def _same_relations(gold: Node, given: Node) -> bool:
    if isinstance(gold, Relation) and isinstance(given, Relation) and _same_equations(gold, given):
        return True
    first, second = _value(gold), _value(given)
    if isinstance(second, Relation) and isinstance(gold, Expr) and _is_quantity(gold):
        second = _named_value(second)
    if isinstance(first, Relation) and isinstance(given, Expr) and _is_quantity(given):
        first = _named_value(first) if _is_label(first.sides[0]) else first
    if isinstance(first, Relation) or isinstance(second, Relation):
        return False
    if isinstance(gold, Relation) and isinstance(given, Relation) and _variable(gold) != _variable(given):
        return False
    return same(first, second)


def _value(node: Node) -> Node:
    """What a relation says about its variable: the 5 of `x = 5`, the interval of `x > 3`; itself if nothing."""
    if not isinstance(node, Relation):
        return node
    sides, operators = node.sides, node.operators
    if set(operators) == {"="}:
        if all(map(_is_quantity, sides)):
            return sides[-1] if all(same_value(a, b) for a, b in pairwise(sides)) else node
        if sides[-1] == _variable(node):
            sides = sides[::-1]
        if sides[0] == _variable(node) and all(equal(a, b) for a, b in pairwise(sides[1:])):
            return sides[-1]
        return node
    return _interval(node) or node


def _named_value(node: Relation) -> Node:
    """The 5 of `a + b = 5` or `AB = 5`, whose left side names a quantity; itself if it is yet to be solved."""
    name, *values = node.sides
    if _is_ratio(name) or (isinstance(name, sympy.Abs) and name.args[0].is_Mul):
        name = Symbol("its name")  # `V_1:V_2 = 11:21`, `|AB| = 1`
    terms = [term.as_coeff_Mul() for term in Add.make_args(name)]
    if (
        set(node.operators) == {"="}
        and all(
            abs(sign) == 1 and all(x.is_Symbol for x in Mul.make_args(letters)) for sign, letters in terms
        )
        and name != -terms[0][1]
        and all(map(_is_quantity, values))
        and all(same_value(a, b) for a, b in pairwise(values))
    ):
        return values[-1]
    return node


def _is_ratio(name: Expr) -> bool:
    """Whether this is one name over another, such as NO/BO."""
    top, bottom = name.as_numer_denom()
    return all(part.free_symbols and all(x.is_Symbol for x in Mul.make_args(part)) for part in (top, bottom))


def _is_label(name: Expr) -> bool:
    """Whether the left side of a gold answer names a quantity: that of `x + y = 5` is a line, and 5 no answer."""
    return {symbol.name for symbol in name.free_symbols}.isdisjoint("xyz")


def _is_quantity(side: Expr) -> bool:
    return all(isinstance(symbol, Unit) for symbol in side.free_symbols)


def _variable(node: Relation) -> Symbol | None:
    """The letter that a relation is about: alone on one side, and nowhere else."""
    for side in node.sides:
        others = [other for other in node.sides if other is not side]
        if isinstance(side, Symbol) and not any(side in other.free_symbols for other in others):
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


def _same_equations(gold: Relation, given: Relation) -> bool:
    """Whether two relations of two sides say the same: left less right of one is a multiple of that of the other."""
    if len(gold.sides) != 2 or len(given.sides) != 2:
        return False
    operator = given.operators[0]
    # A solution is an answer, an equation yet to be solved is not: `2x = 10` does not answer `x = 5`.
    if operator == "=" and isinstance(_value(gold), Expr) and not isinstance(_value(given), Expr):
        return gold.sides[1].free_symbols != set() and _factor(gold, given) is not None
    factor = _factor(gold, given)
    if factor is None:
        return False
    return gold.operators[0] == (operator if factor > 0 or operator in "=!=" else _FLIPPED[operator])


def _factor(gold: Relation, given: Relation) -> Expr | None:
    """The constant that `left - right` of one is times that of the other, if there is one."""
    return constant_ratio(gold.sides[0] - gold.sides[1], given.sides[0] - given.sides[1])
