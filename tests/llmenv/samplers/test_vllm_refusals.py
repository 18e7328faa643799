"""Models that the vLLM sampler does not take, in this program's words."""

from __future__ import annotations

from pathlib import Path

import pytest

from architectures import make_folder
from llmenv.samplers.vllm import VLLMSampler
from support import small_config

pytest.importorskip("vllm")
SETTINGS = {"kv_cache_memory_bytes": 2**27}


def test_a_model_that_vllm_does_not_know(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"vLLM does not start with .*CodeGenForCausalLM.*--sampler transformers"
    ):
        VLLMSampler(make_folder("codegen", tmp_path), sampler_kwargs=SETTINGS)


@pytest.mark.slow
def test_a_class_of_transformers_that_vllm_changes_under_the_learner(
    ray_cluster: None, tmp_path: Path
) -> None:
    """In one process the learner could not be made any more."""
    config = small_config(make_folder("glm", tmp_path))
    config.sampling(sampler="vllm", max_prompt_tokens=150, sampler_kwargs=SETTINGS)
    with pytest.raises(ValueError, match=r"with transformers' class.*--num-env-runners 1"):
        config.build_algo()
