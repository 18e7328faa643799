r"""Tells answers that are yet to be computed: `99^2+99+1` for 9901. They are right, and say nothing.

Where the gold is a number, an answer is uncomputed that is an expression of the question, in any order of its parts,
and so is any sum, product, root or function of numbers. A power, a factorial or a binomial coefficient alone is a
closed form, unless the question says it; so are `x = 6 \times 7 = 42`, `3 \times 10^5` and a fraction in lowest terms.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from math import gcd

from envs.verify.math_answer.tokens import FUNCTIONS, Token, Unreadable, tokenize

_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]+)?")
_SEPARATORS = {"(", ")", "{", "}", "$"}  # say how parts belong together
_OPERATORS = {"+", "-", "*", "/", "^", "!", "\\sqrt", "\\binom", "\\frac", "|", "_", "\\lfloor", "\\lceil"}
_COMPUTED = {"+", "*", "\\sqrt", "|", "\\lfloor", "\\lceil", "\\gcd", "\\max", "\\min"}
_FUNCTION_COMMANDS = {f"\\{name}" for name in FUNCTIONS}


def is_uncomputed(answer: str, gold: str, question: str) -> bool:
    """Whether a right answer is yet to be computed, the gold being a number."""
    try:
        expected, given = tokenize(gold), tokenize(answer)
    except Unreadable:
        return False
    given, expected = _last_side(given), _last_side(expected)
    if _spelling(given) == _spelling(expected) or not _is_number(expected) or _is_numeral(given):
        return False
    functions = [_FUNCTION_COMMANDS.intersection(_spelling(side)) for side in (given, expected)]
    if (functions[0] and not functions[1]) or _is_in(given, question):
        return True
    return _is_numeral(expected) and _needs_computing(given)


def _last_side(tokens: list[Token]) -> list[Token]:
    """What stands after the last sign of equality; all of a text that ends with one, less that."""
    while tokens and tokens[-1].value == "=":
        tokens = tokens[:-1]
    values = [token.value for token in tokens]
    return tokens[len(values) - values[::-1].index("=") :] if "=" in values else tokens


def _spelling(tokens: list[Token]) -> list[str]:
    return [t.value for t in tokens if t.kind != "text" and t.value not in _SEPARATORS]


def _is_number(tokens: list[Token]) -> bool:
    """Whether this is one number, in any form: no letters but constants, no list, no relation."""
    return any(t.kind == "number" for t in tokens) and not any(
        (t.kind == "letter" and t.value not in "ei") or t.value in (",", ";", "<", ">", "<=", ">=")
        for t in tokens
    )


def _is_numeral(tokens: list[Token]) -> bool:
    """Whether this is a number written out: digits, with a sign, a unit, a power of ten; a fraction in lowest terms."""
    text = re.sub(r"(?<=[0-9.])\0(?=[0-9])", " ", "\0".join(_spelling(tokens))).replace("\0", "").lstrip("+-")
    text = re.sub(r"\\(?:dollar|euro|pound|circ)|\^\\circ|%|_[0-9]+\Z", "", text)
    text = re.sub(r"(?<=[0-9])\*10\^-?[0-9]+\Z|\A10\^-?[0-9]+\Z", "", text) or "1"
    if _NUMBER.fullmatch(text.rstrip("^")) or re.fullmatch(r"[0-9]+(?:\.[0-9]+)?e[+-]?[0-9]+", text, re.I):
        return True
    numbers = [t.value for t in tokens if t.kind == "number"]
    is_fraction = re.fullmatch(r"[0-9]*\\frac-?[0-9]+(?: [0-9]+)?|(?:[0-9]+ )?[0-9]+/[0-9]+", text)
    if not is_fraction or not all(map(str.isdigit, numbers)):
        return False
    if "/" in text:
        top, bottom = numbers[-2:]
    elif len(numbers) == 1 and len(numbers[0]) == 2:  # \frac12
        top, bottom = numbers[0][0], numbers[0][1]
    elif len(numbers) >= 2:
        top, bottom = numbers[-2:]
    else:
        return False
    return gcd(int(top), int(bottom)) == 1


def _needs_computing(tokens: list[Token]) -> bool:
    """Whether there is a sum, a product, a root or a function in it."""
    values = _spelling(tokens)
    inner = values[1:] if values[:1] in (["-"], ["+"]) else values
    if any(value in _COMPUTED for value in values):
        return True
    pairs = list(zip(["", *inner], inner, strict=False))
    minus = any(value == "-" and before not in ("^", "\\frac") for before, value in pairs)
    product = any(before.isdigit() and value.isdigit() for before, value in pairs) and "\\frac" not in values
    return minus or (product and "/" not in values)


def _is_in(tokens: list[Token], question: str) -> bool:
    """Whether the parts of an expression are those of a part of the question, in any order."""
    if not any(t.value in _OPERATORS or t.value[0] == "\\" for t in tokens):
        return False
    try:
        asked = _split(t.value if t.kind != "text" else " " for t in tokenize(question))
    except Unreadable:
        return False
    values = _split(_spelling(tokens))
    wanted, length = Counter(values), len(values)
    window = Counter(asked[:length])
    for i in range(length, len(asked) + 1):
        if window == wanted:
            return True
        if i < len(asked):
            window[asked[i]] += 1
            window[asked[i - length]] -= 1
            window = +window
    return False


def _split(values: Iterable[str]) -> list[str]:
    r"""Numbers digit by digit, since `\frac12` is 1/2; without what only groups, and signs of multiplication."""
    parts: list[str] = []
    for value in values:
        if value not in _SEPARATORS and value != "*":
            parts += value if value[0].isdigit() else ["/" if value == "\\frac" else value]
    return parts
