"""Figures of records, against values worked out by hand."""

from __future__ import annotations

import pandas as pd

from llmenv.evaluation.scores import score

REST = {"truncated": False, "failure": None, "well_formed": None, "reward": 0.5, "seconds": 2.0}


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
