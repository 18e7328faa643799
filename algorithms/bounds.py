"""What each setting may be by itself, by section. What must hold between two of them, the sections check.

Imports nothing heavy: a command refuses a value before anything is loaded or started, with the check that the config
itself makes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from algorithms import checks

Bound = Callable[[str, Any], None]


def _optional(bound: Callable[..., None], none: str, **kwargs: Any) -> Bound:
    """None is allowed too, and means what `none` says."""

    def check(name: str, value: Any) -> None:
        if value is not None:
            bound(name, value, otherwise=f", or None {none}", **kwargs)

    return check


def _one_of(*allowed: Any) -> Bound:
    return partial(checks.choice, allowed=allowed)


def _learning_rate(name: str, value: Any) -> None:
    """A number, or RLlib's schedule [[timestep, rate], ...]."""
    if not isinstance(value, list | tuple):
        checks.not_negative(name, value)
        return
    if len(value) < 2 or not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in value):
        raise ValueError(f"{name} must be a number, or a schedule [[timestep, rate], ...], got {value!r}")
    for _, rate in value:
        checks.not_negative(f"a rate of {name}", rate)


def _betas(name: str, value: Any) -> None:
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise ValueError(f"{name} must be two numbers from 0 to below 1, got {value!r}")
    for beta in value:
        checks.share(name, beta)
        if beta == 1:
            raise ValueError(f"{name} must be two numbers from 0 to below 1, got {value!r}")


def _importance_cap(name: str, value: Any) -> None:
    if value is not None and value != "auto":
        checks.positive(name, value, otherwise=', or None for no importance weights, or "auto"')


def _held_out(name: str, value: Any) -> None:
    """A share of the rows, or another source of them."""
    if value is not None and not isinstance(value, str):
        checks.share(name, value)


def _dual_clip(name: str, value: Any) -> None:
    if value is not None:
        checks.positive(name, value)
        if not value > 1:
            raise ValueError(f"{name} must be above 1, got {value!r}")


_COUNT = checks.whole
_FROM_0 = partial(checks.whole, at_least=0)
_SWITCH = _one_of(True, False)
_POSITIVE, _NOT_NEGATIVE, _SHARE = checks.positive, checks.not_negative, checks.share

BOUNDS: dict[str, dict[str, Bound]] = {
    "environment": {"env_config": checks.mapping},
    "policy": {
        "dtype": _one_of("float32", "bfloat16", "float16"),
        "matmul_precision": _one_of("highest", "high", "medium"),
        "template": _one_of("auto", "r1", "chat", "raw"),
        "trust_remote_code": _SWITCH,
        "gradient_checkpointing": _SWITCH,
        "lora_rank": _optional(checks.whole, "to train all weights"),
        "lora_alpha": _optional(checks.whole, "for twice the rank"),
    },
    "deepspeed": {
        "zero_stage": _one_of(0, 1, 2, 3, None),
        "offload_optimizer": _SWITCH,
        "offload_parameters": _SWITCH,
    },
    "training": {
        "prompts_per_iteration": _COUNT,
        "group_size": _COUNT,
        "minibatch_size": _optional(checks.whole, "for the whole batch"),
        "num_epochs": _COUNT,
        "micro_batch_tokens": _COUNT,
        "shared_prompts": _SWITCH,
        "lr": _learning_rate,
        "lr_warmup_iterations": _FROM_0,
        "adam_betas": _betas,
        "adam_epsilon": _POSITIVE,
        "weight_decay": _NOT_NEGATIVE,
        "grad_clip": _optional(checks.positive, "not to clip"),
        "max_skipped_steps": _COUNT,
        "surrogate": _one_of("clip", "cispo"),
        "ratio_level": _one_of("token", "sequence"),
        "clip_param": _POSITIVE,
        "clip_param_high": _optional(checks.positive, "for that of clip_param"),
        "dual_clip": _dual_clip,
        "tis_cap": _importance_cap,
        "entropy_coeff": _NOT_NEGATIVE,
        "kl_coeff": _NOT_NEGATIVE,
        "kl_estimator": _one_of("k1", "k2", "k3", None),
        "kl_in": _one_of("loss", "reward"),
        "kl_target": _optional(checks.positive, "to leave kl_coeff"),
        "kl_horizon": _POSITIVE,
        "kl_stop": _optional(checks.positive, "for never"),
        "loss_normaliser": _one_of("token", "sequence", "constant"),
        "mask_length_cap": _SWITCH,
        # GRPO's and its relatives'
        "baseline": _one_of("group_mean", "leave_one_out"),
        "advantage_scale": _one_of("group", "batch", "none"),
        "overlong_buffer": _SHARE,
        "dynamic_sampling": _SWITCH,
        "max_sampling_rounds": _COUNT,
        # Distill's
        "reward_coeff": _NOT_NEGATIVE,
        # RFT's
        "keep": _one_of("all", "best", "shortest"),
        "most_kept": _optional(checks.whole, "for any number"),
        # PPO's and its relatives'
        "gamma": _SHARE,
        "lambda_": _SHARE,
        "critic": _one_of("separate", "shared", None),
        "critic_lr": _optional(checks.positive, "for ten times lr"),
        "vf_loss_coeff": _POSITIVE,
        "value_clip": _optional(checks.positive, "for any step"),
        "value_warmup_iterations": _FROM_0,
        "whiten_advantages": _SWITCH,
        "bootstrap_length_cap": _SWITCH,
    },
    # SFT's
    "demonstrations": {
        "validation": _held_out,
        "epochs": _optional(checks.positive, "for run.iterations"),
        "only_right": _SWITCH,
        "max_row_tokens": _optional(checks.whole, "for the model's positions"),
        "overlong_rows": _one_of("error", "drop"),
    },
    "sampling": {
        "temperature": _POSITIVE,
        "max_new_tokens": _COUNT,
        "max_prompt_tokens": _optional(checks.whole, "for no limit"),
        "overlong_prompts": _one_of("drop", "error"),
        "max_rows_per_sampler": _COUNT,
        "sampler": _one_of("transformers", "vllm"),
        "weight_transfer": _one_of(None, "nccl", "ipc"),
        "env_timeout_s": _POSITIVE,
        "run_seed": _optional(checks.whole, "for 0", at_least=0),
    },
    "env_runners": {
        "num_env_runners": _FROM_0,
        "num_cpus_per_env_runner": _NOT_NEGATIVE,
        "num_gpus_per_env_runner": _NOT_NEGATIVE,
        "sample_timeout_s": _POSITIVE,
    },
    "learners": {
        "num_learners": _FROM_0,
        "num_gpus_per_learner": _NOT_NEGATIVE,
    },
    "evaluation": {"evaluation_duration": _COUNT},
    # Of the command, not of a config.
    "run": {
        "iterations": _FROM_0,
        "time_limit": _optional(checks.positive, "for no limit"),
        "token_limit": _optional(checks.whole, "for no limit"),
        "evaluate_every": _FROM_0,
        "checkpoint_every": _FROM_0,
        "checkpoint_minutes": _NOT_NEGATIVE,
        "keep_checkpoints": _COUNT,
        "show_every": _FROM_0,
    },
}


def check(section: str, values: Mapping[str, Any], shown: Callable[[str], str] = str) -> None:
    """Refuses values that a section's settings cannot have.

    Args:
        section: Its name.
        values: By setting; what has no bound is left alone.
        shown: What a setting is called where it was given.

    Raises:
        ValueError: For the first such value.
    """
    for name, value in values.items():
        if name in BOUNDS.get(section, {}):
            BOUNDS[section][name](shown(name), value)


def check_config(config: Any) -> None:
    """The same for all that a config has, in which settings are attributes of the same names."""
    for section, bounds in BOUNDS.items():
        values = {name: getattr(config, name) for name in bounds if hasattr(config, name)}
        if config.in_evaluation and values.get("temperature") == 0:  # the most likely completions
            del values["temperature"]
        check(section, values)
