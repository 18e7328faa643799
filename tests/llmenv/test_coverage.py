"""How often the 95 % intervals hold: exactly with one sample a task, by simulation with several (`-s` prints)."""

from __future__ import annotations

import math

import numpy as np
import pytest

from llmenv.statistics import accuracy, wilson_interval

RATES = (0.01, 0.3, 0.99)


def coverage(rate: float, tasks: int, samples: int, concentration: float, runs: int) -> float:
    """Of tasks whose own rates have a beta distribution of mean `rate`: the lower its concentration, the less alike.

    An interval depends on how many tasks have 0, 1, 2, ... right samples, and on nothing else: at low rates many draws
    agree in that, and are looked at once.
    """
    rng = np.random.default_rng(0)
    right = rng.binomial(
        samples, rng.beta(rate * concentration, (1 - rate) * concentration, size=(runs, tasks))
    )
    counts = (right[:, :, None] == np.arange(samples + 1)).sum(axis=1)
    kinds, times = np.unique(counts, axis=0, return_counts=True)
    held = 0
    for kind, number in zip(kinds, times, strict=True):
        found = accuracy((np.arange(samples) < np.arange(samples + 1)[:, None]).repeat(kind, axis=0) * 1.0)
        held += int(number) * (found.low <= rate <= found.high)
    print(f"rate {rate}, {tasks} x {samples}, concentration {concentration}: {held / runs:.3f} of {runs}")
    return held / runs


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("tasks", [64, 128, 256, 512])
def test_one_sample_a_task(rate: float, tasks: int) -> None:
    """The number of right tasks is binomial, however their rates vary: its distribution is summed up.

    64 tasks at 0.01 hold what no interval can: that none is right has the chance 0.525, one at most 0.865, two at most
    0.974, and an interval that has the rate for two, but not for three, is as near to 0.95 as there is.
    """
    held = 0.0
    for right in range(tasks + 1):
        low, high = wilson_interval(right, tasks)
        if low <= rate <= high:
            held += math.comb(tasks, right) * rate**right * (1 - rate) ** (tasks - right)
    print(f"rate {rate}, {tasks} x 1: {held:.4f}, exactly")
    assert 0.93 <= held <= (0.974 if tasks == 64 and rate != 0.3 else 0.97)


def test_wrong_is_right_the_other_way_round() -> None:
    """So that a rate of 0.99 is held as often as one of 0.01, and is not simulated."""
    rng = np.random.default_rng(0)
    for rate in (0.01, 0.1, 0.5):
        verdicts = (rng.random((96, 8)) < rng.beta(2 * rate, 2 * (1 - rate), size=(96, 1))).astype(float)
        found, mirrored = accuracy(verdicts), accuracy(1 - verdicts)
        assert (mirrored.low, mirrored.high) == pytest.approx((1 - found.high, 1 - found.low), abs=1e-12)


@pytest.mark.parametrize(("rate", "most"), [(0.01, 0.98), (0.3, 0.97)])
def test_eight_samples_of_few_tasks(rate: float, most: float) -> None:
    """At 0.01 some ten of 1024 samples are right, of fewer tasks: intervals there err on the wide side."""
    assert 0.93 <= coverage(rate, 128, 8, 2.0, 2000) <= most


@pytest.mark.slow
@pytest.mark.parametrize("rate", [0.01, 0.3])
@pytest.mark.parametrize("concentration", [2.0, 10.0, 1000.0])
@pytest.mark.parametrize("tasks", [64, 128, 512])
def test_eight_samples(rate: float, concentration: float, tasks: int) -> None:
    most = 0.97 if tasks == 512 or rate == 0.3 else 0.98
    assert 0.93 <= coverage(rate, tasks, 8, concentration, 2000) <= most


def test_few_tasks_of_many_samples() -> None:
    """Ten tasks of 32 samples: what samples are taken for independent is held by half the intervals."""
    assert 0.93 <= coverage(0.3, 10, 32, 2.0, 2000) <= 0.98
    rng = np.random.default_rng(0)
    own = rng.beta(0.6, 1.4, size=(2000, 10))
    right = rng.binomial(32, own).sum(axis=1)
    intervals = [wilson_interval(int(count), 320) for count in right]
    assert np.mean([low <= 0.3 <= high for low, high in intervals]) < 0.6
