"""The vLLM sampler on the models that come with the package."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_vllm_sampler import NO_STOP, gap

from llmenv.models.names import load_causal_lm, resolve_model
from llmenv.samplers.sampler import SamplingParams
from llmenv.samplers.vllm import VLLMSampler
from llmenv.weights import format as weights

pytest.importorskip("vllm")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "count", "length"), [("tiny", 32, 48), ("smollm2-135m", 6, 16)])
def test_logps_of_the_real_models(name: str, count: int, length: int) -> None:
    """So many prompts and tokens before and after a step of all weights, at two temperatures."""
    model, rng = load_causal_lm(name), np.random.default_rng(0)
    sampler = VLLMSampler(resolve_model(name), max_model_len=128, max_rows=64)
    prompts = [rng.integers(0, model.config.vocab_size, rng.integers(1, 60)).tolist() for _ in range(count)]
    for version, temperature in enumerate((1.0, 0.7)):
        params = SamplingParams(length, NO_STOP, temperature)
        assert gap(model, sampler.generate(prompts, params, range(count)), temperature, prompts) < 1e-3
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1.01)
        sampler.load_weights(weights.pack(model.state_dict()), version + 1)
