"""The learner's benchmark: what it compares is the same computation."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from experiments.benchmarks import bench_learner
from experiments.benchmarks.bench_learner import (
    FAST,
    LENGTHS,
    LOOP,
    PLAIN,
    contender,
    count_operations,
    draw_growth,
    make_rows,
    measure_matrix_products,
)
from llmenv.models.names import load_causal_lm
from llmenv.policy.attention import Span, in_blocks
from llmenv.policy.head import TokenHead
from support import relative_gap


def test_all_ways_give_the_same_gradient(model_folder: str) -> None:
    def gradient(name: str) -> torch.Tensor:
        model: Any = load_causal_lm(model_folder)
        rows = make_rows(
            Namespace(prompts=2, group_size=8, prompt_tokens=10, tokens=8), 1000, LENGTHS["uneven"]
        )
        contender(name, model, rows)()
        return torch.cat([p.grad.flatten() for p in model.parameters()])

    expected = gradient(LOOP)
    for name in (PLAIN, FAST):
        assert relative_gap(gradient(name), expected) < 1e-4


def test_growth_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures = {name: {"seconds": 1.0, "peak": 2.0, "idle": 1.0} for name in (LOOP, PLAIN, FAST)}
    asked = []

    def compare(arguments: Namespace, lengths: str) -> dict[str, dict[str, float]]:
        asked.append((arguments.prompts, arguments.group_size, arguments.tokens))
        return figures

    monkeypatch.setattr(bench_learner, "compare", compare)
    draw_growth(Namespace(model="tiny", prompt_tokens=10, growth=tmp_path / "growth.png"))
    assert (tmp_path / "growth.png").stat().st_size > 10_000
    assert {prompts * group_size for prompts, group_size, _ in asked} == {32}
    assert {size for _, size, _ in asked} == {1, 2, 4, 8, 16, 32}
    assert {tokens for *_, tokens in asked} == {64, 128, 256, 512, 1024}


def test_operations_counted_by_hand() -> None:
    count_operations()
    hidden, weight = torch.randn(10, 5, requires_grad=True), torch.randn(7, 5, requires_grad=True)
    with FlopCounterMode(display=False) as head:
        TokenHead(torch.nn.Parameter(weight))(hidden, torch.zeros(10, dtype=torch.long), 1.0)[
            0
        ].sum().backward()
    # The logits, twice; the gradients of the hidden states and of the weight.
    assert head.get_total_flops() == 4 * (2 * 10 * 5 * 7)
    query, key, value = (torch.randn(1, 3, 8, 4, requires_grad=True) for _ in range(3))
    with FlopCounterMode(display=False) as attention:
        in_blocks([Span(0, 8, 0)])(query, key, value, None).sum().backward()
    # Scores and outputs; scores again, and the gradients of probabilities, query, key and value: half of all pairs.
    assert attention.get_total_flops() == (2 + 5) * (2 * 3 * 8 * 8 * 4) // 2


def test_matrix_products_are_timed() -> None:
    assert measure_matrix_products(size=64) > 1e6
