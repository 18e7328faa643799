"""How often the 95 % intervals hold: exactly with one sample a task, by simulation with several (`-s` prints)."""

from __future__ import annotations

import math

import numpy as np
import pytest

from llmenv.statistics import accuracy, wilson_interval

RATES = (0.01, 0.3, 0.99)


def coverage(rate: float, tasks: int, samples: int, concentration: float, runs: int) -> float:
    """Of tasks whose own rates have a beta distribution of mean `rate`: the lower its concentration, the less alike."""
    rng = np.random.default_rng(0)
    own = rng.beta(rate * concentration, (1 - rate) * concentration, size=(runs, tasks, 1))
    held = 0
    for verdicts in (rng.random((runs, tasks, samples)) < own).astype(float):
        found = accuracy(verdicts)
        held += found.low <= rate <= found.high
    print(f"rate {rate}, {tasks} x {samples}, concentration {concentration}: {held / runs:.3f} of {runs}")
    return held / runs


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("tasks", [128, 512])
def test_one_sample_a_task(rate: float, tasks: int) -> None:
    """The number of right tasks is binomial, however their rates vary: its distribution is summed up."""
    held = 0.0
    for right in range(tasks + 1):
        low, high = wilson_interval(right, tasks)
        if low <= rate <= high:
            held += math.comb(tasks, right) * rate**right * (1 - rate) ** (tasks - right)
    print(f"rate {rate}, {tasks} x 1: {held:.4f}, exactly")
    assert 0.93 <= held <= 0.97


@pytest.mark.parametrize(("rate", "most"), [(0.01, 0.985), (0.3, 0.97), (0.99, 0.985)])
def test_eight_samples_of_few_tasks(rate: float, most: float) -> None:
    """At 0.01 some ten of 1024 samples are right, of fewer tasks: intervals there err on the wide side."""
    assert 0.93 <= coverage(rate, 128, 8, 2.0, 2000) <= most


@pytest.mark.slow
@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("concentration", [2.0, 10.0, 1000.0])
@pytest.mark.parametrize("tasks", [128, 512])
def test_eight_samples(rate: float, concentration: float, tasks: int) -> None:
    most = 0.97 if tasks == 512 or rate == 0.3 else 0.985
    assert 0.93 <= coverage(rate, tasks, 8, concentration, 4000) <= most


def test_few_tasks_of_many_samples() -> None:
    """Ten tasks of 32 samples: what samples are taken for independent is held by half the intervals."""
    assert 0.93 <= coverage(0.3, 10, 32, 2.0, 2000) <= 0.98
    rng = np.random.default_rng(0)
    own = rng.beta(0.6, 1.4, size=(2000, 10))
    right = rng.binomial(32, own).sum(axis=1)
    intervals = [wilson_interval(int(count), 320) for count in right]
    assert np.mean([low <= 0.3 <= high for low, high in intervals]) < 0.6
