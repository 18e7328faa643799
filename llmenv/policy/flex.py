"""Attention over spans on a GPU: the whole row in FlexAttention's kernels, which leave out what no token sees.

They have not been run on a GPU by us: the tests compare their reference implementation, and the blocks that they are
told to leave out. This module knows indices and tensors, and nothing about models.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from llmenv.policy.attention import Attend, Span
from llmenv.policy.compiling import fused

BLOCK = 128  # tokens: FlexAttention's own
# Kernels are compiled for rows of any whole number of blocks, but others for a row of a block or two.
LEAST_BLOCKS = 3


def in_one_kernel(spans: Sequence[Span], device: torch.device) -> Attend:
    """Attention over the whole row at once. The mask is made here, once for all layers and passes."""
    block_mask = make_block_mask(spans, device)
    flex: Callable[..., torch.Tensor] = flex_attention
    flex = fused(flex, device)  # uncompiled it would hold all pairs of tokens in memory

    def attend(
        query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float | None
    ) -> torch.Tensor:
        grouped = query.shape[1] != key.shape[1]
        output = flex(query, key, value, block_mask=block_mask, scale=scaling, enable_gqa=grouped)
        return output.transpose(1, 2)

    return attend


def filled_up(size: int) -> int:
    """The tokens of a row of `size` that its kernels are compiled for: whole blocks, and three of them at least."""
    return BLOCK * max(LEAST_BLOCKS, -(-size // BLOCK))


def make_block_mask(spans: Sequence[Span], device: torch.device) -> BlockMask:
    """What `create_block_mask` would find by looking at all pairs of tokens, by arithmetic on a CPU."""
    size = spans[-1].stop
    widths = [span.stop - span.start for span in spans]
    own = torch.arange(len(spans), dtype=torch.int32).repeat_interleave(torch.tensor(widths)).to(device)
    parents = [span.parent for span in spans]
    parent = torch.tensor(parents, dtype=torch.int32).repeat_interleave(torch.tensor(widths)).to(device)

    def sees(batch: torch.Tensor, head: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        return (key <= query) & ((own[key] == own[query]) | (own[key] == parent[query]))

    partly, wholly = blocks_seen(spans)
    # Keys by query and, for the backward pass, queries by key.
    tables = [table for blocks in (partly, wholly, partly.T, wholly.T) for table in _ordered(blocks)]
    make: Any = BlockMask
    mask: BlockMask = make((size, size), *tables, BLOCK_SIZE=(BLOCK, BLOCK), mask_mod=sees)
    return mask.to(device)


def _ordered(blocks: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """For each row of bool [K, K] how many are True, and where: int32 [1, 1, K] and, these first, [1, 1, K, K]."""
    columns = blocks.sum(-1), np.argsort(~blocks, axis=-1, kind="stable")
    counts, places = (torch.from_numpy(column.astype(np.int32))[None, None] for column in columns)
    return counts, places


def blocks_seen(spans: Sequence[Span]) -> tuple[np.ndarray, np.ndarray]:
    """Which blocks of keys a block of queries sees in part, and which all of its queries see whole: bool [K, K] each.

    The row is cut where a span or a block begins. The queries from a to b of such a piece see their parent's keys, and
    of their own span all of them those up to a, and one of them those up to b.
    """
    size = spans[-1].stop
    starts, stops, parents = np.array(spans).T
    cuts = np.union1d(starts, np.arange(0, size, BLOCK))
    ends = np.append(cuts[1:], size)
    own = np.searchsorted(starts, cuts, side="right") - 1
    parent = parents[own]
    edges = np.arange(0, size + BLOCK, BLOCK)

    def overlap(start: np.ndarray, stop: np.ndarray) -> np.ndarray:
        """How many tokens from start to stop are in each block: [pieces, K]."""
        common = np.minimum(stop[:, None], edges[1:]) - np.maximum(start[:, None], edges[:-1])
        return common.clip(min=0)

    of_parent = overlap(starts[parent], np.where(parent == own, starts[parent], stops[parent]))
    some = of_parent + overlap(starts[own], ends) > 0
    whole = of_parent + overlap(starts[own], cuts + 1) == BLOCK
    first = np.searchsorted(cuts, edges[:-1])  # the first piece of each block
    wholly = np.add.reduceat(whole * (ends - cuts)[:, None], first) == BLOCK
    return np.logical_or.reduceat(some, first) & ~wholly, wholly
