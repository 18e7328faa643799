"""What leaves a learner: the policy's weights for samplers, and the policy as a folder.

Knows nothing about losses, optimizers or how a checkpoint is laid out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray
import torch

from llmenv.engines.engine import Engine, is_first, untied_state
from llmenv.models import lora
from llmenv.models.names import resolve_model
from llmenv.models.saved_policy import BASE
from llmenv.policy.policy import CausalPolicy
from llmenv.samplers.vllm import gpus_per_engine
from llmenv.weights import format as weights
from llmenv.weights.transfer import Meta, WeightSender, init_info_of


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
        self._make_room()
        if state is None:
            return None
        packed = weights.pack(state)
        return ray.put(packed) if to_object_store else packed

    def send(self, version: int, runners: Sequence[Any], *, renew: bool) -> None:
        """Sends the weights from the first learner's GPU to those of the runners, tensor by tensor.

        Args:
            version: Of the weights.
            runners: The actors' handles.
            renew: Whether the runners are others than last time, or started anew.
        """
        self._make_room()
        if not is_first():
            for _ in self.stream():
                pass
            return
        metadata = self.metadata()
        if self._sender is not None and renew:
            self._sender.close()
            self._sender = None
        if self._sender is None:
            config = self._config
            layout = len(runners), gpus_per_engine(config.sampler_kwargs)
            largest = max(meta.num_bytes for meta in metadata)

            def call(method: str, kwargs: Sequence[dict[str, Any]]) -> None:
                ray.get([getattr(r, method).remote(**one) for r, one in zip(runners, kwargs, strict=True)])

            info = init_info_of(config.weight_transfer, *layout, buffer_bytes=largest)
            self._sender = WeightSender(info, call, *layout)
        if (
            self._device.type == "cuda"
        ):  # the sender has streams of its own, and the last step may be under way
            torch.cuda.current_stream(self._device).synchronize()
        self._sender.send(metadata, self.stream(), version)

    def _make_room(self) -> None:
        """Gives back what this process keeps of the GPU without a tensor in it: the sampler is about to wake there."""
        if self._config.sampler_sleeps:
            torch.cuda.empty_cache()

    def metadata(self) -> list[Meta]:
        """What `stream` will give. No collective."""
        return [
            Meta(name, tensors[0].dtype, tuple(getattr(tensors[0], "ds_shape", tensors[0].shape)))
            for name, tensors in self._parts().items()
        ]

    def stream(self) -> Iterator[tuple[str, torch.Tensor]]:
        """The policy's weights, as `weights` has them, on the learner's device, each whole when it is asked for.

        All learners have to ask for all of them. Whoever keeps none of them holds one at a time, and with adapters the
        three parts of one.
        """
        adapters = self._config.lora
        scale = adapters["alpha"] / adapters["rank"] if adapters else 1.0
        for name, tensors in self._parts().items():
            with self._engine.whole(tensors):
                yield name, lora.merged([t.detach().to(self._device) for t in tensors], scale)

    def _parts(self) -> dict[str, list[torch.Tensor]]:
        return lora.parts(untied_state(self._policy.model))

    def export(self, folder: Path) -> None:
        """Writes the policy in Hugging Face format: weights, configurations, tokenizer and training's prompt."""
        state = self.weights()
        if state is not None:
            self._policy.model.save_pretrained(folder, state_dict=state)
            self._config.trained_prompt.save(folder)

    def export_adapters(self, folder: Path) -> None:
        """Writes the adapters in peft's format, and what `llmenv.models.saved_policy` makes a policy of them with."""
        config = self._config
        state = self._engine.gather(self._policy.model, trained=True)
        if state is not None:
            rank, alpha = config.lora["rank"], config.lora["alpha"]
            lora.write_adapters(folder, state, resolve_model(config.base_model), rank=rank, alpha=alpha)
            prompt = asdict(config.trained_prompt)
            base = {"model": config.base_model, "dtype": config.dtype, "prompt": prompt}
            (folder / BASE).write_text(json.dumps(base))
