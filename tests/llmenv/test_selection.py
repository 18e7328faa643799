"""Which samples are kept, by hand."""

from __future__ import annotations

import pytest

from llmenv.selection import HeldOut, Sample, kept, pass_rates, quota, unique

# Task a: 2 of 4 right; b: 3 of 3; c: none of 2; d: 1 of 4.
SAMPLES = [
    Sample("a", True, 1.0, 30, "x"),
    Sample("a", False, 2.0, 1, "y"),
    Sample("b", True, 0.5, 20, "x"),
    Sample("a", True, 1.5, 40, "X \n"),
    Sample("b", True, 1.0, 25),
    Sample("b", True, 1.0, 10, "z"),
    Sample("c", False, 0.0, 5),
    Sample("c", False, 0.0, 5),
    Sample("a", False, 0.0, 5),
    *[Sample("d", i == 2, 0.0, 50, "w") for i in range(4)],
]


@pytest.mark.parametrize(
    ("keep", "most", "numbers"),
    [
        ("all", None, [0, 2, 3, 4, 5, 11]),
        ("best", None, [3, 4, 11]),  # of b's two with reward 1 the first
        ("shortest", None, [0, 5, 11]),
        ("all", 4, [0, 3, 5, 11]),  # 1 / (1/2) = 2 of a, 1 / 1 of b, of 4 of d the one that is right
        ("all", 1, [0, 5, 11]),
    ],
)
def test_what_is_kept(keep: str, most: int | None, numbers: list[int]) -> None:
    assert kept(SAMPLES, keep, most) == numbers


def test_pass_rates_are_of_all_samples_whichever_may_be_kept() -> None:
    assert pass_rates(SAMPLES) == {"a": 0.5, "b": 1.0, "c": 0.0, "d": 0.25}
    assert [quota(rate, 8) for rate in (0.0, 1 / 8, 1 / 3, 0.5, 0.7, 1.0)] == [8, 8, 3, 2, 1, 1]
    assert kept(SAMPLES, "all", 4, candidates=[1, 2, 3, 4]) == [2, 3]  # b's shorter one of 20 and 25
    with pytest.raises(ValueError, match="keep must be one of all, best, shortest, got 'most'"):
        kept(SAMPLES, "most")


def test_duplicates() -> None:
    assert unique(SAMPLES, [0, 1, 2, 3]) == [0, 1, 2]  # 3 is 0 in capitals; 2 is of another task


def test_held_out_tasks_are_found_by_question_and_by_32_words() -> None:
    names = [f"{a}{b}" for a in "abcdefgh" for b in "vwxyz"]  # 40 words
    wording, story = " ".join(names[:31]), " ".join(reversed(names))
    held_out = HeldOut([f"{wording} in all, make 5", f"{wording} in all, make 6", f"Read: {story}"])
    assert not held_out.has(f"{wording} in all make 6.")  # a full stop may be of a number
    assert held_out.has(f"{wording.upper()}  in all; make 6")
    assert not held_out.has(f"{wording} in all, make 7")
    assert not held_out.shares_words(f"{wording} in all")  # 33 words that two of them have in common
    assert held_out.shares_words(f"It says {' '.join(story.split()[3:35])}, and so on")
    assert not held_out.shares_words(f"It says {' '.join(story.split()[3:34])}, and so on")  # 31
