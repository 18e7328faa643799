r"""Finds the one candidate in an answer with words around it: a sentence, a box, a choice; knows no mathematics.

Two candidates are never a reading, nor is one that its words take back (`not 5`, `5 or more`, `if it is 5`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from envs.verify.math_answer.tokens import FUNCTIONS
from envs.verify.math_answer.units import NO_UNITS, UNITS, is_no_unit
from envs.verify.spelling import in_plain_characters, unwrapped

_HARMLESS = {"is", "are", "was", "equal", "equals", "to", "and", "by"}
_DOUBTS = (NO_UNITS - _HARMLESS) | {
    *("cannot", "without", "might", "may", "could", "would", "should", "guess", "think", "believe", "likely"),
    *("unlikely", "estimate", "estimated", "unsure", "however", "although", "though", "alternatively", "rather"),
    *("else", "other", "others", "another", "different", "previous", "when", "assuming", "suppose", "let", "error"),
    *("mistake", "impossible", "greater", "fewer", "smaller", "larger", "bigger", "above", "below", "under", "beyond"),
    *("exceeds", "between", "up", "down", "range", "versus", "vs", "any", "some", "many", "several", "few", "none"),
    *("nothing", "reject", "rejected", "discard", "discarded", "ignore", "ignored", "try", "loss"),
    *("lost", "lose", "loses"),
    *("debt", "owe", "owes", "owed", "deficit", "short", "mille", "ppm", "ppb", "couple", "couples", "sum", "product"),
    *("square", "squares", "cube", "logarithm", "sine", "cosine", "percent", "cent", "non", "far"),
    *("away", "off", "until"),
    *(*FUNCTIONS, "sqrt", "abs", "gcd", "lcm", "binom"),
    *("lambda", "return", "raise", "assert", "exec"),  # of programs
}  # fmt: skip
_MONEY = r"(?:\\dollar|\\euro|\\pound|\\yen)"
_NUMBER = (
    rf"(?:{_MONEY}\s*)?(?<![\w.^/*)])[-+]?(?:{_MONEY}\s*)?"
    r"(?<![\w.^/*)])(?:(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+|\s?/\s?[0-9]+)?|\.[0-9]+)(?:\s?\\?%)?"
)
_ONE_NUMBER = re.compile(rf"([^0-9]*?)({_NUMBER})(?![\w^*/=!])([^0-9]*)")
_PLAIN = re.compile(r"[-+]?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?")
_MEASURED = re.compile(r"([-+]?[0-9][0-9.,/]*)\s*\(([A-Za-z ]+)\)")
_PROSE = re.compile(r"(?:[A-Za-z]++(?:['-][A-Za-z]++)*+|[\s,.;:。])*+")
_NAME = re.compile(r"(?:\A|(?<=\s))(?:[A-Za-z]|[A-Z]{2,3})\s*=\s*\Z")
_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
_BRACE = re.compile(r"(?<!\\)[{}]")
_MARKS = re.compile(
    r"\\(?:text|math)?(?:text|bf|rm|it|normal|sf|up)?\s*\{([^{}\\]*)\}|\\[()\[\],;:! ]|\\q?quad(?![a-z])"
)
_FORMULA = re.compile(r"([^$]*)(?<!\\)\$([^$]+)(?<!\\)\$([^$]*)")
_COMMA = re.compile(r"(?<![0-9,.])(-?[0-9]+),((?:[0-9]{1,2}|[0-9]{4,})(?![0-9,.]))")
_LONG_COMMA = re.compile(r"(-?[0-9]+),((?:[0-9]{2}|[0-9]{4,}))(?![0-9,.])")
_HEAD = re.compile(r"(yes|true|no|false)\s*[,.;:!]\s*(.*)", re.IGNORECASE | re.DOTALL)
_CHOICE = re.compile(
    r"\s*(?:(?i:option|choice|answer)\s*:?\s*)?(?:\(([A-J])\)|([A-J])(?:\)|[.:](?=\s|\Z)|(?=\s*\Z)))\s*(.*)",
    re.DOTALL,
)
# What follows a choice and is no text beside it: `(C)+1`, `(C)x`, `(C), 47`, `$C$ $47$`.
_GOES_ON = re.compile(
    r"[A-J]\)\s*\}*(?:[^\s\\.:(){}\[\]$*A-Za-z0-9]|(?<!\s)[A-Za-z0-9])|[A-J]\)?\}*\s*(?:[,;(/=\n]|(?:and|or)\b|\\(?:lor|vee|text)\b)"
    r"|\$[^$]*\$[^$]*\$"
)
_OTHER_CHOICE = re.compile(r"(?<![A-Za-z\\])[A-J](?![A-Za-z])")


def readings(answer: str, gold: str) -> Iterator[tuple[str, str]]:
    """What an answer may say beside its plain reading, and the gold answer to compare that with."""
    answer, gold = in_plain_characters(answer).strip(), in_plain_characters(gold).strip()
    yield from _decimal_commas(answer, gold)
    yield from _choices(answer, gold)
    if unit := _MEASURED.fullmatch(gold):  # ASDiv's `9 (apples)`
        gold = f"{unit[1]} {unit[2]}"
        yield answer, gold
    if head := _HEAD.fullmatch(unwrapped(answer)):
        yield from _yes_or_no(head, gold)
    plain = _PLAIN.fullmatch(unwrapped(gold)) is not None
    for before, candidate, after in _candidates(answer, plain):
        yield from ((said, gold) for said in _said(before, candidate, after, plain))


def _candidates(answer: str, plain: bool) -> Iterator[tuple[str, str, str]]:
    """What stands in the only box, or else in the only formula between dollars, or is the only number."""
    text = unwrapped(answer)
    boxes = list(_BOX.finditer(text))
    if boxes:
        if len(boxes) == 1 and (end := _end_of_braces(text, boxes[0].end())):
            yield text[: boxes[0].start()], text[boxes[0].end() : end - 1], text[end:]
        return
    if formula := _FORMULA.fullmatch(answer):
        yield formula[1], formula[2], formula[3]
    if plain and (number := _ONE_NUMBER.fullmatch(_MARKS.sub(r" \1 ", text).strip())):
        yield number[1], number[2], number[3]


def _said(before: str, candidate: str, after: str, plain: bool) -> Iterator[str]:
    """The candidate, with the unit behind it where the gold answer may have one, if the words around only state it."""
    before, after = (_MARKS.sub(r" \1 ", text) for text in (before, after))
    after = re.sub(r"^\s*\(([A-Za-z' -]+)\)", r" \1", after)
    after = re.sub(r"(?<=[A-Za-z])!\s*\Z", "", after).strip()
    if not _is_quiet(_NAME.sub("", before)) or not (_is_quiet(after) or after.rstrip(" .") in UNITS):
        return
    if not re.search("[A-Za-z]", after) or (plain and _ONE_NUMBER.fullmatch(unwrapped(candidate))):
        yield candidate
    else:
        yield f"{candidate} {after}"


def _is_quiet(text: str) -> bool:
    """Whether these are words that neither count nor compare, deny or doubt."""
    words = re.findall(r"[a-z']+", re.sub(r"(?<=\s)May\b", "", text).lower())  # the month doubts nothing
    return (
        _PROSE.fullmatch(text) is not None
        and not any(word in _DOUBTS or (word not in _HARMLESS and is_no_unit(word)) for word in words)
        and not any(word.endswith("n't") or (len(word) == 1 and word not in "ai") for word in words)
    )


def _end_of_braces(text: str, start: int) -> int | None:
    """The place after the brace that closes the one before `start`."""
    depth = 1
    for brace in _BRACE.finditer(text, start):
        depth += 1 if brace[0] == "{" else -1
        if not depth:
            return brace.end()
    return None


def _decimal_commas(answer: str, gold: str) -> Iterator[tuple[str, str]]:
    """The 2.5 of `2,5`, if one of both answers has a decimal point; a comma before three digits groups them."""
    if answer.count(",") == 1 and "," not in gold and re.search(r"[0-9]\.[0-9]", gold):
        yield _COMMA.sub(r"\1.\2", answer), gold
    elif gold.count(",") == 1 and "," not in answer and _LONG_COMMA.match(unwrapped(gold)):
        yield answer, _LONG_COMMA.sub(r"\1.\2", unwrapped(gold))


def _choices(answer: str, gold: str) -> Iterator[tuple[str, str]]:
    """The letters of `Option C` and `(C) 5`, or the texts beside them."""
    right = _CHOICE.fullmatch(_MARKS.sub(r" \1 ", gold))
    if not right:
        return
    letter, text = right[1] or right[2], right[3].strip()
    if _GOES_ON.search(answer):
        return
    given = _CHOICE.fullmatch(_MARKS.sub(r" \1 ", unwrapped(answer)))
    if not given:
        if text:
            yield answer, text
    elif (given[1] or given[2]) == letter:
        if text and given[3].strip():
            yield given[3], text
        elif not _OTHER_CHOICE.search(given[3]) and _DOUBTS.isdisjoint(
            re.findall("[a-z]+", given[3].lower())
        ):
            yield letter, letter


def _yes_or_no(head: re.Match[str], gold: str) -> Iterator[tuple[str, str]]:
    """The yes of `Yes, it is.` and the no of `No, it is not`."""
    words = set(re.findall(r"[a-z']+", head[2].lower()))
    denies = head[1].lower() in ("no", "false")
    allowed = {"not", "never", "cannot", "no"} if denies else set()
    doubts = words & (_DOUBTS | {"yes", "no", "true", "false"}) - allowed
    negated = any(word.endswith("n't") for word in words)
    if not doubts and (denies or not negated) and _PROSE.fullmatch(head[2]):
        yield head[1], gold
