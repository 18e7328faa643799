"""What is looked at in the driver before anything is started: the model's name, the environment, the cluster."""

from __future__ import annotations

from collections.abc import Sequence

import gymnasium as gym
import ray
import torch

from algorithms.config import LLMConfig
from algorithms.placement import check_placement
from llmenv.engines import deepspeed as deepspeed_engine
from llmenv.evaluation.tasks import Source, sources_of
from llmenv.models.fit import check_fit, check_scaling
from llmenv.models.names import resolve_model, trust_remote_code
from llmenv.rllib.nodes import check_nodes
from llmenv.samplers.vllm import check_settings


def preflight(config: LLMConfig) -> list[Source]:
    """Fails in the driver, in words, on what would otherwise fail in a remote actor or wait for ever.

    Returns:
        The training environment's parts, or it alone.

    Raises:
        ValueError: If the environment cannot be made, the model cannot be found or does not fit, vLLM or DeepSpeed is
            missing, vLLM does not know a setting, or actors cannot be placed.
    """
    trust_remote_code(config.trust_remote_code)
    resolve_model(config.base_model)
    # One sampler does both.
    limits: list[int | None] = [
        one.max_sequence_tokens for one in (config, config.get_evaluation_config_object())
    ]
    longest_of_both = None if None in limits else max(limit for limit in limits if limit is not None)
    check_scaling(config.base_model, longest_of_both)
    longest = config.max_new_tokens + (config.max_prompt_tokens or 1)
    check_fit(
        config.base_model, longest, strict=config.sampler == "vllm" and config.max_prompt_tokens is not None
    )
    if config.reference_model is not None:
        resolve_model(config.reference_model)
        check_scaling(config.reference_model, longest_of_both)
    if config.zero_stage is not None:
        deepspeed_engine.check_installed()
    if config.sampler == "vllm":
        check_settings(config.sampler_kwargs)
    try:
        sources = sources_of(config.env, config.env_config)
    except Exception as error:
        unknown = isinstance(error, gym.error.UnregisteredEnv | ImportError)
        remedy = ". Name it as 'module:Id-v0', with the module that registers it." if unknown else ""
        raise ValueError(
            f"environment {config.env!r} cannot be made with {config.env_config}: {error}{remedy}"
        ) from error
    # Inside a placement group (Ray Tune) the resources have been given already.
    in_trial = ray.is_initialized() and ray.util.get_current_placement_group() is not None
    check_placement(config, in_trial=in_trial, driver_has_gpu=torch.cuda.is_available())
    if config.num_env_runners + config.num_learners > 0 and not in_trial:
        _check_resources(config)
        check_nodes(config)
    if config.placement_strategy != "PACK" and not in_trial:
        raise ValueError(
            f"placement_strategy={config.placement_strategy!r} is of Ray Tune's trials, and would change nothing here: "
            "custom_resources_per_env_runner and custom_resources_per_learner say on which nodes they are"
        )
    return sources


def _check_resources(config: LLMConfig) -> None:
    """An actor that no node can take would stay pending without a word."""
    runners, learners = config.num_env_runners, config.num_learners
    cpus_per_learner = config.num_cpus_per_learner
    if cpus_per_learner == "auto":
        cpus_per_learner = 0 if config.num_gpus_per_learner else 1
    needed = {
        "CPU": runners * config.num_cpus_per_env_runner + learners * cpus_per_learner,
        "GPU": _gpus([config.num_gpus_per_env_runner] * runners + [config.num_gpus_per_learner] * learners),
    }
    for each, number in (
        (config.custom_resources_per_env_runner, runners),
        (config.custom_resources_per_learner, learners),
    ):
        for name, amount in (each or {}).items():
            needed[name] = needed.get(name, 0) + number * amount
    present = ray.cluster_resources()
    for resource, amount in needed.items():
        if amount > present.get(resource, 0) + 1e-6:
            raise ValueError(
                f"{runners} env runners and {learners} learners need {amount:g} {resource}s, and Ray has "
                f"{present.get(resource, 0):g}: start fewer, give each a fraction (num_cpus_per_env_runner, "
                "num_cpus_per_learner, num_gpus_per_env_runner, num_gpus_per_learner), or use a larger cluster"
            )


def _gpus(amounts: Sequence[float]) -> int:
    """How many GPUs these amounts take, one after the other, as Ray gives them out: a fraction is of one GPU."""
    free: list[float] = []
    for amount in amounts:
        fitting = [i for i, left in enumerate(free) if left >= amount - 1e-6]
        if amount >= 1:
            free += [0.0] * round(amount)
        elif fitting:
            free[min(fitting, key=lambda i: free[i])] -= amount
        elif amount:
            free.append(1 - amount)
    return len(free)
