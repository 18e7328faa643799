"""Group Relative Policy Optimization, DeepSeekMath (2402.03300): PPO's surrogate with a group's mean as baseline."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from algorithms.advantages import group_relative_advantages
from algorithms.base import LLMAlgorithm
from algorithms.config import LLMConfig
from algorithms.losses import (
    KL_ESTIMATORS,
    aggregate,
    clipped_surrogate,
    clipped_tokens,
    importance_weights,
)
from llmenv.batch import LossBatch
from llmenv.episode import TextEpisode
from llmenv.learner import LLMLearner
from llmenv.policy import PolicyOutput


class GRPOConfig(LLMConfig):
    """Settings of GRPO; see `LLMConfig` for what they mean."""

    def __init__(self, algo_class: type | None = None):
        super().__init__(algo_class=algo_class or GRPO)

    def validate(self) -> None:
        super().validate()
        if self.group_size < 2:
            self._value_error("GRPO compares the samples of a group: group_size must be at least 2")

    def get_default_learner_class(self) -> type[LLMLearner]:
        return GRPOLearner


class GRPOLearner(LLMLearner):
    """The clipped surrogate, corrected for the sampler's own engine, plus `kl_coeff` times the KL to the reference."""

    def compute_loss_for_module(
        self, *, module_id: str, config: GRPOConfig, batch: LossBatch, fwd_out: PolicyOutput
    ) -> torch.Tensor:
        tokens, logps, old_logps = batch.tokens, fwd_out.logps, batch.old_logps
        per_token = clipped_surrogate(logps, old_logps, tokens.advantages, config.clip_param)
        low, high = clipped_tokens(logps, old_logps, tokens.advantages, config.clip_param)
        self.log_share(
            clip_fraction_low=low.sum() / batch.num_learned_tokens,
            clip_fraction_high=high.sum() / batch.num_learned_tokens,
            kl_behaviour=KL_ESTIMATORS["k3"](old_logps, logps).sum() / batch.num_learned_tokens,
        )
        if (cap := config.importance_cap) is not None:
            per_token = per_token * importance_weights(old_logps, tokens.sampling_logps, cap)
            truncated = (old_logps - tokens.sampling_logps > math.log(cap)) & tokens.response_mask
            self.log_share(tis_fraction=truncated.sum() / batch.num_learned_tokens)
        if batch.ref_logps is not None:
            kl = KL_ESTIMATORS[config.kl_estimator](logps, batch.ref_logps)
            per_token = per_token + config.kl_coeff * kl
            self.log_share(kl_reference=kl.sum() / batch.num_learned_tokens)
        return aggregate(
            per_token, tokens.response_mask, config.loss_normaliser, batch.num_tokens, batch.num_sequences
        )


class GRPO(LLMAlgorithm):
    """Samples groups, compares within them, steps, syncs."""

    @classmethod
    def get_default_config(cls) -> GRPOConfig:
        return GRPOConfig()

    def assign_credit(self, episodes: Sequence[TextEpisode]) -> np.ndarray:
        rewards = np.array([episode.total_reward for episode in episodes])
        return group_relative_advantages(rewards, np.array([episode.group for episode in episodes]))
