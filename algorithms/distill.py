"""On-policy distillation: a teacher judges each token that the student samples.

A_t = c (log p_teacher(y_t) - log p_student(y_t)) + r (R - mean of its group's R), with y drawn from the student and
both log-probabilities from before the first step: the surrogate of this advantage has, in expectation, the gradient of
c KL(student, teacher) at each prefix that the student comes to. The reverse KL on the student's own samples is GKD's
(Agarwal et al., 2306.13649, section 3.2, lambda = 1), and the advantage that of Thinking Machines, "On-Policy
Distillation" (2025). Deviations: the loss is clipped as PPO's is, and the rewards (r = 0 unless set) are centred in
their groups, undivided. As there, a token answers for itself alone: what it leads to has no discount but 0. Of the
distribution only the token that was sampled is compared, so that a teacher's pass costs no more than a reference's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from ray.rllib.algorithms.algorithm_config import NotProvided
from ray.rllib.core import DEFAULT_MODULE_ID

from algorithms.advantages import group_relative_advantages
from algorithms.base import LLMAlgorithm
from algorithms.config import LLMConfig
from algorithms.learner import PolicyLearner
from llmenv.episode import TextEpisode
from llmenv.policy.batch import PreparedBatch, TokenRow


class DistillConfig(LLMConfig):
    """Settings of on-policy distillation: the teacher is `policy(reference_model=...)`, c is `kl_coeff`."""

    def __init__(self, algo_class: type | None = None):
        super().__init__(algo_class=algo_class or Distill)
        self.kl_coeff = 1.0
        self.kl_in = "reward"  # it is in the advantages, and not in the loss besides
        self.kl_estimator = "k1"
        self.reward_coeff = 0.0

    def training(self, *, reward_coeff: float = NotProvided, **kwargs: Any) -> DistillConfig:
        """Sets what a token is worth, beside all that `LLMConfig.training` sets.

        Args:
            reward_coeff: r, the weight of the environment's reward beside the teacher's judgement, whose weight is
                `kl_coeff`. 0: the environment only asks.
            **kwargs: See `LLMConfig.training`.
        """
        super().training(**kwargs)
        return self._set(reward_coeff=reward_coeff)

    def validate(self) -> None:
        super().validate()
        if self.reference_model is None or not self.kl_coeff:
            raise ValueError(
                f"{self.method} needs a teacher: set policy.reference_model to a model with the policy's tokenizer, "
                "and leave training.kl_coeff above 0"
            )
        if self.kl_in != "reward" or self.kl_estimator != "k1" or self.kl_target is not None:
            raise ValueError(
                f"{self.method} has the log-ratio to the teacher as its advantage: leave kl_in, kl_estimator and "
                "kl_target as they are"
            )
        if self.reward_coeff and self.group_size < 2:
            raise ValueError("reward_coeff compares the samples of a group: group_size must be at least 2")

    def get_default_learner_class(self) -> type[PolicyLearner]:
        return DistillLearner


class DistillLearner(PolicyLearner):
    """Adds the teacher's judgement to the advantages."""

    @property
    def needs_old_logps(self) -> bool:
        return True

    def assign_token_credit(self, batches: Sequence[PreparedBatch]) -> None:
        total = count = 0.0
        for batch in batches:
            tokens, ours, theirs = batch.tokens, batch.old_logps, batch.ref_logps
            assert ours is not None and theirs is not None
            log_ratio = (ours - theirs).masked_fill(~tokens.sampled_mask, 0.0)
            tokens.advantages = tokens.advantages - self.kl_coeff * log_ratio
            total += float(log_ratio.sum())
            count += float(tokens.sampled_mask.sum())
        kl = self.total(total) / max(1.0, self.total(count))
        self.metrics.log_value((DEFAULT_MODULE_ID, "kl_teacher"), kl, reduce="mean", window=1)


class Distill(LLMAlgorithm):
    """Samples, lets the learners ask the teacher, steps, syncs."""

    config: DistillConfig

    @classmethod
    def get_default_config(cls) -> DistillConfig:
        return DistillConfig()

    def usable(self, episodes: Sequence[TextEpisode]) -> list[TextEpisode]:
        """Where no rewards are compared, a sample that is alone in its group is as good as any."""
        if self.config.reward_coeff:
            return super().usable(episodes)
        return [episode for episode in episodes if episode.valid]

    def assign_credit(self, episodes: Sequence[TextEpisode]) -> np.ndarray:
        """What the environment adds; the teacher is the learners'."""
        if not self.config.reward_coeff:
            return np.zeros(len(episodes))
        rewards = np.array([episode.total_reward for episode in episodes])
        groups = np.array([episode.group for episode in episodes])
        advantages = group_relative_advantages(rewards, groups, baseline="group_mean", scale="none")
        return self.config.reward_coeff * advantages

    def has_signal(self, episodes: Sequence[TextEpisode], advantages: np.ndarray) -> bool:
        return True

    def has_gradient(self, row: TokenRow) -> bool:
        return True
