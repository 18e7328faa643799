"""Models that the vLLM sampler does not take, in this program's words."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import ray

from architectures import make_folder
from llmenv.samplers.vllm import VLLMSampler

pytest.importorskip("vllm")
SETTINGS = {"kv_cache_memory_bytes": 2**27}


def test_a_model_that_vllm_does_not_know(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"vLLM does not start with .*CodeGenForCausalLM.*--sampler transformers"
    ):
        VLLMSampler(make_folder("codegen", tmp_path), sampler_kwargs=SETTINGS)


BUILD = """
import sys
import ray
from support import small_config

ray.init(address=sys.argv[2], logging_level="ERROR", log_to_driver=False)
config = small_config(sys.argv[1])
config.sampling(sampler="vllm", max_prompt_tokens=150, sampler_kwargs={"kv_cache_memory_bytes": 2**27})
try:
    config.build_algo()
except ValueError as error:
    print("refused:", error)
"""


@pytest.mark.slow
def test_a_class_of_transformers_that_vllm_changes_under_the_learner(
    ray_cluster: None, tmp_path: Path
) -> None:
    """In one process the learner could not be made any more; nor could any other model of that class in this one."""
    address = ray.get_runtime_context().gcs_address
    command = [sys.executable, "-c", BUILD, make_folder("glm", tmp_path), address]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert re.search(r"refused: .*with transformers' class.*--num-env-runners 1", done.stdout), done.stderr
