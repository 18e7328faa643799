"""What settings may be, by themselves and beside each other; looked at before anything is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from algorithms.losses import KL_ESTIMATORS, NORMALISERS, SURROGATES
from llmenv.models.lora import ALL_LINEAR
from llmenv.models.renderer import TEMPLATES
from llmenv.weights.transfer import BACKENDS

if TYPE_CHECKING:
    from algorithms.config import LLMConfig


def check(config: LLMConfig) -> None:
    """Raises `ValueError`, with the name of the setting and the remedy, for what cannot be."""
    _check_choices(config)
    _check_lora(config)
    if (size := config.minibatch_size) is not None and (size <= 0 or config.samples_per_iteration % size):
        raise ValueError(
            f"minibatch_size={size} must divide the batch of prompts_per_iteration x group_size = "
            f"{config.prompts_per_iteration} x {config.group_size} = {config.samples_per_iteration} samples"
        )
    if config.deepspeed_config is None and (
        config.offload_optimizer or config.offload_parameters or config.deepspeed_extra
    ):
        raise ValueError("settings of DeepSpeed without DeepSpeed: set zero_stage, or leave them out")
    if config.deepspeed_config is not None and config.dtype == "float16" and not config.num_gpus_per_learner:
        raise ValueError(
            "DeepSpeed's float16 needs GPUs: set num_gpus_per_learner, or dtype='bfloat16' or 'float32'"
        )
    if config.evaluation_parallel_to_training:
        raise ValueError("evaluation_parallel_to_training would share the sampler with training")
    if config.lr_warmup_iterations and not isinstance(config.lr, int | float):
        raise ValueError("lr_warmup_iterations needs a plain number as lr; a schedule says it itself")


def _check_choices(config: LLMConfig) -> None:
    for name in (
        "prompts_per_iteration",
        "group_size",
        "num_epochs",
        "max_new_tokens",
        "micro_batch_tokens",
        "max_skipped_steps",
        "max_rows_per_sampler",
        "max_sampling_rounds",
        "evaluation_duration",
    ):
        if not isinstance(getattr(config, name), int) or getattr(config, name) < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, got {getattr(config, name)!r}")
    choices = {
        "template": TEMPLATES,
        "dtype": ("float32", "bfloat16", "float16"),
        "overlong_prompts": ("drop", "error"),
        "sampler": ("transformers", "vllm"),
        "surrogate": tuple(SURROGATES),
        "ratio_level": ("token", "sequence"),
        "kl_estimator": (*KL_ESTIMATORS, None),
        "kl_in": ("loss", "reward"),
        "loss_normaliser": NORMALISERS,
    }
    for name, allowed in choices.items():
        check_choice(config, name, allowed)
    if not config.temperature > 0:
        raise ValueError(f"temperature must be above 0 in training, got {config.temperature}")
    if config.sampler == "vllm" and not 0.01 <= config.temperature <= 2:
        raise ValueError(f"vLLM samples at temperatures from 0.01 to 2, got {config.temperature}")
    if config.sampler_kwargs and config.sampler != "vllm":
        raise ValueError("sampler_kwargs are vLLM's: set sampler='vllm', or leave them out")
    _check_weight_transfer(config)
    if not isinstance(config.run_seed, int) or config.run_seed < 0:
        raise ValueError(f"run_seed must be a whole number of at least 0, got {config.run_seed!r}")
    if isinstance(config.tis_cap, str) and config.tis_cap != "auto":
        raise ValueError(f'tis_cap must be a number above 0, None or "auto", got {config.tis_cap!r}')
    if config.importance_cap is not None and not config.importance_cap > 0:
        raise ValueError(f"tis_cap must be above 0, or None for no importance weights, got {config.tis_cap}")
    for name in ("kl_coeff", "entropy_coeff", "value_warmup_iterations"):
        if getattr(config, name) < 0:
            raise ValueError(f"{name} must not be negative, got {getattr(config, name)}")
    for name in ("clip_param", "clip_param_high", "kl_target", "kl_horizon", "kl_stop"):
        if (value := getattr(config, name)) is not None and not value > 0:
            raise ValueError(f"{name} must be above 0, got {value!r}")
    if config.reference_model is not None and not config.kl_coeff:
        raise ValueError(
            "reference_model is what a KL is measured to: set a kl_coeff above 0, or leave it out"
        )
    if config.kl_target is not None and not config.kl_coeff:
        raise ValueError("kl_target needs a kl_coeff above 0 to start from")
    if config.kl_target is not None and config.kl_horizon < config.samples_per_iteration:
        raise ValueError(
            f"kl_horizon={config.kl_horizon} must be at least the {config.samples_per_iteration} samples of an "
            "iteration"
        )
    if config.dual_clip is not None and not (config.dual_clip > 1 and config.surrogate == "clip"):
        raise ValueError(f"dual_clip must be above 1, and is of surrogate='clip', got {config.dual_clip!r}")


def check_choice(config: LLMConfig, name: str, allowed: Sequence[str | None]) -> None:
    """Raises `ValueError` for a setting that is none of those."""
    if getattr(config, name) not in allowed:
        raise ValueError(
            f"{name} must be one of {', '.join(map(str, allowed))}, got {getattr(config, name)!r}"
        )


def _check_lora(config: LLMConfig) -> None:
    rank, alpha, targets = config.lora_rank, config.lora_alpha, config.lora_targets
    if rank is None:
        if alpha is not None or targets != ALL_LINEAR:
            raise ValueError("lora_alpha and lora_targets need a lora_rank: set it, or leave them out")
        return
    if type(rank) is not int or rank < 1:
        raise ValueError(
            f"lora_rank must be a whole number of at least 1, or None to train all weights, got {rank!r}"
        )
    if alpha is not None and (type(alpha) is not int or alpha < 1):
        raise ValueError(
            f"lora_alpha must be a whole number of at least 1, or None for twice the rank, got {alpha!r}"
        )
    if targets != ALL_LINEAR and (isinstance(targets, str) or not targets):
        raise ValueError(
            f'lora_targets must be "{ALL_LINEAR}" or a list of names such as ["q_proj", "v_proj"], got {targets!r}'
        )


def _check_weight_transfer(config: LLMConfig) -> None:
    if config.weight_transfer is None:
        return
    if config.weight_transfer not in BACKENDS:
        raise ValueError(
            f"weight_transfer must be None or one of {', '.join(BACKENDS)}, got {config.weight_transfer!r}"
        )
    if config.sampler != "vllm" or not (config.num_gpus_per_env_runner and config.num_gpus_per_learner):
        raise ValueError(
            f"weight_transfer={config.weight_transfer!r} is from the GPUs of learners to those of vLLM: it needs "
            "sampler='vllm' and GPUs for both (num_gpus_per_env_runner, num_gpus_per_learner); or leave it at None"
        )
    if not (config.num_env_runners and config.num_learners):
        raise ValueError(
            f"weight_transfer={config.weight_transfer!r} is between processes: num_env_runners and num_learners "
            "must be at least 1; or leave it at None"
        )
    if config.weight_transfer == "ipc" and (config.num_env_runners, config.num_learners) != (1, 1):
        raise ValueError("weight_transfer='ipc' is between one learner and one runner on one GPU: use 'nccl'")
