"""Stopping by the width of the interval: where it looks, and how often such an interval holds the truth."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import envs  # noqa: F401
from llmenv.evaluation.stopping import evaluate_until, looks
from llmenv.evaluation.text_models import Reply, TextSampler, text_subject
from llmenv.statistics import accuracy


def test_it_looks_at_counts_fixed_beforehand() -> None:
    assert looks(512) == [64, 128, 256, 512]
    assert looks(600) == [64, 128, 256, 512, 600]
    assert looks(64) == [64]
    assert looks(10) == [10]


def test_it_stops_at_the_first_look_that_is_narrow(tmp_path: Path) -> None:
    wrong = TextSampler(lambda asked, *_: [Reply("<answer>0</answer>") for _ in asked])
    summary = evaluate_until(
        0.04, text_subject("m", "1", wrong, {}), "envs:Countdown-v0", tmp_path, num_tasks=512, samples=1
    )
    # Of 0 of n right Wilson's interval is z^2 / (n + z^2) wide: 5.7 % of 64, 2.9 % of 128.
    assert summary["until_width"] == {"width": 0.04, "looks": [64, 128], "reached": True}
    assert summary["environments"]["envs:Countdown-v0"]["expected"] == 128
    assert json.loads((tmp_path / "summary.json").read_text()) == summary


@pytest.mark.parametrize(
    ("rate", "samples", "width"), [(0.05, 1, 0.08), (0.3, 1, 0.158), (0.5, 1, 0.17), (0.3, 4, 0.112)]
)
def test_intervals_hold_the_truth_nearly_as_often(rate: float, samples: int, width: float) -> None:
    """1,000 evaluations of tasks whose own rates vary by a beta distribution; the standard error is 0.7 %.

    The widths are about those after 128 tasks, so that chance decides whether it stops there.
    """
    rng = np.random.default_rng(7)
    held, ends = 0, []
    for _ in range(1000):
        rates = rng.beta(2 * rate, 2 * (1 - rate), size=512)
        correct = (rng.random((512, samples)) < rates[:, None]).astype(float)
        for count in looks(512):
            found = accuracy(correct[:count])
            if found.high - found.low <= width:
                break
        held += found.low <= rate <= found.high
        ends.append(count)
    assert 200 <= ends.count(128) <= 900
    assert 0.93 <= held / 1000 <= 0.98
