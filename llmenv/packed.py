"""A micro-batch as one row without padding, in which what sequences share stands once, and the attention over it.

Every layer of a model but attention works token by token: on such a row it computes exactly the tokens that exist. Only
attention has to know which of them form a sequence. It comes in by transformers' `AttentionInterface`, under a name
of its own. This module knows indices and tensors, and nothing about policies or losses.

It is computed in dense blocks, or on a GPU by FlexAttention, whose kernels leave out what no token sees and need no
mask in memory. Nothing of this has been run on a GPU; the tests run FlexAttention's own reference implementation.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

ATTENTION = "llmenv_packed"
# Queries [1, H, N, D], keys and values [1, H or fewer, N, D] and the scale (None: D**-0.5) to outputs [1, N, H, D].
Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, float | None], torch.Tensor]
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

    def mask(self) -> torch.Tensor | None:
        """What a query may see: bool [R or 1, 1, S, K], True for what is not after it; None for whole sequences.

        A sequence's padding is after all its queries, and needs no mask of its own. Whole sequences are plainly causal:
        their S is their K, and no square of it has to be in memory.
        """
        if self.starts.tolist() == [0]:
            return None
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
        spans: int64 [N], which stretch of the row a token is in: what sequences share, or what one has for itself.
        parents: int64 [N], the span that stands before its own in a sequence; its own where none does.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    predicting: torch.Tensor
    blocks: list[Block]
    places: torch.Tensor
    spans: torch.Tensor
    parents: torch.Tensor

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
        parents: list[int] = []
        heads: dict[int, int] = {}  # group: its first sequence, which holds the tokens that the others share
        shared: dict[int, int] = {}  # group: the span of those tokens, if there are any
        size = 0
        for i, (group, prefix) in enumerate(zip(groups.tolist(), prefix_lengths.tolist(), strict=True)):
            head = heads.setdefault(group, i)
            paths[i, :prefix] = paths[head, :prefix]
            for start, stop in ((0, prefix), (prefix, stops[i])):
                if start == stop or (stop == prefix and head != i):
                    continue
                paths[i, start:stop] = torch.arange(size, size + stop - start)
                sources.append(torch.arange(start, stop) + i * width)
                parents.append(shared.get(group, len(spans)))
                if stop == prefix:
                    shared[group] = len(spans)
                spans.append(_Span(i, start, stop))
                size += stop - start
        source = torch.cat(sources)
        blocks, places = _blocks(spans, paths, size)
        paths = paths.to(device)
        widths = torch.tensor([span.stop - span.start for span in spans])
        return cls(
            input_ids=input_ids.flatten()[source.to(device)][None],
            position_ids=(source % width).to(device)[None],
            predicting=paths[:, :-1][predicted[:, 1:]],
            blocks=[Block(*(index.to(device) for index in vars(block).values())) for block in blocks],
            places=places.to(device),
            spans=torch.arange(len(spans)).repeat_interleave(widths).to(device),
            parents=torch.tensor(parents).repeat_interleave(widths).to(device),
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
        # start anew for sequences that have nothing to do with each other. `_packed_attention` does not look at it.
        attention_mask=packed.input_ids.new_ones(1, 1, 1, 1, dtype=torch.bool),
        use_cache=False,
        attend=(in_one_kernel if packed.input_ids.is_cuda else in_blocks)(packed),
    ).last_hidden_state
    return _take(hidden[0], packed.predicting)


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


def in_one_kernel(packed: PackedRow) -> Attend:
    """Attention over the whole row at once, by FlexAttention."""
    spans, parents, size = packed.spans, packed.parents, len(packed.spans)

    def sees(batch: torch.Tensor, head: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        return (key <= query) & ((spans[key] == spans[query]) | (spans[key] == parents[query]))

    make_mask: Callable[..., Any] = create_block_mask
    flex: Callable[..., torch.Tensor] = flex_attention
    if spans.is_cuda:  # uncompiled they would hold all pairs of tokens in memory
        make_mask, flex = _compiled(make_mask), _compiled(flex)
    block_mask = make_mask(sees, None, None, size, size, device=spans.device)

    def attend(
        query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float | None
    ) -> torch.Tensor:
        grouped = query.shape[1] != key.shape[1]
        output = flex(query, key, value, block_mask=block_mask, scale=scaling, enable_gqa=grouped)
        return output.transpose(1, 2)

    return attend


@cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    return torch.compile(function, dynamic=True)


def in_blocks(packed: PackedRow) -> Attend:
    """Attention block by block, in plain PyTorch: the same on every device."""
    masks = [block.mask() for block in packed.blocks]

    def attend(
        query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float | None
    ) -> torch.Tensor:
        query, key, value = (states[0].transpose(0, 1) for states in (query, key, value))  # [N, H, D]
        outputs = [
            _attend(
                _take(query, block.queries), _take(key, block.keys), _take(value, block.keys), mask, scaling
            )
            for block, mask in zip(packed.blocks, masks, strict=True)
        ]
        return _take(torch.cat([output.flatten(0, 1) for output in outputs]), packed.places)[None]

    return attend


def _attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    scaling: float | None,
) -> torch.Tensor:
    """[R, S, H, D] over [R, K, H or fewer, D] to [R, S, H, D]; causal without a mask."""
    repeats = query.shape[2] // key.shape[2]
    if repeats > 1:
        key, value = key.repeat_interleave(repeats, dim=2), value.repeat_interleave(repeats, dim=2)
    output = functional.scaled_dot_product_attention(
        query.transpose(1, 2),
        key.transpose(1, 2),
        value.transpose(1, 2),
        attn_mask=mask,
        is_causal=mask is None,
        scale=scaling,
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
