"""Real data sets, where they are: each gold answer is right, another problem's is wrong, in any thread or actor."""

from __future__ import annotations

import pytest

from experiments.benchmarks import bench_math
from support import REAL_DATA

# In MATH-500 the problem after one whose answer is 5 has the answer x=5.
RIGHT_BY_CHANCE = {"GSM8K": set(), "MATH-500": {("x=5", "5")}}


def available(*files: str) -> pytest.MarkDecorator:
    missing = [name for name in files if not (REAL_DATA / name).exists()]
    return pytest.mark.skipif(bool(missing), reason=f"no {', '.join(missing)} in $LLMENV_DATA")


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        pytest.param("GSM8K", 1319, marks=available("gsm8k/test.jsonl")),
        pytest.param("MATH-500", 500, marks=available("math500/test.jsonl")),
    ],
)
def test_gold_answers_are_right_and_others_wrong(name: str, rows: int) -> None:
    judged = list(bench_math.judge_all(name, REAL_DATA))
    assert len(judged) == 3 * rows
    otherwise = {(case.answer, gold) for case, gold, correct, _ in judged if correct != case.right}
    assert otherwise == RIGHT_BY_CHANCE[name]


@available("math500/test.jsonl")
def test_verdicts_are_the_same_everywhere(ray_cluster: None) -> None:
    results = bench_math.everywhere(bench_math.mixed(REAL_DATA)[:400])
    expected = results["main thread"]
    assert expected.count(None) == 201  # 100 golds twice, and the x=5 of the row after the 5
    assert all(given == expected for given in results.values())
