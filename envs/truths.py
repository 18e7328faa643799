"""The ground truth of a row in verl's schema: which verifier judges by it, and how it is read. Knows no prompt."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Hashable, Mapping
from operator import index
from typing import Any, NamedTuple

from envs.golds import read_gold, says_nothing
from envs.verify.verifiers import verify_arithmetic, verify_integer, verify_math

# Words of a data_source, in lower case, such as yolo/multiply-3_digit, DigitalLearningGmbH/MATH-lighteval, math_dapo,
# aime_2024, numina_olympiads and NuminaMath-CoT. The first that it has counts. A word is what stands between signs,
# digits and changes of case: "aftermath" has no word math.
VERIFIER_OF_SOURCE = {
    "countdown": "arithmetic",
    "multiply": "integer",
    "multiplication": "integer",
    "arithmetic": "integer",
    "gsm8k": "math",
    "math": "math",
    "aime": "math",
    "amc": "math",
    "numina": "math",
    "olympiadbench": "math",
    "minerva": "math",
    "deepscaler": "math",
    "asdiv": "math",
    "svamp": "math",
    "dapo": "math",
}
_SAME_WORD = {
    "numinamath": "numina",
    "deepmath": "math",
    "openmath": "math",
    "bigmath": "math",
    "maths": "math",
}
_CASE_CHANGES = re.compile(r"(?<=[a-z])(?=[A-Z])")
_WORD = re.compile(r"gsm8k|[a-z]+")


class Verifier(NamedTuple):
    """How to read a row's ground truth, and how to judge an answer by what was read."""

    read: Callable[[Any], Hashable]
    verify: Callable[[str, Any], str | None]


def _read_countdown(truth: Any) -> tuple[tuple[int, ...], int]:
    if isinstance(truth, Mapping):
        numbers, target = truth["numbers"], truth["target"]
        if isinstance(numbers, list):
            return tuple(_integer(number, "numbers") for number in numbers), _integer(target, "target")
    raise TypeError("is no {target, numbers}")


def _integer(value: Any, name: str) -> int:
    try:
        return index(value)
    except TypeError:
        kind = {"float": "floats", "str": "texts"}.get(
            type(value).__name__, f"of the type {type(value).__name__}"
        )
        raise TypeError(f"has {name} that are {kind}: convert them to integers") from None


def _read_integer(truth: Any) -> int:
    return _integer(truth, "digits")


def _read_text(truth: Any) -> str:
    if truth is None or isinstance(truth, Mapping):
        raise TypeError("is no text and no number")
    gold = "" if says_nothing(truth) else read_gold(truth, _NAME)
    if not gold:
        raise ValueError(
            f"its {_NAME} is {truth!r}, which says nothing: leave the row out, or write the answer there"
        )
    return gold


_NAME = 'reward_model["ground_truth"]'
VERIFIERS = {
    "arithmetic": Verifier(_read_countdown, lambda answer, truth: verify_arithmetic(answer, *truth)),
    "integer": Verifier(_read_integer, verify_integer),
    "math": Verifier(_read_text, verify_math),
    "none": Verifier(lambda truth: None, lambda answer, truth: "not judged"),  # of rows with a score alone
}


class Judge(NamedTuple):
    """What answers to a row are judged by: a name in `VERIFIERS`, what that needs, and a score that is paid anyway."""

    verifier: str
    truth: Hashable
    score: float | None


def read_judge(row: Mapping[str, Any], verifier: str | None) -> Judge:
    """Read `reward_model`, or `reward_spec` as SkyRL calls it.

    Args:
        row: with its `data_source`.
        verifier: in place of the one that its `data_source` names.

    Raises:
        ValueError: it holds nothing to judge by.
    """
    held = row.get("reward_model")
    held = row.get("reward_spec") if held is None else held
    if isinstance(held, str):
        raise ValueError(
            f"its reward_model is a text, {held[:60]!r}, and must be a dict with ground_truth: parse it (json.loads) "
            "where the rows are written"
        )
    held = held if isinstance(held, Mapping) else {}
    truth, score = held.get("ground_truth"), _read_score(held.get("score"))
    if score is not None and truth is None:
        return Judge("none", None, score)
    verifier = verifier or verifier_of(row.get("data_source"))
    try:
        return Judge(verifier, VERIFIERS[verifier].read(truth), score)
    except (TypeError, KeyError) as error:
        why = f"has no {error}" if isinstance(error, KeyError) else error
        raise ValueError(
            f"its {_NAME} is {truth!r}, nothing that the verifier {verifier!r} can judge by, since it {why}; or "
            "choose another by verifier="
        ) from error


def _read_score(score: Any) -> float | None:
    if score is None:
        return None
    if isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(score):
        raise ValueError(
            f'its reward_model["score"] is {score!r}, and no finite number: mend or leave it out'
        )
    return float(score)


def verifier_of(data_source: Any) -> str:
    """The name of the verifier for a row's `data_source`."""
    found = _WORD.findall(_CASE_CHANGES.sub(" ", str(data_source)).lower())
    found += _WORD.findall(str(data_source).lower())  # "DeepMath" is one word too
    words = {_SAME_WORD.get(word, word) for word in found}
    for word, verifier in VERIFIER_OF_SOURCE.items():
        if word in words:
            return verifier
    raise ValueError(
        f"no verifier is known for its data_source, {data_source!r}, but for names with "
        f'{", ".join(VERIFIER_OF_SOURCE)}: choose one for all rows, such as verifier="math"'
    )
