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
from llmenv.weights import names
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
        self.config = config
        self._device = device
        self._sender: WeightSender | None = None

    def weights(self) -> dict[str, torch.Tensor] | None:
        """The policy's weights under the model's own names, adapters merged into them."""
        state, adapters = self._engine.gather(self._policy.model), self.config.lora
        return lora.merge(state, adapters["alpha"] / adapters["rank"]) if state and adapters else state

    def pack(self, *, to_object_store: bool, own_names: bool = False) -> Any:
        """The weights in wire format, or a reference to them in Ray's object store.

        Args:
            to_object_store: Whether a reference is wanted.
            own_names: Under the model's own names, and not those that the config's sampler knows.
        """
        state = self.weights()
        self._make_room()
        if state is None:
            return None
        if self.config.sampler == "vllm" and not own_names:
            state = names.in_files(self._policy.model, state)
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
            config = self.config
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
        if self.config.sampler_sleeps:
            torch.cuda.empty_cache()

    def metadata(self) -> list[Meta]:
        """What `stream` will give. No collective."""
        metadata = []
        for group in self._groups():
            shapes = {
                name: torch.empty(
                    getattr(tensors[0], "ds_shape", tensors[0].shape), dtype=tensors[0].dtype, device="meta"
                )
                for name, tensors in group.items()
            }
            for name, tensor in names.in_files(self._policy.model, shapes).items():
                metadata.append(Meta(name, tensor.dtype, tuple(tensor.shape)))
        return metadata

    def stream(self) -> Iterator[tuple[str, torch.Tensor]]:
        """The policy's weights as its files would have them, on the learner's device, whole when they are asked for.

        All learners have to ask for all of them. Whoever keeps none of them holds one at a time, with adapters the
        three parts of one, and where the files have it in other pieces, these.
        """
        adapters = self.config.lora
        scale = adapters["alpha"] / adapters["rank"] if adapters else 1.0
        for group in self._groups():
            with self._engine.whole([tensor for tensors in group.values() for tensor in tensors]):
                whole = {
                    name: lora.merged([t.detach().to(self._device) for t in tensors], scale, name)
                    for name, tensors in group.items()
                }
                yield from names.in_files(self._policy.model, whole).items()

    def _groups(self) -> list[dict[str, list[torch.Tensor]]]:
        """What each of the policy's tensors comes from, in groups that are converted together, by its own names."""
        parts = lora.parts(untied_state(self._policy.model))
        return [{name: parts[name] for name in group} for group in names.together(self._policy.model, parts)]

    def export(self, folder: Path) -> None:
        """Writes the policy in Hugging Face format: weights, configurations, tokenizer and training's prompt."""
        state = self.weights()
        if state is not None:
            self._policy.model.save_pretrained(folder, state_dict=state)
            self.config.trained_prompt.save(folder)

    def export_adapters(self, folder: Path) -> None:
        """Writes the adapters in peft's format, and what `llmenv.models.saved_policy` makes a policy of them with."""
        config = self.config
        state = self._engine.gather(self._policy.model, trained=True)
        if state is not None:
            rank, alpha = config.lora["rank"], config.lora["alpha"]
            lora.write_adapters(folder, state, resolve_model(config.base_model), rank=rank, alpha=alpha)
            prompt = asdict(config.trained_prompt)
            base = {"model": config.base_model, "dtype": config.dtype, "prompt": prompt}
            (folder / BASE).write_text(json.dumps(base))
