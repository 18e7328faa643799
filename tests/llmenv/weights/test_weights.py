"""The wire format: what is packed comes out the same, and what does not fit is refused whole."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from ray.rllib.core import COMPONENT_RL_MODULE
from ray.rllib.utils.metrics import WEIGHTS_SEQ_NO

from llmenv.models.names import load_causal_lm
from llmenv.rllib.env_runner import LLMEnvRunner
from llmenv.weights import format as weights
from support import runner_weights, small_config


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int64])
def test_round_trip_is_exact(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    state = {"a": (torch.randn(3, 5) * 100).to(dtype), "b": (torch.randn(4) * 1e-3).to(dtype)}
    unpacked = weights.unpack(pickle.loads(pickle.dumps(weights.pack(state))))
    assert unpacked.keys() == state.keys()
    for name, tensor in state.items():
        assert unpacked[name].dtype == dtype
        assert torch.equal(unpacked[name], tensor)


def test_only_numpy_travels() -> None:
    packed = weights.pack({"w": torch.ones(2, dtype=torch.bfloat16), "v": torch.ones(2, 3).T})
    assert all(isinstance(array, np.ndarray) for array, _ in packed.values())
    assert packed["w"][0].dtype == np.int16
    assert packed["v"][0].shape == (3, 2)


def test_read_only_arrays_unpack_without_a_warning(recwarn: pytest.WarningsRecorder) -> None:
    packed = weights.pack({"w": torch.arange(4.0)})
    packed["w"][0].flags.writeable = False  # as the object store gives them
    assert weights.unpack(packed)["w"].tolist() == [0.0, 1.0, 2.0, 3.0]
    assert not recwarn.list


def test_tied_weights_travel_once_and_stay_tied(model: Any, model_folder: str) -> None:
    packed = pickle.loads(pickle.dumps(weights.pack(model.state_dict())))  # without it, they share memory
    embedding, head = "model.embed_tokens.weight", "lm_head.weight"
    assert len({embedding, head} & packed.keys()) == 1
    for tensor in model.parameters():
        tensor.data.add_(0.5)
    weights.load(model, packed)
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
    fresh = load_causal_lm(model_folder).state_dict()
    assert all(torch.equal(tensor, fresh[name]) for name, tensor in model.state_dict().items())


def test_what_does_not_fit_is_refused(model: Any) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    name = "model.layers.0.self_attn.q_proj.weight"

    def changed(**changes: Any) -> weights.Packed:
        state = {key: tensor + 1 for key, tensor in before.items()}
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
        return weights.pack(state | changes)

    missing = changed()
    del missing[name]
    with pytest.raises(ValueError, match=rf"missing \['{name}'\]"):
        weights.load(model, missing)
    with pytest.raises(ValueError, match=r"unknown \['nobody'\]"):
        weights.load(model, changed(nobody=torch.ones(1)))
    # One row, which copy_ would spread over all of them.
    with pytest.raises(ValueError, match=rf"of another shape \['{name}'\]"):
        weights.load(model, changed(**{name: torch.ones(1, 32)}))
    assert all(
        torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items()
    )  # nothing half done


def test_a_runner_takes_over_pushed_weights(model: Any, model_folder: str) -> None:
    config = small_config(model_folder)
    runner = LLMEnvRunner(config=config, worker_index=0, num_workers=0)
    for parameter in model.parameters():
        parameter.data.mul_(1.5)
    wanted = torch.cat([p.detach().flatten() for p in model.parameters()])
    assert not torch.equal(runner_weights(runner), wanted)
    runner.set_state({COMPONENT_RL_MODULE: weights.pack(model.state_dict()), WEIGHTS_SEQ_NO: 3})
    assert torch.equal(runner_weights(runner), wanted)
    assert runner.sampler.weights_version == 3
    assert {episode.weights_version for episode in runner.sample()} == {3}


def test_the_runner_copies_and_does_not_share(model: Any, model_folder: str) -> None:
    """A learner in the same process goes on training its tensors: the sampler must not see that."""
    runner = LLMEnvRunner(config=small_config(model_folder), worker_index=0, num_workers=0)
    runner.set_state({COMPONENT_RL_MODULE: weights.pack(model.state_dict()), WEIGHTS_SEQ_NO: 1})
    before = runner_weights(runner)
    for parameter in model.parameters():
        parameter.data.mul_(2)
    assert torch.equal(runner_weights(runner), before)
