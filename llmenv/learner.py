"""The RLlib Learner: the update loop around an engine. Its loss comes from a subclass in `algorithms`."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.learner.torch.torch_learner import TorchLearner
from ray.rllib.utils.metrics import NUM_ENV_STEPS_SAMPLED_LIFETIME

from llmenv import weights
from llmenv.batch import LossBatch, Minibatch, TokenBatch
from llmenv.engine import TorchEngine
from llmenv.models import load_causal_lm
from llmenv.policy import CausalPolicy
from llmenv.weight_transfer import WeightSender, init_info_of


@dataclass
class _Prepared:
    """A minibatch on the learner's device: tokens, old log-probabilities (if fixed), reference's (if any)."""

    minibatch: Minibatch
    micro_batches: list[tuple[TokenBatch, torch.Tensor | None, torch.Tensor | None]]


class LLMLearner(TorchLearner):
    """Updates a `CausalPolicy` with the rows that the driver dealt to it.

    RLlib's own minibatch iterators duplicate rows and shard unevenly, and its gradient path knows only DDP, so
    `update` is a loop of its own. Subclasses implement `compute_loss_for_module`, whose `batch` is a `LossBatch`
    and whose `fwd_out` is a `PolicyOutput`; it returns this micro-batch's *share* of the loss, already divided by
    the minibatch's global denominator, and may call `log_share` with metrics divided in the same way.
    """

    def build(self) -> None:
        super().build()
        optimizer = self.get_optimizer(DEFAULT_MODULE_ID)
        self.engine = TorchEngine(self.policy, optimizer, self.config.grad_clip)
        self.reference: CausalPolicy | None = None
        if self.config.kl_coeff > 0:
            model = load_causal_lm(self.config.base_model, dtype=self.config.dtype).to(self._device)
            self.reference = CausalPolicy(
                model.requires_grad_(False),
                self.config.temperature,
                shared_prompts=self.config.shared_prompts,
            )
        self._shares: dict[str, float] = defaultdict(float)
        self._sender: WeightSender | None = None

    @property
    def policy(self) -> CausalPolicy:
        return self.module[DEFAULT_MODULE_ID].policy

    def configure_optimizers_for_module(self, module_id: str, config: Any = None) -> None:
        parameters = [p for p in self.module[module_id].parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(
            parameters, betas=tuple(self.config.adam_betas), weight_decay=self.config.weight_decay
        )
        self.register_optimizer(
            module_id=module_id,
            optimizer=optimizer,
            params=parameters,
            lr_or_lr_schedule=self.config.learning_rate_schedule,
        )

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
        """Takes `num_epochs * len(minibatches)` optimizer steps.

        Args:
            minibatches: This learner's shares, one a step. Every learner has the same number.
            num_epochs: Passes over the batch; each in an order of its own.
            seed: Draws those orders, the same on every learner.
            timesteps: Holds NUM_ENV_STEPS_SAMPLED_LIFETIME, this batch included: the learning rate's clock.

        Returns:
            Metrics (CONTRIBUTING lists them). A minibatch in which no row has a gradient is no step and has none.
        """
        timesteps = timesteps or {NUM_ENV_STEPS_SAMPLED_LIFETIME: 0}
        self.before_gradient_based_update(timesteps=timesteps)
        self._set_learning_rate(timesteps[NUM_ENV_STEPS_SAMPLED_LIFETIME])
        # Every learner sees the same counts, so that all of them leave out the same minibatches.
        minibatches = [minibatch for minibatch in minibatches if minibatch.num_learned_tokens]
        num_steps = num_epochs * len(minibatches)
        prepared = [self._prepare(minibatch, fixed_old_logps=num_steps > 1) for minibatch in minibatches]
        self._shares.clear()
        rng = np.random.default_rng(seed)
        for _ in range(num_epochs):
            for i in rng.permutation(len(prepared)):
                self._take_step(prepared[i])
        for key, total in self._shares.items():
            self.metrics.log_value((DEFAULT_MODULE_ID, key), total / num_steps, reduce="sum")
        if not prepared:
            self.metrics.log_value((DEFAULT_MODULE_ID, "gradient_norm"), 0.0, reduce="mean", window=None)
        self._weights_seq_no += 1
        if self.config.sampler_sleeps:  # it is about to wake on the same GPU
            torch.cuda.empty_cache()
        self.after_gradient_based_update(timesteps=timesteps)
        return self.metrics.reduce()

    def log_share(self, **shares: torch.Tensor) -> None:
        """Adds a micro-batch's share of metrics that sum, over micro-batches and learners, to a batch mean."""
        for key, value in shares.items():
            self._shares[key] += float(value.detach())

    def _prepare(self, minibatch: Minibatch, *, fixed_old_logps: bool) -> _Prepared:
        """Moves a minibatch to the device and computes what stays fixed over its epochs."""
        tokens = [micro_batch.to(self._device) for micro_batch in minibatch.micro_batches]
        with torch.no_grad():
            # With a single step the ratio is 1 by definition: `_take_step` detaches its own forward pass.
            old_logps = [self.policy(t).logps if fixed_old_logps else None for t in tokens]
            ref_logps = [self.reference(t).logps if self.reference else None for t in tokens]
        return _Prepared(minibatch, list(zip(tokens, old_logps, ref_logps, strict=True)))

    def _take_step(self, prepared: _Prepared) -> None:
        module = self.module[DEFAULT_MODULE_ID]
        minibatch = prepared.minibatch
        for tokens, old_logps, ref_logps in prepared.micro_batches:
            output = module.forward_train(tokens)
            batch = LossBatch(
                tokens=tokens,
                old_logps=output.logps.detach() if old_logps is None else old_logps,
                ref_logps=ref_logps,
                num_tokens=minibatch.num_tokens,
                num_sequences=minibatch.num_sequences,
                num_learned_tokens=minibatch.num_learned_tokens,
            )
            loss = self.compute_loss_for_module(
                module_id=DEFAULT_MODULE_ID, config=self.config, batch=batch, fwd_out=output
            )
            self.engine.backward(loss)
            self.log_share(total_loss=loss, entropy=output.entropy.sum() / batch.num_learned_tokens)
            self._log_mismatch(batch)
        norm = self.engine.step()
        self.metrics.log_value((DEFAULT_MODULE_ID, "gradient_norm"), norm, reduce="mean", window=None)
        skipped = 0 if math.isfinite(norm) else 1
        self.metrics.log_value((DEFAULT_MODULE_ID, "num_steps_skipped"), skipped, reduce="max")

    def _log_mismatch(self, batch: LossBatch) -> None:
        """How far the sampler's log-probabilities are from the learner's for the same weights."""
        tokens = batch.tokens
        gap = (batch.old_logps - tokens.sampling_logps).masked_fill(~tokens.response_mask, 0.0)
        kl = gap.expm1() - gap  # k3: the tokens were drawn by the sampler, so q / p is learner / sampler
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

    def pack_weights(self, *, to_object_store: bool) -> tuple[Any, int]:
        """The policy's weights in wire format (or a reference to them in Ray's object store) and their version."""
        packed = weights.pack(self.policy.model.state_dict())
        return (ray.put(packed) if to_object_store else packed), self._weights_seq_no

    def send_weights(self, runners: Sequence[Any], *, renew: bool) -> int:
        """Sends the policy's weights from this learner's GPU to those of the runners; gives their version.

        Args:
            runners: The actors' handles.
            renew: Whether the runners are others than last time, or started anew.
        """
        config = self.config
        if self._sender is not None and renew:
            self._sender.close()
            self._sender = None
        if self._sender is None:
            layout = len(runners), config.sampler_kwargs.get("tensor_parallel_size", 1)

            def call(method: str, kwargs: Sequence[dict[str, Any]]) -> None:
                ray.get([getattr(r, method).remote(**one) for r, one in zip(runners, kwargs, strict=True)])

            self._sender = WeightSender(init_info_of(config.weight_transfer, *layout), call, *layout)
        self._sender.send(dict(self.policy.model.named_parameters()), self._weights_seq_no)
        return self._weights_seq_no

    def save(self, folder: Path) -> None:
        """Writes what a resumed run needs. Collective: called on every learner."""
        self.engine.save(folder)
        if self._learner_index == 0:
            torch.save({"weights_seq_no": self._weights_seq_no}, folder / "learner.pt")

    def load(self, folder: Path) -> None:
        self.engine.load(folder)
        self._weights_seq_no = torch.load(folder / "learner.pt", weights_only=True)["weights_seq_no"]

    def export(self, folder: Path) -> None:
        """Writes the policy in Hugging Face format (weights and configuration; the tokenizer is the caller's)."""
        if self._learner_index == 0:
            self.policy.model.save_pretrained(folder)
