"""Settings of RLlib's that would be accepted and ignored: each is refused with what to set instead."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from algorithms.config import LLMConfig

_BATCH = (
    "an iteration is training(prompts_per_iteration=..., group_size=...) whole episodes, and a step minibatch_size "
    "of them"
)
_CONNECTORS = (
    "there are no connectors between text and model: wrappers shape what an environment says and pays "
    "(env_config['wrappers']), policy(template=...) how a prompt is put"
)
_DATA = "learning is from what is sampled: rows of data are an environment (Dataset-v0)"
_EVALUATION = (
    "evaluation is an episode each of evaluation_duration tasks, on the training runners, between iterations"
)
_MODEL = "the module is the language model of policy(model=...)"
_OPTIMIZER = (
    "the optimizer is AdamW with "
    "training(lr=..., adam_betas=..., adam_epsilon=..., weight_decay=..., grad_clip=...)"
)
_TEXT = (
    "observations and actions are texts, and pass as they are; wrappers change them (env_config['wrappers'])"
)

UNSUPPORTED = {
    "train_batch_size": _BATCH,
    "_train_batch_size_per_learner": _BATCH,
    "rollout_fragment_length": _BATCH,
    "batch_mode": _BATCH,
    "shuffle_batch_per_epoch": "groups are shuffled for every batch, and the order of minibatches for every epoch",
    "num_envs_per_env_runner": "a runner's samples all step at once: sampling(max_rows_per_sampler=...) bounds them",
    "gym_env_vectorize_mode": "environments step in threads of their runner, each in one at a time",
    "remote_worker_envs": "environments step in threads of their runner, each in one at a time",
    "seed": "sampling(run_seed=...) is what all tasks, samples and steps are a function of",
    "_env_to_module_connector": _CONNECTORS,
    "_module_to_env_connector": _CONNECTORS,
    "_learner_connector": _CONNECTORS,
    "add_default_connectors_to_env_to_module_pipeline": _CONNECTORS,
    "add_default_connectors_to_module_to_env_pipeline": _CONNECTORS,
    "add_default_connectors_to_learner_pipeline": _CONNECTORS,
    "input_": _DATA,
    "offline_data_class": _DATA,
    "offline_evaluation_interval": _DATA,
    "off_policy_estimation_methods": _DATA,
    "output": "run.py writes episodes (samples/), algorithm.last_episodes has them",
    "policies_to_train": "there is one policy",
    "policy_states_are_swappable": "there is one policy",
    "_rl_module_spec": _MODEL,
    "_model_config": _MODEL,
    "algorithm_config_overrides_per_module": "there is one module: set it in the config itself",
    "optimizer": _OPTIMIZER,
    "grad_clip_by": "gradients are clipped by their global norm",
    "torch_ddp_kwargs": "deepspeed(zero_stage=...) says how the learners share the policy",
    "torch_compile_learner": "the model runs as it is",
    "torch_compile_worker": "sampling(sampler='vllm', sampler_kwargs=...) has vLLM's own compilation",
    "torch_skip_nan_gradients": "steps that are not finite are skipped, and counted: training(max_skipped_steps=...)",
    "_torch_grad_scaler_class": "policy(dtype='float16') under deepspeed(zero_stage=...) scales its loss",
    "_torch_lr_scheduler_classes": "training(lr=...) takes a schedule [[samples, rate], ...]",
    "num_aggregator_actors_per_learner": "batches are cut on the driver",
    "num_gpus": "set num_gpus_per_learner and num_gpus_per_env_runner",
    "explore": "sampling(temperature=...) says how much a sample varies; greedy figures stand in every evaluation",
    "exploration_config": "sampling(temperature=...) says how much a sample varies",
    "evaluation_num_env_runners": _EVALUATION,
    "evaluation_duration_unit": _EVALUATION,
    "evaluation_sample_timeout_s": "env_runners(sample_timeout_s=...) holds in evaluation too",
    "evaluation_parallel_to_training": f"it would share the sampler with training: {_EVALUATION}",
    "custom_evaluation_function": f"override LLMAlgorithm.evaluate; {_EVALUATION}",
    "observation_space": _TEXT,
    "action_space": _TEXT,
    "observation_filter": _TEXT,
    "clip_rewards": "wrappers change what an environment pays (env_config['wrappers'])",
    "normalize_actions": _TEXT,
    "clip_actions": _TEXT,
    "compress_observations": _TEXT,
    "render_env": "algorithm.last_episodes has all that was said",
    "use_env_runner_state_server": "weights are brought to every runner before it samples",
    "ignore_env_runner_failures": "what a lost runner was to sample, the others do; nothing is left out",
    "callbacks_on_episode_created": "on_episode_start is called when an episode begins",
    "callbacks_on_episode_step": "on_episode_end has all turns of an episode",
    "log_gradients": "gradient_norm stands in every result",
}
# What may be otherwise in evaluation: it shares the sampler, and so the model, with training.
EVALUATION_SETTINGS = ("env", "env_config", "temperature", "max_new_tokens", "max_prompt_tokens")


def refuse_unsupported(config: LLMConfig, default: LLMConfig) -> None:
    """Raises `ValueError` for a setting that would change nothing.

    Args:
        config: As it was set.
        default: Of the same class, as it comes.
    """
    if config.in_evaluation:  # what RLlib itself makes of the one that was looked at
        return
    for name, remedy in UNSUPPORTED.items():
        if (value := getattr(config, name)) != getattr(default, name):
            raise ValueError(f"{name.lstrip('_')}={value!r} would change nothing here: {remedy}")
    if config.is_multi_agent:
        raise ValueError("multi_agent(...) would change nothing here: there is one policy")
    if others := sorted(set(config.evaluation_config or {}) - set(EVALUATION_SETTINGS)):
        raise ValueError(
            f"evaluation_config cannot set {', '.join(others[:5])}: it may set {', '.join(EVALUATION_SETTINGS)}, and "
            "all else is shared with training"
        )
