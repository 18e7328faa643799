"""How many trials fit side by side, and why not more: cores and GPUs as Ray deals them, memory as `--plan` has it.

Nothing is started. What is in a cluster of Ray's, on other machines, has no memory here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from algorithms import footprint
from algorithms.footprint import GB
from experiments.common.plan import make_plan

if TYPE_CHECKING:
    from collections.abc import Sequence

    from algorithms.config import LLMConfig

EPSILON = 1e-6  # Ray's fractions


@dataclass(frozen=True)
class Machine:
    """What trials share.

    Attributes:
        cpus: Cores.
        gpus: How many.
        gpu_memory: Bytes of each of them; empty where they are elsewhere.
        memory: Bytes of the host; None where it is not known.
    """

    cpus: float
    gpus: int
    gpu_memory: Sequence[int] = ()
    memory: int | None = None


def fitting(config: LLMConfig, bundles: Sequence[dict[str, Any]], machine: Machine) -> tuple[int, str]:
    """How many trials of one config fit.

    Args:
        config: A trial's.
        bundles: What it asks Ray for: CPUs and GPUs of each of its processes.
        machine: What there is.

    Returns:
        The number, and what it is bounded by.
    """
    cpus = sum(bundle.get("CPU", 0) for bundle in bundles)
    shares = [bundle["GPU"] for bundle in bundles if bundle.get("GPU")]
    bounds = []
    if cpus:
        bounds.append(
            (math.floor(machine.cpus / cpus + EPSILON), f"a trial takes {cpus:g} of {machine.cpus:g} CPUs")
        )
    if shares:
        bounds.append(_by_gpus(shares, machine))
    plan = make_plan(config, machine.gpu_memory, machine.memory)
    if machine.memory is not None:
        most, phase = footprint.peak(plan.host.items)
        room = plan.host.usable
        bounds.append(
            (math.floor(room / most), f"a trial takes {most / GB:.1f} of {room / GB:.1f} GB of memory")
        )
    if shares and machine.gpu_memory and sum(shares) < 1:
        place = max(plan.gpus, key=lambda place: footprint.peak(place.items)[0])
        most, phase = footprint.peak(place.items)
        bounds.append(
            (
                machine.gpus * math.floor(place.usable / most),
                f"a trial takes {most / GB:.1f} of a GPU's {place.usable / GB:.1f} GB ({phase})",
            )
        )
    return min(bounds)


def _by_gpus(shares: Sequence[float], machine: Machine) -> tuple[int, str]:
    """As Ray deals them out: whole ones, or parts of the fullest that has room, one trial after the other."""
    free, trials = [1.0] * machine.gpus, 0
    while machine.gpus and _take(shares, free):
        trials += 1
    return trials, f"a trial takes {sum(shares):g} of {machine.gpus} GPUs"


def _take(shares: Sequence[float], free: list[float]) -> bool:
    """Takes one trial's GPUs from what is free; False where they are not there."""
    for share in shares:
        if share >= 1:
            whole = [i for i, left in enumerate(free) if left == 1.0][: round(share)]
            if len(whole) < share:
                return False
            for i in whole:
                free[i] = 0.0
            continue
        room = [i for i, left in enumerate(free) if left >= share - EPSILON]
        if not room:
            return False
        free[min(room, key=lambda i: free[i])] -= share
    return True
