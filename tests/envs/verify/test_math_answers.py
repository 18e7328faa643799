r"""Math answers as a careful human grader judges them, decided before and without the code that is judged.

The grader is exact about values (0.33 is not 1/3) and generous about spelling (`\dfrac12` is 1/2), accepts an answer
that leaves out the unit but none with another unit, and accepts no answer that names several candidates. Pairs
on which careful graders differ are left out: 100 mm for 10 cm, 6:4 for 3:2, 50% for 50, 1,2 for (1,2). So are whole
sentences ("Janet makes $18 per day") and numbers in words, which the grader accepts and `verify_math` does not read.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import NamedTuple

import pytest

from envs.verify.verifiers import verify_math

FILES = [
    Path(__file__).with_name(f"math_answers_{name}.toml")
    for name in ("by_form", "of_models", "undeserved", "as_written")
]
# By category: (gold, answers that are right, answers that are wrong). Read as one, they share no category.
JUDGED: dict[str, list[tuple[str, list[str], list[str]]]] = tomllib.loads(
    "".join(file.read_text("utf-8") for file in FILES)
)


class Case(NamedTuple):
    id: str
    gold: str
    answer: str
    right: bool


def _cases() -> list[Case]:
    cases = []
    for category, rows in JUDGED.items():
        pairs = []
        for gold, right, wrong in rows:
            pairs += [(gold, answer, True) for answer in right]
            pairs += [(gold, answer, False) for answer in wrong]
        cases += [Case(f"{category}-{i}", *pair) for i, pair in enumerate(pairs)]
    return cases


CASES = _cases()


def test_table_is_large_and_judges_both_ways() -> None:
    assert len(CASES) >= 2000
    assert len({(case.gold, case.answer) for case in CASES}) == len(CASES)
    for category in JUDGED:
        right = [case.right for case in CASES if case.id.startswith(f"{category}-")]
        assert len(right) >= 10
        assert (0.05 if category == "hedge" else 0.2) <= sum(right) / len(right) <= 0.7, category


@pytest.mark.parametrize("case", CASES, ids=[case.id for case in CASES])
def test_judged_as_by_hand(case: Case) -> None:
    failure = verify_math(case.answer, case.gold)
    assert (failure is None) == case.right, failure
