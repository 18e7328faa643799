r"""Parts an answer from the condition after it: `n^2 + n for n \ge 1` says `n^2 + n`.

What decides between several values (`1 for x > 0, 2 for x < 0`) is no such condition, and an `if` or a `=` may be one.
"""

from __future__ import annotations

import re

from envs.verify.math_answer.tokens import Unreadable, tokenize

_START = re.compile(r"[\s,;]*(?:\\(?:text|textrm|mbox|mathrm)\s*\{[\s,]*)?\b(?:for|where)\b", re.IGNORECASE)
_SIGN = re.compile(
    r"[<>≤≥∈]|\\(?:[lg]eq?|[lg]eqslant|in|[lg]t)(?![A-Za-z])|integer|natural|real|positive|constant", re.I
)
_MORE = re.compile(r"\b(?:for|where|and|or|else|otherwise|if)\b|[,;]", re.IGNORECASE)
_TEXT = re.compile(r"\\(?:text|textrm|mbox|mathrm)(?![A-Za-z])|[{}$]")


def split_condition(text: str) -> tuple[str, str]:
    """An answer, and the condition after it; that is "" if there is none that goes without saying."""
    start = _START.search(text)
    if not start or not start.start():
        return text, ""
    rest = text[start.end() :]
    if not _SIGN.search(rest) or _MORE.search(rest) or re.search(r"(?<![<>!\\])=", rest):
        return text, ""
    return text[: start.start()], rest


def same_condition(a: str, b: str) -> bool:
    """Whether two conditions are spelt alike, dollars, braces and fonts apart."""
    try:
        first, second = (tokenize(_TEXT.sub(" ", text)) for text in (a, b))
    except Unreadable:
        return False
    return [token.value for token in first] == [token.value for token in second]
