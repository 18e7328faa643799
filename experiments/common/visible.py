"""Makes text that a model wrote harmless to a terminal: what would act is shown. Knows nothing about who shows it."""

from __future__ import annotations

import unicodedata

PICTURES = {**{code: chr(0x2400 + code) for code in range(32)}, 0x7F: "␡"}  # ␀ to ␟: Unicode's Control Pictures
KEPT = "\n\t\u200c\u200d"  # the last two join the letters of some scripts, and the parts of some emoji
HIDDEN = ("Cc", "Cf", "Cs", "Zl", "Zp")  # control, format (such as bidi overrides), half surrogate pairs, separators


def visible(text: str) -> str:
    """The text with each character that a terminal acts upon, or hides, as one that is seen: ESC is ␛."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(_shown(character) for character in text)


def _shown(character: str) -> str:
    if character.isprintable() or character in KEPT or unicodedata.category(character) not in HIDDEN:
        return character
    return PICTURES.get(ord(character), f"⟨U+{ord(character):04X}⟩")
