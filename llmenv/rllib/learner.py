"""The RLlib Learner: the update loop around an engine. Its loss comes from a subclass in `algorithms`."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.learner.learner import DEFAULT_OPTIMIZER
from ray.rllib.core.learner.torch.torch_learner import TorchLearner
from ray.rllib.utils.metrics import NUM_ENV_STEPS_SAMPLED_LIFETIME
from torch import nn

from llmenv.engines.deepspeed import DeepSpeedEngine, deepspeed_world
from llmenv.engines.engine import Engine, sum_over_learners
from llmenv.engines.torch import TorchEngine
from llmenv.policy.batch import LossBatch, Minibatch, PreparedBatch, TokenBatch
from llmenv.policy.policy import CausalPolicy, Critic, PolicyOutput
from llmenv.policy.ratio import bounded
from llmenv.rllib.outbox import Outbox

CRITIC = "critic"  # the name of its optimizer


@dataclass
class _Prepared:
    """A minibatch on the learner's device, with what stays fixed over the steps."""

    minibatch: Minibatch
    micro_batches: list[PreparedBatch]


class NonFiniteStepsError(RuntimeError):
    """Step after step had a loss or a gradient that is not finite."""


class LLMLearner(TorchLearner):
    """Updates a `CausalPolicy`, and its critic if it has one, with the rows that the driver dealt to it.

    RLlib's own minibatch iterators duplicate rows and shard unevenly, and its gradient path knows only DDP, so
    `update` is a loop of its own. Subclasses implement `compute_loss_for_module`, whose `batch` is a `LossBatch`
    and whose `fwd_out` is a `PolicyOutput`; it returns this micro-batch's *share* of the loss, already divided by
    the minibatch's global denominator, and may call `log_share` with metrics divided in the same way. With a critic
    they implement `assign_token_credit` and `compute_value_loss` too. What else a loss needs, they fill in by
    `prepare`; what they keep from update to update, they add to `counters`.

    Attributes:
        engine: The policy's; a value head on its trunk is part of it.
        critic_engine: That of a critic of its own.
        outbox: Where the policy's weights leave.
        warming_up: Whether this update steps on the critic alone.
        step_means: This learner's shares of the last update's metrics, as means over its steps.
    """

    def build(self) -> None:
        torch.set_float32_matmul_precision(self.config.matmul_precision)
        super().build()
        self.engine = self._make_engine(self.policy, self.get_optimizer(DEFAULT_MODULE_ID))
        self.critic_engine: Engine | None = None
        if self.critic is not None:
            optimizer = self.get_optimizer(DEFAULT_MODULE_ID, CRITIC)
            self.critic_engine = self._make_engine(self.critic, optimizer)
        self.outbox = Outbox(self.engine, self.policy, self.config, self._device)
        self.step_means: dict[str, float] = {}
        self._shares: dict[str, list[torch.Tensor]] = defaultdict(list)
        self._gaps: list[torch.Tensor] = []
        self._num_skipped = self._num_skipped_in_a_row = 0
        self.warming_up = False

    def _make_engine(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> Engine:
        if (settings := self.config.deepspeed_config) is not None:
            return DeepSpeedEngine(module, optimizer, settings)
        return TorchEngine(module, optimizer, self.config.grad_clip)

    @property
    def policy(self) -> CausalPolicy:
        return self.module[DEFAULT_MODULE_ID].policy

    @property
    def critic(self) -> Critic | None:
        return self.module[DEFAULT_MODULE_ID].critic

    @property
    def needs_old_logps(self) -> bool:
        """Whether this update takes the log-probabilities from before its first step even if it has no other."""
        return False

    @property
    def weights_version(self) -> int:
        """How many updates there were: RLlib's counter."""
        return self._weights_seq_no

    def learning_rates(self) -> dict[str, Any]:
        """The learning rate, or its schedule, of each optimizer."""
        rates = {DEFAULT_OPTIMIZER: self.config.learning_rate_schedule(self.config.lr)}
        if self.critic is not None:
            rates[CRITIC] = self.config.learning_rate_schedule(self.config.critic_learning_rate)
        return rates

    def configure_optimizers_for_module(self, module_id: str, config: Any = None) -> None:
        for name, rate in self.learning_rates().items():
            module = self.critic if name == CRITIC else self.policy
            assert module is not None
            parameters = [p for p in module.parameters() if p.requires_grad]
            optimizer = torch.optim.AdamW(
                parameters,
                betas=tuple(self.config.adam_betas),
                eps=self.config.adam_epsilon,
                weight_decay=self.config.weight_decay,
            )
            self.register_optimizer(
                module_id=module_id,
                optimizer_name=name,
                optimizer=optimizer,
                params=parameters,
                lr_or_lr_schedule=rate,
            )

    def _make_module(self) -> Any:
        if (settings := self.config.deepspeed_config) is None:
            return super()._make_module()
        with deepspeed_world(settings, self._device):
            return super()._make_module()

    def _make_modules_ddp_if_necessary(self) -> None:
        """The engine sums gradients: no DDP wrapper."""

    def update(
        self,
        minibatches: Sequence[Minibatch],
        *,
        num_epochs: int = 1,
        seed: int = 0,
        timesteps: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Takes `num_epochs * len(minibatches)` optimizer steps, or fewer where `kl_stop` ends them.

        Args:
            minibatches: This learner's shares, one a step. Every learner has the same number.
            num_epochs: Passes over the batch; each in an order of its own.
            seed: Draws those orders, the same on every learner.
            timesteps: Holds NUM_ENV_STEPS_SAMPLED_LIFETIME, this batch included: the learning rate's clock.

        Returns:
            Metrics (docs/metrics.md lists them). A minibatch in which no row has a gradient is no step and has none.

        Raises:
            NonFiniteStepsError: After `max_skipped_steps` steps in a row that had to be skipped.
        """
        timesteps = timesteps or {NUM_ENV_STEPS_SAMPLED_LIFETIME: 0}
        self.before_gradient_based_update(timesteps=timesteps)
        self._set_learning_rate(timesteps[NUM_ENV_STEPS_SAMPLED_LIFETIME])
        # Every learner sees the same counts, so that all of them leave out the same minibatches.
        minibatches = [minibatch for minibatch in minibatches if minibatch.num_learned_tokens]
        self.warming_up = self._weights_seq_no < self.config.value_warmup_iterations
        self.policy.trunk_learns_values = not self.warming_up
        several = num_epochs * len(minibatches) > 1
        # What is imitated is compared with nothing from before.
        prepared = [self._prepare(one, fixed_old_logps=several and one.num_tokens > 0) for one in minibatches]
        batches = [batch for one in prepared for batch in one.micro_batches]
        self.prepare(batches)
        self.assign_token_credit(batches)
        self._shares.clear()
        self._gaps.clear()
        self._num_skipped = 0
        num_steps = self._take_steps(prepared, num_epochs, np.random.default_rng(seed))
        self.step_means = {key: _sum(shares) / num_steps for key, shares in self._shares.items()}
        for key, mean in self.step_means.items():
            self.metrics.log_value((DEFAULT_MODULE_ID, key), mean, reduce="sum")
        if self._gaps:
            gap = float(torch.stack(self._gaps).max())
            self.metrics.log_value((DEFAULT_MODULE_ID, "sampler_logp_gap_max"), gap, reduce="max")
        if not prepared:
            self.metrics.log_value((DEFAULT_MODULE_ID, "gradient_norm"), 0.0, reduce="mean", window=None)
        self.metrics.log_value((DEFAULT_MODULE_ID, "num_steps"), num_steps, reduce="max")
        # Learners agree on which steps they skip: "max" takes the count of one.
        self.metrics.log_value((DEFAULT_MODULE_ID, "num_steps_skipped"), self._num_skipped, reduce="max")
        self._weights_seq_no += 1
        self.after_gradient_based_update(timesteps=timesteps)
        return self.metrics.reduce()

    def log_share(self, **shares: torch.Tensor) -> None:
        """Adds a micro-batch's share of metrics that sum, over micro-batches and learners, to a batch mean.

        They stay where they are until the update is done: a GPU would be waited for.
        """
        for key, value in shares.items():
            self._shares[key].append(value.detach())

    def prepare(self, batches: Sequence[PreparedBatch]) -> None:
        """Fills in what the loss compares with beside `old_logps`, such as `ref_logps`, of all of this learner's rows.

        Collective. Called once an update, before its first step.
        """

    def assign_token_credit(self, batches: Sequence[PreparedBatch]) -> None:
        """Fills in `tokens.advantages`, and `value_targets` for a critic, of all of this learner's rows.

        Collective. Called once an update, after `prepare`. Methods that compare whole samples have had their
        advantages from the driver.
        """

    def compute_value_loss(
        self, values: torch.Tensor, batch: PreparedBatch, minibatch: Minibatch
    ) -> torch.Tensor:
        """A micro-batch's share of the critic's loss, weighted as it is to be added to the policy's."""
        raise NotImplementedError(f"{type(self).__name__} has a critic, and no loss for it")

    def _prepare(self, minibatch: Minibatch, *, fixed_old_logps: bool) -> _Prepared:
        """Moves a minibatch to the device and computes what stays fixed over its epochs."""
        tokens = [micro_batch.to(self._device) for micro_batch in minibatch.micro_batches]
        with torch.no_grad():
            return _Prepared(minibatch, [self._prepare_one(t, fixed_old_logps) for t in tokens])

    def _prepare_one(self, tokens: TokenBatch, fixed_old_logps: bool) -> PreparedBatch:
        # With a single step the ratio is 1 by definition: `_take_step` detaches its own forward pass.
        policy_steps = self.critic_engine is None or not self.warming_up
        asked = policy_steps and (fixed_old_logps or self.policy.value_head is not None)
        output = self.engine.forward(tokens, with_entropy=False) if asked or self.needs_old_logps else None
        old_values = None if output is None else output.values
        if self.critic_engine is not None:
            old_values = self.critic_engine.forward(tokens)
        return PreparedBatch(
            tokens=tokens,
            old_logps=None if output is None else output.logps,
            ref_logps=None,
            old_values=old_values,
        )

    def _take_steps(self, prepared: Sequence[_Prepared], num_epochs: int, rng: np.random.Generator) -> int:
        """Epoch by epoch, until all are through or the policy has gone far enough; returns the number of steps."""
        num_steps, limit = 0, self.config.kl_stop
        for _ in range(num_epochs):
            for i in rng.permutation(len(prepared)):
                before = len(self._shares["kl_behaviour"])
                self._take_step(prepared[i])
                num_steps += 1
                if limit is not None and self.total(_sum(self._shares["kl_behaviour"][before:])) > limit:
                    return num_steps
        return num_steps

    def total(self, share: float) -> float:
        """A metric's share, added up over all learners. Collective."""
        return float(sum_over_learners(torch.tensor(share, device=self._device)))

    def _take_step(self, prepared: _Prepared) -> None:
        minibatch = prepared.minibatch
        for i, batch in enumerate(prepared.micro_batches, start=1):
            last = i == len(prepared.micro_batches)
            if self.critic_engine is not None:
                values = self.critic_engine.forward(batch.tokens)
                _backward(self.critic_engine, self.compute_value_loss(values, batch, minibatch), last=last)
                if self.warming_up:
                    continue
            output = self.engine.forward(batch.tokens, teacher=batch.teacher)
            loss = self._loss(output, batch, minibatch)
            _backward(self.engine, loss, last=last)
            self.log_share(total_loss=loss, entropy=output.entropy.sum() / minibatch.num_learned_tokens)
        norms = {}
        if self.critic_engine is not None:
            norms["critic_gradient_norm"] = self.critic_engine.step()
        if self.critic_engine is None or not self.warming_up:
            norms["gradient_norm"] = self.engine.step()
        for key, norm in norms.items():
            self.metrics.log_value((DEFAULT_MODULE_ID, key), norm, reduce="mean", window=None)
        self._count_skipped(not all(map(math.isfinite, norms.values())))

    def _loss(self, output: PolicyOutput, fixed: PreparedBatch, minibatch: Minibatch) -> torch.Tensor:
        """The share of the loss whose gradient the policy's engine takes."""
        batch = LossBatch(
            tokens=fixed.tokens,
            old_logps=output.logps.detach() if fixed.old_logps is None else fixed.old_logps,
            ref_logps=fixed.ref_logps,
            num_tokens=minibatch.num_tokens,
            num_sequences=minibatch.num_sequences,
            num_learned_tokens=minibatch.num_learned_tokens,
            num_supervised_tokens=minibatch.num_supervised_tokens,
        )
        self._log_mismatch(batch)
        self._log_behaviour_kl(output.logps.detach(), batch)
        losses = []
        if not self.warming_up:
            losses.append(
                self.compute_loss_for_module(
                    module_id=DEFAULT_MODULE_ID, config=self.config, batch=batch, fwd_out=output
                )
            )
        if output.values is not None:
            losses.append(self.compute_value_loss(output.values, fixed, minibatch))
        return torch.stack(losses).sum()

    def _log_behaviour_kl(self, logps: torch.Tensor, batch: LossBatch) -> None:
        """How far the steps on this batch had taken the policy: the k3 estimate of KL(old policy, policy)."""
        log_ratio = bounded(logps - batch.old_logps).masked_fill(~batch.tokens.response_mask, 0.0)
        self.log_share(kl_behaviour=(log_ratio.expm1() - log_ratio).sum() / batch.num_learned_tokens)

    def _count_skipped(self, skipped: bool) -> None:
        self._num_skipped += skipped
        self._num_skipped_in_a_row = self._num_skipped_in_a_row + 1 if skipped else 0
        if self._num_skipped_in_a_row >= self.config.max_skipped_steps:
            raise NonFiniteStepsError(
                f"{self._num_skipped_in_a_row} optimizer steps in a row had a loss or a gradient that is not finite, "
                "of the policy or of its critic; its weights are those from before. Look for rewards that are not "
                "finite, lower the learning rate, or take a wider dtype. A resumed run would meet the same steps "
                "again: start a new one, from the last checkpoint's weights if need be"
            )

    def _log_mismatch(self, batch: LossBatch) -> None:
        """How far the sampler's log-probabilities are from the learner's for the same weights."""
        tokens = batch.tokens
        gap = (batch.old_logps - tokens.sampling_logps).masked_fill(~tokens.sampled_mask, 0.0)
        log_ratio = bounded(gap)
        kl = log_ratio.expm1() - log_ratio  # k3: the sampler drew the tokens, so q / p is learner / sampler
        self.log_share(
            sampler_logp_gap_mean=gap.abs().sum() / batch.num_learned_tokens,
            sampler_kl=kl.sum() / batch.num_learned_tokens,
        )
        self._gaps.append(gap.abs().max())

    def _set_learning_rate(self, timestep: int) -> None:
        """RLlib steps its schedules after an update; here a batch is learned at the rate of its own time."""
        for optimizer, schedule in self._optimizer_lr_schedules.items():
            self._set_optimizer_lr(optimizer, lr=schedule.update(timestep=timestep))

    def counters(self) -> dict[str, Any]:
        """What a checkpoint holds of a learner beside its engines: plain values by name."""
        return {"weights_seq_no": self._weights_seq_no, "num_skipped_in_a_row": self._num_skipped_in_a_row}

    def set_counters(self, saved: dict[str, Any]) -> None:
        """Takes over what `counters` gave."""
        self._weights_seq_no = saved["weights_seq_no"]
        self._num_skipped_in_a_row = saved["num_skipped_in_a_row"]


def _backward(engine: Engine, loss: torch.Tensor, *, last: bool) -> None:
    """A loss that is not finite makes the gradient so, on all learners: each of them skips the step."""
    engine.backward(loss * torch.where(loss.isfinite(), 1.0, math.nan), last=last)


def _sum(shares: Sequence[torch.Tensor]) -> float:
    """The sum of scalars, in float64, with one wait for the device that they are on."""
    return sum(torch.stack(list(shares)).tolist()) if shares else 0.0
