"""Attention over spans, in both ways, equals attention with a mask of all pairs of tokens."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from llmenv.policy.attention import Span, _Plan, in_blocks
from llmenv.policy.flex import in_one_kernel

# The size and the parent of each. One by itself; one with three of equal length behind it, which nothing fills up; one
# with three that differ; two of like length, with a gap between them of what the second one is shorter.
SIZES = [3, 6, 4, 4, 4, 2, 11, 1, 8, 24, 1, 23]
PARENTS = [0, 1, 1, 1, 1, 5, 5, 5, 5, 9, 10, 11]
SPANS = [Span(sum(SIZES[:i]), sum(SIZES[: i + 1]), parent) for i, parent in enumerate(PARENTS)]
WAYS = {
    "in blocks": lambda: in_blocks(SPANS),
    "in one kernel": lambda: in_one_kernel(SPANS, torch.device("cpu")),
}


def test_blocks_with_and_without_filling() -> None:
    filled = {block.shape: not isinstance(block.tokens, slice) for block in _Plan.of(SPANS).blocks}
    assert filled == {
        (1, 3): False,
        (1, 6): False,
        (3, 4): False,
        (1, 2): False,
        (2, 11): True,
        (2, 1): True,
        (2, 24): True,
    }


@pytest.mark.usefixtures("flex_attention_on_a_cpu")
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("scale", [None, 0.9])
@pytest.mark.parametrize("value_size", [4, 3, 6])
def test_equals_masked_attention(value_size: int, scale: float | None, way: str) -> None:
    size = SPANS[-1].stop
    mask = torch.zeros(size, size, dtype=torch.bool)
    for start, stop, parent in SPANS:
        mask[start:stop, SPANS[parent].start : SPANS[parent].stop] = True
        mask[start:stop, start:stop] = torch.ones(stop - start, stop - start).tril().bool()
    generator = torch.Generator().manual_seed(0)
    states = [
        torch.randn(1, heads, size, width, generator=generator, dtype=torch.float64).requires_grad_()
        for heads, width in [(4, 4), (2, 4), (2, value_size)]
    ]
    weights = torch.randn(1, size, 4, value_size, generator=generator, dtype=torch.float64)
    expected = functional.scaled_dot_product_attention(*states, mask, scale=scale, enable_gqa=True)
    output = WAYS[way]()(*states, scale)
    torch.testing.assert_close(output, expected.transpose(1, 2))
    torch.testing.assert_close(
        torch.autograd.grad((output * weights).sum(), states),
        torch.autograd.grad((expected.transpose(1, 2) * weights).sum(), states),
    )
