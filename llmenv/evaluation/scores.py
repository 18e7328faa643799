"""What records come to: how much of them there is, then accuracy over tasks. Knows no model and no files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from llmenv.evaluation.episodes import wilson_interval

if TYPE_CHECKING:
    import pandas as pd


def accuracy(correct: Sequence[Sequence[bool]]) -> tuple[float, float, float]:
    """The mean over tasks of the share of a task's samples that are right, with its 95 % interval.

    Args:
        correct: Of each task its samples; tasks may have different numbers of them.

    Returns:
        The mean and the interval's ends; NaN where there is none.
    """
    if not correct:
        return math.nan, math.nan, math.nan
    mean = float(np.mean([np.mean(samples) for samples in correct]))
    if max(map(len, correct)) == 1:
        return mean, *wilson_interval(sum(map(sum, correct)), len(correct))
    return mean, math.nan, math.nan


def pass_at_k(correct: Sequence[Sequence[bool]], k: int) -> float:
    """Mean over tasks of 1 - C(n - c, k) / C(n, k), for c of n samples right: Chen et al. (2021), arXiv:2107.03374.

    NaN where a task has fewer than k samples.
    """
    if not correct or min(map(len, correct)) < k:
        return math.nan
    return float(np.mean([1 - math.comb(len(c) - sum(c), k) / math.comb(len(c), k) for c in correct]))


def score(frame: pd.DataFrame, expected: int) -> dict[str, Any]:
    """The figures of one environment's records.

    Args:
        frame: The records that were asked for, as far as they are there.
        expected: How many were asked for.

    Returns:
        expected, scored, errored, truncated and over_limit (samples; truncated ones are scored, as they stand, and
        over_limit are those whose answer the verifier gave up on), tasks, accuracy, accuracy_low and accuracy_high (of
        95 %; None where there is no interval), lower_bound and upper_bound (all that is missing wrong, or right),
        pass_at_k for powers of 2, format_rate, reward, response_tokens, seconds.
    """
    scored = frame[frame["error"].isna()]
    by_task = [group.fillna(False).tolist() for _, group in scored.groupby("seed")["correct"]]
    mean, low, high = accuracy(by_task)
    samples = int(frame["sample"].max()) + 1 if len(frame) else 0
    right = int(scored["correct"].fillna(False).sum())
    powers = [2**i for i in range(samples.bit_length()) if 2**i <= samples]
    tokens = scored["response_ids"].map(len)
    return {
        "expected": expected,
        "scored": len(scored),
        "errored": len(frame) - len(scored),
        "truncated": int(scored["truncated"].sum()),
        "over_limit": int(scored["failure"].isin(["time limit", "memory limit"]).sum()),
        "tasks": len(by_task),
        "accuracy": _number(mean),
        "accuracy_low": _number(low),
        "accuracy_high": _number(high),
        "lower_bound": right / expected,
        "upper_bound": (right + expected - len(scored)) / expected,
        "pass_at_k": {str(k): _number(pass_at_k(by_task, k)) for k in powers},
        "format_rate": _mean(scored["well_formed"].fillna(False)),
        "reward": _mean(scored["reward"]),
        "response_tokens": _mean(tokens),
        "seconds": float(frame["seconds"].sum()),
    }


def _mean(values: pd.Series) -> float | None:
    return _number(float(values.astype(float).mean())) if len(values) else None


def _number(value: float) -> float | None:
    """JSON has no NaN."""
    return None if math.isnan(value) else value
