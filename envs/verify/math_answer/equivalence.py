r"""Judges whether two mathematical answers are the same, as a careful human grader would; runs in a worker process.

The answer is right if it has the gold answer's value and kind: `0.5`, `1/2` and `\frac{2}{4}` are one answer, `[1,2)`
and `(1,2)` are two. Units, per cent signs, names (`x = 5`, `P = (1, 2)`) and the base of a number may be left out;
where both have one they must agree. Text is compared as text. Two candidates are an answer only where the gold is both.
"""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import compress, pairwise

from sympy import Expr, Symbol

from envs.verify.math_answer.approximations import rounds_to, same_rounded
from envs.verify.math_answer.conditions import same_condition, split_condition
from envs.verify.math_answer.fallback import judge_unread
from envs.verify.math_answer.reader import read
from envs.verify.math_answer.relations import (
    is_label,
    is_quantity,
    named_value,
    same_equations,
    value_of,
    variable,
)
from envs.verify.math_answer.sentences import readings
from envs.verify.math_answer.tokens import TooLarge, Unreadable, listed, spelt, words_of
from envs.verify.math_answer.tree import (
    Approximation,
    Collection,
    Matrix,
    Named,
    Node,
    Relation,
    Text,
    Tuple,
    Union,
)
from envs.verify.math_answer.uncomputed import is_uncomputed
from envs.verify.math_answer.values import same_value

_SIGN = re.compile(r"[+/=<>^|]|(?<![A-Za-z])-|-(?![A-Za-z])")  # which words have not
_CANDIDATES = re.compile(r"\\(?:max|min)(?![A-Za-z])|(?<![A-Za-z\\])(?:max|min)\s*[({\[]")  # and no minutes


def judge(answer: str, gold: str, question: str = "") -> str | None:
    """None if `answer` is right, else "wrong value", "not an expression" or, with a question, "not computed"."""
    failure, said, meant = _judge(answer, gold), answer, gold
    if failure is not None:
        for said, meant in readings(answer, gold):
            if _judge(said, meant) is None:
                failure = None
                break
    if failure is None and question and is_uncomputed(said, meant, question):
        return "not computed"
    return failure


def _same_spelling(answer: str, gold: str) -> bool:
    try:
        return spelt(answer) == spelt(gold) != []
    except Unreadable:
        return False


def _judge(answer: str, gold: str) -> str | None:
    """The verdict on an answer without sentences around it."""
    if _same_spelling(answer, gold):
        return None
    if _CANDIDATES.search(answer) and not _CANDIDATES.search(gold):
        return "not an expression"  # `\max(5, 6)` names two candidates
    gold, condition = split_condition(gold)
    if condition:
        answer, also = split_condition(answer)
        if also and not same_condition(also, condition):
            return "wrong value"
    try:
        expected = _read_gold(gold)
    except TooLarge:
        return "wrong value"  # equal texts never come here
    except Unreadable:
        return judge_unread(answer, gold)
    try:
        if isinstance(expected, Text):
            right = words_of(answer) == words_of(gold) or read(answer) == expected
            named = expected.words != words_of(gold)  # read as more than its words
            right = right and (named or not _SIGN.search(answer) or _SIGN.search(gold) is not None)
        else:
            right = _is_right(answer, gold, expected)
        return None if right else "wrong value"
    except MemoryError:
        raise
    except Exception:  # Unreadable, and whatever sympy raises where an answer makes no sense
        return "not an expression"


_read_gold = lru_cache(maxsize=1024)(read)  # the samples of a group share it


def _is_right(answer: str, gold: str, expected: Node) -> bool:
    given = read(answer)
    if isinstance(given, Text):
        return _is_named(given, gold)
    if same(expected, given):
        return True
    # `10,100` may be a number, and two in this order; where one side can be read both ways, the other says how.
    if listed(answer) != answer and same(expected, read(listed(answer))):
        return True
    return listed(gold) != gold and _same_items(
        _items(_read_gold(listed(gold))), _items(read(listed(answer)))
    )


def _is_named(given: Text, gold: str) -> bool:
    """Whether words say what a gold answer of letters alone does, such as the choice `(C)`."""
    return re.sub(r"[\s(){}.]", "", gold).isalpha() and given.words == words_of(gold)


def same(gold: Node, given: Node) -> bool:
    """Whether two answers are the same."""
    if isinstance(gold, Named) or isinstance(given, Named):
        return not _names_differ(gold, given) and same(_unnamed(gold), _unnamed(given))
    if isinstance(gold, Approximation):
        return same_rounded(gold, value_of(given))
    if isinstance(given, Approximation):
        return rounds_to(given, gold) or (not given.literal and given.is_true and same(gold, given.exact))
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


def _same_relations(gold: Node, given: Node) -> bool:
    if isinstance(gold, Relation) and isinstance(given, Relation) and same_equations(gold, given):
        return True
    first, second = value_of(gold), value_of(given)
    if isinstance(second, Relation) and isinstance(gold, Expr) and is_quantity(gold):
        second = named_value(second)
    if isinstance(first, Relation) and isinstance(given, Expr) and is_quantity(given):
        first = named_value(first) if is_label(first.sides[0]) else first
    if isinstance(first, Relation) or isinstance(second, Relation):
        return False
    if isinstance(gold, Relation) and isinstance(given, Relation) and variable(gold) != variable(given):
        return False
    return same(first, second)


# --- several answers -------------------------------------------------------------------------------------------------


def _same_items(gold: tuple[Node, ...], given: tuple[Node, ...]) -> bool:
    return len(gold) == len(given) and all(map(same, gold, given))


def _parts(node: Node) -> tuple[Node, ...]:
    return node.parts if isinstance(node, Union) else tuple(value_of(item) for item in _items(node))


def _items(node: Node) -> tuple[Node, ...]:
    return node.items if isinstance(node, Collection) else (node,)


def _same_collections(gold: tuple[Node, ...], given: tuple[Node, ...]) -> bool:
    """Whether each item of one has its equal in the other; one item said twice is one item.

    Where one side alone has names, the order is that of the names: `2, 1` is not `x = 1, y = 2`. Two given items that
    equal one gold item, but not each other, are a choice: `50 cents or 50 dollars` for 50.
    """
    if not gold:
        return not given
    if _are_named(gold) is not _are_named(given) and None not in (_are_named(gold), _are_named(given)):
        return _same_items(gold, given)
    equals = [
        [isinstance(a, Collection) is isinstance(b, Collection) and same(a, b) for b in given] for a in gold
    ]
    return (
        all(map(any, equals))
        and all(map(any, zip(*equals, strict=True)))
        and all(same(b, c) for row in equals for b, c in pairwise(compress(given, row)))
    )


def _are_named(items: tuple[Node, ...]) -> bool | None:
    """Whether each of several items has a name of its own, or none has one; None for all else."""
    names = [_name(item) for item in items]
    if len(items) < 2 or (any(names) and (None in names or len(set(names)) < len(names))):
        return None
    return any(names)


def _point(answers: Collection) -> Tuple | None:
    """The point of `x = 1, y = 2`, if the order of its coordinates is beyond doubt."""
    names = [variable(item) if isinstance(item, Relation) else None for item in answers.items]
    values = tuple(value_of(item) for item in answers.items)
    if None in names or names != sorted(set(names), key=str) or not all(isinstance(x, Expr) for x in values):
        return None
    return Tuple("(", ")", values)


# --- names -----------------------------------------------------------------------------------------------------------


def _name(node: Node) -> str | None:
    """What an answer is the value of: the x of `x = 5`, the P of `P = (1, 2)`."""
    if isinstance(node, Named):
        return node.name
    letter = variable(node) if isinstance(node, Relation) and set(node.operators) == {"="} else None
    return letter.name if isinstance(letter, Symbol) else None


def _unnamed(node: Node) -> Node:
    return node.value if isinstance(node, Named) else node


def _names_differ(gold: Node, given: Node) -> bool:
    """Whether both have names, of one kind, that are not the same: (x, y) and P may be one point, P and Q not."""
    first, second = _name(gold), _name(given)
    if first is None or second is None or ("," in first) != ("," in second):
        return False
    kinds = [isinstance(node, Named) and node.is_member for node in (gold, given)]
    return kinds[0] == kinds[1] and first != second
