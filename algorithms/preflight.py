"""What is looked at in the driver before anything is started: the model's name, the environment, the cluster."""

from __future__ import annotations

import gymnasium as gym
import ray

from algorithms.config import LLMConfig
from algorithms.tasks import count_tasks
from llmenv.engines import deepspeed as deepspeed_engine
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
    _check_placement(config)
    # Inside a placement group (Ray Tune) the resources have been given already.
    if config.num_env_runners + config.num_learners > 0 and ray.util.get_current_placement_group() is None:
        _check_resources(config)
    return num_tasks


def _check_placement(config: LLMConfig) -> None:
    """What is where, whatever the cluster has; not checked by a config, since evaluation's has no runners."""
    runners, learners, transfer = config.num_env_runners, config.num_learners, config.weight_transfer
    if config.num_gpus_per_env_runner and not runners:
        raise ValueError(
            f"num_gpus_per_env_runner={config.num_gpus_per_env_runner:g} is of runners in processes of their own, and "
            "num_env_runners is 0: set it to 1 or more"
        )
    if transfer is None:
        return
    if config.sampler != "vllm" or not (config.num_gpus_per_env_runner and config.num_gpus_per_learner):
        raise ValueError(
            f"weight_transfer={transfer!r} is from the GPUs of learners to those of vLLM: it needs "
            "sampler='vllm' and GPUs for both (num_gpus_per_env_runner, num_gpus_per_learner); or leave it at None"
        )
    if not (runners and learners):
        raise ValueError(
            f"weight_transfer={transfer!r} is between processes: num_env_runners and num_learners must be at least 1; "
            "or leave it at None"
        )
    if transfer == "ipc" and (runners, learners) != (1, 1):
        raise ValueError("weight_transfer='ipc' is between one learner and one runner on one GPU: use 'nccl'")


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
