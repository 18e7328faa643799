"""What may be where: which settings are refused, and the GPUs that Ray would give out."""

from __future__ import annotations

from typing import Any

import pytest

from algorithms.placement import check_placement
from algorithms.preflight import _gpus
from support import small_config

VLLM = {"sampler": "vllm"}
TWO_GPUS = {**VLLM, "sampler_kwargs": {"tensor_parallel_size": 2}}


def check(
    runners: tuple[int, float],
    learners: tuple[int, float],
    *,
    in_trial: bool = False,
    driver_has_gpu: bool = True,
    **sampling: Any,
) -> Any:
    """Checks so many runners and learners with so many GPUs each; gives their config."""
    config = small_config("tiny", num_env_runners=runners[0], num_learners=learners[0])
    config.env_runners(num_gpus_per_env_runner=runners[1]).learners(num_gpus_per_learner=learners[1])
    config.sampling(**sampling)
    check_placement(config, in_trial=in_trial, driver_has_gpu=driver_has_gpu)
    return config


@pytest.mark.parametrize(
    ("runners", "learners", "sampling", "message"),
    [
        # A sampler on the CPU beside a learner on a GPU, in the driver and out of it.
        ((0, 0), (0, 1), {}, "sampler would run on the CPU .* --num-env-runners 1 --num-gpus-per-env-runner 0.5"),
        ((0, 0), (1, 1), {}, "sampler would run on the CPU"),
        ((2, 0), (1, 1), {}, "sampler would run on the CPU"),
        ((0, 0), (1, 1), VLLM, "sampler would run on the CPU"),
        ((2, 0), (1, 0.5), VLLM, "sampler would run on the CPU"),
        # What Ray would not know of.
        ((0, 0), (0, 0), VLLM, "vLLM would take the driver's GPU .* --num-env-runners 1 --num-gpus-per-env-runner 1$"),
        ((1, 0.5), (0, 0.5), {}, "a learner in the driver, whose GPU Ray would give to a runner too"),
        # GPUs that would be idle, or missing.
        ((1, 2), (1, 1), {}, "num_gpus_per_env_runner=2, and a runner's sampler is on one GPU"),
        ((1, 1.5), (1, 1), VLLM, "num_gpus_per_env_runner=1.5, and a runner's sampler is on one GPU"),
        ((1, 1), (2, 2), {}, "num_gpus_per_learner=2, and a learner computes on one"),
        ((1, 1), (1, 1), TWO_GPUS, "num_gpus_per_env_runner is 1: set it to 2"),
        ((1, 4), (1, 1), TWO_GPUS, "num_gpus_per_env_runner is 4: set it to 2"),
        (
            (1, 2),
            (1, 1),
            {**VLLM, "sampler_kwargs": {"tensor_parallel_size": 2, "pipeline_parallel_size": 2}},
            "num_gpus_per_env_runner is 2: set it to 4",
        ),
        # NCCL between parts of one GPU.
        ((1, 0.5), (1, 0.5), {**VLLM, "weight_transfer": "nccl"}, "may be parts of one"),
        ((2, 0.5), (1, 1), {**VLLM, "weight_transfer": "nccl"}, "may be parts of one"),
        ((2, 0.5), (2, 0.5), VLLM, "several of the 2 learners on one GPU"),
        ((2, 0.6), (3, 0.4), VLLM, "several of the 3 learners on one GPU"),
        ((2, 0.6), (2, 0.2), VLLM, "several of the 2 learners on one GPU"),
        # CUDA IPC between GPUs.
        ((1, 1), (1, 1), {**VLLM, "weight_transfer": "ipc"}, r"within one GPU: .* between GPUs it is 'nccl'"),
    ],
)  # fmt: skip
def test_what_is_refused(
    runners: tuple[int, float], learners: tuple[int, float], sampling: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        check(runners, learners, **sampling)


@pytest.mark.parametrize(
    ("runners", "learners", "sampling"),
    [
        ((1, 0.5), (1, 0.5), {}),
        ((1, 0.5), (1, 0.5), VLLM),
        ((1, 0.5), (1, 0.5), {**VLLM, "weight_transfer": "ipc"}),
        ((1, 1), (1, 1), {**VLLM, "weight_transfer": "nccl"}),
        ((6, 1), (2, 1), VLLM),
        ((8, 0.6), (8, 0.4), VLLM),
        ((1, 1), (0, 0), VLLM),
        ((2, 2), (4, 1), {**TWO_GPUS, "weight_transfer": "nccl"}),
        ((2, 0), (2, 0), {}),
        ((0, 0), (0, 0), {}),
    ],
)
def test_what_is_right(
    runners: tuple[int, float], learners: tuple[int, float], sampling: dict[str, Any]
) -> None:
    check(runners, learners, **sampling)


def test_where_the_driver_is_rays_own_its_learner_may_have_a_gpu() -> None:
    check((1, 0.5), (0, 0.5), in_trial=True)


def test_vllm_in_a_driver_without_a_gpu() -> None:
    check((0, 0), (0, 0), driver_has_gpu=False, **VLLM)


@pytest.mark.parametrize(
    ("runner", "learner", "sampling", "shares", "asleep"),
    [
        (0.5, 0.5, VLLM, True, True),
        (0.7, 0.3, VLLM, True, True),
        (0.5, 0.5, {}, True, False),  # the transformers sampler has nothing to give back
        (0.5, 0.5, {**VLLM, "sampler_kwargs": {"enable_sleep_mode": False}}, True, False),
        (1, 1, VLLM, False, False),
        (0.7, 0.4, VLLM, False, False),
        (1, 1, {**VLLM, "sampler_kwargs": {"enable_sleep_mode": True}}, False, True),
    ],
)
def test_a_sampler_that_shares_a_gpu_sleeps_unless_it_is_told_not_to(
    runner: float, learner: float, sampling: dict[str, Any], shares: bool, asleep: bool
) -> None:
    config = check((1, runner), (1, learner), **sampling)
    assert (config.shares_gpu, config.sampler_sleeps) == (shares, asleep)
    assert bool(config.engine_arguments.get("enable_sleep_mode")) == asleep


@pytest.mark.parametrize(
    ("amounts", "gpus"),
    [
        ([0.6] * 3, 3),  # 1.8 in all, and no two of them fit on one
        ([0.6] * 4 + [0.4] * 4, 4),
        ([0.5] * 2 + [0.5] * 2, 2),
        ([2, 2, 1], 5),
        ([0.4, 0.7, 0.5], 2),
        ([0, 0], 0),
    ],
)
def test_how_many_gpus_parts_take(amounts: list[float], gpus: int) -> None:
    assert _gpus(amounts) == gpus
