"""The comparison of sampler and learner after the first sync: silent where they agree, an error where they do not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from algorithms import GRPO
from bfloat16 import fast_bfloat16
from llmenv.rllib import probe
from llmenv.rllib.probe import MismatchError, is_exact, measure
from llmenv.weights import format as weights
from moe import make_moe_folder
from support import small_config

pytestmark = pytest.mark.usefixtures("ray_cluster")


def gap_of(algorithm: GRPO, **plan: Any) -> float:
    gap = measure(algorithm.runners, algorithm.learner_group, algorithm.config, **plan)
    assert gap is not None
    return gap


def lose_a_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sync that brings everything but changes one norm by a tenth on the way."""
    load = weights.load

    def broken(model: torch.nn.Module, packed: weights.Packed) -> None:
        name = "model.norm.weight"
        array, dtype = packed[name]
        load(model, {**packed, name: (array * 1.1, dtype)})

    monkeypatch.setattr(weights, "load", broken)


def test_they_agree_and_it_is_the_mean_gap(model_folder: str) -> None:
    """Two runners and two learners do in `test_two_runners_and_two_learners_train`."""
    algorithm = small_config(model_folder).build_algo()
    for shared in (True, False):
        assert gap_of(algorithm, shared_prompts=shared) < 1e-5
    algorithm.stop()


def test_the_measure_by_hand(model_folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sampled log-probabilities that are 0.25 too low at every other token are 0.125 off in the mean."""
    algorithm = small_config(model_folder).build_algo()
    sampler = algorithm.env_runner_group.local_env_runner.sampler
    generate = sampler.generate

    def shifted(*args: Any) -> Any:
        completions = generate(*args)
        for completion in completions:
            assert len(completion.logps) % 2 == 0
            completion.logps = completion.logps - 0.25 * (np.arange(len(completion.logps)) % 2)
        return completions

    monkeypatch.setattr(algorithm.env_runner_group.local_env_runner.renderer, "stop_token_ids", frozenset())
    monkeypatch.setattr(sampler, "generate", shifted)
    assert gap_of(algorithm) == pytest.approx(0.125, abs=1e-5)
    algorithm.stop()


def test_a_sync_that_loses_something_is_refused(model_folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lose_a_layer(monkeypatch)
    message = f"transformers sampler is not the policy that learns.*{model_folder}.*rounding explains 0.0001 in float32"
    with pytest.raises(MismatchError, match=message):
        small_config(model_folder).build_algo()


def test_it_looks_once_and_after_a_restore(
    model_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[int] = []
    look = probe.measure
    monkeypatch.setattr(probe, "measure", lambda *a, **k: looks.append(1) or look(*a, **k))
    algorithm = small_config(model_folder).build_algo()
    for _ in range(2):
        algorithm.train()
    assert len(looks) == 1
    saved = algorithm.save_to_path(str(tmp_path / "saved"))
    lose_a_layer(monkeypatch)
    with pytest.raises(MismatchError):
        algorithm.restore_from_path(saved)
    assert len(looks) == 2
    algorithm.stop()


def test_what_counts_as_exact(model_folder: str) -> None:
    exact = small_config(model_folder)
    assert is_exact(exact)
    assert not is_exact(small_config(model_folder).policy(dtype="bfloat16"))
    assert not is_exact(small_config(model_folder).policy(matmul_precision="high"))
    assert not is_exact(small_config(model_folder).sampling(sampler_kwargs={"quantization": "fp8"}))


@pytest.mark.parametrize("kind", ["llama", "qwen3_moe"])
def test_in_16_bits_they_are_within_the_bound(model_folder: str, tmp_path: Path, kind: str) -> None:
    folder = model_folder if kind == "llama" else make_moe_folder(kind, tmp_path)
    with fast_bfloat16():
        algorithm = small_config(folder).policy(dtype="bfloat16").build_algo()
        gap = gap_of(algorithm)
    assert probe.EXACT < gap < probe.ROUGH
    algorithm.stop()
