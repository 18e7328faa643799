"""What records come to: how much of them there is, then accuracy over tasks. Knows no model and no files."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from llmenv.statistics import accuracy, pass_at_k, verdict_table

if TYPE_CHECKING:
    import pandas as pd


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
    # An episode that was cut before the environment judged it is not right.
    tasks, verdicts = verdict_table(scored["seed"].tolist(), scored["correct"].fillna(False).tolist())
    found = accuracy(verdicts)
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
        "tasks": len(tasks),
        "accuracy": _number(found.value),
        "accuracy_low": found.low if tasks else None,
        "accuracy_high": found.high if tasks else None,
        "lower_bound": right / expected,
        "upper_bound": (right + expected - len(scored)) / expected,
        "pass_at_k": {str(k): _number(pass_at_k(verdicts, k)) for k in powers},
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
