"""Text of unknown origin, such as a model's, as it may stand on a terminal: nothing in it is more than text there."""

from __future__ import annotations

from rich.text import Text

JOINERS = "\u200c\u200d"  # of letters in some scripts, and of the parts of some emoji


def printable(text: str) -> str:
    r"""With each character that a terminal acts upon or hides as Python writes it, such as \x1b; lines stay lines.

    These are control characters and the escape sequences that begin with them, marks that change the direction of
    writing, and half surrogate pairs, which no terminal can be sent.
    """
    return "".join(c if c.isprintable() or c in "\n\t" or c in JOINERS else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    # What is not printable for Python includes all spaces but the plain one; they do no harm.
    return (
        character
        if character.isspace() and ord(character) > 0xA0
        else character.encode("unicode_escape").decode()
    )


def one_line(text: object, longest: int = 24) -> Text:
    """On one line of so many characters; "-" for None and NaN."""
    if text is None or text != text:
        return Text("-")
    shown = "".join(c if c.isprintable() else " " for c in str(text)[: longest + 1])
    return Text(shown if len(shown) <= longest else f"{shown[: longest - 1]}…")
