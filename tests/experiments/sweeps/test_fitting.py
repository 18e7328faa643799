"""How many trials fit, and why not more."""

from __future__ import annotations

import pytest

from experiments.sweeps.fitting import Machine, fitting
from support import small_config

GB = 10**9
NOTHING_ELSE = small_config("tiny")


@pytest.mark.parametrize(
    ("cpus", "each", "fits"), [(2, 1, 2), (2, 0.5, 4), (16, 3, 5), (1, 2, 0), (1, 0.1, 10)]
)
def test_cores(cpus: float, each: float, fits: int) -> None:
    found, why = fitting(NOTHING_ELSE, [{"CPU": each}], Machine(cpus, 0))
    assert (found, why) == (fits, f"a trial takes {each:g} of {cpus:g} CPUs")


@pytest.mark.parametrize(
    ("shares", "gpus", "fits"),
    [
        ([0.5, 0.5], 2, 2),
        ([0.25, 0.25], 2, 4),
        ([0.5], 3, 6),
        ([0.6], 3, 3),  # what is left of each takes no second one
        ([0.6, 0.4], 3, 3),
        ([0.6, 0.6], 3, 1),  # two GPUs a trial, and the third takes half of the next
        ([1, 1], 5, 2),
        ([1, 0.5], 3, 2),  # a whole one and a half each
        ([2], 1, 0),
    ],
)
def test_gpus_as_ray_deals_them(shares: list[float], gpus: int, fits: int) -> None:
    bundles = [{"CPU": 0, "GPU": share} for share in shares]
    assert fitting(NOTHING_ELSE, bundles, Machine(64, gpus))[0] == fits


def test_memory() -> None:
    """Of a process of the tiny model about a GB: the host of 4.5 GB, of which nine tenths are to be had, takes few."""
    found, why = fitting(NOTHING_ELSE, [{"CPU": 1}], Machine(64, 0, memory=int(4.5 * GB)))
    assert 1 <= found < 8 and "GB of memory" in why
    assert fitting(NOTHING_ELSE, [{"CPU": 1}], Machine(64, 0, memory=400 * GB))[0] == 64
