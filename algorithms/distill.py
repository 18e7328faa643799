"""On-policy distillation: a teacher judges each token that the student samples.

A_t = c (log p_teacher(y_t) - log p_student(y_t)) + r (R - mean of its group's R), with y drawn from the student and
both log-probabilities from before the first step: the surrogate of this advantage has, in expectation, the gradient of
c KL(student, teacher) at each prefix that the student comes to. The reverse KL on the student's own samples is GKD's
(Agarwal et al., 2306.13649, section 3.2, lambda = 1), and the advantage that of Thinking Machines, "On-Policy
Distillation" (2025). Deviations: the loss is clipped as PPO's is, and the rewards (r = 0 unless set) are centred in
their groups, undivided. As there, a token answers for itself alone: what it leads to has no discount but 0. Of the
distribution only the token that was sampled is compared, so that a teacher's pass costs no more than a reference's.

With divergence="vocabulary" the whole distribution is, and the surrogate's advantage is r (R - mean) alone:

L = surrogate + c mean_t KL_t, KL_t = sum_v p(v) (log p(v) - log q(v)), p the student's and q the teacher's distribution
before y_t, at the sampling temperature: GKD's loss (section 3.2) with the reverse KL. That has no sampling noise but
the prefixes', at the price of a second pass of logits, in chunks (`llmenv.policy.divergence`). Its gradient is, as
GKD's, through the distributions alone, and not through what was sampled, for which MiniLLM (Gu et al., 2306.08543,
section 2.2) has a policy gradient beside it. Deviations: v runs over the tokens that the tokenizer has; later steps on
a batch have no ratio in this term.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from ray.rllib.algorithms.algorithm_config import NotProvided
from ray.rllib.core import DEFAULT_MODULE_ID

from algorithms.advantages import group_relative_advantages
from algorithms.base import LLMAlgorithm
from algorithms.config import LLMConfig
from algorithms.learner import PolicyLearner
from algorithms.losses import aggregate
from llmenv.episode import TextEpisode
from llmenv.models.names import load_tokenizer
from llmenv.policy.batch import LossBatch, PreparedBatch, TokenRow
from llmenv.policy.policy import PolicyOutput

DIVERGENCES = ("sampled", "vocabulary")


class DistillConfig(LLMConfig):
    """Settings of on-policy distillation: the teacher is `policy(reference_model=...)`, c is `kl_coeff`."""

    def __init__(self, algo_class: type | None = None):
        super().__init__(algo_class=algo_class or Distill)
        self.kl_coeff = 1.0
        self.kl_in = "reward"  # it is in the advantages, and not in the loss besides
        self.kl_estimator = "k1"
        self.reward_coeff = 0.0
        self.divergence = "sampled"

    def training(
        self, *, reward_coeff: float = NotProvided, divergence: str = NotProvided, **kwargs: Any
    ) -> DistillConfig:
        """Sets what a token is worth, beside all that `LLMConfig.training` sets.

        Args:
            reward_coeff: r, the weight of the environment's reward beside the teacher's judgement, whose weight is
                `kl_coeff`. 0: the environment only asks.
            divergence: What of the distributions is compared at each sampled position: the token that was "sampled", or
                the whole "vocabulary", for which the teacher's states of a batch are kept.
            **kwargs: See `LLMConfig.training`.
        """
        super().training(**kwargs)
        return self._set(reward_coeff=reward_coeff, divergence=divergence)

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
        if self.divergence not in DIVERGENCES:
            raise ValueError(f"divergence must be one of {', '.join(DIVERGENCES)}, got {self.divergence!r}")
        if self.divergence == "vocabulary" and self.zero_stage == 3:
            raise ValueError(
                'divergence="vocabulary" needs a whole teacher on each learner, and zero_stage=3 shares it out: take '
                'zero_stage 2, or divergence="sampled"'
            )
        if self.reward_coeff and self.group_size < 2:
            raise ValueError("reward_coeff compares the samples of a group: group_size must be at least 2")

    def get_default_learner_class(self) -> type[PolicyLearner]:
        return DistillLearner


class DistillLearner(PolicyLearner):
    """Adds the teacher's judgement to the advantages, or to the loss."""

    @property
    def needs_old_logps(self) -> bool:
        return self.config.divergence == "sampled"

    @cached_property
    def num_tokens(self) -> int:
        """How many the tokenizer and the policy both have: either may have more, which nobody says."""
        of_tokenizer = 1 + max(load_tokenizer(self.config.base_model).get_vocab().values())
        return min(of_tokenizer, self.policy.model.config.get_text_config().vocab_size)

    def prepare(self, batches: Sequence[PreparedBatch]) -> None:
        if self.config.divergence == "sampled":
            super().prepare(batches)
        else:
            assert self.reference is not None
            self.reference.teach(batches, self.num_tokens)

    def policy_loss(self, config: LLMConfig, batch: LossBatch, fwd_out: PolicyOutput) -> torch.Tensor:
        loss = super().policy_loss(config, batch, fwd_out)
        if (kl := fwd_out.divergence) is None:
            return loss
        mask = batch.tokens.sampled_mask
        self.log_share(kl_teacher=(kl * mask).sum() / batch.num_learned_tokens)
        counts = (batch.num_tokens, batch.num_sequences, config.max_new_tokens)
        return loss + self.kl_coeff * aggregate(kl, mask, config.loss_normaliser, *counts)

    def assign_token_credit(self, batches: Sequence[PreparedBatch]) -> None:
        if self.config.divergence != "sampled":
            return
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

    @property
    def compared(self) -> int:
        """Where no rewards are compared, a sample that is alone in its group is as good as any."""
        return super().compared if self.config.reward_coeff else 1

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
