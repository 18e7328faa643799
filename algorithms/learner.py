"""The policy's loss, once for all methods: what differs between them is settings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from ray.rllib.core import DEFAULT_MODULE_ID

from algorithms.config import LLMConfig
from algorithms.losses import (
    KL_ESTIMATORS,
    SURROGATES,
    aggregate,
    clipped_tokens,
    dual_clip,
    importance_weights,
    negative_log_likelihood,
    sequence_logps,
)
from algorithms.reference import Reference, adapted
from llmenv.policy.batch import LossBatch, Minibatch, PreparedBatch
from llmenv.policy.policy import PolicyOutput
from llmenv.policy.ratio import LOG_RATIO_LIMIT
from llmenv.rllib import new_settings
from llmenv.rllib.learner import LLMLearner


class PolicyLearner(LLMLearner):
    """A surrogate of the ratio and the advantages, a KL to the reference, and a bonus for entropy.

    Attributes:
        reference: None where no KL counts.
        kl_coeff: The KL's weight, which moves where `kl_target` is set.
    """

    def build(self) -> None:
        super().build()
        self.kl_coeff = float(self.config.kl_coeff)
        self.reference: Reference | None = None
        if self.kl_coeff:
            self.reference = Reference(self.config, self.engine, self.policy, self._device)

    def take_settings(self, config: LLMConfig) -> None:
        """Goes on under another config (see `llmenv.rllib.new_settings`), with the weights that are there."""
        new_settings.take(self, config)
        self.kl_coeff = float(config.kl_coeff)
        if not self.kl_coeff:
            self.reference = None
        elif self.reference is None:
            self.reference = Reference(config, self.engine, self.policy, self._device)

    @property
    def compares(self) -> bool:
        """Whether this update looks at the reference.

        In a warm-up of the critic the policy takes no step, and is its own initial one still. What it loses to another
        reference is part of what the critic learns.
        """
        if self.reference is None:
            return False
        elsewhere = self.config.reference_model is not None and self.config.kl_in == "reward"
        return elsewhere or not self.warming_up

    def prepare(self, batches: Sequence[PreparedBatch]) -> None:
        if self.reference is not None and self.compares:
            self.reference.fill_in(batches)

    def after_gradient_based_update(self, *, timesteps: dict[str, Any]) -> None:
        super().after_gradient_based_update(timesteps=timesteps)
        if (share := self.step_means.get("kl_reference")) is not None:
            self.adapt_kl_coeff(self.total(share))

    def adapt_kl_coeff(self, kl: float) -> None:
        """Moves the KL's weight, if it is to move, after a batch whose KL was `kl` nats a token."""
        if self.config.kl_target is not None:
            self.kl_coeff = adapted(self.kl_coeff, kl, self.config)
            self.metrics.log_value((DEFAULT_MODULE_ID, "kl_coeff"), self.kl_coeff, reduce="mean", window=1)

    def counters(self) -> dict[str, Any]:
        return {**super().counters(), "kl_coeff": self.kl_coeff, "first_kl_coeff": self.config.kl_coeff}

    def set_counters(self, saved: dict[str, Any]) -> None:
        super().set_counters(saved)
        # Where this run starts from another coefficient, what the other came to says nothing.
        goes_on = self.config.kl_target is not None and saved["first_kl_coeff"] == self.config.kl_coeff
        self.kl_coeff = saved["kl_coeff"] if goes_on else float(self.config.kl_coeff)

    def compute_loss_for_module(
        self, *, module_id: str, config: LLMConfig, batch: LossBatch, fwd_out: PolicyOutput
    ) -> torch.Tensor:
        """The sum of two components, each over its own rows and divided by their number alone."""
        losses = []
        if batch.num_tokens:
            losses.append(self.policy_loss(config, batch, fwd_out))
        if batch.num_supervised_tokens:
            losses.append(self.likelihood_loss(batch, fwd_out))
        return torch.stack(losses).sum()

    def likelihood_loss(self, batch: LossBatch, output: PolicyOutput) -> torch.Tensor:
        """Of supervised rows: a micro-batch's share of the mean over their response tokens."""
        tokens, num_tokens = batch.tokens, batch.num_supervised_tokens
        per_token = negative_log_likelihood(output.logps, tokens.advantages)
        loss = aggregate(per_token, tokens.imitated_mask, "token", num_tokens, 0, 0)
        self.log_share(likelihood_loss=loss)
        return loss

    @torch.no_grad()
    def validation_loss(self, minibatch: Minibatch) -> float:
        """That of supervised rows, without a step. Collective.

        Args:
            minibatch: This learner's share of them.
        """
        losses = [torch.zeros((), device=self._device)]
        for share in minibatch.micro_batches:
            tokens = share.to(self._device)
            output = self.engine.forward(tokens, with_entropy=False)
            per_token = negative_log_likelihood(output.logps, tokens.advantages)
            losses.append(
                aggregate(per_token, tokens.imitated_mask, "token", minibatch.num_supervised_tokens, 0, 0)
            )
        return self.total(float(torch.stack(losses).sum()))

    def policy_loss(self, config: LLMConfig, batch: LossBatch, fwd_out: PolicyOutput) -> torch.Tensor:
        """Of rows that were sampled: a micro-batch's share."""
        tokens, logps, old_logps = batch.tokens, fwd_out.logps, batch.old_logps
        mask, advantages = tokens.sampled_mask, tokens.advantages
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
            self.log_share(kl_reference=(kl * mask).sum() / batch.num_learned_tokens)
        if config.entropy_coeff:
            assert fwd_out.entropy is not None
            per_token = per_token - config.entropy_coeff * fwd_out.entropy
        return aggregate(
            per_token,
            mask,
            config.loss_normaliser,
            batch.num_tokens,
            batch.num_sequences,
            config.max_new_tokens,
        )
