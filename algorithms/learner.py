"""The policy's loss, once for all methods: what differs between them is settings."""

from __future__ import annotations

import math

import torch

from algorithms.config import LLMConfig
from algorithms.losses import (
    KL_ESTIMATORS,
    SURROGATES,
    aggregate,
    clipped_tokens,
    dual_clip,
    importance_weights,
    sequence_logps,
)
from llmenv.policy.batch import LossBatch
from llmenv.policy.policy import PolicyOutput
from llmenv.policy.ratio import LOG_RATIO_LIMIT
from llmenv.rllib.learner import LLMLearner


class PolicyLearner(LLMLearner):
    """A surrogate of the ratio and the advantages, a KL to the reference, and a bonus for entropy."""

    def compute_loss_for_module(
        self, *, module_id: str, config: LLMConfig, batch: LossBatch, fwd_out: PolicyOutput
    ) -> torch.Tensor:
        tokens, logps, old_logps = batch.tokens, fwd_out.logps, batch.old_logps
        mask, advantages = tokens.response_mask, tokens.advantages
        if config.ratio_level == "sequence":
            logps = sequence_logps(logps, old_logps, mask)
        clip = config.clip_range
        per_token = SURROGATES[config.surrogate](logps, old_logps, advantages, *clip)
        if config.dual_clip is not None:
            per_token = dual_clip(per_token, advantages, config.dual_clip)
        low, high = clipped_tokens(logps, old_logps, advantages, *clip)
        clamped = logps - old_logps > LOG_RATIO_LIMIT
        self.log_share(
            clip_fraction_low=(low & mask).sum() / batch.num_learned_tokens,
            clip_fraction_high=(high & mask).sum() / batch.num_learned_tokens,
            log_ratio_clamped_fraction=(clamped & mask).sum() / batch.num_learned_tokens,
        )
        if (cap := config.importance_cap) is not None:
            drawn = tokens.sampling_logps
            ours = sequence_logps(old_logps, drawn, mask) if config.ratio_level == "sequence" else old_logps
            per_token = per_token * importance_weights(ours, drawn, cap)
            truncated = (ours - drawn > math.log(cap)) & mask
            self.log_share(tis_fraction=truncated.sum() / batch.num_learned_tokens)
        if batch.ref_logps is not None and config.kl_in == "loss":
            kl = KL_ESTIMATORS[config.kl_estimator_name](fwd_out.logps, batch.ref_logps)
            per_token = per_token + self.kl_coeff * kl
            self.log_share(kl_reference=kl.sum() / batch.num_learned_tokens)
        if config.entropy_coeff:
            per_token = per_token - config.entropy_coeff * fwd_out.entropy
        return aggregate(
            per_token,
            mask,
            config.loss_normaliser,
            batch.num_tokens,
            batch.num_sequences,
            config.max_new_tokens,
        )
