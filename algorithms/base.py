"""The skeleton of every algorithm: collect -> assign credit -> update -> sync, on RLlib's Algorithm."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.callbacks.utils import make_callback
from ray.rllib.core import COMPONENT_LEARNER_GROUP
from ray.rllib.utils.checkpoints import Checkpointable
from ray.rllib.utils.metrics import (
    ENV_RUNNER_RESULTS,
    LEARNER_RESULTS,
    NUM_ENV_STEPS_SAMPLED_LIFETIME,
    TIMERS,
)

from algorithms import tasks
from algorithms.config import LLMConfig
from algorithms.curriculum import Curriculum, read_levels
from algorithms.groups import (
    SampleErrors,
    comparable,
    evaluation_results,
    refuse_unusable,
    rollout_metrics,
    warn_without_signal,
)
from algorithms.preflight import preflight
from algorithms.reuse import Reusable
from algorithms.weights import WeightsByRLlibsNames
from llmenv.episode import TextEpisode, derive_seed
from llmenv.evaluation import warn_if_cut
from llmenv.policy.batch import TokenRow
from llmenv.policy.plan import plan_update
from llmenv.rllib.probe import check_sync
from llmenv.rllib.runner_group import RunnerGroup
from llmenv.rollout import GroupRequest

logger = logging.getLogger(__name__)


class LLMAlgorithm(WeightsByRLlibsNames, Reusable, Algorithm):
    """An RLlib Algorithm whose policy is a language model.

    Subclasses say what a sample is worth (`assign_credit`) and, in their learner, what the loss is; or, where nothing
    is sampled, what is learned from instead (`iteration_rows`).

    Attributes:
        last_episodes: Of the last iteration, invalid ones included.
        last_evaluation: Episodes of the last evaluation, by "sampled" and "greedy".
        runners: Who samples.
    """

    config: LLMConfig
    _updated_in: int | None = None  # the iteration whose update has begun last, counted from 0

    def setup(self, config: LLMConfig) -> None:
        self.last_episodes: list[TextEpisode] = []
        self._sample_errors = SampleErrors()
        self.last_evaluation: dict[str, list[TextEpisode]] = {}
        if self.config.run_seed is None:
            self.config = self.config.copy(copy_frozen=False)
            folder = None if self._storage is None else self._storage.trial_dir_name
            self.config.sampling(run_seed=tasks.seed_of_trial(folder)).freeze()
        sources = preflight(self.config)
        levels = read_levels(self.config.curriculum)
        self.curriculum = Curriculum(sources, self.config.prompts_per_iteration, levels)
        self.config = self.config.copy(copy_frozen=False)
        self.config.env_prompt = tasks.prompt_parts(self.config.env, self.config.env_config)
        self.config.freeze()
        super().setup(config)
        self.runners = RunnerGroup(self.env_runner_group, self.learner_group, self.config)
        # All learners have the same model; where it is loaded they find out what it can do.
        self._shared_prompts, self._costs, reason = self.learner_group.on_all(
            lambda learner: (
                learner.policy.shared_prompts,
                learner.policy.costs,
                learner.policy.why_not_shared,
            )
        )[0]
        if self.config.shared_prompts and not self._shared_prompts:
            logger.warning(
                "%s has %s: prompts are not shared, and sequences are padded, as with shared_prompts=False",
                self.config.base_model,
                reason,
            )
        self._has_warned = False
        self._first_sync()

    def _first_sync(self) -> None:
        """Of new learners, or of what was restored: are the runners the same policy then?"""
        self.runners.sync_weights()
        check_sync(
            self.runners,
            self.learner_group,
            self.config,
            shared_prompts=self._shared_prompts,
            costs=self._costs,
        )

    def training_step(self) -> None:
        """One iteration. Logs its metrics and returns None, as RLlib's new API stack wants it."""
        with self.metrics.log_time((TIMERS, "sampling"), reduce="mean", window=1):
            rows = self.iteration_rows()
        with self.metrics.log_time((TIMERS, "learning"), reduce="mean", window=1):
            self._updated_in = self.iteration
            if self.config.sampler_sleeps:  # until the weight sync wakes it
                self.runners.call("sleep")
            self.update_rows(rows)
        with self.metrics.log_time((TIMERS, "weight_sync"), reduce="mean", window=1):
            self.runners.sync_weights()

    def iteration_rows(self) -> list[TokenRow]:
        """What this iteration learns from: a batch of samples, and what each is worth. Logs the figures about them."""
        episodes = self.last_episodes = self.collect()
        update, parts = self.num_updates, self.curriculum.parts
        figures = rollout_metrics(episodes, self.compared, update, parts)
        self.log_rollout(figures)
        if self.curriculum.learn(figures["accuracy"], update):
            logger.warning(self.curriculum.told())
        usable = self.usable(episodes)
        advantages = self.assign_credit(usable)
        if not (self._has_warned or self.has_signal(usable, advantages)):
            warn_without_signal(self.iteration + 1)
            self._has_warned = True
        return self.make_rows(usable, advantages)

    def log_rollout(self, figures: Mapping[str, float]) -> None:
        """Logs figures about what the iteration learns from."""
        for key, value in figures.items():
            self.metrics.log_value(("rollout", key), value, reduce="mean", window=1)

    @property
    def learners_are_whole(self) -> bool:
        """Whether the learners are what `iteration` whole iterations made of them; otherwise nothing may be saved.

        They are not from the beginning of an update until its iteration counts, and stay so where that fails.
        """
        return self._updated_in != self.iteration

    @property
    def num_updates(self) -> int:
        """How many updates the policy has had, over all resumptions: all that is drawn depends on it."""
        return self.runners.weights_version

    @abstractmethod
    def assign_credit(self, episodes: Sequence[TextEpisode]) -> np.ndarray:
        """The advantage [N] of each valid episode."""

    @property
    def compared(self) -> int:
        """How many samples are compared with one another; 1 where a sample is judged by itself."""
        return self.config.group_size

    def usable(self, episodes: Sequence[TextEpisode]) -> list[TextEpisode]:
        """Those of the iteration's episodes that take part in the update."""
        return comparable(episodes, self.compared)

    def has_gradient(self, row: TokenRow) -> bool:
        """Whether a row has any in the loss; it is left out of the forward passes otherwise."""
        # A sample that is no better or worse than its group teaches nothing by itself.
        return self.config.kl_coeff > 0 or self.config.entropy_coeff > 0 or bool(row.advantages.any())

    def has_signal(self, episodes: Sequence[TextEpisode], advantages: np.ndarray) -> bool:
        """Whether rewards tell any of the valid episodes from others that they are compared with."""
        return bool(np.any(advantages))

    def row(self, episode: TextEpisode, advantage: float) -> TokenRow:
        """What the learners see of an episode."""
        return TokenRow.from_episode(episode, advantage)

    def collect(self) -> list[TextEpisode]:
        """The iteration's groups, sampled by all runners; raises as `groups.refuse_unusable` does."""
        episodes = self.sample(tasks.training_requests(self.config, self.curriculum, self.num_updates))
        refuse_unusable(episodes, self.config, self.compared)
        return episodes

    def sample(self, requests: Sequence[GroupRequest], **settings: Any) -> list[TextEpisode]:
        """The episodes of some groups."""
        self.refuse_weights_of_another()
        episodes, metrics = self.runners.collect(self.runners.submit(requests, **settings))
        self._sample_errors.tell(episodes)
        self.metrics.aggregate(metrics, key=ENV_RUNNER_RESULTS)
        return episodes

    def make_rows(self, episodes: Sequence[TextEpisode], advantages: np.ndarray) -> list[TokenRow]:
        """What the learners are given of the iteration's episodes, and of what each is worth."""
        return [
            self.row(episode, advantage)
            for episode, advantage in zip(episodes, advantages, strict=True)
            if not (self.config.mask_length_cap and episode.hit_length_cap)
        ]

    def update_rows(self, rows: Sequence[TokenRow]) -> None:
        """Takes the optimizer steps on a batch of rows, wherever they come from."""
        config = self.config
        seed = tasks.update_seed(config, self.num_updates)
        plan = plan_update(
            rows,
            minibatch_size=config.minibatch_size or max(1, len(rows)),
            micro_batch_tokens=config.micro_batch_tokens,
            num_learners=max(1, config.num_learners),
            rng=np.random.default_rng(seed),
            has_gradient=self.has_gradient,
            shared_prompts=self._shared_prompts,
            costs=self._costs,
        )
        effective = sum(map(self.has_gradient, rows))
        self.log_rollout({"effective_batch": effective})
        # The learning rate's clock counts planned samples, so that a dropped one does not shift the schedule.
        timesteps = {NUM_ENV_STEPS_SAMPLED_LIFETIME: (self.num_updates + 1) * config.samples_per_iteration}
        results = self.learner_group.update(
            plan, num_epochs=config.num_epochs, seed=seed, timesteps=timesteps
        )
        self.metrics.aggregate(results, key=LEARNER_RESULTS)

    def restore_env_runners(self, env_runner_group: Any) -> list[int]:
        """Runners that were restarted get the current weights before they sample again. Waits for none."""
        return self.runners.restore()

    def evaluate(self, parallel_train_future: Any = None) -> dict[str, Any]:
        """Accuracy on held-out tasks, the same ones every time, on the training runners.

        Returns:
            Under "env_runners" the summary (see `llmenv.evaluation.summarize`) of samples at the temperature of
            evaluation, which is that of training unless `evaluation_config` says otherwise; under "greedy" that of the
            most likely completions. Under "parts" both ("sampled" and "greedy") of each part of the environment, if
            it has any.

        Raises:
            ValueError: If no episode is valid, as when the environment refuses `split="test"`.
        """
        self._call_back("on_evaluate_start")
        self.last_evaluation = {
            "sampled": self.evaluation_episodes(self.evaluation_config.temperature),
            "greedy": self.evaluation_episodes(0.0),
        }
        results = evaluation_results(self.last_evaluation, self.curriculum.parts)
        if not self.num_updates:
            warn_if_cut(results[ENV_RUNNER_RESULTS], self.config.max_new_tokens)
        self._call_back("on_evaluate_end", evaluation_metrics=results)
        return results

    def _call_back(self, event: str, **kwargs: Any) -> None:
        make_callback(
            event,
            callbacks_objects=self.callbacks,
            callbacks_functions=getattr(self.config, f"callbacks_{event}"),
            kwargs={"algorithm": self, "metrics_logger": self.metrics, **kwargs},
        )

    def evaluation_episodes(
        self, temperature: float, first: int = 0, count: int | None = None
    ) -> list[TextEpisode]:
        """Of `evaluation_duration` held-out tasks, one each; of every part where the environment has some.

        Args:
            temperature: 0: the most likely completions.
            first: Where they begin among the held-out tasks; `evaluate` asks for the first ones.
            count: Of so many tasks instead.
        """
        config = self.evaluation_config
        requests = tasks.held_out_requests(config, count or self.config.evaluation_duration, first)
        episodes = self.sample(requests, role="evaluation", temperature=temperature)
        if not any(episode.valid for episode in episodes):
            raise tasks.not_evaluable(config, episodes[0].error if episodes else "there are no such tasks")
        return episodes

    def generate(
        self,
        prompts: Sequence[str | Sequence[Mapping[str, str]]],
        *,
        n: int = 1,
        temperature: float | None = None,
        max_new_tokens: int | None = None,
    ) -> list[list[str]]:
        """Samples from the policy over the runners.

        Args:
            prompts: Each a question, or messages: a system message or none, a user message, and then perhaps how the
                assistant begins.
            n: Completions of each.
            temperature: None: that of training; 0: the most likely completion.
            max_new_tokens: None: that of training.

        Returns:
            For each prompt its `n` completions, the assistant's beginning included. They depend on the prompt's place,
            the run's seed and the number of updates alone.

        Raises:
            ValueError: If messages have another form, or a prompt cannot be sampled from.
        """
        seed = derive_seed(tasks.GENERATE_STREAM, self.config.root_seed, self.num_updates)
        return self.runners.generate(prompts, n, seed, temperature=temperature, max_new_tokens=max_new_tokens)

    def export_policy(self, folder: str | Path, *, filesystem: Any = None) -> None:
        """Writes the policy in Hugging Face format: weights, configuration and tokenizer.

        Args:
            folder: Without a filesystem, one on this node, or a URI that pyarrow knows, such as "s3://bucket/policy".
            filesystem: pyarrow's.
        """
        self.learner_group.export_policy(folder, filesystem=filesystem)

    @classmethod
    def _should_create_evaluation_env_runners(cls, eval_config: AlgorithmConfig) -> bool:
        """Evaluation runs on the training runners: a second sampler would be a second model in memory."""
        return False

    def get_checkpointable_components(self) -> list[tuple[str, Checkpointable]]:
        """The learners hold all state: runners get their weights from them, and tasks are a function of seeds."""
        return [(COMPONENT_LEARNER_GROUP, self.learner_group)]

    def get_state(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """The state without that of the learners, which is as large as they are.

        Raises:
            ValueError: If it is asked for as a whole.
        """
        if not args and not kwargs.keys() & {"components", "not_components"}:
            raise ValueError(
                "an algorithm's whole state is not held in one dict: save_to_path(path) writes it, "
                "restore_from_path(path) and from_checkpoint(path) take it back"
            )
        state = super().get_state(*args, **kwargs)
        own = {
            key: value for key, value in state.items() if "env_runner" not in key and "connector" not in key
        }
        return {**own, "curriculum": self.curriculum.get_state()}

    def set_state(self, state: dict[str, Any]) -> None:
        super().set_state(state)
        self.curriculum.set_state(state.get("curriculum", {}))

    def restore_from_path(self, path: Any, *args: Any, **kwargs: Any) -> None:
        # Not Algorithm's own: it would push connector states and weights in RLlib's format.
        Checkpointable.restore_from_path(self, path, *args, **kwargs)
        self._updated_in = None
        self._weights_of_another = False
        self._first_sync()
