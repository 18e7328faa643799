"""Can people read it? Measures of a text, each a pure function in linear time. Know no task, and judge no answer.

DeepSeek-R1 keeps of its samples what is not mixed in languages, and rewards the share of words in the target language
(Nature 645, 633, 2025). Which language a word is of cannot be told without a model of languages; which letters it has
can: here the words of a language are those of its script, so that Chinese within English is found, and German is not.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

_PIECES = re.compile(r"\w+|[^\w\s]")  # words and punctuation marks
_TAG = re.compile(r"<(/?)(think|answer)>")
# Languages that write without spaces: each of their characters counts as a word.
_UNSPACED = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR")
# Letters of mathematics, which any language writes: they say nothing.
_MATHEMATICAL = ("GREEK", "MATHEMATICAL", "DOUBLE", "SCRIPT", "BLACK", "MICRO", "ANGSTROM", "PLANCK")


@lru_cache(maxsize=4096)
def _script(character: str, target: str) -> str:
    """The first word of a letter's Unicode name, such as LATIN; "" for what is no letter, or one of mathematics."""
    name = unicodedata.name(character, "?").split()[0].split("-")[0] if character.isalpha() else ""
    return "" if name in _MATHEMATICAL and name != target else name


def foreign_letters(text: str, script: str = "LATIN") -> float:
    """The share of letters that are not of a script; 0 of a text without letters.

    Args:
        text: Of any kind.
        script: As Unicode names letters: LATIN, CJK, CYRILLIC, ...
    """
    scripts = [found for character in text if (found := _script(character, script))]
    return sum(found != script for found in scripts) / len(scripts) if scripts else 0.0


def target_words(text: str, script: str = "LATIN") -> float:
    """The share of words all of whose letters are of a script; 1 of a text without words.

    Of scripts without spaces each character is a word: one long run of them would weigh as a single one.
    """
    ours = theirs = 0
    run: str | None = None  # the script of the word so far; "?" where it has several
    for character in f"{text} ":
        script_of = _script(character, script)
        unspaced = script_of.startswith(_UNSPACED)
        if run is not None and (not script_of or unspaced):
            ours, theirs = (ours + 1, theirs) if run == script else (ours, theirs + 1)
            run = None
        if unspaced:
            ours, theirs = (ours + 1, theirs) if script_of == script else (ours, theirs + 1)
        elif script_of:
            run = script_of if run in (None, script_of) else "?"
    return ours / (ours + theirs) if ours + theirs else 1.0


def repetition(text: str, n: int = 4) -> float:
    """1 - (distinct n-grams) / (all n-grams), of words and punctuation marks in lower case; 0 of fewer than n."""
    words = _PIECES.findall(text.lower())
    ngrams = list(zip(*(words[i:] for i in range(n)), strict=False))
    return 1 - len(set(ngrams)) / len(ngrams) if ngrams else 0.0


def tags_are_sound(text: str) -> bool:
    """Whether each think and answer tag is closed by its own before another one begins; text without any is sound."""
    opened = None
    for tag in _TAG.finditer(text):
        closes, name = tag.groups()
        if closes and opened == name:
            opened = None
        elif closes or opened is not None:
            return False
        else:
            opened = name
    return opened is None


def why_unreadable(
    text: str, script: str = "LATIN", *, most_foreign: float, fewest_words: float, most_repeated: float
) -> str | None:
    """What is wrong with a text, in words; None if nothing is.

    Args:
        text: Of any kind.
        script: Of the target language.
        most_foreign: Share of letters that may be of other scripts.
        fewest_words: Share of words that must be of this one.
        most_repeated: Share of 4-grams that may have stood before.
    """
    if not tags_are_sound(text):
        return "broken tags"
    if foreign_letters(text, script) > most_foreign or target_words(text, script) < fewest_words:
        return "another script"
    return "repetition" if repetition(text) > most_repeated else None
