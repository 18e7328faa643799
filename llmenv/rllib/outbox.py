"""What leaves a learner: the policy's weights for samplers, and the policy as a folder.

Knows nothing about losses, optimizers or how a checkpoint is laid out.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray
import torch

from llmenv.engines.engine import Engine
from llmenv.models import lora
from llmenv.models.names import load_tokenizer, resolve_model
from llmenv.models.saved_policy import BASE
from llmenv.policy.policy import CausalPolicy
from llmenv.weights import format as weights
from llmenv.weights.transfer import WeightSender, init_info_of


class Outbox:
    """Reads the policy's weights out of its engine. Every method is collective; the first learner alone has a result.

    Args:
        engine: Holds the weights.
        policy: Whose weights they are.
        config: The learner's.
        device: Where weights are sent from.
    """

    def __init__(self, engine: Engine, policy: CausalPolicy, config: Any, device: torch.device):
        self._engine = engine
        self._policy = policy
        self._config = config
        self._device = device
        self._sender: WeightSender | None = None

    def weights(self) -> dict[str, torch.Tensor] | None:
        """The policy's weights under the model's own names, adapters merged into them."""
        state, adapters = self._engine.gather(self._policy.model), self._config.lora
        return lora.merge(state, adapters["alpha"] / adapters["rank"]) if state and adapters else state

    def pack(self, *, to_object_store: bool) -> Any:
        """The weights in wire format, or a reference to them in Ray's object store."""
        state = self.weights()
        if state is None:
            return None
        packed = weights.pack(state)
        return ray.put(packed) if to_object_store else packed

    def send(self, version: int, runners: Sequence[Any], *, renew: bool) -> None:
        """Sends the weights from the first learner's GPU to those of the runners.

        Args:
            version: Of the weights.
            runners: The actors' handles.
            renew: Whether the runners are others than last time, or started anew.
        """
        config, state = self._config, self.weights()
        if state is None:
            return
        if self._sender is not None and renew:
            self._sender.close()
            self._sender = None
        if self._sender is None:
            layout = len(runners), config.sampler_kwargs.get("tensor_parallel_size", 1)

            def call(method: str, kwargs: Sequence[dict[str, Any]]) -> None:
                ray.get([getattr(r, method).remote(**one) for r, one in zip(runners, kwargs, strict=True)])

            self._sender = WeightSender(init_info_of(config.weight_transfer, *layout), call, *layout)
        on_device = {name: tensor.to(self._device) for name, tensor in state.items()}
        self._sender.send(on_device, version)

    def export(self, folder: Path) -> None:
        """Writes the policy in Hugging Face format: weights, configurations and tokenizer."""
        state = self.weights()
        if state is not None:
            self._policy.model.save_pretrained(folder, state_dict=state)
            load_tokenizer(self._config.base_model).save_pretrained(folder)

    def export_adapters(self, folder: Path) -> None:
        """Writes the adapters in peft's format, and what `llmenv.models.saved_policy` makes a policy of them with."""
        config = self._config
        state = self._engine.gather(self._policy.model, trained=True)
        if state is not None:
            rank, alpha = config.lora["rank"], config.lora["alpha"]
            lora.write_adapters(folder, state, resolve_model(config.base_model), rank=rank, alpha=alpha)
            base = {"model": config.base_model, "dtype": config.dtype}
            (folder / BASE).write_text(json.dumps(base))
