"""Figures of records, against values worked out by hand."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from llmenv.evaluation.scores import accuracy, pass_at_k, score

REST = {"truncated": False, "failure": None, "well_formed": None, "reward": 0.5, "seconds": 2.0}


def test_the_task_is_the_unit() -> None:
    mean, low, high = accuracy([[True, True, True, True], [False]])
    assert mean == 0.5  # and not 4 of 5
    assert math.isnan(low) and math.isnan(high)
    assert accuracy([[True], [False]])[1:] == pytest.approx((0.0945312, 0.9054688), abs=1e-6)


def test_pass_at_k_is_unbiased() -> None:
    # 2 of 4: of the 6 pairs one has no right one; 0 of 4: none has any.
    assert pass_at_k([[True, True, False, False], [False] * 4], 2) == pytest.approx((5 / 6) / 2)
    assert math.isnan(pass_at_k([[True], [False, True]], 2))


def test_what_is_missing_is_told_and_bounds_the_rest() -> None:
    rows = [
        {"seed": 1, "sample": 0, "correct": True, "error": None},
        {"seed": 1, "sample": 1, "correct": False, "error": None},
        {"seed": 2, "sample": 0, "correct": None, "error": "the server is away"},
        {"seed": 3, "sample": 0, "correct": None, "error": None},  # cut before the environment's verdict
    ]
    frame = pd.DataFrame([{**REST, **row, "response_ids": [1, 2, 3]} for row in rows])
    frame[["correct", "well_formed"]] = frame[["correct", "well_formed"]].astype("boolean")
    figures = score(frame, 8)
    assert [figures[name] for name in ("expected", "scored", "errored", "truncated", "tasks")] == [
        8,
        3,
        1,
        0,
        2,
    ]
    assert figures["accuracy"] == 0.25
    assert (figures["lower_bound"], figures["upper_bound"]) == (1 / 8, 6 / 8)
    assert figures["pass_at_k"] == {"1": 0.25, "2": None}  # one task has one sample
    assert (figures["reward"], figures["response_tokens"], figures["seconds"]) == (0.5, 3.0, 8.0)


def test_without_any_record_there_is_no_number() -> None:
    columns = [*REST, "seed", "sample", "correct", "error", "response_ids"]
    figures = score(pd.DataFrame(columns=columns), 4)
    assert (figures["accuracy"], figures["lower_bound"], figures["upper_bound"]) == (None, 0.0, 1.0)
