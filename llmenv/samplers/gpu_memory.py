"""How much of a GPU's memory a sampler takes where a learner holds some of it, and when it can have it.

Knows numbers of bytes, and no engine. Nothing here has run on a GPU.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

GIB = 2**30
# Assumed, not measured: what CUDA and its libraries take of a GPU for each process, and how much of a GPU can be
# filled: PyTorch's allocator loses some between blocks of different sizes.
CONTEXT = 10**9
USABLE = 0.95
LARGEST_SHARE = 0.9


def share_left(held_bytes: float, total_bytes: int) -> float:
    """The part of a GPU's memory that a learner leaves, in whole hundredths; 0 or less where it leaves nothing.

    Args:
        held_bytes: What the learner has there while samples are drawn, without CUDA's own.
        total_bytes: The GPU's.
    """
    return math.floor(100 * min(LARGEST_SHARE, USABLE - (held_bytes + CONTEXT) / total_bytes)) / 100


def share_beside(held_bytes: float, total_bytes: int) -> float:
    """`share_left`, for a sampler that cannot go without.

    Raises:
        ValueError: If nothing is left.
    """
    share = share_left(held_bytes, total_bytes)
    if share <= 0:
        raise ValueError(
            f"a learner of this model holds about {held_bytes / GIB:.1f} of a GPU's {total_bytes / GIB:.1f} GiB, which "
            "leaves a sampler nothing: give the runner a GPU of its own (num_gpus_per_env_runner=1, "
            "num_gpus_per_learner=1), train adapters (lora_rank), keep the optimizer in the host's memory "
            "(zero_stage=2, offload_optimizer), or take a smaller model"
        )
    return share


def wait_for_memory(
    needed_bytes: float,
    free_bytes: Callable[[], int],
    *,
    limit_s: float = 600.0,
    pause_s: float = 2.0,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Waits until so much of a GPU is free.

    A sampler that is started again meets a learner that may be in its update; what that takes beside its weights and
    optimizer is given back afterwards, and what the sampler before had, as soon as its process has ended.

    Args:
        needed_bytes: In one piece or not.
        free_bytes: Measures.
        limit_s: How long to wait.
        pause_s: Between two measurements.
        sleep: Waits for some seconds.

    Raises:
        RuntimeError: If it is not free in that time.
    """
    for _ in range(int(limit_s / pause_s)):
        if free_bytes() >= needed_bytes:
            return
        sleep(pause_s)
    if (free := free_bytes()) < needed_bytes:
        raise RuntimeError(
            f"the sampler's share of the GPU is {needed_bytes / GIB:.1f} GiB, and after {limit_s:g} s "
            f"{free / GIB:.1f} GiB are free: lower it (sampler_kwargs={{'gpu_memory_utilization': ...}}), or look in "
            "nvidia-smi for who else has memory there"
        )
