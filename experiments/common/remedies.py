"""What to change where a run does not fit: settings that are tried on its plan, never guessed.

Knows nothing about how memory is counted.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from typing import TYPE_CHECKING, Any

from experiments.common import settings
from experiments.common.plan import Plan

if TYPE_CHECKING:
    from algorithms.config import LLMConfig

MakePlan = Callable[["LLMConfig"], Plan]
Assignments = list[str]  # each as `--set` takes it

SMALLEST_MICRO_BATCH = 2048  # tokens: fewer leave a GPU without work
RANK = 16
SHARES = range(90, 10, -5)  # percent of a GPU for vLLM


def remedies(config: LLMConfig, make: MakePlan) -> list[Assignments]:
    """What would make a run fit.

    Args:
        config: Of a run that does not.
        make: Its plan on the devices at hand.

    Returns:
        First the first few changes that do it together, in the order of what they cost, without those that are not
        needed beside the others; then those that do it alone. Empty where all of them are not enough.
    """
    several: list[Assignments] = []
    found: Assignments | None = None
    for change in CHANGES:
        if one := change(changed(config, together(several)), make):
            several.append(one)
            if (found := _with_share(config, several, make)) is not None:
                break
    if found is None:
        return []
    for one in several:
        rest = [other for other in several if other is not one]
        if (without := _with_share(config, rest, make)) is not None:
            several, found = rest, without
    every = [change(config, make) for change in (*CHANGES, _share)]
    alone = [one for one in every if one and one != found and make(changed(config, one)).fits]
    return [found, *alone]


def _with_share(config: LLMConfig, several: list[Assignments], make: MakePlan) -> Assignments | None:
    """Changes, and where need be vLLM's share beside them, if they make it fit together."""
    changes = together(several)
    if make(changed(config, changes)).fits:
        return changes
    share = _share(changed(config, changes), make)
    return [*changes, *share] if share and make(changed(config, [*changes, *share])).fits else None


def _sleep(config: LLMConfig, make: MakePlan) -> Assignments:
    awake = config.shares_gpu and config.sampler == "vllm" and not config.sampler_sleeps
    return ["sampling.sampler_kwargs.enable_sleep_mode=true"] if awake else []


def _checkpoints(config: LLMConfig, make: MakePlan) -> Assignments:
    return [] if config.gradient_checkpointing else ["policy.gradient_checkpointing=true"]


def _micro_batch(config: LLMConfig, make: MakePlan) -> Assignments:
    smallest = max(SMALLEST_MICRO_BATCH, config.max_sequence_tokens or 0)
    return [f"training.micro_batch_tokens={smallest}"] if config.micro_batch_tokens > smallest else []


def _share(config: LLMConfig, make: MakePlan) -> Assignments:
    """The largest that fits, else the smallest."""
    if config.sampler != "vllm" or not config.num_gpus_per_env_runner:
        return []
    name = "sampling.sampler_kwargs.gpu_memory_utilization"
    choices = [[f"{name}={percent / 100:g}"] for percent in SHARES]
    return next((one for one in choices if make(changed(config, one)).fits), choices[-1])


def _learners(config: LLMConfig, make: MakePlan) -> Assignments:
    """The fewest that fit, which share everything."""
    if config.num_gpus_per_learner < 1:
        return []
    counts = [max(1, config.num_learners) * factor for factor in (1, 2, 4, 8)]
    choices = [
        [f"learners.num_learners={count}"] * (count != config.num_learners) + ["deepspeed.zero_stage=3"]
        for count in counts
        if count > 1
    ]
    return next((one for one in choices if make(changed(config, one)).fits), [])


def _offload(config: LLMConfig, make: MakePlan) -> Assignments:
    if not config.num_gpus_per_learner or config.offload_optimizer:
        return []
    stage = [] if config.zero_stage else ["deepspeed.zero_stage=2"]
    return [*stage, "deepspeed.offload_optimizer=true"]


def _lora(config: LLMConfig, make: MakePlan) -> Assignments:
    return [f"policy.lora_rank={RANK}"] if config.lora_rank is None else []


# The cheapest first: memory that costs nothing, then time, then cores and links, then what is learned.
CHANGES = (_sleep, _checkpoints, _micro_batch, _learners, _offload, _lora)


def together(several: list[Assignments]) -> Assignments:
    return list(chain.from_iterable(several))


def changed(config: LLMConfig, assignments: Assignments) -> LLMConfig:
    """A copy of a config with `--set` assignments made."""
    copy: Any = config.copy(copy_frozen=False)
    for section, values in settings.from_assignments(assignments).items():
        for name, value in values.items():
            entry = {**getattr(copy, name), **value} if isinstance(value, dict) else value
            getattr(copy, section)(**{name: entry})
    return copy
