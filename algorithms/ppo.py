"""Credit by token: Proximal Policy Optimization (1707.06347) with a critic, and without one REINFORCE++."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from ray.rllib.algorithms.algorithm_config import NotProvided
from ray.rllib.core import DEFAULT_MODULE_ID

from algorithms.advantages import generalized_advantages
from algorithms.base import LLMAlgorithm
from algorithms.config import LLMConfig
from algorithms.learner import PolicyLearner
from algorithms.losses import KL_ESTIMATORS, aggregate, clipped_value_loss
from llmenv.engines.engine import sum_over_learners
from llmenv.episode import TextEpisode
from llmenv.policy.batch import Minibatch, PreparedBatch, TokenRow


class PPOConfig(LLMConfig):
    """Settings of PPO, with TinyZero's defaults: a critic of its own, gamma = lambda = 1, the KL in the reward."""

    def __init__(self, algo_class: type | None = None):
        super().__init__(algo_class=algo_class or PPO)
        self.gamma = 1.0
        self.lambda_ = 1.0
        self.kl_in = "reward"
        self.critic: str | None = "separate"
        self.critic_lr: float | None = None
        self.value_warmup_iterations = 0
        self.vf_loss_coeff = 0.5
        self.value_clip: float | None = 0.5
        self.whiten_advantages = True
        self.bootstrap_length_cap = False

    def training(
        self,
        *,
        lambda_: float = NotProvided,
        critic: str | None = NotProvided,
        critic_lr: float | None = NotProvided,
        vf_loss_coeff: float = NotProvided,
        value_clip: float | None = NotProvided,
        value_warmup_iterations: int = NotProvided,
        whiten_advantages: bool = NotProvided,
        bootstrap_length_cap: bool = NotProvided,
        **kwargs: Any,
    ) -> PPOConfig:
        """Sets the critic and the credit, beside all that `LLMConfig.training` sets; `gamma` is RLlib's own.

        Args:
            lambda_: Of the generalized advantages; it and `gamma` count a token as a step.
            critic: "separate": a model of its own, from the policy's initial weights, all of which are trained, with
                LoRA too. "shared": a head on the policy's trunk. None: none, and the whole return is the advantage.
            critic_lr: The learning rate of a separate critic. None: ten times `lr`, as in TinyZero.
            vf_loss_coeff: Weight of a shared critic's loss beside the policy's.
            value_clip: A value's step from the old one that still counts (see `algorithms.losses.clipped_value_loss`);
                None: any.
            value_warmup_iterations: So many iterations update the critic alone.
            whiten_advantages: To mean 0 and standard deviation 1 over the response tokens of the iteration.
            bootstrap_length_cap: Take a response that was cut at `max_new_tokens` for an unfinished episode, worth what
                the critic expects, and not for a finished one. (Episodes that the *environment* truncates always are.)
            **kwargs: See `LLMConfig.training`.
        """
        super().training(**kwargs)
        return self._set(
            lambda_=lambda_,
            critic=critic,
            critic_lr=critic_lr,
            vf_loss_coeff=vf_loss_coeff,
            value_clip=value_clip,
            value_warmup_iterations=value_warmup_iterations,
            whiten_advantages=whiten_advantages,
            bootstrap_length_cap=bootstrap_length_cap,
        )

    def validate(self) -> None:
        super().validate()
        if self.critic != "separate" and self.critic_lr is not None:
            raise ValueError("critic_lr is of a separate critic: set critic='separate', or leave it out")
        if self.critic is None and (self.value_warmup_iterations or self.bootstrap_length_cap):
            raise ValueError("value_warmup_iterations and bootstrap_length_cap need a critic")
        if self.critic == "shared" and self.value_warmup_iterations and self.weight_decay:
            raise ValueError(
                "with critic='shared' weight_decay would move the policy during value_warmup_iterations: "
                "leave out one of them, or set critic='separate'"
            )

    @property
    def critic_learning_rate(self) -> Any:
        """`critic_lr`, decided."""
        if self.critic_lr is not None:
            return self.critic_lr
        if isinstance(self.lr, int | float):
            return 10 * self.lr
        return [[timestep, 10 * lr] for timestep, lr in self.lr]

    def get_default_learner_class(self) -> type[PolicyLearner]:
        return PPOLearner


class PPOLearner(PolicyLearner):
    """Adds advantages by token, and the critic's loss."""

    @property
    def needs_old_logps(self) -> bool:
        return self.compares and self.config.kl_in == "reward"

    def assign_token_credit(self, batches: Sequence[PreparedBatch]) -> None:
        config = self.config
        kls = [self._reward_kl(batch) for batch in batches]
        for batch, kl in zip(batches, kls, strict=True):
            tokens, values = batch.tokens, batch.old_values
            rewards = tokens.rewards - self.kl_coeff * kl
            if values is None:
                values = torch.zeros_like(rewards)
            after = values.gather(1, tokens.lengths[:, None] - 1)[:, 0] * tokens.bootstrapped
            tokens.advantages = generalized_advantages(
                rewards, values, tokens.response_mask, after, config.gamma, config.lambda_
            )
            batch.value_targets = tokens.advantages + values.masked_fill(~tokens.response_mask, 0.0)
        if config.critic is not None:
            self._log_explained_variance(batches)
        if self.needs_old_logps and batches:
            kl_mean, _ = self._moments(batches, kls)
            self.metrics.log_value((DEFAULT_MODULE_ID, "kl_reference"), kl_mean, reduce="mean", window=1)
            if not self.warming_up:  # the policy stays where it is: that says nothing of the coefficient
                self.adapt_kl_coeff(kl_mean)
        if config.whiten_advantages:
            mean, variance = self._moments(batches, [batch.tokens.advantages for batch in batches])
            for tokens in (batch.tokens for batch in batches):
                white = (tokens.advantages - mean) * (variance + 1e-8) ** -0.5
                tokens.advantages = white.masked_fill(~tokens.response_mask, 0.0)

    def _reward_kl(self, batch: PreparedBatch) -> torch.Tensor:
        """What each token's reward loses, before the coefficient: [B, T]."""
        if self.config.kl_in != "reward" or batch.ref_logps is None or batch.old_logps is None:
            return torch.zeros_like(batch.tokens.rewards)
        return KL_ESTIMATORS[self.config.kl_estimator_name](batch.old_logps, batch.ref_logps)

    def _log_explained_variance(self, batches: Sequence[PreparedBatch]) -> None:
        """1 - Var(R - V) / Var(R): 1 for a critic that knows, 0 for one that knows no more than the mean."""
        targets, errors = [], []
        for batch in batches:
            assert batch.value_targets is not None and batch.old_values is not None
            targets.append(batch.value_targets)
            errors.append(batch.value_targets - batch.old_values)
        _, variance = self._moments(batches, targets)
        _, unexplained = self._moments(batches, errors)
        if variance > 0:
            self.metrics.log_value(
                (DEFAULT_MODULE_ID, "explained_variance"), 1 - unexplained / variance, reduce="mean", window=1
            )

    def _moments(
        self, batches: Sequence[PreparedBatch], columns: Sequence[torch.Tensor]
    ) -> tuple[float, float]:
        """Mean and variance over the response tokens, of all learners, of a column [B, T] for each batch."""
        found = [
            column.flatten()[batch.tokens.places.responses].double()
            for batch, column in zip(batches, columns, strict=True)
        ]
        mine = torch.cat(found) if found else torch.zeros(0, dtype=torch.float64, device=self._device)
        count, total = sum_over_learners(mine.new_tensor([len(mine), mine.sum()])).tolist()
        if not count:
            return 0.0, 0.0
        mean = total / count
        return mean, float(sum_over_learners(((mine - mean) ** 2).sum())) / count

    def compute_value_loss(
        self, values: torch.Tensor, batch: PreparedBatch, minibatch: Minibatch
    ) -> torch.Tensor:
        config, mask = self.config, batch.tokens.response_mask
        assert batch.old_values is not None and batch.value_targets is not None
        per_token = clipped_value_loss(values, batch.old_values, batch.value_targets, config.value_clip)
        denominators = minibatch.num_tokens, minibatch.num_sequences, config.max_new_tokens
        loss = aggregate(per_token, mask, "token", *denominators)
        self.log_share(value_loss=loss, value=(values * mask).sum() / minibatch.num_learned_tokens)
        return loss if config.critic == "separate" else config.vf_loss_coeff * loss


class PPO(LLMAlgorithm):
    """Samples, lets the learners assign credit to each token, steps, syncs."""

    config: PPOConfig

    @classmethod
    def get_default_config(cls) -> PPOConfig:
        return PPOConfig()

    def assign_credit(self, episodes: Sequence[TextEpisode]) -> np.ndarray:
        """Nothing yet: the learners have the values."""
        return np.zeros(len(episodes))

    def has_signal(self, episodes: Sequence[TextEpisode], advantages: np.ndarray) -> bool:
        return len({episode.total_reward for episode in episodes}) > 1

    def row(self, episode: TextEpisode, advantage: float) -> TokenRow:
        config = self.config
        # An episode that ends in the very step in which its time is up has ended.
        cut = episode.truncated and not episode.terminated
        cut = cut or (config.bootstrap_length_cap and episode.hit_length_cap)
        return TokenRow.from_episode(episode, bootstrapped=cut and config.critic is not None)

    def has_gradient(self, row: TokenRow) -> bool:
        return True
