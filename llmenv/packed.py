"""A micro-batch as one row without padding, in which what sequences share stands once, and the attention over it.

Every layer of a model but attention works token by token: on such a row it computes exactly the tokens that exist. Only
attention has to know which of them form a sequence. It comes in by transformers' `AttentionInterface`, under a name
of its own. This module knows indices and tensors, and nothing about policies or losses.

On a CPU it is computed in blocks that need no mask, what is shared apart from what is not. On a GPU FlexAttention does
it, whose kernels leave out what no token sees; that has not been run on one: the tests run its reference
implementation.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

aten = torch.ops.aten

ATTENTION = "llmenv_packed"
# Queries [1, H, N, D], keys and values [1, H or fewer, N, D] and the scale (None: D**-0.5) to outputs [1, N, H, D].
Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, float | None], torch.Tensor]
# Arguments by which models of transformers make another thing of attention.
_UNKNOWN_TO_US = ("sliding_window", "softcap", "s_aux", "position_bias")


class Span(NamedTuple):
    """Tokens that stand side by side in the row: what sequences share, or what one of them has for itself.

    Attributes:
        start: Its first token's place in the row.
        stop: The place after its last token.
        parent: The number of the span that stands before it in its sequences; its own where none does.
    """

    start: int
    stop: int
    parent: int


@dataclass
class PackedRow:
    """Sequences in one row of N tokens, in which each group's common beginning stands once.

    Attributes:
        input_ids: int64 [1, N].
        position_ids: int64 [1, N], each token's position in its sequences.
        predicting: int64 [M], where the tokens stand before those of a mask, in its order.
        spans: All of the row, in its order; those with a parent come right after it, and have none behind them.
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
            input_ids=input_ids.flatten()[source.to(device)][None],
            position_ids=(source % width).to(device)[None],
            predicting=paths.to(device)[:, :-1][predicted[:, 1:]],
            spans=spans,
        )


def run_packed(backbone: nn.Module, packed: PackedRow) -> torch.Tensor:
    """The model's last hidden state [M, D] at `packed.predicting`."""
    hidden = backbone(
        input_ids=packed.input_ids,
        position_ids=packed.position_ids,
        # Four dimensions say to transformers that this mask is made already; without one it would take positions that
        # start anew for sequences that have nothing to do with each other. `_packed_attention` does not look at it.
        attention_mask=packed.input_ids.new_ones(1, 1, 1, 1, dtype=torch.bool),
        use_cache=False,
        attend=(in_blocks if packed.input_ids.device.type == "cpu" else in_one_kernel)(packed),
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
    size, device = packed.spans[-1].stop, packed.input_ids.device
    widths = torch.tensor([span.stop - span.start for span in packed.spans])
    spans = torch.arange(len(widths)).repeat_interleave(widths).to(device)
    parents = torch.tensor([span.parent for span in packed.spans]).repeat_interleave(widths).to(device)

    def sees(batch: torch.Tensor, head: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        return (key <= query) & ((spans[key] == spans[query]) | (spans[key] == parents[query]))

    make_mask: Callable[..., Any] = create_block_mask
    flex: Callable[..., torch.Tensor] = flex_attention
    if device.type != "cpu":  # uncompiled they would hold all pairs of tokens in memory
        make_mask, flex = _compiled(make_mask), _compiled(flex)
    block_mask = make_mask(sees, None, None, size, size, device=device)

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
    """Attention on a CPU, by PyTorch's kernel for whole sequences; no memory grows with the square of a length."""
    plan = _Plan.of(packed.spans)

    def attend(
        query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float | None
    ) -> torch.Tensor:
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        # The kernel wants all heads of one size; zeros more change nothing.
        size = max(query.shape[-1], value.shape[-1])
        rows = (_widen(states[0].transpose(0, 1), size).contiguous() for states in (query, key, value))
        output: torch.Tensor = _SpanAttention.apply(*rows, plan, scale)
        return output[None, ..., : value.shape[-1]]

    return attend


def _widen(states: torch.Tensor, size: int) -> torch.Tensor:
    missing = size - states.shape[-1]
    return functional.pad(states, (0, missing)) if missing else states


class _Block(NamedTuple):
    """R spans for one call of the kernel, filled up to the S tokens of the longest.

    Attributes:
        shape: R and S.
        tokens: Where in the row of N tokens these are: int64 [R * S], the last token of a shorter span again and again;
            or a slice, where the row has them just so.
        targets: The same, but N for what fills a span up.
    """

    shape: tuple[int, int]
    tokens: torch.Tensor | slice
    targets: torch.Tensor | slice

    @classmethod
    def of(cls, spans: Sequence[Span], row_size: int) -> _Block:
        starts, stops, _ = torch.tensor(spans).T[:, :, None]
        columns = starts + torch.arange(int((stops - starts).max()))
        missing = columns >= stops
        shape = columns.shape[0], columns.shape[1]
        whole = slice(spans[0].start, spans[-1].stop)
        if whole.stop - whole.start == columns.numel() and not missing.any():
            return cls(shape, whole, whole)
        return cls(
            shape,
            tokens=columns.minimum(stops - 1).flatten(),
            targets=columns.masked_fill(missing, row_size).flatten(),
        )

    def read(self, states: torch.Tensor) -> torch.Tensor:
        """[N, ...] to [R, S, ...]."""
        return states[self.tokens].unflatten(0, self.shape)

    def write(self, part: torch.Tensor, states: torch.Tensor) -> None:
        """[R, S, ...] into [N + 1, ...]."""
        states[self.targets] = part.flatten(0, 1)


@dataclass
class _Plan:
    """Which tokens of a row look at which, in calls of a kernel.

    Attributes:
        blocks: All spans, each of which looks at itself.
        shared: A span, and right after it all those that look back on it.
    """

    blocks: list[_Block]
    shared: list[tuple[slice, slice]]

    @classmethod
    def of(cls, spans: Sequence[Span]) -> _Plan:
        """Puts spans in blocks with those of like length, within a factor of about the square root of 2."""
        bins: dict[int, list[Span]] = {}
        stops: dict[int, int] = {}  # parent: where the last span behind it stops
        for i, span in enumerate(spans):
            bins.setdefault(int(2 * math.log2(span.stop - span.start)), []).append(span)
            if span.parent != i:
                stops[span.parent] = span.stop
        return cls(
            blocks=[_Block.of(members, row_size=spans[-1].stop) for members in bins.values()],
            shared=[
                (slice(spans[parent].start, spans[parent].stop), slice(spans[parent].stop, stop))
                for parent, stop in stops.items()
            ],
        )


class _SpanAttention(torch.autograd.Function):
    """Attention of each span to itself, causally, and to all of its parent: [N, H, D], as the queries.

    They are computed apart, so that neither needs a mask, and put together by their normalisers z, the log-sum-exps of
    the scores: with w = sigmoid(z_parent - z_self) the outputs are (1 - w) o_self + w o_parent, and the normaliser of
    both is logaddexp(z_self, z_parent). A kernel's backward pass begins with probabilities, exp(score - z): given the
    output and normaliser of both, it gives either part's share of the gradient. Hydragen (Juravsky et al., 2402.05099)
    computes shared prompts apart when sampling; Ring attention (Liu et al., 2310.01889) trains in such parts.
    """

    @staticmethod
    def forward(
        ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, plan: _Plan, scale: float
    ) -> torch.Tensor:
        output = _with_a_place_more(query)
        normaliser = _with_a_place_more(query[..., 0], torch.promote_types(query.dtype, torch.float32))
        for block in plan.blocks:
            parts = _attend(*map(block.read, (query, key, value)), causal=True, scale=scale)
            for part, whole in zip(parts, (output, normaliser), strict=True):
                block.write(part, whole)
        normaliser[-1] = math.inf  # of what fills blocks up: probabilities of 0 in the backward pass
        for shared, after in plan.shared:
            part, part_normaliser = _attend(
                query[None, after], key[None, shared], value[None, shared], causal=False, scale=scale
            )
            weight = (part_normaliser[0] - normaliser[after]).sigmoid()
            output[after].lerp_(part[0], weight[..., None].to(part.dtype))
            normaliser[after] = torch.logaddexp(normaliser[after], part_normaliser[0])
        ctx.save_for_backward(query, key, value, output, normaliser)
        ctx.plan, ctx.scale = plan, scale
        return output[:-1]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query, key, value, output, normaliser = ctx.saved_tensors
        gradient = gradient.contiguous()  # the kernel wants numbers of a head side by side
        grads = [_with_a_place_more(states) for states in (query, key, value)]
        for block in ctx.plan.blocks:
            states = (
                *map(block.read, (gradient, query, key, value, output)),
                normaliser[block.targets].unflatten(0, block.shape),
            )
            parts = _attend_backward(*states, causal=True, scale=ctx.scale)
            for part, whole in zip(parts, grads, strict=True):
                block.write(part, whole)
        for shared, after in ctx.plan.shared:
            parts = _attend_backward(
                gradient[None, after],
                query[None, after],
                key[None, shared],
                value[None, shared],
                output[None, after],
                normaliser[None, after],
                causal=False,
                scale=ctx.scale,
            )
            for part, whole, place in zip(parts, grads, (after, shared, shared), strict=True):
                whole[place].add_(part[0])
        return *(whole[:-1] for whole in grads), None, None


def _with_a_place_more(states: torch.Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
    """Memory for [N, ...] and, at its end, for what fills blocks up."""
    return states.new_empty(len(states) + 1, *states.shape[1:], dtype=dtype)


def _attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *, causal: bool, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """[R, S, H, D] over [R, K, H or fewer, D] to outputs [R, S, H, D] and normalisers [R, S, H]."""
    states = query, *_for_all_heads(key, value, query.shape[2])
    output, normaliser = aten._scaled_dot_product_flash_attention_for_cpu(
        *(state.transpose(1, 2) for state in states), 0.0, causal, scale=scale
    )
    return output.transpose(1, 2), normaliser.transpose(1, 2)


def _attend_backward(
    gradient: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    output: torch.Tensor,
    normaliser: torch.Tensor,
    *,
    causal: bool,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The gradients of query, key and value, of their shapes, from that [R, S, H, D] of an output.

    The output and its normaliser are those of these keys, or of these and others.
    """
    states = gradient, query, *_for_all_heads(key, value, query.shape[2]), output, normaliser
    grads = aten._scaled_dot_product_flash_attention_for_cpu_backward(
        *(state.transpose(1, 2) for state in states), 0.0, causal, scale=scale
    )
    of_query, of_key, of_value = (grad.transpose(1, 2) for grad in grads)
    if query.shape[2] > key.shape[2]:
        of_key, of_value = (grad.unflatten(2, (key.shape[2], -1)).sum(3) for grad in (of_key, of_value))
    return of_query, of_key, of_value


def _for_all_heads(key: torch.Tensor, value: torch.Tensor, heads: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values [R, K, H or fewer, D], repeated for the heads that share them: [R, K, H, D]."""
    repeats = heads // key.shape[2]
    if repeats == 1:
        return key, value
    return key.repeat_interleave(repeats, dim=2), value.repeat_interleave(repeats, dim=2)


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
