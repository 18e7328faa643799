r"""Judges by a gold answer outside the reader's grammar: by its spelling, else by math-verify's parser.

That parser judges only where it has read the whole of both texts: one formula each, without words. It computes what it
reads, so an answer that has more powers, roots or larger numbers than the gold is refused unread.
"""

from __future__ import annotations

import re
from functools import lru_cache

import sympy
from sympy import Basic, Expr

from envs.verify.math_answer.tokens import Token, Unreadable, tokenize
from envs.verify.math_answer.values import equal

_SEVERAL = re.compile(r"\$[^$]+\$.*\S.*\$|\\boxed.*\\boxed|\\[()\[\]].*\\[()\[\]].*\\[()\[\]]", re.DOTALL)
_SPELLINGS = {"<=": "\\le", ">=": "\\ge", "!=": "\\ne", "*": "\\cdot"}
_BASIC = {"\\frac", "\\sqrt", "\\pi", "\\binom", "\\{", "\\}", "\\infty"}
_GROWING = ("^", "!", "\\sqrt", "\\binom", "\\frac", "(", "{")
_UNFINISHED = (sympy.Integral, sympy.Sum, sympy.Product, sympy.Limit, sympy.Derivative)
_MAX_TOKENS = 200
_MAX_DIGITS = 6  # of a number that the gold has not


def judge_unread(answer: str, gold: str) -> str | None:
    """None if the answer is right, else "wrong value" or "not an expression"."""
    try:
        expected, given = tokenize(gold), tokenize(answer)
    except Unreadable:
        return "not an expression"
    if _spelling(expected) == _spelling(given):
        return None
    if any(token.kind == "text" for token in (*expected, *given)) or any(
        map(_SEVERAL.search, (answer, gold))
    ):
        return "wrong value"  # words decide, or more than one formula
    if not _is_alike(given, expected):
        return "not an expression"
    first, second = _parsed(_spelling(expected)), _parsed(_spelling(given))
    if first is None or second is None:
        return "not an expression"
    return None if _same(first, second) else "wrong value"


def _spelling(tokens: list[Token]) -> tuple[str, ...]:
    return tuple(token.value.strip().lower() if token.kind == "text" else token.value for token in tokens)


def _is_alike(given: list[Token], gold: list[Token]) -> bool:
    """Whether an answer has the gold's commands, and nothing that takes long to compute beside them."""
    if len(given) > min(_MAX_TOKENS, 2 * len(gold) + 20):
        return False
    expected, values = _spelling(gold), _spelling(given)
    commands = {value for value in expected if value[0] == "\\"}
    if not commands - _BASIC <= set(values) or not {v for v in values if v[0] == "\\"} <= commands | _BASIC:
        return False
    if any(values.count(sign) > expected.count(sign) + 2 for sign in _GROWING):
        return False
    return all(
        token.kind != "number" or token.value in expected or len(token.value) <= _MAX_DIGITS
        for token in given
    )


@lru_cache(maxsize=1024)
def _parsed(spelling: tuple[str, ...]) -> Basic | None:
    """What math-verify's parser makes of the whole text; None if it cannot read it to the end."""
    from latex2sympy2_extended.latex2sympy2 import ConversionConfig, latex2sympy

    text = " ".join(_SPELLINGS.get(value, value) for value in spelling)
    try:
        return latex2sympy(
            text, normalization_config=None, conversion_config=ConversionConfig(lowercase_symbols=False)
        )
    except MemoryError:
        raise
    except Exception:  # its own, ANTLR's, and whatever sympy raises where a text makes no sense
        return None


def _same(a: Basic, b: Basic) -> bool:
    if isinstance(a, Expr) and isinstance(b, Expr) and not a.has(*_UNFINISHED) and not b.has(*_UNFINISHED):
        return equal(a, b)
    return type(a) is type(b) and bool(a == b)
