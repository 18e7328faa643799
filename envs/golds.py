r"""What a row of a data set asks, and its right answer. Knows columns and how solutions end; no file and no verifier.

The question is `question` or `problem`, with what other columns hold of it: `body`, `context`, `passage` and the like
before it, `choices`, `options` or columns `A`, `B`, ... behind it. The right answer, the gold, is the first of
`answer`, `final_answer` and `solution` that says anything:

- of a worked solution the end: what follows "####" in its last line, an `<answer>` block, what a last line "The answer
  is ..." says, or the boxes of the last sentence that has one, all of them together. `solution` must end so;
- a number in its own digits: 142.0 is 142, and 0.1 stays 0.1 where a float32 held it;
- of a list all members together, as "1, 2": they are the parts of one answer, and no alternatives;
- with choices the letter of one, also where their position is given, counted from 0.

Empty texts, NaN and null say nothing. A word that stands for a missing answer, such as "proof", is refused.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from decimal import Decimal
from fractions import Fraction
from string import ascii_uppercase
from typing import Any

import numpy as np

from llmenv.text import Box, find_boxes

_BEFORE = ("passage", "paragraph", "story", "premise", "context", "body")
_LETTERS = ("A", "B", "C", "D", "E")  # columns that hold a choice each
COLUMNS = (
    *("question", "problem", "answer", "solution", "final_answer", "choices", "options"),
    *_BEFORE,
    *_LETTERS,
)
_BLANKS = {"nan", "null", "<na>", "n/a", "#n/a", "nat", "nil", "[]", "{}"}
_LONGEST_NOTHING = 40  # characters: longer texts say something
_STANDS_FOR_NONE = {
    "proof", "notfound", "not found", "no answer", "noanswer", "no final answer", "unknown", "missing", "tbd", "todo",
    "see solution", "unanswerable", "not provided", "not available", "unavailable", "omitted",
}  # fmt: skip
_SIGNS = {"<", ">", "=", "+", r"\{\}"}  # answers without a letter or a digit
# What may stand around an answer and says nothing itself.
_AROUND = re.compile(
    r"\\(?:boxed|fbox|text|textbf|mathrm|mathbf|left|right)(?![A-Za-z])|[$\s{}()\[\].,;:!?*`'\"_#~\\|–—-]"
)
_WRITTEN = re.compile(
    r"""\[\s*(['"]).*\1\s*\]|\{\s*['"].*\}|b(['"]).*\2""", re.DOTALL
)  # as Python writes values
_BLOCK = re.compile(r"<answer>((?:(?!</?answer>).)*)</answer>", re.DOTALL)
_SAID = re.compile(
    r"(?:.*\W)?answer(?:\s+is|\s*[:=])[:\s]*(\S.*?)(?:\.\s*I hope it is correct)?\.?", re.IGNORECASE
)
_GROUPED = re.compile(r"(?<![\d.,])[1-9]\d{0,2}(?:,\d{3})+(?![\d,])")  # thousands
# A number and its unit in brackets, as ASDiv writes it: 9 (apples), 80 (%), 7 (m).
_UNIT = re.compile(r"([-+]?[$€£]?[\d.,/:]*\d)\s*\((?:[%°mglsh]|[^()\d]*[^\W\d_]{2}[^()\d]*)\)", re.IGNORECASE)
_PLAIN = re.compile(r"(?=.*\d)(-?)(\d+)?(\.\d+)?(?:\\[dt]?frac\{(\d+)\}\{(\d+)\})?")
_SENTENCE_END = re.compile(r"[.!?](?:\$|\\\)|\\\])*\s+(?![a-z])")
# Between two boxes: the second takes the place of the first, or nobody knows whether it does.
_REPLACES = re.compile(r"\b(?:then|simplifies|or rather|equivalently)\b|\A[\s$}&\\]*=", re.IGNORECASE)
_FOLLOWS = re.compile(
    r"\b(?:so|hence|thus|therefore|implies)\b|\\(?:implies|Rightarrow|therefore)\b", re.IGNORECASE
)


def read_question(row: Mapping[str, Any]) -> str:
    """The whole question of a row.

    Raises:
        ValueError: there is none, or a column of it is no text.
    """
    if not any(_text(row, name) for name in ("question", "problem")):
        raise ValueError("it has neither `question` nor `problem`")
    texts = dict.fromkeys(_text(row, name) for name in (*_BEFORE, "problem", "question"))
    parts = [text for text in texts if not any(text in other for other in texts if other != text)]
    whole = ("\n" if any("\n" in part for part in parts) else " ").join(parts)
    name = _choices_column(row)
    if isinstance(given := row.get(name), str):
        return whole if given in whole else f"{whole}\n{given}"
    choices = read_choices(row)
    if all(
        text in whole and re.search(rf"\b{re.escape(letter)}\s*[).:]", whole)
        for letter, text in choices.items()
    ):
        return whole
    listed = "\n".join(f"{letter}. {text}" for letter, text in choices.items())
    return f"{whole}\n{listed}\nAnswer with the letter of the right one."


def _choices_column(row: Mapping[str, Any]) -> str:
    return "choices" if row.get("choices") else "options"


def _choices_by_column(row: Mapping[str, Any]) -> dict[str, Any]:
    given = {letter: row[letter] for letter in _LETTERS if not says_nothing(row.get(letter))}
    return given if len(given) > 1 else {}


def read_choices(row: Mapping[str, Any]) -> dict[str, str]:
    """The choices of a row by their letters, in order; none where it has none, or has them in one text.

    Raises:
        ValueError: they have another form than a list, or letters and texts.
    """
    name = _choices_column(row)
    given = row.get(name) or _choices_by_column(row)
    if not given or isinstance(given, str):
        return {}
    if isinstance(given, Mapping) and set(given) == {"label", "text"}:
        given = dict(zip(map(str, given["label"]), given["text"], strict=True))
    elif isinstance(given, list) and len(given) <= len(ascii_uppercase):
        given = dict(zip(ascii_uppercase, given, strict=False))
    if not isinstance(given, dict) or not all(isinstance(text, str | int | float) for text in given.values()):
        raise ValueError(
            f"its column `{name}` is {_shown(given)}, and no list of texts: write the choices into `question`"
        )
    # Some lists have the letters already: "(A) 1", "A) 1", "A. 1".
    marks = {
        letter: re.match(rf"\(?{re.escape(letter)}[).:]\s*", str(text)) for letter, text in given.items()
    }
    ends = {letter: mark.end() if mark and all(marks.values()) else 0 for letter, mark in marks.items()}
    return {letter: str(text)[ends[letter] :].strip() for letter, text in given.items()}


def right_answer(row: Mapping[str, Any]) -> str:
    """The gold of a row.

    Raises:
        ValueError: there is none, or it cannot be read.
    """
    for name in ("answer", "final_answer", "solution"):
        value = row.get(name)
        if says_nothing(value):
            continue
        if name != "solution" and (choices := read_choices(row)):
            return _letter(value, choices, name)
        gold = read_gold(value, f"column `{name}`", solved=name == "solution")
        if gold:
            return gold
    raise ValueError(
        'it has no right answer: neither `answer`, with "####" or without, nor a box in `solution`: leave the row out, '
        "or write the answer there"
    )


def says_nothing(value: Any) -> bool:
    """Whether a value is null, NaN, a text that is empty or says one of them, or a list of nothing."""
    if isinstance(value, str):
        bare = value.strip()
        if len(bare) > _LONGEST_NOTHING:
            return False
        sign = "".join(bare.strip("$").split()) in _SIGNS
        return bare == "None" or bare.lower() in _BLANKS or not (_AROUND.sub("", bare) or sign)
    if isinstance(value, float):
        return math.isnan(value)
    return value is None or (isinstance(value, list | dict) and not value)


def read_gold(value: Any, name: str, solved: bool = False) -> str:
    """A gold as a text; "" where a solution does not end with one.

    Args:
        value: what a row holds.
        name: of what holds it, such as "column `answer`", for errors.
        solved: whether that is a worked solution for sure.

    Raises:
        ValueError: it is of another type, not finite, or stands for a missing answer.
    """
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    if isinstance(value, list):
        return _read_list(value, name, solved)
    if isinstance(value, str):
        return _read_text(value, name, solved)
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, int | float | Decimal) and math.isfinite(value):
        return _number(value)
    raise ValueError(
        f"its {name} is {_shown(value)}: write a text or a number, or a list of them where all are the answer together"
    )


def _read_list(values: list[Any], name: str, solved: bool) -> str:
    if any(isinstance(value, list) or says_nothing(value) for value in values):
        raise ValueError(f"its {name} is {_shown(values)}, with a list or nothing in it: write one text")
    golds = list(dict.fromkeys(gold for value in values if (gold := read_gold(value, name, solved))))
    if solved and len(golds) > 1:
        raise ValueError(f"its {name} holds solutions that end with {', '.join(golds)}: keep the right one")
    return ", ".join(golds)


def _read_text(text: str, name: str, solved: bool) -> str:
    if _WRITTEN.fullmatch(text.strip()):
        raise ValueError(
            f"its {name} is {_shown(text)}, a list or the like written as a text: write the values in it"
        )
    final = _end_of_solution(text.strip(), solved)
    if final is None and ("####" in text or ("<<" in text and ">>" in text)):
        raise ValueError(
            f"its {name} is a worked solution, {_shown(text)}, and does not end with its answer: end it with a line "
            '"#### answer"'
        )
    final = "" if final is None or says_nothing(final) else final.strip()
    if " ".join(_AROUND.sub(" ", final.lower()).split()) in _STANDS_FOR_NONE:
        raise ValueError(
            f"its {name} is {_shown(text)}, which stands for an answer that is missing: leave the row out, or write "
            "the answer there"
        )
    final = re.sub(r"(?<=\d)\s*\(([ap]\.?m\.?)\)", r" \1", final)  # of a time that is no unit
    units = [_UNIT.fullmatch(part.strip()) for part in final.split(";")]
    return ", ".join(unit[1] for unit in units if unit) if all(units) else final


def _end_of_solution(text: str, solved: bool) -> str | None:
    """The answer that a worked solution ends with; any other text itself, or None where it must be a solution."""
    _, mark, final = text.rpartition("####")
    if mark and "\n" not in final.strip():
        return _GROUPED.sub(lambda number: number[0].replace(",", ""), final.strip())
    if block := _BLOCK.findall(text):
        return block[-1]
    if boxes := find_boxes(text):
        return _boxed(text, boxes)
    if said := _SAID.fullmatch(text[text.rfind("\n") + 1 :].replace("**", "").strip()):
        return said[1]
    return None if solved or mark or ("<<" in text and ">>" in text) else text


def _boxed(text: str, boxes: list[Box]) -> str:
    """The boxes of the sentence that the last one is in; but a box that the next replaces is a step."""
    together = [boxes[-1]]
    for box in reversed(boxes[:-1]):
        between = text[box.end : together[0].start]
        if _SENTENCE_END.search(between) or _REPLACES.search(between):
            break
        if _FOLLOWS.search(between) and _value(box.content) != _value(together[0].content):
            raise ValueError(
                f"its solution ends with the boxes {box.content} and {together[0].content}, the first of which may "
                "only lead to the second: leave the boxes of the answer alone"
            )
        together.insert(0, box)
    # Of one number in two spellings, "15 39/40, or 639/40", the last.
    said = {_value(box.content): box.content for box in together}
    return ", ".join(said.values())


def _value(text: str) -> Fraction | str:
    """The value of a plain number, a fraction or a mixed number; any other text itself."""
    number = _PLAIN.fullmatch(text)
    if not number:
        return text
    sign, whole, decimals, above, below = number.groups()
    if below is not None and not int(below):
        return text
    value = Fraction(f"{whole or 0}{decimals or ''}") + (Fraction(int(above), int(below)) if below else 0)
    return -value if sign else value


def _letter(value: Any, choices: Mapping[str, str], name: str) -> str:
    """Which of the choices a gold names: by its letter, its position or its text."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(choices):
        return list(choices)[value]
    gold = read_gold(value, f"column `{name}`")
    bare = _AROUND.sub("", gold)
    named = [letter for letter, text in choices.items() if bare == letter or gold == text.strip()]
    if len(named) != 1:
        raise ValueError(
            f"its column `{name}` is {_shown(value)}, which names none of {', '.join(choices)}: mend it"
        )
    return named[0]


def _number(value: Any) -> str:
    if isinstance(value, int) or (abs(value) < 1e15 and value == int(value)):
        return str(Decimal(int(value)))
    if isinstance(value, Decimal):
        return f"{value.normalize():f}"
    digits = repr(value).replace(".", "").lstrip("-0").partition("e")[0]
    if len(digits) >= 15 and float(np.float32(value)) == value:  # a file held it in four bytes
        return np.format_float_positional(np.float32(value), trim="-")
    return np.format_float_positional(value, trim="-")


def _text(row: Mapping[str, Any], name: str) -> str:
    value = row.get(name)
    if says_nothing(value):
        return ""
    if not isinstance(value, str):
        raise ValueError(f"its column `{name}` is {_shown(value)}: it must be a text")
    return value.strip()


def _shown(value: Any) -> str:
    """A value for an error: its type, and its beginning."""
    shown = repr(value)
    kinds = {"str": "the text", "dict": "the dict", "list": "the list", "float": "the number"}
    return f"{kinds.get(type(value).__name__, type(value).__name__)} {shown[:80]}{'...' if len(shown) > 80 else ''}"
