"""FlexAttention's block mask is the one that PyTorch finds by looking at all pairs; few kernels are compiled."""

from __future__ import annotations

import random
from itertools import accumulate, pairwise

import pytest
import torch
from torch._dynamo.exc import FailOnRecompileLimitHit
from torch._dynamo.testing import CompileCounter
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from llmenv.policy import compiling
from llmenv.policy import flex as flex_module
from llmenv.policy.attention import Span
from llmenv.policy.flex import BLOCK, blocks_seen, filled_up, in_one_kernel, make_block_mask

CPU = torch.device("cpu")
TENSORS = [
    f"{full}{side}_{what}"
    for full in ("", "full_")
    for side in ["kv", "q"]
    for what in ("num_blocks", "indices")
]


def make_spans(*sizes: int, parents: list[int] | None = None) -> list[Span]:
    stops = accumulate(sizes, initial=0)
    parents = [0] * len(sizes) if parents is None else parents
    return [Span(*ends, parent) for ends, parent in zip(pairwise(stops), parents, strict=True)]


def random_spans(seed: int) -> list[Span]:
    """Groups with and without a prompt in common, of spans from a token to several blocks."""
    rng = random.Random(seed)
    sizes: list[int] = []
    parents: list[int] = []
    for _ in range(rng.randint(1, 5)):
        parent = len(sizes)
        for _ in range(rng.randint(1, 9)):
            sizes.append(rng.choice([1, 3, 60, 127, 128, 129, 256, 500]))
            parents.append(parent)
    missing = filled_up(sum(sizes)) - sum(sizes)
    if missing:
        parents.append(len(sizes))
        sizes.append(missing)
    return make_spans(*sizes, parents=parents)


LAYOUTS = {
    "one sequence": make_spans(384),
    "one block": make_spans(100, 28),
    "edges on blocks": make_spans(256, 128, 256, 128),
    "a prompt longer than its responses": make_spans(700, 10, 20, 38),
    "a prompt of no block": make_spans(3, 400, 400, 93),
    "many in a block": make_spans(5, *[3] * 126, 1),
    "two groups and what fills up": make_spans(200, 300, 100, 90, 250, 84, parents=[0, 0, 0, 3, 3, 5]),
    "no whole block at the end": make_spans(200, 100),
    **{f"random {seed}": random_spans(seed) for seed in range(12)},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_mask_is_that_of_all_pairs(layout: str) -> None:
    spans = LAYOUTS[layout]
    mask, size = make_block_mask(spans, CPU), spans[-1].stop
    expected = create_block_mask(mask.mask_mod, None, None, size, size, device="cpu")
    assert (mask.shape, mask.BLOCK_SIZE) == (expected.shape, (BLOCK, BLOCK))
    for name in TENSORS:
        ours, theirs = getattr(mask, name), getattr(expected, name)
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape), name
        assert torch.equal(ours, theirs), name


def test_there_are_blocks_of_every_kind() -> None:
    partly, wholly = blocks_seen(LAYOUTS["two groups and what fills up"])
    assert partly.any() and wholly.any() and not (partly | wholly).all()
    # 256 tokens of a prompt, then two sequences of 128 and 256: the second sees the prompt, and not the first.
    _, wholly = blocks_seen(LAYOUTS["edges on blocks"])
    assert wholly[4].tolist() == [True, True, False, True, False, False]


@pytest.mark.parametrize(("size", "filled"), [(1, 384), (384, 384), (385, 512), (1000, 1024)])
def test_rows_are_whole_blocks_and_three_at_least(size: int, filled: int) -> None:
    assert filled_up(size) == filled


@pytest.mark.usefixtures("flex_attention_on_a_cpu")
def test_one_kernel_for_all_lengths_with_gradients_and_one_without(monkeypatch: pytest.MonkeyPatch) -> None:
    """What PyTorch compiles again for is decided before there is a device."""
    counter = CompileCounter()
    torch._dynamo.reset()
    compiled = torch.compile(flex_attention, dynamic=True, fullgraph=True, backend=counter)
    monkeypatch.setattr(flex_module, "fused", lambda function, device: compiled)
    for i in range(24):
        size = 200 + 37 * i  # 384 to 1,152 tokens when filled up
        spans = make_spans(100, 60, size - 160, filled_up(size) - size, parents=[0, 0, 0, 3])
        states = [torch.randn(1, heads, spans[-1].stop, 16, requires_grad=i % 3 > 0) for heads in (4, 2, 2)]
        in_one_kernel(spans, CPU)(*states, None)
    assert counter.frame_count == 2


def test_too_many_variants_are_an_error_and_no_slow_way(monkeypatch: pytest.MonkeyPatch) -> None:
    torch._dynamo.reset()
    monkeypatch.setattr(compiling, "MOST_VARIANTS", 2)
    compile_function = torch.compile
    monkeypatch.setattr(torch, "compile", lambda *a, **kw: compile_function(*a, backend="eager", **kw))

    def scaled(x: torch.Tensor, how: str) -> torch.Tensor:
        return x * len(how)

    function = compiling.fused(scaled, torch.device("cuda"))
    assert compiling.fused(scaled, torch.device("cuda")) is function
    assert compiling.fused(scaled, CPU) is scaled
    for how in ("a", "bb"):
        function(torch.ones(3), how)
    with pytest.raises(FailOnRecompileLimitHit):
        function(torch.ones(3), "ccc")
