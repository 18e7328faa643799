"""Bytes of a learner, against sums by hand."""

from __future__ import annotations

from typing import Any

import pytest

from algorithms.learner_memory import held_bytes
from llmenv.models.names import load_causal_lm
from support import small_config


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"trained": 10, "width": 4}, 160),  # 4 + 4 + 8
        ({"trained": 10, "width": 2}, 180),  # 2 + 4 + 4 + 8
        ({"frozen": 10, "width": 2}, 20),
        ({"trained": 10, "width": 2, "zero_stage": 1, "num_learners": 4}, 90),  # 20 + 40 + 120 / 4
        ({"trained": 10, "width": 2, "zero_stage": 2, "num_learners": 4}, 60),  # 20 + 10 + 30
        ({"trained": 10, "width": 2, "zero_stage": 3, "num_learners": 4}, 45),  # 180 / 4
        ({"trained": 10, "width": 2, "zero_stage": 2, "offload_optimizer": True}, 60),  # 20 + 40
        ({"trained": 10, "width": 2, "zero_stage": 3, "offload_parameters": True}, 160),
    ],
)
def test_bytes_a_parameter(settings: dict[str, Any], expected: float) -> None:
    assert held_bytes(**settings) == expected


def test_bytes_of_a_model(model_folder: str) -> None:
    size = sum(p.numel() for p in load_causal_lm(model_folder).parameters())
    config = small_config(model_folder)
    assert config.learner_bytes == 16 * size
    assert config.copy().policy(dtype="bfloat16").learner_bytes == 18 * size
    assert small_config(model_folder, "PPO", critic="separate").learner_bytes == 32 * size
    # Width 32, 4 heads of 8 and 2 for keys and values, 64 between, two layers: rows and columns of q 64, k and v 48, o
    # 64, three of 96; and the embedding's, which has no adapter.
    vocabulary = load_causal_lm(model_folder).config.vocab_size
    adapters = 4 * (2 * (64 + 48 + 48 + 64 + 3 * 96) + vocabulary + 32)
    adapted = config.copy().policy(lora_rank=4, dtype="bfloat16")
    assert adapted.learner_bytes == 2 * size + 16 * adapters
