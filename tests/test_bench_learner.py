"""The learner's benchmark: what it compares is the same computation."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch

from experiments import bench_learner
from experiments.bench_learner import (
    FAST,
    LENGTHS,
    LOOP,
    PLAIN,
    contender,
    draw_growth,
    make_rows,
    measure_matrix_products,
)
from llmenv.models import load_causal_lm
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


def test_matrix_products_are_timed() -> None:
    assert measure_matrix_products(size=64) > 1e6
