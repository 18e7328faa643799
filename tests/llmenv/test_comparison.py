"""Paired comparisons against numbers derived by hand, enumeration, and simulations of no difference."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest

from llmenv.comparison import compare, holm, mcnemar, sign_flips

NAN = math.nan


def outcomes(both: int, first: int, second: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    """One sample a task: of how many tasks which policies are right."""
    pairs = [[1, 1]] * both + [[1, 0]] * first + [[0, 1]] * second + [[0, 0]] * neither
    verdicts = np.array(pairs, dtype=float)
    return verdicts[:, :1], verdicts[:, 1:]


def test_mcnemar() -> None:
    # 1 of 6 flips: 2 (C(6,0) + C(6,1) / 2) / 64 = 8/64. 0 of 5: 1/32. 3 of 6: 2 (1 + 6 + 15 + 20/2) / 64.
    assert [mcnemar(1, 5), mcnemar(5, 0), mcnemar(3, 3), mcnemar(0, 0)] == pytest.approx(
        [8 / 64, 1 / 32, 1.0, 1.0]
    )


def test_sign_flips_against_all_of_them() -> None:
    differences = np.array([0.5, 0.25, -0.125, 0.75, 0.0, 0.25, -0.5, 0.125, 0.375, 0.25])
    sums = np.array([abs(np.dot(signs, differences)) for signs in product((-1, 1), repeat=10)])
    observed = abs(differences.sum())
    exact = np.mean((sums > observed + 1e-12) + 0.5 * (abs(sums - observed) < 1e-12))
    assert sign_flips(differences) == pytest.approx(exact, abs=0.015)  # three errors of 10,000 draws
    assert sign_flips(-differences) == sign_flips(differences)
    assert sign_flips(np.zeros(5)) == 1.0
    assert sign_flips(np.full(100, 0.1)) == 0.5 / 10_001


def test_holm() -> None:
    # Sorted 0.01, 0.02, 0.03, 0.8 times 4, 3, 2, 1, never falling: 0.04, 0.06, 0.06, 0.8.
    assert holm([0.03, 0.01, 0.8, 0.02]) == pytest.approx([0.06, 0.04, 0.8, 0.06])
    assert holm([0.4, 0.9]) == pytest.approx([0.8, 0.9]) and holm([0.9, 0.6]) == [1.0, 1.0] and holm([]) == []


def test_one_sample_a_task() -> None:
    found = compare(*outcomes(40, 5, 13, 42))
    assert (found.wins, found.losses, found.ties, found.tasks) == (13, 5, 82, 100)
    assert found.difference == pytest.approx(0.08)
    assert found.p_value == pytest.approx(
        (2 * sum(math.comb(18, i) for i in range(5)) + math.comb(18, 5)) / 2**18
    )
    # Bonett and Price: shares 14/102 and 6/102; difference 8/102 = 0.0784314; variance
    # (20/102 - 0.0784314^2) / 102 = (0.1960784 - 0.0061515) / 102 = 0.00186203; t of 99 degrees 1.984217.
    margin = 1.984217 * math.sqrt(0.00186203)
    assert (found.low, found.high) == pytest.approx((0.0784314 - margin, 0.0784314 + margin), abs=1e-6)
    # (2.801585 / 0.02)^2 * 0.00186203 * 100 tasks = 3653.7.
    assert found.tasks_for_two_points == 3654


def test_the_other_way_round_is_the_negative() -> None:
    """So it is where right and wrong change places."""
    first, second = outcomes(10, 2, 9, 7)
    found, back = compare(first, second), compare(second, first)
    assert compare(1 - second, 1 - first) == found
    assert (back.difference, back.low, back.high) == pytest.approx(
        (-found.difference, -found.high, -found.low)
    )
    assert back.p_value == found.p_value and (back.wins, back.losses) == (found.losses, found.wins)


def test_no_task_differs() -> None:
    """Still an interval: 2 / 102 / 102 is the variance of the two tasks added."""
    found = compare(*outcomes(50, 0, 0, 50))
    assert found.p_value == 1.0 and found.difference == 0.0 and found.ties == 100
    assert found.high == pytest.approx(1.984217 * math.sqrt(2) / 102, abs=1e-6) and found.low == -found.high
    eight = compare(*(np.tile(verdicts, (1, 8)) for verdicts in outcomes(50, 0, 0, 50)))
    assert 0.0 < eight.high < found.high


def test_pairing_takes_out_what_tasks_have_in_common() -> None:
    """Eight samples, tasks from never to always right, the second better everywhere by one sample."""
    first = np.array([[i < task % 8 for i in range(8)] for task in range(64)], dtype=float)
    second = np.array([[i < task % 8 + 1 for i in range(8)] for task in range(64)], dtype=float)
    found = compare(first, second)
    assert found.difference == pytest.approx(0.125) and found.wins == 64
    assert 0.1 < found.low < 0.125 < found.high < 0.15 and found.p_value == 0.5 / 10_001


def test_missing_samples_and_tasks_without_a_pair() -> None:
    # Task 0: 1/2 and 1. Task 1: 0 and none, left out. Task 2: 1 and 1/3. Differences 1/2 and -2/3.
    first = np.array([[1, 0], [0, NAN], [1, NAN]])
    second = np.array([[1, NAN, NAN], [NAN, NAN, NAN], [0, 1, 0]])
    found = compare(first, second)
    assert (found.tasks, found.wins, found.losses) == (2, 1, 1)
    assert found.difference == pytest.approx(-1 / 12)
    with pytest.raises(ValueError, match="no task has samples of both"):
        compare(first[1:2], second[1:2])
    lone = compare(first[:1], second[:1])
    assert (lone.low, lone.high) == (-1.0, 1.0)


def test_copies_of_a_task_are_one_cluster() -> None:
    first, second = (np.repeat(verdicts, 6, axis=0) for verdicts in outcomes(4, 1, 5, 5))
    clusters = np.repeat(np.arange(15), 6).tolist()
    naive, found = compare(first, second), compare(first, second, clusters)
    assert naive.p_value < 1e-3
    assert found.p_value == pytest.approx(mcnemar(5, 1), abs=0.015)  # of six clusters, by drawn signs
    assert naive.low > 0 > found.low and found.difference == naive.difference


def rejected(rate: float, tasks: int, samples: int, runs: int) -> tuple[float, float]:
    """Of two policies with the same rates, which vary over tasks: how often p <= 0.05, and the interval holds 0."""
    rng = np.random.default_rng(0)
    rejects = holds = 0
    for own in rng.beta(2 * rate, 2 * (1 - rate), size=(runs, tasks, 1)):
        found = compare(*(rng.random((2, tasks, samples)) < own).astype(float))
        rejects += found.p_value <= 0.05
        holds += found.low <= 0.0 <= found.high
    print(
        f"rate {rate}, {tasks} x {samples}: rejects {rejects / runs:.4f}, holds {holds / runs:.4f} of {runs}"
    )
    return rejects / runs, holds / runs


def test_a_true_null_is_rejected_in_one_of_twenty_runs() -> None:
    share, holds = rejected(0.3, 128, 8, 1000)
    # The share has a standard error of 0.007.
    assert 0.03 <= share <= 0.06 and 0.93 <= holds <= 0.97


@pytest.mark.parametrize(
    ("rate", "tasks", "least"),
    [(0.3, 64, 0.04), (0.3, 512, 0.04), (0.01, 1024, 0.04), (0.01, 512, 0.03), (0.01, 128, 0.0)],
)
def test_how_often_mcnemar_rejects_a_true_null(rate: float, tasks: int, least: float) -> None:
    """Summed up over how many tasks differ, which is binomial. At 0.01 of 128 tasks two do: nothing can be said."""
    own = np.array([2 * rate, 2 * (1 - rate)])  # of the beta distribution of tasks' rates, as in `rejected`
    differ = 2 * own[0] / 2 * (1 - (own[0] + 1) / 3)
    share = 0.0
    for flipped in range(tasks + 1):
        chance = math.comb(tasks, flipped) * differ**flipped * (1 - differ) ** (tasks - flipped)
        if chance > 1e-9:
            wins = range(flipped + 1)
            rejects = sum(math.comb(flipped, w) for w in wins if mcnemar(w, flipped - w) <= 0.05)
            share += chance * rejects / 2**flipped
    print(f"rate {rate}, {tasks} x 1: rejects {share:.4f}, exactly")
    assert least <= share <= 0.05


def test_a_true_null_of_clustered_tasks() -> None:
    """Fifty clusters of ten tasks, which have each policy's luck in common: they are not five hundred tasks."""
    rng = np.random.default_rng(0)
    clusters = np.repeat(np.arange(50), 10).tolist()
    naive, rejects, holds = [], [], []
    for own in rng.beta(0.6, 1.4, size=(400, 2, 50, 1)):
        first, second = (rng.random((2, 50, 10)) < own).astype(float).reshape(2, 500, 1)
        naive.append(compare(first, second).p_value <= 0.05)
        found = compare(first, second, clusters)
        rejects.append(found.p_value <= 0.05)
        holds.append(found.low <= 0.0 <= found.high)
    print(
        f"50 clusters of 10: rejects {np.mean(rejects):.3f} (naive {np.mean(naive):.3f}), holds {np.mean(holds):.3f}"
    )
    assert np.mean(naive) > 0.2
    assert 0.02 <= np.mean(rejects) <= 0.08 and 0.92 <= np.mean(holds) <= 0.98  # standard error 0.011


@pytest.mark.slow
@pytest.mark.parametrize(
    "rate", [0.01, 0.3]
)  # 0.99 is 0.01, and wrong is right: `test_the_other_way_round_...`
@pytest.mark.parametrize(("tasks", "samples"), [(128, 8), (512, 1), (512, 8)])
def test_a_true_null(rate: float, tasks: int, samples: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Never too often; near 0 and 1 with one sample, where few tasks differ, less, and intervals on the wide side.

    Of any number of permutations, the observed one counted, a true null is rejected as often: 1,000 of them do.
    """
    monkeypatch.setattr("llmenv.comparison.PERMUTATIONS", 999)
    share, holds = rejected(rate, tasks, samples, 2000)
    assert (0.04 if rate == 0.3 or tasks * samples == 4096 else 0.02) <= share <= 0.06
    assert holds >= 0.94
