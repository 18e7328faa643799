"""Models that are not of the usual make, in whole runs: what works does, what does not is refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from llmenv.models.names import load_tokenizer
from llmenv.rllib.runner_group import RunnerError
from other_models import STATES, STATES_OUT_OF_REACH
from small_models import LLAMA
from support import small_config

pytestmark = pytest.mark.usefixtures("ray_cluster")

CAPPED = {**LLAMA, "final_logit_softcapping": 2.0}


def write(kind: str, settings: dict[str, Any], folder: Path) -> str:
    tokenizer = load_tokenizer("tiny")
    special = {"eos_token_id": tokenizer.eos_token_id, "bos_token_id": None, "pad_token_id": None}
    sizes = {"vocab_size": len(tokenizer), "max_position_embeddings": 512, "initializer_range": 0.2}
    config = AutoConfig.for_model(kind, **{**settings, **sizes, **special})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize(("kind", "settings"), [("gemma3_text", CAPPED), ("lfm2", STATES["lfm2"])])
def test_sampler_and_learner_agree(kind: str, settings: dict[str, Any], tmp_path: Path) -> None:
    config = small_config(write(kind, settings, tmp_path / "model")).training(
        kl_coeff=0.01
    )  # every row learns
    algo = config.build_algo()
    try:
        for _ in range(2):
            results = algo.train()["learners"]["default_policy"]
            assert 0 < results["sampler_logp_gap_max"] < 1e-4
        algo.learner_group.export_policy(tmp_path / "out")
    finally:
        algo.stop()
    AutoModelForCausalLM.from_pretrained(tmp_path / "out")


@pytest.mark.parametrize(("num_env_runners", "error"), [(0, ValueError), (1, RunnerError)])
def test_a_model_that_cannot_be_sampled_from_is_refused_by_name(
    num_env_runners: int, error: type[Exception], tmp_path: Path
) -> None:
    model = write("rwkv", STATES_OUT_OF_REACH["rwkv"], tmp_path / "model")
    with pytest.raises(error, match="does not work with RwkvForCausalLM"):
        small_config(model, num_env_runners=num_env_runners).build_algo()


def test_a_run_that_would_leave_the_models_positions_is_refused(tmp_path: Path) -> None:
    model = write("gpt2", {"n_embd": 16, "n_layer": 1, "n_head": 2}, tmp_path / "model")
    config = small_config(model).sampling(max_prompt_tokens=400, max_new_tokens=113)
    with pytest.raises(ValueError, match="has 512 positions, and a prompt with its response may take 513"):
        config.build_algo()


def test_a_run_whose_batches_would_scale_positions_is_refused(tmp_path: Path) -> None:
    """Evaluation counts too: one sampler does both, and vLLM scales by the longest that it would take."""
    scaling = {"rope_type": "longrope", "short_factor": [1.0, 1.0], "long_factor": [4.0, 4.0], "factor": 4.0}
    scaling["original_max_position_embeddings"] = 128
    model = write("llama", {**LLAMA, "rope_parameters": scaling}, tmp_path / "model")
    with pytest.raises(ValueError, match=r"of any length: set max_prompt_tokens .* they are at most 128"):
        small_config(model).sampling(max_prompt_tokens=None).build_algo()
    config = small_config(model).sampling(max_prompt_tokens=100, max_new_tokens=28)
    config.evaluation(evaluation_config={"max_new_tokens": 29})
    with pytest.raises(ValueError, match=r"may take 129 tokens: .* they are at most 128"):
        config.build_algo()
    config.evaluation(evaluation_config={"max_new_tokens": 28})
    config.build_algo().stop()
