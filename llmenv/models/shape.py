"""How large a model is, from its configuration alone: no weights are read, and none are made.

Counts of weights, and what a token costs in bytes. Knows nothing about optimizers, samplers or devices.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import cache
from typing import Any

from llmenv.models.names import is_trusted, resolve_model

# Bytes of an element.
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class ModelShape:
    """Counts of elements.

    Attributes:
        weights: All of them, tied ones once.
        adapters: Those of LoRA among them; 0 without.
        output: Of the output layer, V x d, which is the largest tensor of nearly every model.
        tied: Whether the output layer is the embedding.
        layers: How many there are.
        hidden: A token's hidden state, d.
        query: A token's queries in a layer, q: heads x their size.
        key: A token's keys in a layer, k; its values are as many.
        key_heads: Heads that have keys of their own: vLLM parts the cache by them.
        heads: Of attention, h.
        inner: A token's states within the feed-forward layer, f, which is taken for a gated one.
        vocabulary: Logits of a token, V.
        rank: Of the adapters; 0 without.
    """

    weights: int
    adapters: int
    output: int
    tied: bool
    layers: int
    hidden: int
    query: int
    key: int
    key_heads: int
    heads: int
    inner: int
    vocabulary: int
    rank: int

    @property
    def base(self) -> int:
        """The model's own weights, without adapters."""
        return self.weights - self.adapters

    @property
    def trunk(self) -> int:
        """What a critic has of the model: all but an output layer of its own."""
        return self.base - (0 if self.tied else self.output)

    def cache_bytes(self, element: int) -> int:
        """A token's keys and values in all layers."""
        return 2 * self.layers * self.key * element

    def layer_bytes(self, element: int) -> int:
        """What autograd keeps of a token in a layer, in Llama's form, until the backward pass (see docs/memory.md).

        Two norms, four products with weights, attention, and a gated feed-forward layer. Norms compute in float32:
        their input x, x / |x| and the result are kept, in 16 bits the first as a float32 copy. Of attention: queries,
        keys, values, outputs, and a normaliser a head. Of the feed-forward layer: both of its products, the gate's
        activation, and what is multiplied of them. What only a frozen weight's gradient needs is not kept. An adapter
        keeps its own input in float32, one of q, k and v each, and what its first matrix makes of it.
        """
        d, q, k, f, adapted = self.hidden, self.query, self.key, self.inner, bool(self.adapters)
        wide = element == 4
        norms = 2 * (8 if wide else 4) * d if adapted else 2 * (12 if wide else 8) * d
        attention = (2 * q + 2 * k) * element + 4 * self.heads
        feed_forward = (3 if adapted and not wide else 4) * f * element
        inputs = 4 * (5 * d + q + f) if adapted and not wide else 0
        return norms + attention + feed_forward + inputs + (4 * 7 * self.rank if adapted else 0)


def without_memory(name: str) -> Any:
    """A model by its name, made without memory for its weights. Not to be changed: it is kept."""
    return _without_memory(resolve_model(name))


@cache
def _without_memory(folder: str) -> Any:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=is_trusted())
        return AutoModelForCausalLM.from_config(config, trust_remote_code=is_trusted())


@cache
def _num_adapter_weights(folder: str, rank: int, targets: str | tuple[str, ...]) -> int:
    from llmenv.models import lora

    model = copy.deepcopy(_without_memory(folder))
    lora.add_adapters(model, rank=rank, alpha=rank, targets=targets, seed=0)
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def shape_of(name: str, lora: dict[str, Any] | None = None) -> ModelShape:
    """The shape of a model, with adapters if it is to have some.

    Args:
        name: See `llmenv.models.names.resolve_model`, with its errors. Of a hub id the configuration alone is fetched.
        lora: Arguments of `llmenv.models.lora.add_adapters`.
    """
    folder, model = resolve_model(name), without_memory(name)
    config = model.config.get_text_config()
    adapters = rank = 0
    if lora is not None:
        rank, targets = lora["rank"], lora["targets"]
        adapters = _num_adapter_weights(folder, rank, targets if isinstance(targets, str) else tuple(targets))
    d, heads = config.hidden_size, getattr(config, "num_attention_heads", None) or 1
    key_heads = getattr(config, "num_key_value_heads", None) or heads
    head_size = getattr(config, "head_dim", None) or d // heads
    inner = getattr(config, "intermediate_size", None) or 4 * d
    return ModelShape(
        weights=sum(p.numel() for p in model.parameters()) + adapters,
        adapters=adapters,
        output=config.vocab_size * d,
        tied=model.get_output_embeddings().weight is model.get_input_embeddings().weight,
        layers=config.num_hidden_layers,
        hidden=d,
        query=heads * head_size,
        key=key_heads * head_size,
        key_heads=key_heads,
        heads=heads,
        inner=inner * (getattr(config, "num_experts_per_tok", None) or 1),
        vocabulary=config.vocab_size,
        rank=rank,
    )
