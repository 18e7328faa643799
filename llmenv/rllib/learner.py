"""The RLlib Learner: the update loop around an engine. Its loss comes from a subclass in `algorithms`."""

from __future__ import annotations

import contextlib
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.learner.learner import DEFAULT_OPTIMIZER
from ray.rllib.core.learner.torch.torch_learner import TorchLearner
from ray.rllib.utils.metrics import NUM_ENV_STEPS_SAMPLED_LIFETIME
from torch import nn

from llmenv.engines.deepspeed import DeepSpeedEngine, deepspeed_world
from llmenv.engines.engine import Engine, sum_over_learners
from llmenv.engines.torch import TorchEngine
from llmenv.models import lora
from llmenv.models.names import POLICY_IN_CHECKPOINT, load_causal_lm, load_tokenizer
from llmenv.policy.batch import LossBatch, Minibatch, PreparedBatch, TokenBatch
from llmenv.policy.policy import CausalPolicy, Critic, PolicyOutput
from llmenv.policy.ratio import bounded
from llmenv.weights import format as weights
from llmenv.weights.transfer import WeightSender, init_info_of

CRITIC = "critic"  # the name of its optimizer, and of its folder in a checkpoint


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
    they implement `assign_token_credit` and `compute_value_loss` too.

    Attributes:
        engine: The policy's; a value head on its trunk is part of it.
        critic_engine: That of a critic of its own.
        kl_coeff: The KL's weight, which moves where `kl_target` is set.
    """

    def build(self) -> None:
        super().build()
        self.engine = self._make_engine(self.policy, self.get_optimizer(DEFAULT_MODULE_ID))
        self.critic_engine: Engine | None = None
        if self.critic is not None:
            optimizer = self.get_optimizer(DEFAULT_MODULE_ID, CRITIC)
            self.critic_engine = self._make_engine(self.critic, optimizer)
        self.kl_coeff = float(self.config.kl_coeff)
        self.reference: CausalPolicy | None = None
        if self.config.kl_coeff > 0:
            # With its adapters off, the policy itself is the initial one.
            self.reference = self.policy if self.config.lora else self._frozen_copy()
        self._shares: dict[str, float] = defaultdict(float)
        self._sender: WeightSender | None = None
        self._num_skipped = self._num_skipped_in_a_row = 0
        self._warming_up = False

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

    def _frozen_copy(self) -> CausalPolicy:
        model = load_causal_lm(self.config.base_model, dtype=self.config.dtype)
        return CausalPolicy(
            model.requires_grad_(False), self.config.temperature, shared_prompts=self.config.shared_prompts
        )

    def configure_optimizers_for_module(self, module_id: str, config: Any = None) -> None:
        schedules: dict[str, tuple[nn.Module, Any]] = {
            DEFAULT_OPTIMIZER: (self.policy, self.config.learning_rate_schedule(self.config.lr))
        }
        if self.critic is not None:
            schedules[CRITIC] = (
                self.critic,
                self.config.learning_rate_schedule(self.config.critic_learning_rate),
            )
        for name, (module, schedule) in schedules.items():
            parameters = [p for p in module.parameters() if p.requires_grad]
            optimizer = torch.optim.AdamW(
                parameters, betas=tuple(self.config.adam_betas), weight_decay=self.config.weight_decay
            )
            self.register_optimizer(
                module_id=module_id,
                optimizer_name=name,
                optimizer=optimizer,
                params=parameters,
                lr_or_lr_schedule=schedule,
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
            Metrics (CONTRIBUTING lists them). A minibatch in which no row has a gradient is no step and has none.

        Raises:
            NonFiniteStepsError: After `max_skipped_steps` steps in a row that had to be skipped.
        """
        timesteps = timesteps or {NUM_ENV_STEPS_SAMPLED_LIFETIME: 0}
        self.before_gradient_based_update(timesteps=timesteps)
        self._set_learning_rate(timesteps[NUM_ENV_STEPS_SAMPLED_LIFETIME])
        # Every learner sees the same counts, so that all of them leave out the same minibatches.
        minibatches = [minibatch for minibatch in minibatches if minibatch.num_learned_tokens]
        self._warming_up = self._weights_seq_no < self.config.value_warmup_iterations
        self.policy.trunk_learns_values = not self._warming_up
        several = num_epochs * len(minibatches) > 1
        with self._reference_at_hand():
            prepared = [self._prepare(minibatch, fixed_old_logps=several) for minibatch in minibatches]
        self.assign_token_credit([batch for one in prepared for batch in one.micro_batches])
        self._shares.clear()
        self._num_skipped = 0
        num_steps = self._take_steps(prepared, num_epochs, np.random.default_rng(seed))
        for key, total in self._shares.items():
            self.metrics.log_value((DEFAULT_MODULE_ID, key), total / num_steps, reduce="sum")
        if not prepared:
            self.metrics.log_value((DEFAULT_MODULE_ID, "gradient_norm"), 0.0, reduce="mean", window=None)
        elif self.reference is not None and self.config.kl_in == "loss" and not self._warming_up:
            self.adapt_kl_coeff(self._sum(self._shares["kl_reference"] / num_steps))
        self.metrics.log_value((DEFAULT_MODULE_ID, "num_steps"), num_steps, reduce="max")
        # Learners agree on which steps they skip: "max" takes the count of one.
        self.metrics.log_value((DEFAULT_MODULE_ID, "num_steps_skipped"), self._num_skipped, reduce="max")
        self._weights_seq_no += 1
        if self.config.sampler_sleeps:  # it is about to wake on the same GPU
            torch.cuda.empty_cache()
        self.after_gradient_based_update(timesteps=timesteps)
        return self.metrics.reduce()

    def log_share(self, **shares: torch.Tensor) -> None:
        """Adds a micro-batch's share of metrics that sum, over micro-batches and learners, to a batch mean."""
        for key, value in shares.items():
            self._shares[key] += float(value.detach())

    def assign_token_credit(self, batches: Sequence[PreparedBatch]) -> None:
        """Fills in `tokens.advantages`, and `value_targets` for a critic, of all of this learner's rows.

        Collective. Called once an update, before its first step. Methods that compare whole samples have had their
        advantages from the driver.
        """

    def adapt_kl_coeff(self, kl: float) -> None:
        """Moves the KL's weight so that the KL moves to its target: Ziegler et al. (1909.08593), section 2.2.

        Args:
            kl: As it was measured on this batch, in nats a token.
        """
        if self.config.kl_target is not None:
            error = min(max(kl / self.config.kl_target - 1, -0.2), 0.2)
            self.kl_coeff *= 1 + error * self.config.samples_per_iteration / self.config.kl_horizon
            self.metrics.log_value((DEFAULT_MODULE_ID, "kl_coeff"), self.kl_coeff, reduce="mean", window=1)

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
        if self._warming_up and self.critic_engine is not None:
            return PreparedBatch(tokens, None, None, self.critic_engine.forward(tokens))
        rewarded = self.reference is not None and self.config.kl_in == "reward"
        asked = fixed_old_logps or rewarded or self.policy.value_head is not None
        output = self.engine.forward(tokens) if asked else None
        old_values = None if output is None else output.values
        if self.critic_engine is not None:
            old_values = self.critic_engine.forward(tokens)
        return PreparedBatch(
            tokens=tokens,
            old_logps=None if output is None else output.logps,
            ref_logps=self._reference_logps(tokens),
            old_values=old_values,
        )

    def _reference_logps(self, tokens: TokenBatch) -> torch.Tensor | None:
        if self.reference is None:
            return None
        if self.reference is not self.policy:
            return self.reference(tokens).logps
        with lora.switched_off(self.policy.model):
            return self.engine.forward(tokens).logps

    @contextlib.contextmanager
    def _reference_at_hand(self) -> Iterator[None]:
        """A frozen copy is on the device for its forward passes alone: training has that memory."""
        copy = None if self.reference is self.policy else self.reference
        if copy is not None:
            copy.to(self._device)
        yield
        if copy is not None:
            copy.to("cpu")

    def _take_steps(self, prepared: Sequence[_Prepared], num_epochs: int, rng: np.random.Generator) -> int:
        """Epoch by epoch, until all are through or the policy has gone far enough; returns the number of steps."""
        num_steps, limit = 0, self.config.kl_stop
        for _ in range(num_epochs):
            for i in rng.permutation(len(prepared)):
                before = self._shares["kl_behaviour"]
                self._take_step(prepared[i])
                num_steps += 1
                if limit is not None and self._sum(self._shares["kl_behaviour"] - before) > limit:
                    return num_steps
        return num_steps

    def _sum(self, share: float) -> float:
        """A metric's share, over all learners. Collective."""
        return float(sum_over_learners(torch.tensor(share, device=self._device)))

    def _take_step(self, prepared: _Prepared) -> None:
        minibatch = prepared.minibatch
        for i, batch in enumerate(prepared.micro_batches, start=1):
            last = i == len(prepared.micro_batches)
            if self.critic_engine is not None:
                values = self.critic_engine.forward(batch.tokens)
                _backward(self.critic_engine, self.compute_value_loss(values, batch, minibatch), last=last)
                if self._warming_up:
                    continue
            output = self.engine.forward(batch.tokens)
            loss = self._loss(output, batch, minibatch)
            _backward(self.engine, loss, last=last)
            self.log_share(total_loss=loss, entropy=output.entropy.sum() / minibatch.num_learned_tokens)
        norms = {}
        if self.critic_engine is not None:
            norms["critic_gradient_norm"] = self.critic_engine.step()
        if self.critic_engine is None or not self._warming_up:
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
        )
        self._log_mismatch(batch)
        self._log_behaviour_kl(output.logps.detach(), batch)
        losses = []
        if not self._warming_up:
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
        gap = (batch.old_logps - tokens.sampling_logps).masked_fill(~tokens.response_mask, 0.0)
        log_ratio = bounded(gap)
        kl = log_ratio.expm1() - log_ratio  # k3: the sampler drew the tokens, so q / p is learner / sampler
        self.log_share(
            sampler_logp_gap_mean=gap.abs().sum() / batch.num_learned_tokens,
            sampler_kl=kl.sum() / batch.num_learned_tokens,
        )
        self.metrics.log_value(
            (DEFAULT_MODULE_ID, "sampler_logp_gap_max"), float(gap.abs().max()), reduce="max"
        )

    def _set_learning_rate(self, timestep: int) -> None:
        """RLlib steps its schedules after an update; here a batch is learned at the rate of its own time."""
        for optimizer, schedule in self._optimizer_lr_schedules.items():
            self._set_optimizer_lr(optimizer, lr=schedule.update(timestep=timestep))

    def _plain_weights(self) -> dict[str, torch.Tensor] | None:
        """The policy's weights under the model's own names, adapters merged into them; None but on the first learner.

        Collective.
        """
        state, adapters = self.engine.gather(self.policy.model), self.config.lora
        return lora.merge(state, adapters["alpha"] / adapters["rank"]) if state and adapters else state

    def pack_weights(self, *, to_object_store: bool) -> tuple[Any, int]:
        """The policy's weights in wire format (or a reference to them in Ray's object store) and their version.

        Collective. Only the first learner's are not None.
        """
        state = self._plain_weights()
        if state is None:
            return None, self._weights_seq_no
        packed = weights.pack(state)
        return (ray.put(packed) if to_object_store else packed), self._weights_seq_no

    def send_weights(self, runners: Sequence[Any], *, renew: bool) -> int:
        """Sends the policy's weights from the first learner's GPU to those of the runners; gives their version.

        Collective.

        Args:
            runners: The actors' handles.
            renew: Whether the runners are others than last time, or started anew.
        """
        config, state = self.config, self._plain_weights()
        if state is None:
            return self._weights_seq_no
        if self._sender is not None and renew:
            self._sender.close()
            self._sender = None
        if self._sender is None:
            layout = len(runners), config.sampler_kwargs.get("tensor_parallel_size", 1)

            def call(method: str, kwargs: Sequence[dict[str, Any]]) -> None:
                ray.get([getattr(r, method).remote(**one) for r, one in zip(runners, kwargs, strict=True)])

            self._sender = WeightSender(init_info_of(config.weight_transfer, *layout), call, *layout)
        on_device = {name: tensor.to(self._device) for name, tensor in state.items()}
        self._sender.send(on_device, self._weights_seq_no)
        return self._weights_seq_no

    def save(self, folder: Path) -> None:
        """Writes what a resumed run needs, and the policy. Collective: called on every learner.

        There are no random states: nothing here draws from one (see `update`'s `seed`).
        """
        self.engine.save(folder)
        if self.critic_engine is not None:
            self.critic_engine.save(folder / CRITIC)
        # The engine's state need not be the policy's (shards, adapters, a wider dtype). With this copy, what takes
        # the policy out of a checkpoint knows no engine, and needs none.
        self.export(folder / POLICY_IN_CHECKPOINT.name)
        if self._learner_index == 0:
            counters = {
                "num_learners": max(1, self.config.num_learners),
                "weights_seq_no": self._weights_seq_no,
                "lora": self.config.lora,
                "critic": self.config.critic,
                "kl_coeff": self.kl_coeff,
                "num_skipped_in_a_row": self._num_skipped_in_a_row,
            }
            torch.save(counters, folder / "learner.pt")

    def load(self, folder: Path) -> None:
        """Takes over what `save` wrote. Collective.

        Raises:
            ValueError: If the state is in shards of another number of learners, or its adapters are not this learner's.
        """
        saved = torch.load(folder / "learner.pt", weights_only=True)
        there, here = saved["num_learners"], max(1, self.config.num_learners)
        if self.engine.sharded and there != here:
            raise ValueError(
                f"the checkpoint {folder} is in shards of {there} learners, and here are {here}: restore it "
                f"with num_learners={there}, or start a new run from its weights by "
                f"--model {folder / POLICY_IN_CHECKPOINT.name}"
            )
        if (theirs := saved["lora"]) != self.config.lora:
            raise ValueError(
                f"{folder} was saved with LoRA {theirs or 'off'}, and this run has it {self.config.lora or 'off'}: "
                "restore it with the policy settings it was made with, or start from its exported weights"
            )
        if saved["critic"] != self.config.critic:
            raise ValueError(
                f"{folder} was saved with critic={saved['critic']!r}, and this run has {self.config.critic!r}: "
                "restore it with the settings it was made with, or start from its exported weights"
            )
        self.engine.load(folder)
        if self.critic_engine is not None:
            self.critic_engine.load(folder / CRITIC)
        if self.config.kl_target is not None:
            self.kl_coeff = saved["kl_coeff"]
        self._weights_seq_no = saved["weights_seq_no"]
        self._num_skipped_in_a_row = saved["num_skipped_in_a_row"]

    def export(self, folder: Path) -> None:
        """Writes the policy in Hugging Face format: weights, configurations and tokenizer. Collective."""
        state = self._plain_weights()
        if state is not None:
            self.policy.model.save_pretrained(folder, state_dict=state)
            load_tokenizer(self.config.base_model).save_pretrained(folder)


def _backward(engine: Engine, loss: torch.Tensor, *, last: bool) -> None:
    """A loss that is not finite makes the gradient so, on all learners: each of them skips the step."""
    engine.backward(loss if loss.isfinite() else loss * math.nan, last=last)
