"""The skeleton of every algorithm: collect -> assign credit -> update -> sync, on RLlib's Algorithm."""

from __future__ import annotations

import logging
import time
from abc import abstractmethod
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.core import COMPONENT_LEARNER_GROUP, COMPONENT_RL_MODULE
from ray.rllib.utils.checkpoints import Checkpointable
from ray.rllib.utils.metrics import (
    ENV_RUNNER_RESULTS,
    LEARNER_RESULTS,
    NUM_ENV_STEPS_SAMPLED_LIFETIME,
    TIMERS,
    WEIGHTS_SEQ_NO,
)

from algorithms.config import LLMConfig
from algorithms.preflight import count_tasks, preflight
from llmenv.episode import TextEpisode, derive_seed
from llmenv.evaluation import summarize
from llmenv.policy.batch import TokenRow
from llmenv.policy.plan import plan_update
from llmenv.rollout import PROMPT_TOO_LONG, GroupRequest, row_at

logger = logging.getLogger(__name__)

# First keys of the random streams: what is drawn for training never meets what is drawn for evaluation.
TRAIN_STREAM, EVALUATION_STREAM, UPDATE_STREAM, TRAIN_ROWS_STREAM, EVALUATION_ROWS_STREAM = 1, 2, 3, 4, 5
REFILL_ROWS_STREAM = 6
MAX_COLLECT_ATTEMPTS = 5


class RunnersLostError(RuntimeError):
    """No env runner is left to sample, and none came back. The learners are as they were before the iteration."""


class LLMAlgorithm(Algorithm):
    """An RLlib Algorithm whose policy is a language model.

    Subclasses say what a sample is worth (`assign_credit`) and, in their learner, what the loss is.
    """

    config: LLMConfig

    def setup(self, config: LLMConfig) -> None:
        self.last_episodes: list[TextEpisode] = []
        self.last_evaluation: dict[str, list[TextEpisode]] = {}
        self._receivers: list[Any] = []  # the runners that the last weight transfer went to
        self._num_tasks = preflight(self.config)
        super().setup(config)
        # All learners have the same model; where it is loaded they find out what it can do.
        self._shared_prompts, self._attention_cost, reason = self.learner_group.on_all(
            lambda learner: (
                learner.policy.shared_prompts,
                learner.policy.attention_cost,
                learner.policy.why_not_shared,
            )
        )[0]
        if self.config.shared_prompts and not self._shared_prompts:
            logger.warning(
                "%s has %s: prompts are not shared, and sequences are padded, as with shared_prompts=False",
                self.config.base_model,
                reason,
            )
        self.sync_weights()

    def training_step(self) -> None:
        """One iteration. Logs its metrics and returns None, as RLlib's new API stack wants it."""
        with self.metrics.log_time((TIMERS, "sampling"), reduce="mean", window=1):
            episodes = self.last_episodes = self.collect()
        self._log_episodes(episodes)
        usable = self.usable(episodes)
        with self.metrics.log_time((TIMERS, "learning"), reduce="mean", window=1):
            if self.config.sampler_sleeps:  # until the weight sync wakes it
                self._call_runners("sleep")
            self.update(usable, self.assign_credit(usable))
        with self.metrics.log_time((TIMERS, "weight_sync"), reduce="mean", window=1):
            self.sync_weights()

    @abstractmethod
    def assign_credit(self, episodes: Sequence[TextEpisode]) -> np.ndarray:
        """The advantage [N] of each valid episode."""

    def usable(self, episodes: Sequence[TextEpisode]) -> list[TextEpisode]:
        """Those of the iteration's episodes that take part in the update."""
        return comparable(episodes, self.config.group_size)

    def has_gradient(self, row: TokenRow) -> bool:
        """Whether a row has any in the loss; it is left out of the forward passes otherwise."""
        # A sample that is no better or worse than its group teaches nothing by itself.
        return self.config.kl_coeff > 0 or self.config.entropy_coeff > 0 or bool(row.advantages.any())

    def row(self, episode: TextEpisode, advantage: float) -> TokenRow:
        """What the learners see of an episode."""
        return TokenRow.from_episode(episode, advantage)

    def collect(self) -> list[TextEpisode]:
        """The iteration's groups, sampled by all runners; with dynamic sampling more, until enough have signal."""
        config, wanted = self.config, self.config.prompts_per_iteration
        episodes: list[TextEpisode] = []
        num_groups, missing = 0, wanted
        for _ in range(config.max_sampling_rounds if config.dynamic_sampling else 1):
            episodes += self._sample(self._requests(num_groups, missing))
            self._refuse_unusable(episodes)
            num_groups += missing
            missing = wanted - len({episode.group for episode in self.usable(episodes)})
            if not missing:
                break
        if config.dynamic_sampling and missing:
            logger.warning(
                "only %d of %d groups have signal after %d rounds of sampling (%d groups): most tasks are too easy or "
                "too hard for the policy; the iteration learns from those it has",
                wanted - missing,
                wanted,
                config.max_sampling_rounds,
                num_groups,
            )
        return episodes

    def _requests(self, first_group: int, count: int) -> list[GroupRequest]:
        """The iteration's groups from a number on; those beyond the first `prompts_per_iteration` are refills."""
        config, size = self.config, self.config.prompts_per_iteration
        groups = range(first_group, first_group + count)
        stream, first, each = TRAIN_ROWS_STREAM, first_group, size
        if first_group >= size:  # rows of their own, so that refills do not move an epoch's walk
            stream, first = REFILL_ROWS_STREAM, first_group - size
            each = size * (config.max_sampling_rounds - 1)
        start = self.iteration * each + first
        rows = _rows(self._num_tasks, range(start, start + count), stream, config.run_seed)
        return [
            GroupRequest.derive(
                group, config.group_size, TRAIN_STREAM, config.run_seed, self.iteration, options=row
            )
            for group, row in zip(groups, rows, strict=True)
        ]

    def _refuse_unusable(self, episodes: Sequence[TextEpisode]) -> None:
        overlong = [episode for episode in episodes if _is_overlong(episode)]
        if overlong and self.config.overlong_prompts == "error":
            raise ValueError(
                f"{overlong[0].error}; raise it, or drop such prompts with overlong_prompts='drop'"
            )
        if not comparable(episodes, self.config.group_size):
            first = next(episode.error for episode in episodes if not episode.valid)
            every = "no group of the iteration has two valid samples"
            if not any(episode.valid for episode in episodes):
                every = "every sample of the iteration is invalid"
            raise RuntimeError(f"{every}; the first: {first}")

    def _sample(self, requests: Sequence[GroupRequest], **kwargs: Any) -> list[TextEpisode]:
        """Deals groups to the healthy runners; those of a runner that died or hangs are sampled by the others.

        Raises:
            RunnersLostError: If groups are missing after several attempts.
        """
        config, group = self.config, self.env_runner_group
        if group.num_remote_env_runners() == 0:
            runner = group.local_env_runner
            episodes = runner.sample(requests=requests, **kwargs)
            self.metrics.aggregate([runner.get_metrics()], key=ENV_RUNNER_RESULTS)
            return episodes
        done: dict[int, list[TextEpisode]] = {}
        for _ in range(MAX_COLLECT_ATTEMPTS):
            missing = [request for request in requests if request.group not in done]
            if not missing:
                break
            healthy = group.healthy_worker_ids()
            if not healthy:
                # Only with nobody left is it worth waiting for a restart here: RLlib tries one every iteration.
                time.sleep(2.0)
                self.restore_env_runners(group)
                healthy = group.healthy_worker_ids()
            if not healthy:
                continue
            results = self._ask(
                "sample_with_metrics",
                [{"requests": missing[i :: len(healthy)], **kwargs} for i in range(len(healthy))],
                healthy,
            )
            self.metrics.aggregate([metrics for _, metrics in results], key=ENV_RUNNER_RESULTS)
            for episodes, _ in results:
                for episode in episodes:
                    done.setdefault(episode.group, []).append(episode)
        if len(done) < len(requests):
            raise RunnersLostError(
                f"{len(requests) - len(done)} of {len(requests)} groups could not be sampled in "
                f"{MAX_COLLECT_ATTEMPTS} attempts: the env runners keep dying (their logs say why), or take longer "
                f"than {config.sample_timeout_s:g} s: raise that by env_runners(sample_timeout_s=...)"
            )
        return [episode for request in requests for episode in done[request.group]]

    def _ask(self, method: str, kwargs: list[dict[str, Any]], worker_ids: list[int]) -> list[Any]:
        """Calls a method of remote runners, and waits for what they return.

        One that dies is left out. So is one that gives no answer for `sample_timeout_s`: it is killed, and Ray
        starts it anew. RLlib itself would take it for healthy, and wait for it again.
        """
        if not worker_ids:  # RLlib would ask all
            return []
        manager = self.env_runner_group._worker_manager
        results = manager.foreach_actor(
            method,
            kwargs=kwargs,
            remote_actor_ids=worker_ids,
            timeout_seconds=self.config.sample_timeout_s,
        )
        for hung in set(worker_ids) - {result.actor_id for result in results}:
            manager.set_actor_state(hung, healthy=False)
            ray.kill(manager.actors()[hung], no_restart=False)
        return [result.get() for result in results if result.ok]

    def update(self, episodes: Sequence[TextEpisode], advantages: np.ndarray) -> None:
        """Takes the iteration's optimizer steps."""
        config = self.config
        rows = [
            self.row(episode, advantage)
            for episode, advantage in zip(episodes, advantages, strict=True)
            if not (config.mask_length_cap and episode.hit_length_cap)
        ]
        seed = derive_seed(UPDATE_STREAM, config.run_seed, self.iteration)
        plan = plan_update(
            rows,
            minibatch_size=config.minibatch_size or max(1, len(rows)),
            micro_batch_tokens=config.micro_batch_tokens,
            num_learners=max(1, config.num_learners),
            rng=np.random.default_rng(seed),
            has_gradient=self.has_gradient,
            shared_prompts=self._shared_prompts,
            attention_cost=self._attention_cost,
        )
        effective = sum(map(self.has_gradient, rows))
        self.metrics.log_value(("rollout", "effective_batch"), effective, reduce="mean", window=1)
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
        if self.config.weight_transfer is None:
            self._push_weights()
            return
        group = self.env_runner_group
        actors = group._worker_manager.actors()
        runners = [actors[i] for i in group.healthy_worker_ids()]
        self.weights_version = self.learner_group.send_weights(runners, renew=runners != self._receivers)
        self._receivers = runners

    def _push_weights(self, worker_ids: list[int] | None = None) -> None:
        """Brings the weights to some runners, or to all, through Ray's object store."""
        packed, self.weights_version = self.learner_group.pack_weights()
        remote = self.env_runner_group.num_remote_env_runners() > 0
        if remote and not isinstance(packed, ray.ObjectRef):  # a local learner with remote runners
            packed = ray.put(packed)
        state = {COMPONENT_RL_MODULE: packed, WEIGHTS_SEQ_NO: self.weights_version}
        self._call_runners("set_state", worker_ids, state=state)

    def _call_runners(self, method: str, worker_ids: list[int] | None = None, **kwargs: Any) -> None:
        """Calls a method of some runners, or of all, and waits."""
        group = self.env_runner_group
        if group.num_remote_env_runners() == 0:
            getattr(group.local_env_runner, method)(**kwargs)
            return
        asked = worker_ids or group.healthy_worker_ids()
        self._ask(method, [kwargs] * len(asked), asked)

    def restore_env_runners(self, env_runner_group: Any) -> list[int]:
        """Runners that were restarted get the current weights before they sample again."""
        restored = env_runner_group.probe_unhealthy_env_runners()
        if restored:
            self._push_weights(restored)
            self._receivers = []  # the new processes know nothing of the old ones' transfers
        return restored

    def evaluate(self, parallel_train_future: Any = None) -> dict[str, Any]:
        """Accuracy on held-out tasks, the same ones every time, on the training runners.

        Returns:
            Under "env_runners" the summary (see `llmenv.evaluation.summarize`) of samples at the training
            temperature, under "greedy" that of the most likely completions.

        Raises:
            ValueError: If no episode is valid, as when the environment refuses `split="test"`.
        """
        self.last_evaluation = {
            "sampled": self._evaluation_episodes(self.config.temperature),
            "greedy": self._evaluation_episodes(0.0),
        }
        return {
            ENV_RUNNER_RESULTS: summarize(self.last_evaluation["sampled"]),
            "greedy": summarize(self.last_evaluation["greedy"]),
        }

    def export_policy(self, folder: str | Path, *, filesystem: Any = None) -> None:
        """Writes the policy in Hugging Face format: weights, configuration and tokenizer.

        Args:
            folder: Without a filesystem, one on this node, or a URI that pyarrow knows, such as "s3://bucket/policy".
            filesystem: pyarrow's.
        """
        self.learner_group.export_policy(folder, filesystem=filesystem)

    def _evaluation_episodes(self, temperature: float) -> list[TextEpisode]:
        """One completion of each of the `evaluation_duration` held-out tasks, or of all where they are fewer."""
        env_config = dict(self.evaluation_config.env_config)
        try:
            num_tasks = count_tasks(self.config.env, env_config)
        except Exception as error:
            raise _not_evaluable(env_config, error) from error
        count = min(self.config.evaluation_duration, num_tasks or self.config.evaluation_duration)
        requests = [
            GroupRequest.derive(task, 1, EVALUATION_STREAM, options=row)
            for task, row in enumerate(_rows(num_tasks, range(count), EVALUATION_ROWS_STREAM))
        ]
        episodes = self._sample(requests, temperature=temperature, env_config=env_config)
        if not any(episode.valid for episode in episodes):
            raise _not_evaluable(env_config, episodes[0].error)
        return episodes

    def _log_episodes(self, episodes: Sequence[TextEpisode]) -> None:
        rewards: dict[int, list[float]] = {}
        for episode in comparable(episodes, self.config.group_size):
            rewards.setdefault(episode.group, []).append(episode.total_reward)
        flat = [len(set(values)) < 2 for values in rewards.values()]
        lag = [self.weights_version - episode.weights_version for episode in episodes]
        values = {
            **summarize(episodes),
            "num_dropped_groups": len({episode.group for episode in episodes} - rewards.keys()),
            "num_overlong": sum(_is_overlong(episode) for episode in episodes),
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


def comparable(episodes: Sequence[TextEpisode], group_size: int) -> list[TextEpisode]:
    """The valid episodes, but for those that are alone in their group, where it was to have more.

    They have nothing to be compared with: with an advantage of 0 they would only dilute the others' gradient.
    """
    valid = [episode for episode in episodes if episode.valid]
    sizes = Counter(episode.group for episode in valid)
    return [episode for episode in valid if sizes[episode.group] >= min(2, group_size)]


def groups_with_signal(episodes: Sequence[TextEpisode]) -> list[TextEpisode]:
    """The episodes of those groups in which rewards differ."""
    rewards: dict[int, set[float]] = {}
    for episode in episodes:
        rewards.setdefault(episode.group, set()).add(episode.total_reward)
    return [episode for episode in episodes if len(rewards[episode.group]) > 1]


def _is_overlong(episode: TextEpisode) -> bool:
    return (episode.error or "").startswith(PROMPT_TOO_LONG)


def _not_evaluable(env_config: dict[str, Any], reason: object) -> ValueError:
    return ValueError(
        f"the environment cannot be evaluated with {env_config}: {reason}. If it has no test split, "
        "evaluation(evaluation_config=None) evaluates on what it is trained on"
    )


def _rows(num_tasks: int | None, positions: range, *keys: int) -> list[dict[str, int] | None]:
    """The `reset` options for positions in a data set's walk; None each where the environment draws its tasks."""
    if num_tasks is None:
        return [None for _ in positions]
    return [{"index": row_at(position, num_tasks, *keys)} for position in positions]
