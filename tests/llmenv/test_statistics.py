"""pass@k, accuracy and its interval against numbers derived by hand and slow references."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest

from llmenv.statistics import accuracy, pass_at_k, task_means, verdict_table, wilson_interval

NAN = math.nan


def test_wilson_interval() -> None:
    # 8 of 10, z^2 = 3.841459: centre (0.8 + 0.192073) / 1.384146 = 0.716740;
    # spread 1.959964 sqrt(0.8 * 0.2 / 10 + 0.0384146 / 4) / 1.384146 = 1.959964 * 0.160012 / 1.384146 = 0.226577.
    assert wilson_interval(8, 10) == pytest.approx((0.490162, 0.943318), abs=1e-5)


def test_wilson_interval_at_the_ends() -> None:
    # 0 of 10: centre = spread = 0.192073 / 1.384146 = 0.138767, so that the interval is (0, 0.277533).
    low, high = wilson_interval(0, 10)
    assert (low, high) == (pytest.approx(0.0, abs=1e-12), pytest.approx(0.277533, abs=1e-5))
    assert wilson_interval(10, 10) == pytest.approx((1 - high, 1.0), abs=1e-9)
    assert wilson_interval(0, 0) == (0.0, 1.0)


def test_the_proportion_lies_in_its_interval() -> None:
    """Wherever rounding puts the bounds: at 0 and 1 they are the proportion itself."""
    for n in range(1, 1101):
        for k in {0, 1, n // 3, n // 2, n - 1, n}:
            low, high = wilson_interval(k, n)
            assert 0.0 <= low <= k / n <= high <= 1.0, (k, n)
        assert wilson_interval(n, n)[1] == 1.0 and wilson_interval(0, n)[0] == 0.0


def test_interval_narrows_with_the_square_root_of_the_trials() -> None:
    widths = [high - low for low, high in (wilson_interval(n // 2, n) for n in (400, 1600))]
    assert widths[0] / widths[1] == pytest.approx(2.0, rel=0.01)


def test_verdicts_become_rows() -> None:
    tasks, table = verdict_table(["b", "a", "b", "b"], [True, None, False, math.nan])
    assert tasks == ["b", "a"]
    np.testing.assert_array_equal(table, [[1, 0, NAN], [NAN, NAN, NAN]])
    np.testing.assert_array_equal(task_means(table), [0.5, NAN])
    assert verdict_table([], [])[1].shape == (0, 0)


def test_pass_at_k_is_the_share_of_subsets_with_a_right_one() -> None:
    table = np.array([[1, 0, 0, 0, 0, NAN], [0, 0, 1, 1, 0, 0], [0, 0, 0, 0, 0, NAN], [1, 1, 1, 1, 1, 1]])
    for k in range(1, 6):
        shares = []
        for row in table:
            subsets = list(combinations(row[~np.isnan(row)], k))
            shares.append(sum(any(subset) for subset in subsets) / len(subsets))
        assert pass_at_k(table, k) == pytest.approx(np.mean(shares), abs=1e-12)
    # By hand, k = 2: 1 - C(4,2)/C(5,2) = 0.4; 1 - C(4,2)/C(6,2) = 0.6; 0; 1. The mean is 0.5.
    assert pass_at_k(table, 2) == pytest.approx(0.5)
    assert math.isnan(pass_at_k(table, 6)) and math.isnan(pass_at_k(np.zeros((0, 0)), 1))


def test_one_sample_a_task_is_wilson() -> None:
    for right in range(11):
        found = accuracy(np.array([[1.0]] * right + [[0.0]] * (10 - right)))
        assert (found.low, found.high) == wilson_interval(right, 10)
        assert (found.value, found.lowest, found.highest) == (right / 10,) * 3


def test_interval_of_several_samples() -> None:
    """By hand, five tasks of two samples with 0, 1/2, 1/2, 1/2 and 1."""
    # Mean 1/2; squared distances sum to 1/2; variance of the mean 5/4 * 1/2 / 25 = 0.025, so 0.25 / 0.025 = 10
    # effective trials, as many as there are samples: the design effect is 1. Telling tasks: 4 (not all wrong; as many
    # are not all right). Design (4 * 1 + 0.25 * 10/5) / 4.25 = 1.0588235, trials 9.4444444. t of 4 degrees 2.776445.
    found = accuracy(np.array([[0, 0], [1, 0], [0, 1], [1, 0], [1, 1]], dtype=float))
    # z^2 / n = 7.708647 / 9.444444 = 0.816210; spread 2.776445 sqrt(0.25 / 9.444444 + 0.816210 / 37.777778) / 1.816210.
    spread = 2.776445 * math.sqrt(0.0264706 + 0.0216056) / 1.816210
    assert (found.low, found.high) == pytest.approx((0.5 - spread, 0.5 + spread), abs=1e-5)


@pytest.mark.parametrize("right", [0.0, 1.0])
def test_at_the_ends_every_task_is_one_trial(right: float) -> None:
    found = accuracy(np.full((20, 8), right))
    # Wilson of 20 with t of 19 degrees, 2.093024: its square 4.380749 / 20 = 0.219037; 0.219037 / 1.219037 = 0.179681.
    width = 0.179681
    assert found.value == right
    assert (found.low, found.high) == pytest.approx((0, width) if right == 0 else (1 - width, 1), abs=1e-5)
    clustered = accuracy(np.full((20, 8), right), clusters=[i // 2 for i in range(20)])
    assert clustered.high - clustered.low > 1.5 * width


def test_tasks_that_are_copies_of_one_another_are_one() -> None:
    """Forty tasks of ten templates, alike within each: the interval is that of ten tasks, about twice as wide."""
    ten = np.array([[1.0]] * 4 + [[0.0]] * 6)
    forty, clusters = np.repeat(ten, 4, axis=0), np.repeat(np.arange(10), 4).tolist()
    naive, found, few = accuracy(forty), accuracy(forty, clusters), accuracy(np.repeat(ten, 4, axis=1))
    assert (found.low, found.high) == pytest.approx((few.low, few.high))
    assert (found.high - found.low) / (naive.high - naive.low) > 1.7
    alone = accuracy(forty, clusters=list(range(40)))
    assert alone.high - alone.low == pytest.approx(naive.high - naive.low, rel=0.05)
    lone = accuracy(forty, clusters=["one"] * 40)
    assert (lone.low, lone.high) == (0.0, 1.0)


def test_what_is_missing_is_bounded_and_not_wrong() -> None:
    """By hand: task means 1, 0 and none; with the missing wrong (1/2 + 0 + 0) / 3, right (1 + 1/2 + 1) / 3."""
    found = accuracy(np.array([[1, NAN], [0, NAN], [NAN, NAN]]))
    assert (found.value, found.tasks, found.expected, found.scored) == (0.5, 2, 6, 2)
    assert (found.lowest, found.highest) == pytest.approx((1 / 6, 5 / 6))
    assert (found.low, found.high) == wilson_interval(1, 2)
    none = accuracy(np.full((3, 2), NAN))
    assert math.isnan(none.value)
    assert (none.low, none.high, none.lowest, none.highest, none.scored) == (0, 1, 0, 1, 0)
