"""Attention over spans of tokens that stand in one row: each looks at itself, causally, and at all of its parent.

On a CPU it is computed in blocks that need no mask, what is shared apart from what is not: here. `llmenv.policy.flex`
does it on a GPU. This module knows indices and tensors, and nothing about models.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional

aten = torch.ops.aten

# Queries [1, H, N, D], keys [1, H or fewer, N, D], values [1, H or fewer, N, E] and the scale (None: D**-0.5) to
# outputs [1, N, H, E].
Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, float | None], torch.Tensor]


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


def in_blocks(spans: Sequence[Span]) -> Attend:
    """Attention on a CPU, by PyTorch's kernel for whole sequences; no memory grows with the square of a length.

    Args:
        spans: None of them empty, side by side from the row's first token to its last. Those that have a parent come
            right after it, and have none behind themselves.
    """
    plan = _Plan.of(spans)

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
        places: The same, but N for what fills a span up: results go there, and the normaliser is infinite there.
    """

    shape: tuple[int, int]
    tokens: torch.Tensor | slice
    places: torch.Tensor | slice

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
            places=columns.masked_fill(missing, row_size).flatten(),
        )

    def read(self, states: torch.Tensor) -> torch.Tensor:
        """[N, ...] to [R, S, ...]."""
        return states[self.tokens].unflatten(0, self.shape)

    def write(self, part: torch.Tensor, states: torch.Tensor) -> None:
        """[R, S, ...] into [N + 1, ...]."""
        states[self.places] = part.flatten(0, 1)


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
        output = _empty_with_spare_place(query)
        normaliser = _empty_with_spare_place(query[..., 0], torch.promote_types(query.dtype, torch.float32))
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
        return output[:-1]  # without a copy, though autograd then lets nobody change it in place

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query, key, value, output, normaliser = ctx.saved_tensors
        gradient = gradient.contiguous()  # once, and not in every call of the kernel
        grads = [_empty_with_spare_place(states) for states in (query, key, value)]
        for block in ctx.plan.blocks:
            states = (
                *map(block.read, (gradient, query, key, value, output)),
                normaliser[block.places].unflatten(0, block.shape),
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


def _empty_with_spare_place(states: torch.Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
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
