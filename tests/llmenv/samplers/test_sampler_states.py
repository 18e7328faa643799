"""The transformers sampler on models that keep other states than keys and values."""

from __future__ import annotations

import pytest
import torch

from llmenv.samplers.sampler import SamplingParams
from llmenv.samplers.transformers import TransformersSampler
from llmenv.samplers.trial import try_sampler
from other_models import STATES, STATES_OUT_OF_REACH
from small_models import ARCHITECTURES, VOCAB, make_model

PROMPTS = [[7, 8, 9, 10], [7, 8, 9, 10], [3], [11, 12, 13, 14, 15, 16], [3], [20, 21], [7, 8, 9, 10]]


@pytest.mark.parametrize("kind", STATES)
def test_its_log_probabilities_are_those_of_the_model(kind: str) -> None:
    model = make_model(kind, STATES[kind], torch.float32)
    params = SamplingParams(max_new_tokens=9, stop_token_ids=frozenset(range(1, VOCAB, 4)))
    sampler = TransformersSampler(model)
    try_sampler(sampler)
    completions = sampler.generate(PROMPTS, params, range(len(PROMPTS)))
    assert len({len(completion.token_ids) for completion in completions}) > 1  # rows drop out on the way
    for prompt, completion in zip(PROMPTS, completions, strict=True):
        ids = torch.tensor([[*prompt, *completion.token_ids.tolist()]])
        with torch.no_grad():
            logits = model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1]
        logps = logits.log_softmax(-1).gather(-1, ids[0, len(prompt) :, None]).squeeze(-1)
        # A state is added up in another order, token by token and in chunks.
        torch.testing.assert_close(torch.from_numpy(completion.logps), logps, atol=1e-3, rtol=0)


@pytest.mark.parametrize("kind", STATES_OUT_OF_REACH)
def test_states_that_are_out_of_reach_are_refused(kind: str) -> None:
    model = make_model(kind, STATES_OUT_OF_REACH[kind], torch.float32)
    name = type(model).__name__
    with pytest.raises(
        ValueError, match=rf"the transformers sampler does not work with {name}: .*sampler='vllm'"
    ):
        try_sampler(TransformersSampler(model))


@pytest.mark.parametrize("kind", ARCHITECTURES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_ordinary_models_pass(kind: str, dtype: torch.dtype) -> None:
    try_sampler(TransformersSampler(make_model(*ARCHITECTURES[kind], dtype)))
