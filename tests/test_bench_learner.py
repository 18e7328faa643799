"""The learner's benchmark: what it compares is the same computation."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

import torch

from experiments.bench_learner import (
    FAST,
    LENGTHS,
    LOOP,
    PLAIN,
    contender,
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


def test_matrix_products_are_timed() -> None:
    assert measure_matrix_products(size=64) > 1e6
