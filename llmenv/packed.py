"""A micro-batch as one row without padding, in which what sequences share stands once, and the attention over it.

Every layer of a model but attention works token by token: on such a row it computes exactly the tokens that exist. Only
attention has to know which of them form a sequence. It comes in by transformers' `AttentionInterface`, under a name
of its own. This module knows indices and tensors, and nothing about policies or losses.

The attention is plain PyTorch, and the same on every device; nothing of it has been run on a GPU, where
flash-attention or FlexAttention could take the place of `_attend`.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

ATTENTION = "llmenv_packed"
# Arguments by which models of transformers make another thing of attention.
_UNKNOWN_TO_US = ("sliding_window", "softcap", "s_aux", "position_bias")


@dataclass
class Block:
    """Queries whose attention is computed in one call, and the sequences that they look back on.

    Attributes:
        queries: int64 [R, S], where in the row they stand: of each of R sequences, S tokens in a row.
        keys: int64 [R, K], where the sequences stand, from their first token on.
        starts: int64 [R], the position in its sequence of each first query; [1] if it is the same in all.
    """

    queries: torch.Tensor
    keys: torch.Tensor
    starts: torch.Tensor

    def mask(self) -> torch.Tensor:
        """What a query may see: bool [R or 1, 1, S, K], True for what is not after it.

        A sequence's padding is after all its queries, and needs no mask of its own.
        """
        positions = self.starts[:, None] + torch.arange(self.queries.shape[1], device=self.starts.device)
        seen = torch.arange(self.keys.shape[1], device=self.starts.device) <= positions[:, :, None]
        return seen[:, None]


@dataclass
class PackedRow:
    """Sequences that begin alike, as a tree: N tokens in one row.

    Attributes:
        input_ids: int64 [1, N].
        position_ids: int64 [1, N], each token's position in its sequences.
        predicting: int64 [M], where the tokens stand before those of a mask, in its order.
        blocks: The attention of all tokens; each is a query in one of them.
        places: int64 [N], where the tokens stand among the queries of all blocks, one block after the other.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    predicting: torch.Tensor
    blocks: list[Block]
    places: torch.Tensor

    @classmethod
    def from_columns(
        cls,
        input_ids: torch.Tensor,
        lengths: torch.Tensor,
        predicted: torch.Tensor,
        groups: torch.Tensor,
        prefix_lengths: torch.Tensor,
    ) -> PackedRow:
        """Packs padded sequences, all but the last token of each, which predicts nothing.

        Args:
            input_ids: int64 [B, T].
            lengths: int64 [B].
            predicted: bool [B, T], the tokens before which the hidden state is wanted.
            groups: int64 [B].
            prefix_lengths: int64 [B], how many leading tokens of a sequence all of its group here begin with.
        """
        device, width = input_ids.device, input_ids.shape[1]
        stops = [length - 1 for length in lengths.tolist()]
        paths = torch.zeros(len(stops), width, dtype=torch.long)  # [b, t]: where token t of sequence b stands
        sources: list[torch.Tensor] = []  # where in [B, T] the row's tokens come from
        spans: list[_Span] = []  # each token of the row is in one of them
        heads: dict[int, int] = {}  # group: its first sequence, which holds the tokens that the others share
        size = 0
        for i, (group, prefix) in enumerate(zip(groups.tolist(), prefix_lengths.tolist(), strict=True)):
            head = heads.setdefault(group, i)
            paths[i, :prefix] = paths[head, :prefix]
            for start, stop in ((0, prefix), (prefix, stops[i])):
                if start == stop or (stop == prefix and head != i):
                    continue
                paths[i, start:stop] = torch.arange(size, size + stop - start)
                sources.append(torch.arange(start, stop) + i * width)
                spans.append(_Span(i, start, stop))
                size += stop - start
        source = torch.cat(sources)
        blocks, places = _blocks(spans, paths, size)
        paths = paths.to(device)
        return cls(
            input_ids=input_ids.flatten()[source.to(device)][None],
            position_ids=(source % width).to(device)[None],
            predicting=paths[:, :-1][predicted[:, 1:]],
            blocks=[Block(*(index.to(device) for index in vars(block).values())) for block in blocks],
            places=places.to(device),
        )


class _Span(NamedTuple):
    """Tokens of a sequence that stand side by side in the row."""

    sequence: int
    start: int
    stop: int


def _blocks(spans: Sequence[_Span], paths: torch.Tensor, size: int) -> tuple[list[Block], torch.Tensor]:
    """Spans in blocks of like lengths, within a factor of two, so that little of a block is padding."""
    bins: dict[tuple[int, int], list[_Span]] = {}
    for span in spans:
        like = span.start.bit_length(), (span.stop - span.start).bit_length()
        bins.setdefault(like, []).append(span)
    blocks, places = [], torch.empty(size, dtype=torch.long)
    offset = 0  # of the block's queries among all
    for members in bins.values():
        rows, starts, stops = torch.tensor(members).T
        width = int((stops - starts).max())
        keys = paths[rows, : int(stops.max())]
        columns = (starts[:, None] + torch.arange(width)).clamp(max=keys.shape[1] - 1)
        distinct = starts.unique()
        blocks.append(Block(keys.gather(1, columns), keys, distinct if len(distinct) == 1 else starts))
        for i, (sequence, start, stop) in enumerate(members):
            places[paths[sequence, start:stop]] = torch.arange(stop - start) + offset + i * width
        offset += len(members) * width
    return blocks, places


def run_packed(backbone: nn.Module, packed: PackedRow) -> torch.Tensor:
    """The model's last hidden state [M, D] at `packed.predicting`."""
    hidden = backbone(
        input_ids=packed.input_ids,
        position_ids=packed.position_ids,
        # Four dimensions say to transformers that this mask is made already; without one it would take positions that
        # start anew for sequences that have nothing to do with each other. `_packed_attention` looks at its own.
        attention_mask=packed.input_ids.new_ones(1, 1, 1, 1, dtype=torch.bool),
        use_cache=False,
        packed=packed,
        masks=[block.mask() for block in packed.blocks],
    ).last_hidden_state
    return _take(hidden[0], packed.predicting)


def _packed_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    packed: PackedRow | None = None,
    masks: Sequence[torch.Tensor] = (),
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """An attention function of transformers: [1, H, N, D] to [1, N, H, D]. Without a packed row, its own SDPA."""
    if packed is None:
        if attention_mask is not None and attention_mask.shape[-1] == 1 < key.shape[2]:
            raise RuntimeError(
                f"{type(module).__name__} is not given what the model is called with: set shared_prompts=False"
            )
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    if changed := sorted(name for name in _UNKNOWN_TO_US if kwargs.get(name) is not None):
        raise RuntimeError(
            f"{type(module).__name__} asks for {', '.join(changed)}: set shared_prompts=False for this model"
        )
    query, key, value = (states[0].transpose(0, 1) for states in (query, key, value))  # [N, H, D]
    outputs = [
        _attend(_take(query, block.queries), _take(key, block.keys), _take(value, block.keys), mask, scaling)
        for block, mask in zip(packed.blocks, masks, strict=True)
    ]
    return _take(torch.cat([output.flatten(0, 1) for output in outputs]), packed.places)[None], None


def _attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor, scaling: float | None
) -> torch.Tensor:
    """[R, S, H, D] over [R, K, H or fewer, D] to [R, S, H, D]."""
    repeats = query.shape[2] // key.shape[2]
    if repeats > 1:
        key, value = key.repeat_interleave(repeats, dim=2), value.repeat_interleave(repeats, dim=2)
    output = functional.scaled_dot_product_attention(
        query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), attn_mask=mask, scale=scaling
    )
    return output.transpose(1, 2)


def _take(states: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """`states[index]`; as an embedding, whose backward pass is many times faster on a CPU than indexing's."""
    return functional.embedding(index, states.flatten(1)).unflatten(-1, states.shape[1:])


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
    if "position_ids" not in inspect.signature(model.get_decoder().forward).parameters:
        return "positions that cannot be given"
    return None


AttentionInterface.register(ATTENTION, _packed_attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)
