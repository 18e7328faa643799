"""Text of unknown origin, such as a model's, as it may stand on a terminal: nothing in it is more than text there."""

from __future__ import annotations

from rich.text import Text


def printable(text: str) -> str:
    """Without control characters, escape sequences among them, but for line ends and tabs."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text)


def one_line(text: object, longest: int = 24) -> Text:
    """On one line of so many characters; "-" for None and NaN."""
    if text is None or text != text:
        return Text("-")
    shown = "".join(c if c.isprintable() else " " for c in str(text)[: longest + 1])
    return Text(shown if len(shown) <= longest else f"{shown[: longest - 1]}…")
