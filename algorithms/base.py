"""The skeleton of every algorithm: collect -> assign credit -> update -> sync, on RLlib's Algorithm."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig, NotProvided
from ray.rllib.core import COMPONENT_LEARNER_GROUP, COMPONENT_RL_MODULE
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.utils.checkpoints import Checkpointable
from ray.rllib.utils.metrics import (
    ENV_RUNNER_RESULTS,
    LEARNER_RESULTS,
    NUM_ENV_STEPS_SAMPLED_LIFETIME,
    TIMERS,
    WEIGHTS_SEQ_NO,
)

from algorithms.losses import KL_ESTIMATORS, NORMALISERS
from llmenv.batch import TokenRow, plan_update
from llmenv.env_runner import LLMEnvRunner, make_env
from llmenv.episode import TextEpisode, derive_seed
from llmenv.evaluation import summarize
from llmenv.learner_group import LLMLearnerGroup
from llmenv.models import load_tokenizer, resolve_model
from llmenv.renderer import TEMPLATES
from llmenv.rl_module import LLMModule
from llmenv.rollout import GroupRequest

# First keys of the random streams: what is drawn for training never meets what is drawn for evaluation.
TRAIN_STREAM, EVALUATION_STREAM, UPDATE_STREAM = 1, 2, 3
MAX_COLLECT_ATTEMPTS = 5


class LLMConfig(AlgorithmConfig):
    """Settings shared by all algorithms. Batch sizes are global: never per runner, never per learner."""

    def __init__(self, algo_class: type | None = None):
        super().__init__(algo_class=algo_class)
        # `policy`: the model.
        self.base_model = "tiny"
        self.dtype = "float32"
        self.template = "auto"
        # `sampling`: how completions are drawn.
        self.temperature = 1.0
        self.max_new_tokens = 128
        self.max_prompt_tokens: int | None = None
        self.overlong_prompts = "drop"
        self.max_rows_per_sampler = 512
        self.run_seed = 0
        # `training`: the batch and the optimizer.
        self.prompts_per_iteration = 32
        self.group_size = 8
        self.minibatch_size: int | None = None
        self.num_epochs = 1
        self.micro_batch_tokens = 8192
        self.lr = 1e-6
        self.lr_warmup_iterations = 0
        self.adam_betas = (0.9, 0.999)
        self.weight_decay = 0.0
        self.grad_clip = 1.0
        self.clip_param = 0.2
        self.kl_coeff = 0.0
        self.kl_estimator = "k3"
        self.loss_normaliser = "token"
        # `evaluation`: RLlib's own names; the environment's other split, an episode a task.
        self.evaluation_config = {"env_config": {"split": "test"}}
        self.evaluation_duration = 512
        self.evaluation_duration_unit = "episodes"
        # RLlib's seams. Runners make their own environments, and there are no connectors between text and model.
        self.env_runner_cls = LLMEnvRunner
        self.num_env_runners = 0
        self.create_local_env_runner = False
        self.add_default_connectors_to_env_to_module_pipeline = False
        self.add_default_connectors_to_module_to_env_pipeline = False
        self.add_default_connectors_to_learner_pipeline = False
        self.broadcast_env_runner_states = False
        self.merge_env_runner_states = False
        self.delay_between_env_runner_restarts_s = 0.0
        self.log_sys_usage = False

    def policy(
        self, *, model: str = NotProvided, dtype: str = NotProvided, template: str = NotProvided
    ) -> LLMConfig:
        """Sets the model.

        Args:
            model: "tiny", "tiny-zero", "smollm2-135m", a folder in Hugging Face format, or a hub id.
            dtype: "float32" (CPUs), "bfloat16" or "float16" (GPUs).
            template: How prompts are rendered: "auto", "r1", "chat", "raw" (see `llmenv.renderer`).
        """
        return self._set(base_model=model, dtype=dtype, template=template)

    def sampling(
        self,
        *,
        temperature: float = NotProvided,
        max_new_tokens: int = NotProvided,
        max_prompt_tokens: int | None = NotProvided,
        overlong_prompts: str = NotProvided,
        max_rows_per_sampler: int = NotProvided,
        run_seed: int = NotProvided,
        top_p: float = 1.0,
        top_k: int = 0,
    ) -> LLMConfig:
        """Sets how completions are drawn.

        Args:
            temperature: Of sampling, and of the log-probabilities that are learned from.
            max_new_tokens: Cap on a response. Reaching it is recorded and ends the episode.
            max_prompt_tokens: A sequence whose prompt is longer is not sampled. None: no limit.
            overlong_prompts: "drop" such samples (they are counted) or raise an "error".
            max_rows_per_sampler: Sequences that one runner decodes at the same time.
            run_seed: All tasks and samples of a run are a function of this, the iteration and their indices.
                (RLlib's own `seed` would switch on deterministic kernels for the whole process.)
            top_p: Refused unless 1: log-probabilities are of the whole distribution.
            top_k: Refused unless 0, for the same reason.

        Raises:
            ValueError: For a truncated distribution.
        """
        if top_p != 1.0 or top_k != 0:
            raise ValueError(
                f"top_p={top_p}, top_k={top_k}: training samples the whole distribution, whose log-probabilities it "
                "learns from; leave both out, and lower the temperature for safer samples"
            )
        return self._set(
            temperature=temperature,
            max_new_tokens=max_new_tokens,
            max_prompt_tokens=max_prompt_tokens,
            overlong_prompts=overlong_prompts,
            max_rows_per_sampler=max_rows_per_sampler,
            run_seed=run_seed,
        )

    def training(
        self,
        *,
        prompts_per_iteration: int = NotProvided,
        group_size: int = NotProvided,
        minibatch_size: int | None = NotProvided,
        micro_batch_tokens: int = NotProvided,
        lr_warmup_iterations: int = NotProvided,
        adam_betas: tuple[float, float] = NotProvided,
        weight_decay: float = NotProvided,
        clip_param: float = NotProvided,
        kl_coeff: float = NotProvided,
        kl_estimator: str = NotProvided,
        loss_normaliser: str = NotProvided,
        **kwargs: Any,
    ) -> LLMConfig:
        """Sets the batch, the optimizer and the loss; `lr`, `num_epochs`, `grad_clip` are RLlib's own.

        Args:
            prompts_per_iteration: Groups an iteration.
            group_size: Samples a group.
            minibatch_size: Sequences an optimizer step; must divide `prompts_per_iteration * group_size`. None:
                the whole batch is one step.
            micro_batch_tokens: Padded tokens of one forward pass. Changes memory and speed, not the result.
            lr_warmup_iterations: The learning rate rises linearly over so many iterations. Only for a plain
                number as `lr`; a schedule `[[timestep, lr], ...]` (in samples) says it itself.
            adam_betas: Of AdamW.
            weight_decay: Of AdamW.
            clip_param: The surrogate's epsilon.
            kl_coeff: Weight of the KL to the initial policy in the loss; 0 loads no reference.
            kl_estimator: "k1", "k2" or "k3" (see `algorithms.losses`).
            loss_normaliser: "token" or "sequence" (see `algorithms.losses.aggregate`).
            **kwargs: RLlib's own arguments.
        """
        super().training(**kwargs)
        return self._set(
            prompts_per_iteration=prompts_per_iteration,
            group_size=group_size,
            minibatch_size=minibatch_size,
            micro_batch_tokens=micro_batch_tokens,
            lr_warmup_iterations=lr_warmup_iterations,
            adam_betas=adam_betas,
            weight_decay=weight_decay,
            clip_param=clip_param,
            kl_coeff=kl_coeff,
            kl_estimator=kl_estimator,
            loss_normaliser=loss_normaliser,
        )

    def _set(self, **values: Any) -> LLMConfig:
        for name, value in values.items():
            if value is not NotProvided:
                setattr(self, name, value)
        return self

    @property
    def samples_per_iteration(self) -> int:
        return self.prompts_per_iteration * self.group_size

    @property
    def learning_rate_schedule(self) -> Any:
        """`lr`, with the warm-up as a schedule over samples."""
        if not self.lr_warmup_iterations:
            return self.lr
        return [[0, 0.0], [self.lr_warmup_iterations * self.samples_per_iteration, self.lr]]

    def get_default_rl_module_spec(self) -> RLModuleSpec:
        config = {"model": self.base_model, "dtype": self.dtype, "temperature": self.temperature}
        return RLModuleSpec(module_class=LLMModule, model_config=config)

    def build_learner_group(self, *, rl_module_spec: Any = None, **kwargs: Any) -> LLMLearnerGroup:
        spec = rl_module_spec or self.get_multi_rl_module_spec(**kwargs)
        return LLMLearnerGroup(config=self.copy(), module_spec=spec)

    def validate(self) -> None:
        super().validate()
        known = {*vars(type(self)()), "class"}  # RLlib writes "class" when it restores a config
        if unknown := sorted(set(vars(self)) - known):
            self._value_error(f"unknown settings {unknown}: check their spelling")
        self._check_choices()
        if (size := self.minibatch_size) is not None and (size <= 0 or self.samples_per_iteration % size):
            self._value_error(
                f"minibatch_size={size} must divide the batch of prompts_per_iteration x group_size = "
                f"{self.prompts_per_iteration} x {self.group_size} = {self.samples_per_iteration} samples"
            )
        if self.evaluation_parallel_to_training:
            self._value_error("evaluation_parallel_to_training would share the sampler with training")
        if self.lr_warmup_iterations and not isinstance(self.lr, int | float):
            self._value_error("lr_warmup_iterations needs a plain number as lr; a schedule says it itself")

    def _value_error(self, errmsg: str) -> None:
        raise ValueError(errmsg)

    def _check_choices(self) -> None:
        for name in ("prompts_per_iteration", "group_size", "max_new_tokens", "micro_batch_tokens"):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 1:
                self._value_error(f"{name} must be a whole number of at least 1, got {getattr(self, name)!r}")
        choices = {
            "template": TEMPLATES,
            "dtype": ("float32", "bfloat16", "float16"),
            "overlong_prompts": ("drop", "error"),
            "kl_estimator": tuple(KL_ESTIMATORS),
            "loss_normaliser": tuple(NORMALISERS),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                self._value_error(f"{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}")
        if not self.temperature > 0:
            self._value_error(f"temperature must be above 0 in training, got {self.temperature}")
        if self.kl_coeff < 0:
            self._value_error(f"kl_coeff must not be negative, got {self.kl_coeff}")


class LLMAlgorithm(Algorithm):
    """An RLlib Algorithm whose policy is a language model.

    Subclasses say what a sample is worth (`assign_credit`) and, in their learner, what the loss is.
    """

    config: LLMConfig

    def setup(self, config: LLMConfig) -> None:
        self.last_episodes: list[TextEpisode] = []
        self.last_evaluation: dict[str, list[TextEpisode]] = {}
        _preflight(self.config)
        super().setup(config)
        self.sync_weights()

    def training_step(self) -> None:
        """One iteration. Logs its metrics and returns None, as RLlib's new API stack wants it."""
        with self.metrics.log_time((TIMERS, "sampling"), reduce="mean", window=1):
            episodes = self.last_episodes = self.collect()
        self._log_episodes(episodes)
        valid = [episode for episode in episodes if episode.valid]
        with self.metrics.log_time((TIMERS, "learning"), reduce="mean", window=1):
            self.update(valid, self.assign_credit(valid))
        with self.metrics.log_time((TIMERS, "weight_sync"), reduce="mean", window=1):
            self.sync_weights()

    @abstractmethod
    def assign_credit(self, episodes: Sequence[TextEpisode]) -> np.ndarray:
        """The advantage [N] of each valid episode."""

    def collect(self) -> list[TextEpisode]:
        """The iteration's groups, sampled by all runners together."""
        config = self.config
        requests = [
            GroupRequest.derive(group, config.group_size, TRAIN_STREAM, config.run_seed, self.iteration)
            for group in range(config.prompts_per_iteration)
        ]
        episodes = self._sample(requests)
        overlong = [episode for episode in episodes if (episode.error or "").startswith("PromptTooLong")]
        if overlong and config.overlong_prompts == "error":
            raise ValueError(
                f"{overlong[0].error}; raise it, or drop such prompts with overlong_prompts='drop'"
            )
        if not any(episode.valid for episode in episodes):
            raise RuntimeError(f"every sample of the iteration is invalid; the first: {episodes[0].error}")
        return episodes

    def _sample(self, requests: Sequence[GroupRequest], **kwargs: Any) -> list[TextEpisode]:
        """Deals groups to the healthy runners; those of a runner that died are sampled by the others."""
        group = self.env_runner_group
        if group.num_remote_env_runners() == 0:
            runner = group.local_env_runner
            episodes = runner.sample(requests=requests, **kwargs)
            self.metrics.aggregate([runner.get_metrics()], key=ENV_RUNNER_RESULTS)
            return episodes
        done: dict[int, list[TextEpisode]] = {}
        for attempt in range(MAX_COLLECT_ATTEMPTS):
            missing = [request for request in requests if request.group not in done]
            if not missing:
                break
            if attempt:
                self.restore_env_runners(group)
            healthy = group.healthy_worker_ids()
            if not healthy:
                time.sleep(2.0)
                continue
            results = group.foreach_env_runner(
                "sample_with_metrics",
                kwargs=[{"requests": missing[i :: len(healthy)], **kwargs} for i in range(len(healthy))],
                remote_worker_ids=healthy,
                local_env_runner=False,
            )
            self.metrics.aggregate([metrics for _, metrics in results], key=ENV_RUNNER_RESULTS)
            for episodes, _ in results:
                for episode in episodes:
                    done.setdefault(episode.group, []).append(episode)
        if len(done) < len(requests):
            raise RuntimeError(
                f"{len(requests) - len(done)} of {len(requests)} groups could not be sampled in "
                f"{MAX_COLLECT_ATTEMPTS} attempts: the env runners keep dying (their logs say why)"
            )
        return [episode for request in requests for episode in done[request.group]]

    def update(self, episodes: Sequence[TextEpisode], advantages: np.ndarray) -> None:
        """Takes the iteration's optimizer steps."""
        config = self.config
        rows = [
            TokenRow.from_episode(episode, advantage)
            for episode, advantage in zip(episodes, advantages, strict=True)
        ]
        seed = derive_seed(UPDATE_STREAM, config.run_seed, self.iteration)
        plan = plan_update(
            rows,
            minibatch_size=config.minibatch_size or len(rows),
            micro_batch_tokens=config.micro_batch_tokens,
            num_learners=max(1, config.num_learners),
            rng=np.random.default_rng(seed),
            # Without a KL in the loss, a sample that is no better or worse than its group teaches nothing.
            has_gradient=lambda row: config.kl_coeff > 0 or bool(row.advantages.any()),
        )
        # The learning rate's clock counts planned samples, so that a dropped one does not shift the schedule.
        timesteps = {NUM_ENV_STEPS_SAMPLED_LIFETIME: (self.iteration + 1) * config.samples_per_iteration}
        results = self.learner_group.update(
            plan, num_epochs=config.num_epochs, seed=seed, timesteps=timesteps
        )
        self.metrics.aggregate(results, key=LEARNER_RESULTS)

    def sync_weights(self) -> None:
        """Brings the learner's weights to every runner, and waits until they are there.

        RLlib's own `sync_weights` drops an update while an earlier one is in flight.
        """
        packed, self.weights_version = self.learner_group.pack_weights()
        self._push(packed, self.weights_version, None)

    def _push(self, packed: Any, version: int, worker_ids: list[int] | None) -> None:
        state = {COMPONENT_RL_MODULE: packed, WEIGHTS_SEQ_NO: version}
        group = self.env_runner_group
        if group.num_remote_env_runners() == 0:
            group.local_env_runner.set_state(state)
            return
        if not isinstance(packed, ray.ObjectRef):  # a local learner with remote runners
            state[COMPONENT_RL_MODULE] = ray.put(packed)
        group.foreach_env_runner(
            "set_state",
            kwargs={"state": state},
            remote_worker_ids=worker_ids,
            local_env_runner=False,
            healthy_only=True,
        )

    def restore_env_runners(self, env_runner_group: Any) -> list[int]:
        """Runners that were restarted get the current weights before they sample again."""
        restored = env_runner_group.probe_unhealthy_env_runners()
        if restored:
            self._push(*self.learner_group.pack_weights(), restored)
        return restored

    def evaluate(self, parallel_train_future: Any = None) -> dict[str, Any]:
        """Accuracy on held-out tasks, the same ones every time, on the training runners.

        Returns:
            Under "env_runners" the summary (see `llmenv.evaluation.summarize`) of samples at the training
            temperature, under "greedy" that of the most likely completions.
        """
        self.last_evaluation = {
            "sampled": self._evaluation_episodes(self.config.temperature),
            "greedy": self._evaluation_episodes(0.0),
        }
        return {
            ENV_RUNNER_RESULTS: summarize(self.last_evaluation["sampled"]),
            "greedy": summarize(self.last_evaluation["greedy"]),
        }

    def export_policy(self, folder: Path) -> None:
        """Writes the policy in Hugging Face format: weights, configuration and tokenizer."""
        self.learner_group.on_all(lambda learner: learner.export(folder))
        load_tokenizer(self.config.base_model).save_pretrained(folder)

    def _evaluation_episodes(self, temperature: float) -> list[TextEpisode]:
        """One completion of each of the `evaluation_duration` held-out tasks."""
        requests = [
            GroupRequest.derive(task, 1, EVALUATION_STREAM) for task in range(self.config.evaluation_duration)
        ]
        env_config = dict(self.evaluation_config.env_config)
        return self._sample(requests, temperature=temperature, env_config=env_config)

    def _log_episodes(self, episodes: Sequence[TextEpisode]) -> None:
        rewards: dict[int, list[float]] = {}
        for episode in episodes:
            if episode.valid:
                rewards.setdefault(episode.group, []).append(episode.total_reward)
        flat = [len(set(values)) < 2 for values in rewards.values()]
        lag = [self.weights_version - episode.weights_version for episode in episodes]
        values = {
            **summarize(episodes),
            "num_tokens": sum(len(episode.token_ids) for episode in episodes),
            "num_response_tokens": sum(episode.response_length for episode in episodes),
            "groups_without_signal": float(np.mean(flat)) if flat else 1.0,
            "staleness": float(np.mean(lag)),
        }
        for key, value in values.items():
            self.metrics.log_value(("rollout", key), value, reduce="mean", window=1)

    @classmethod
    def _should_create_evaluation_env_runners(cls, eval_config: AlgorithmConfig) -> bool:
        """Evaluation runs on the training runners: a second sampler would be a second model in memory."""
        return False

    def get_checkpointable_components(self) -> list[tuple[str, Checkpointable]]:
        """The learners hold all state: runners get their weights from them, and tasks are a function of seeds."""
        return [(COMPONENT_LEARNER_GROUP, self.learner_group)]

    def get_state(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        state = super().get_state(*args, **kwargs)
        return {
            key: value for key, value in state.items() if "env_runner" not in key and "connector" not in key
        }

    def restore_from_path(self, path: Any, *args: Any, **kwargs: Any) -> None:
        # Not Algorithm's own: it would push connector states and weights in RLlib's format.
        Checkpointable.restore_from_path(self, path, *args, **kwargs)
        self.sync_weights()


def _preflight(config: LLMConfig) -> None:
    """Fails in the driver, in words, on what would otherwise fail in a remote actor's constructor.

    Raises:
        ValueError: If the environment cannot be made, or the model cannot be found.
    """
    resolve_model(config.base_model)
    try:
        make_env(config.env, config.env_config).close()
    except Exception as error:
        raise ValueError(
            f"environment {config.env!r} cannot be made with {config.env_config}: {error}. "
            "Name it as 'module:Id-v0', with the module that registers it."
        ) from error
