"""Which rows the transformers sampler decodes together, and that it changes nothing."""

from __future__ import annotations

from typing import Any

import pytest

from llmenv.samplers import transformers as transformers_module
from llmenv.samplers.sampler import Completion, SamplingParams
from llmenv.samplers.transformers import TransformersSampler, _chunks

PROMPTS = [[0, 5, 9], [7, 300, 20, 11, 4, 900, 31], [0, 5, 9], [42], [0, 0, 0, 0, 8]]
SEEDS = [3, 4, 5, 6, 7]


@pytest.mark.parametrize(
    ("tokens", "sizes"),
    # Of lengths 3, 7, 3 (the first one again), 1 and 5: distinct prompts times the longest one of a batch.
    [(1, [1, 1, 1, 1, 1]), (13, [1, 1, 2, 1]), (14, [3, 2]), (21, [4, 1]), (27, [4, 1]), (28, [5])],
)
def test_the_number_of_prompt_tokens_at_a_time_changes_nothing(
    model: Any, monkeypatch: pytest.MonkeyPatch, tokens: int, sizes: list[int]
) -> None:
    params = SamplingParams(max_new_tokens=20, stop_token_ids=frozenset())
    whole, taken = TransformersSampler(model).generate(PROMPTS, params, SEEDS), []
    monkeypatch.setattr(transformers_module, "PREFILL_TOKENS", tokens)
    decode = TransformersSampler._generate

    def note(self: Any, prompts: Any, params: Any, seeds: Any) -> list[Completion]:
        taken.append(len(prompts))
        return decode(self, prompts, params, seeds)

    monkeypatch.setattr(TransformersSampler, "_generate", note)
    parts = TransformersSampler(model).generate(PROMPTS, params, SEEDS)
    assert taken == sizes
    for one, other in zip(parts, whole, strict=True):
        assert one.token_ids.tolist() == other.token_ids.tolist()
        assert one.logps.tolist() == pytest.approx(other.logps.tolist(), abs=2e-5)


def test_a_group_counts_its_prompt_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transformers_module, "PREFILL_TOKENS", 100)
    prompts = [[task] * 50 for task in range(4) for _ in range(8)]
    assert [chunk.stop for chunk in _chunks(prompts, 512)] == [16, 32]
    assert [chunk.stop for chunk in _chunks(prompts, 10)] == [10, 20, 30, 32]
    assert list(_chunks([], 512)) == []
