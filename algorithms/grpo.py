"""Critic-free methods that compare a group's samples: GRPO, DeepSeekMath (2402.03300), and its relatives."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from ray.rllib.algorithms.algorithm_config import NotProvided

from algorithms import tasks
from algorithms.advantages import group_relative_advantages, overlong_penalties
from algorithms.base import LLMAlgorithm
from algorithms.config import LLMConfig
from algorithms.groups import refuse_unusable
from algorithms.learner import PolicyLearner
from llmenv.episode import TextEpisode

logger = logging.getLogger(__name__)


class GRPOConfig(LLMConfig):
    """Settings of GRPO; `algorithms.methods` has those of its relatives."""

    def __init__(self, algo_class: type | None = None):
        super().__init__(algo_class=algo_class or GRPO)
        self.baseline = "group_mean"
        self.advantage_scale = "group"
        self.overlong_buffer = 0.0
        self.dynamic_sampling = False
        self.max_sampling_rounds = 10
        self.signal_key: str | None = "correct"

    def training(
        self,
        *,
        baseline: str = NotProvided,
        advantage_scale: str = NotProvided,
        overlong_buffer: float = NotProvided,
        dynamic_sampling: bool = NotProvided,
        signal_key: str | None = NotProvided,
        max_sampling_rounds: int = NotProvided,
        **kwargs: Any,
    ) -> GRPOConfig:
        """Sets what a sample is worth, beside all that `LLMConfig.training` sets.

        Args:
            baseline: "group_mean" or "leave_one_out" (see `algorithms.advantages`).
            advantage_scale: "group", "batch" or "none" (see there).
            overlong_buffer: Share of `max_new_tokens` before the cap over which up to 1 is taken off the reward (see
                `algorithms.advantages.overlong_penalties`); 0 takes nothing off.
            dynamic_sampling: Learn from groups with signal alone (see `groups_with_signal`), and go on sampling until
                the iteration has `prompts_per_iteration` of them (DAPO, 2503.14476, section 3.2).
            signal_key: What a group's samples must differ in: this key of an episode's last `info`, where the
                environment puts it there. None: the total reward, which wrappers add to.
            max_sampling_rounds: How often an iteration samples for that, at most. It then learns from what it has.
            **kwargs: See `LLMConfig.training`.
        """
        super().training(**kwargs)
        return self._set(
            baseline=baseline,
            advantage_scale=advantage_scale,
            overlong_buffer=overlong_buffer,
            dynamic_sampling=dynamic_sampling,
            signal_key=signal_key,
            max_sampling_rounds=max_sampling_rounds,
        )

    def validate(self) -> None:
        super().validate()
        if self.group_size < 2:
            raise ValueError(f"{self.method} compares the samples of a group: group_size must be at least 2")
        if self.kl_in != "loss":
            raise ValueError(
                f"{self.method} compares rewards before the learners know a KL: leave kl_in at 'loss'; "
                "PPO and REINFORCE++ take it in the reward"
            )

    def get_default_learner_class(self) -> type[PolicyLearner]:
        return PolicyLearner


class GRPO(LLMAlgorithm):
    """Samples groups, compares within them, steps, syncs."""

    config: GRPOConfig

    @classmethod
    def get_default_config(cls) -> GRPOConfig:
        return GRPOConfig()

    def collect(self) -> list[TextEpisode]:
        """The iteration's groups; with dynamic sampling more, until enough of them have signal."""
        config, episodes = self.config, super().collect()
        if not config.dynamic_sampling:
            return episodes
        wanted = num_groups = config.prompts_per_iteration
        most = wanted * (config.max_sampling_rounds - 1)
        for _ in range(config.max_sampling_rounds - 1):
            missing = wanted - self._num_usable_groups(episodes)
            if not missing:
                break
            groups = range(num_groups, num_groups + missing)
            # What is invalid of these few is left out, as of any others.
            episodes += self.sample(
                tasks.refill_requests(config, self.curriculum, self.num_updates, groups, most)
            )
            num_groups += missing
        refuse_unusable(episodes, config, self.compared)
        if missing := wanted - self._num_usable_groups(episodes):
            logger.warning(
                "only %d of %d groups have signal after %d rounds of sampling (%d groups): most tasks are too easy or "
                "too hard for the policy; the iteration learns from those it has",
                wanted - missing,
                wanted,
                config.max_sampling_rounds,
                num_groups,
            )
        return episodes

    def _num_usable_groups(self, episodes: Sequence[TextEpisode]) -> int:
        return len({episode.group for episode in self.usable(episodes)})

    def usable(self, episodes: Sequence[TextEpisode]) -> list[TextEpisode]:
        valid = super().usable(episodes)
        if not self.config.dynamic_sampling:
            return valid
        return groups_with_signal(valid, self._rewards(valid), self.config.signal_key)

    def assign_credit(self, episodes: Sequence[TextEpisode]) -> np.ndarray:
        return group_relative_advantages(
            self._rewards(episodes),
            np.array([episode.group for episode in episodes]),
            baseline=self.config.baseline,
            scale=self.config.advantage_scale,
            lengths=np.array([episode.response_length for episode in episodes]),
        )

    def _rewards(self, episodes: Sequence[TextEpisode]) -> np.ndarray:
        """What is compared: the total reward [N] of each episode, less what it costs to come near the cap."""
        config = self.config
        rewards = np.array([episode.total_reward for episode in episodes])
        if not config.overlong_buffer:
            return rewards
        # A response before the last one did not reach the cap: the episode would have ended with it.
        lengths = np.array([len(episode.turns[-1].response_ids) for episode in episodes])
        return rewards - overlong_penalties(lengths, config.max_new_tokens, config.overlong_buffer)


def groups_with_signal(
    episodes: Sequence[TextEpisode], rewards: np.ndarray, key: str | None
) -> list[TextEpisode]:
    """The episodes of those groups that are neither all right nor all wrong, and whose rewards differ.

    0 < |{o_i: right}| < G, DAPO (2503.14476), equation 11. Rewards that differ are not enough: a bonus for form or a
    penalty for length tells samples apart that are all wrong, or all right. Nor do they follow: what is taken off a
    right answer for its length can leave it no more than a wrong one has.

    Args:
        episodes: Valid ones, [N].
        rewards: float [N], as they are compared.
        key: Where an episode's last `info` says whether it is right. A group in which one does not say it, and any
            group for None, is judged by the episodes' total rewards.
    """
    members: dict[int, list[int]] = {}
    for i, episode in enumerate(episodes):
        members.setdefault(episode.group, []).append(i)
    kept = set()
    for group, indices in members.items():
        infos = [episodes[i].turns[-1].info for i in indices]
        if key is not None and all(key in info for info in infos):
            judgements = {info[key] for info in infos}
        else:
            judgements = {episodes[i].total_reward for i in indices}
        if len(judgements) > 1 and len(set(rewards[indices])) > 1:
            kept.add(group)
    return [episode for episode in episodes if episode.group in kept]
