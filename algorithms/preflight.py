"""What is looked at in the driver before anything is started: the model's name, the environment, the cluster."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import ray

from algorithms.config import LLMConfig
from llmenv.engines import deepspeed as deepspeed_engine
from llmenv.env import make_env
from llmenv.models.names import resolve_model
from llmenv.samplers.vllm import check_settings


def preflight(config: LLMConfig) -> int | None:
    """Fails in the driver, in words, on what would otherwise fail in a remote actor or wait for ever.

    Returns:
        The training environment's number of tasks (see `count_tasks`).

    Raises:
        ValueError: If the environment cannot be made, the model cannot be found, vLLM or DeepSpeed is missing, vLLM
            does not know a setting, or actors cannot be placed.
    """
    resolve_model(config.base_model)
    if config.reference_model is not None:
        resolve_model(config.reference_model)
    if config.zero_stage is not None:
        deepspeed_engine.check_installed()
    if config.sampler == "vllm":
        check_settings(config.sampler_kwargs)
    try:
        num_tasks = count_tasks(config.env, config.env_config)
    except Exception as error:
        unknown = isinstance(error, gym.error.UnregisteredEnv | ImportError)
        remedy = ". Name it as 'module:Id-v0', with the module that registers it." if unknown else ""
        raise ValueError(
            f"environment {config.env!r} cannot be made with {config.env_config}: {error}{remedy}"
        ) from error
    # Inside a placement group (Ray Tune) the resources have been given already.
    if config.num_env_runners + config.num_learners > 0 and ray.util.get_current_placement_group() is None:
        _check_resources(config)
    return num_tasks


def count_tasks(env_id: str, env_config: dict[str, Any]) -> int | None:
    """How many rows the environment's data set has; None for one that draws its tasks."""
    env = make_env(env_id, env_config)
    num_tasks = getattr(env.unwrapped, "num_tasks", None)
    env.close()
    return num_tasks


def _check_resources(config: LLMConfig) -> None:
    """An actor that no node can take would stay pending without a word."""
    runners, learners = config.num_env_runners, config.num_learners
    cpus_per_learner = config.num_cpus_per_learner
    if cpus_per_learner == "auto":
        cpus_per_learner = 0 if config.num_gpus_per_learner else 1
    needed = {
        "CPU": runners * config.num_cpus_per_env_runner + learners * cpus_per_learner,
        "GPU": runners * config.num_gpus_per_env_runner + learners * config.num_gpus_per_learner,
    }
    present = ray.cluster_resources()
    for resource, amount in needed.items():
        if amount > present.get(resource, 0) + 1e-6:
            raise ValueError(
                f"{runners} env runners and {learners} learners need {amount:g} {resource}s, and Ray has "
                f"{present.get(resource, 0):g}: start fewer, give each a fraction (num_cpus_per_env_runner, "
                "num_cpus_per_learner, num_gpus_per_env_runner, num_gpus_per_learner), or use a larger cluster"
            )
