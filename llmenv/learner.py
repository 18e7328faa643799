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
from ray.rllib.core.learner.torch.torch_learner import TorchLearner
from ray.rllib.utils.metrics import NUM_ENV_STEPS_SAMPLED_LIFETIME

from llmenv import lora, weights
from llmenv.batch import LossBatch, Minibatch, TokenBatch
from llmenv.deepspeed_engine import DeepSpeedEngine, deepspeed_world
from llmenv.engine import Engine, TorchEngine
from llmenv.models import POLICY_IN_CHECKPOINT, load_causal_lm, load_tokenizer
from llmenv.policy import CausalPolicy
from llmenv.weight_transfer import WeightSender, init_info_of


@dataclass
class _Prepared:
    """A minibatch on the learner's device: tokens, old log-probabilities (if fixed), reference's (if any)."""

    minibatch: Minibatch
    micro_batches: list[tuple[TokenBatch, torch.Tensor | None, torch.Tensor | None]]


class NonFiniteStepsError(RuntimeError):
    """Step after step had a loss or a gradient that is not finite."""


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
        settings = self.config.deepspeed_config
        self.engine: Engine
        if settings is None:
            self.engine = TorchEngine(self.policy, optimizer, self.config.grad_clip)
        else:
            self.engine = DeepSpeedEngine(self.policy, optimizer, settings)
        self.reference: CausalPolicy | None = None
        if self.config.kl_coeff > 0:
            # With its adapters off, the policy itself is the initial one.
            self.reference = self.policy if self.config.lora else self._frozen_copy()
        self._shares: dict[str, float] = defaultdict(float)
        self._sender: WeightSender | None = None
        self._num_skipped = self._num_skipped_in_a_row = 0

    @property
    def policy(self) -> CausalPolicy:
        return self.module[DEFAULT_MODULE_ID].policy

    def _frozen_copy(self) -> CausalPolicy:
        model = load_causal_lm(self.config.base_model, dtype=self.config.dtype)
        return CausalPolicy(
            model.requires_grad_(False), self.config.temperature, shared_prompts=self.config.shared_prompts
        )

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
        """Takes `num_epochs * len(minibatches)` optimizer steps.

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
        num_steps = num_epochs * len(minibatches)
        with self._reference_at_hand():
            prepared = [self._prepare(minibatch, fixed_old_logps=num_steps > 1) for minibatch in minibatches]
        self._shares.clear()
        self._num_skipped = 0
        rng = np.random.default_rng(seed)
        for _ in range(num_epochs):
            for i in rng.permutation(len(prepared)):
                self._take_step(prepared[i])
        for key, total in self._shares.items():
            self.metrics.log_value((DEFAULT_MODULE_ID, key), total / num_steps, reduce="sum")
        if not prepared:
            self.metrics.log_value((DEFAULT_MODULE_ID, "gradient_norm"), 0.0, reduce="mean", window=None)
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

    def _prepare(self, minibatch: Minibatch, *, fixed_old_logps: bool) -> _Prepared:
        """Moves a minibatch to the device and computes what stays fixed over its epochs."""
        tokens = [micro_batch.to(self._device) for micro_batch in minibatch.micro_batches]
        with torch.no_grad():
            # With a single step the ratio is 1 by definition: `_take_step` detaches its own forward pass.
            old_logps = [self.engine.forward(t).logps if fixed_old_logps else None for t in tokens]
            ref_logps = [self._reference_logps(t) for t in tokens]
        return _Prepared(minibatch, list(zip(tokens, old_logps, ref_logps, strict=True)))

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

    def _take_step(self, prepared: _Prepared) -> None:
        minibatch = prepared.minibatch
        for i, (tokens, old_logps, ref_logps) in enumerate(prepared.micro_batches, start=1):
            output = self.engine.forward(tokens)
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
            # A loss that is not finite makes the gradient so, on all learners: each of them skips the step.
            loss_or_nan = loss if loss.isfinite() else loss * math.nan
            self.engine.backward(loss_or_nan, last=i == len(prepared.micro_batches))
            self.log_share(total_loss=loss, entropy=output.entropy.sum() / batch.num_learned_tokens)
            self._log_mismatch(batch)
        norm = self.engine.step()
        self.metrics.log_value((DEFAULT_MODULE_ID, "gradient_norm"), norm, reduce="mean", window=None)
        self._count_skipped(not math.isfinite(norm))

    def _count_skipped(self, skipped: bool) -> None:
        self._num_skipped += skipped
        self._num_skipped_in_a_row = self._num_skipped_in_a_row + 1 if skipped else 0
        if self._num_skipped_in_a_row >= self.config.max_skipped_steps:
            raise NonFiniteStepsError(
                f"{self._num_skipped_in_a_row} optimizer steps in a row had a loss or a gradient that is not finite; "
                "they were skipped, so that the weights are those from before. Look for rewards that are not finite, "
                "lower the learning rate, or take a wider dtype. A resumed run would meet the same steps again: start "
                "a new one, from the last checkpoint's weights if need be"
            )

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
        # The engine's state need not be the policy's (shards, adapters, a wider dtype). With this copy, what takes
        # the policy out of a checkpoint knows no engine, and needs none.
        self.export(folder / POLICY_IN_CHECKPOINT.name)
        if self._learner_index == 0:
            counters = {
                "num_learners": max(1, self.config.num_learners),
                "weights_seq_no": self._weights_seq_no,
                "lora": self.config.lora,
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
        self.engine.load(folder)
        self._weights_seq_no = saved["weights_seq_no"]
        self._num_skipped_in_a_row = saved["num_skipped_in_a_row"]

    def export(self, folder: Path) -> None:
        """Writes the policy in Hugging Face format: weights, configurations and tokenizer. Collective."""
        state = self._plain_weights()
        if state is not None:
            self.policy.model.save_pretrained(folder, state_dict=state)
            load_tokenizer(self.config.base_model).save_pretrained(folder)
