"""A micro-batch as one row without padding, in which what sequences share stands once.

Every layer of a model but attention works token by token: on such a row it computes exactly the tokens that exist. Only
attention has to know which of them form a sequence: `llmenv.policy.attention` on a CPU, `llmenv.policy.flex` on a GPU.
It comes in by transformers' `AttentionInterface`, under a name of its own. This module knows nothing about policies or
losses.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from llmenv.policy.attention import Attend, Span, in_blocks
from llmenv.policy.flex import filled_up, in_one_kernel

ATTENTION = "llmenv_packed"
# Arguments by which models of transformers make another thing of attention.
# Differences of hidden states, of their largest, that are no error. In 16 bits another expert may be chosen for them.
ROUNDING, ROUNDING_OF_16_BITS = 1e-3, 0.3
_UNKNOWN_TO_US = ("sliding_window", "softcap", "s_aux", "position_bias")


@dataclass
class PackedRow:
    """Sequences in one row of N tokens, in which each group's common beginning stands once.

    Attributes:
        input_ids: int64 [1, N].
        position_ids: int64 [1, N], each token's position in its sequences.
        predicting: int64 [M], where the tokens stand before those that are asked for, in their order.
        spans: All of the row, as `llmenv.policy.attention.in_blocks` wants them.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    predicting: torch.Tensor
    spans: list[Span]

    @classmethod
    def from_columns(
        cls,
        input_ids: torch.Tensor,
        lengths: torch.Tensor,
        predicted: torch.Tensor,
        groups: torch.Tensor,
        prefix_lengths: torch.Tensor,
    ) -> PackedRow:
        """Packs padded sequences, on a CPU, all but the last token of each, which predicts nothing.

        Args:
            input_ids: int64 [B, T].
            lengths: int64 [B].
            predicted: int64 [M], the places in [B, T], flattened, before which the hidden state is wanted.
            groups: int64 [B].
            prefix_lengths: int64 [B], how many leading tokens of a sequence all of its group here begin with.
        """
        width = input_ids.shape[1]
        stops = [length - 1 for length in lengths.tolist()]
        paths = torch.zeros(len(stops), width, dtype=torch.long)  # [b, t]: where token t of sequence b stands
        sources: list[torch.Tensor] = []  # where in [B, T] the row's tokens come from
        spans: list[Span] = []
        heads: dict[int, int] = {}  # group: its first sequence, which holds the tokens that the others share
        shared: dict[int, int] = {}  # group: the span of those tokens, if there are any
        size = 0
        members, prefixes = groups.tolist(), prefix_lengths.tolist()
        for i in groups.argsort(stable=True).tolist():
            group, prefix = members[i], prefixes[i]
            head = heads.setdefault(group, i)
            paths[i, :prefix] = paths[head, :prefix]
            for start, stop in ((0, prefix), (prefix, stops[i])):
                if start == stop or (stop == prefix and head != i):
                    continue
                paths[i, start:stop] = torch.arange(size, size + stop - start)
                sources.append(torch.arange(start, stop) + i * width)
                parent = shared.get(group, len(spans))
                if stop == prefix:
                    shared[group] = len(spans)
                spans.append(Span(size, size + stop - start, parent))
                size += stop - start
        source = torch.cat(sources)
        return cls(
            input_ids=input_ids.flatten()[source][None],
            position_ids=(source % width)[None],
            predicting=paths.flatten()[predicted - 1],
            spans=spans,
        )

    @cached_property
    def attend(self) -> Attend:
        """The attention of a model's layers on a CPU, for all of them and for further passes."""
        return in_blocks(self.spans)

    def to(self, device: torch.device) -> PackedRow:
        """The same on a device. On a GPU the row has a size that attention is compiled for, and its mask is there."""
        row = self if device.type == "cpu" else self.filled_up()
        moved = PackedRow(
            row.input_ids.to(device), row.position_ids.to(device), row.predicting.to(device), row.spans
        )
        if device.type != "cpu":
            moved.attend = in_one_kernel(row.spans, device)
        return moved

    def filled_up(self) -> PackedRow:
        """The row with tokens more at its end, a span by themselves, that none of the others sees."""
        size = self.input_ids.shape[1]
        missing = filled_up(size) - size
        if not missing:
            return self
        ids, positions = (functional.pad(x, (0, missing)) for x in (self.input_ids, self.position_ids))
        spans = [*self.spans, Span(size, size + missing, parent=len(self.spans))]
        return PackedRow(ids, positions, self.predicting, spans)


def run_packed(backbone: nn.Module, packed: PackedRow) -> torch.Tensor:
    """The model's last hidden state [M, D] at `packed.predicting`."""
    hidden = backbone(
        input_ids=packed.input_ids,
        position_ids=packed.position_ids,
        # Four dimensions say to transformers that this mask is made already; without one it would take positions that
        # start anew for sequences that have nothing to do with each other. `_packed_attention` does not look at it.
        attention_mask=packed.input_ids.new_ones(1, 1, 1, 1, dtype=torch.bool),
        use_cache=False,
        attend=packed.attend,
    ).last_hidden_state
    # hidden[0][packed.predicting]; on a CPU an embedding's backward pass is many times faster than indexing's.
    return functional.embedding(packed.predicting, hidden[0])


def _packed_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    attend: Attend | None = None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """An attention function of transformers. Without a packed row, its own SDPA."""
    if attend is None:
        if attention_mask is not None and attention_mask.shape[-1] == 1 < key.shape[2]:
            raise RuntimeError(
                f"{type(module).__name__} is not given what the model is called with: set shared_prompts=False"
            )
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    if changed := sorted(name for name in _UNKNOWN_TO_US if kwargs.get(name) is not None):
        raise RuntimeError(
            f"{type(module).__name__} asks for {', '.join(changed)}: set shared_prompts=False for this model"
        )
    return attend(query, key, value, scaling), None


def trunk(model: PreTrainedModel) -> nn.Module:
    """A model without its output layer; Llama 4 gives itself for it."""
    decoder = model.get_decoder()
    return model.model if decoder is model else decoder


@torch.no_grad()
def why_not_in_fact(model: PreTrainedModel) -> str | None:
    """What is found to keep a model that is ready for packed rows from computing on them what it does without.

    A few tokens are tried, on a CPU, where its weights are whole: elsewhere a first batch has to tell.
    """
    weight = model.get_input_embeddings().weight
    if weight.device.type != "cpu" or hasattr(weight, "ds_id"):
        return None
    # Two sequences of five tokens, the first three of which they share.
    ids = torch.tensor([[1, 2, 3, 4, 5], [1, 2, 3, 6, 7]]) % len(weight)
    predicted = torch.tensor([1, 2, 3, 4, 8, 9])
    row = PackedRow.from_columns(
        ids, torch.tensor([5, 5]), predicted, torch.tensor([0, 0]), torch.tensor([3, 3])
    )
    try:
        plain = trunk(model)(input_ids=ids, use_cache=False).last_hidden_state.flatten(0, 1)[predicted - 1]
    except Exception:  # packed rows are not its trouble: `llmenv.policy.trial` tells of it
        return None
    try:
        gap = (run_packed(trunk(model), row) - plain).abs().max() / plain.abs().max()
    except Exception as error:  # whatever a model raises that knows nothing of this
        return f"layers that fail on packed rows ({type(error).__name__}: {error})"
    if gap > (ROUNDING_OF_16_BITS if plain.dtype.itemsize == 2 else ROUNDING):
        return f"layers that compute something else on packed rows (by {gap:.0%})"
    return None


def why_not(model: PreTrainedModel) -> str | None:
    """What in a model keeps it from running on packed rows; None if nothing does."""
    config = model.config
    layers = set(getattr(config, "layer_types", None) or getattr(config, "layers_block_type", None) or ())
    if other := sorted(layers - {"full_attention"}):
        return f"layers of {', '.join(other)}"
    if model._is_stateful:
        return "recurrent layers"
    if not layers and getattr(config, "sliding_window", None) is not None:
        return f"a sliding window of {config.sliding_window} tokens"
    if getattr(config, "attn_logit_softcapping", None) is not None:
        return "attention with soft-capped logits"
    if not model._supports_attention_backend or config._attn_implementation not in ("sdpa", ATTENTION):
        return "an attention of its own, not transformers' AttentionInterface over SDPA"
    if "position_ids" not in inspect.signature(trunk(model).forward).parameters:
        return "positions that cannot be given"
    return None


AttentionInterface.register(ATTENTION, _packed_attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)
