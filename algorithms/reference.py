"""The policy that a KL is measured to, and how the KL's weight follows what is measured."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from algorithms.config import LLMConfig
from llmenv.engines.engine import Engine
from llmenv.models import lora
from llmenv.models.names import load_causal_lm
from llmenv.policy.batch import PreparedBatch
from llmenv.policy.policy import CausalPolicy


class Reference:
    """The learner's own initial policy, frozen.

    With adapters that is the policy itself with them switched off; without, a copy, which is on the device for its
    forward passes alone: training has that memory.

    Args:
        config: The learner's.
        engine: Holds the policy's weights.
        policy: What is compared.
        device: Where it computes.

    Attributes:
        copy: That copy; None with adapters.
    """

    def __init__(self, config: LLMConfig, engine: Engine, policy: CausalPolicy, device: torch.device):
        self._engine = engine
        self._policy = policy
        self._device = device
        self.copy: CausalPolicy | None = None if config.lora else _load(config)

    @torch.no_grad()
    def fill_in(self, batches: Sequence[PreparedBatch]) -> None:
        """Sets `ref_logps`. Collective."""
        if self.copy is None:
            with lora.switched_off(self._policy.model):
                for batch in batches:
                    batch.ref_logps = self._engine.forward(batch.tokens).logps
            return
        self.copy.to(self._device)
        for batch in batches:
            batch.ref_logps = self.copy(batch.tokens).logps
        self.copy.to("cpu")


def _load(config: LLMConfig) -> CausalPolicy:
    model = load_causal_lm(config.base_model, dtype=config.dtype)
    return CausalPolicy(model.requires_grad_(False), config.temperature, shared_prompts=config.shared_prompts)


def adapted(coefficient: float, kl: float, config: LLMConfig) -> float:
    """The KL's weight, moved so that the KL moves to its target: Ziegler et al. (1909.08593), section 2.2.

    Args:
        coefficient: The weight so far.
        kl: As it was measured with it on a batch, in nats a token.
        config: Has `kl_target` and `kl_horizon`.
    """
    assert config.kl_target is not None
    error = min(max(kl / config.kl_target - 1, -0.2), 0.2)
    return coefficient * (1 + error * config.samples_per_iteration / config.kl_horizon)
