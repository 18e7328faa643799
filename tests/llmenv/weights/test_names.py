"""What leaves a learner for vLLM: names and tensors are those that `save_pretrained` writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from llmenv.models.names import load_causal_lm
from llmenv.weights import names
from moe import OWN, make_moe_folder


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kind", OWN)
def test_tensors_are_those_of_the_files(tmp_path: Path, kind: str, tied: bool) -> None:
    model: Any = load_causal_lm(make_moe_folder(kind, tmp_path / "made", tied=tied))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    model.save_pretrained(tmp_path / "saved")
    files = load_file(tmp_path / "saved" / "model.safetensors")
    state = model.state_dict()
    if tied:
        del state["lm_head.weight"]
    found = names.in_files(model, state)
    assert found.keys() == files.keys()
    assert all(torch.equal(tensor, files[name]) for name, tensor in found.items())
    # Group by group, and of shapes alone, it is the same.
    groups = names.together(model, state)
    assert sorted(name for group in groups for name in group) == sorted(state)
    pieces = [names.in_files(model, {name: state[name] for name in group}) for group in groups]
    assert [name for piece in pieces for name in piece] == list(found)
    shapes = names.in_files(model, {name: t.to("meta") for name, t in state.items()})
    assert {n: (t.shape, t.dtype) for n, t in shapes.items()} == {
        n: (t.shape, t.dtype) for n, t in files.items()
    }


def test_experts_leave_one_by_one(tmp_path: Path) -> None:
    """Two layers of four experts in three matrices each, which the model holds in two tensors a layer."""
    model: Any = load_causal_lm(make_moe_folder("olmoe", tmp_path))
    own = [name for name in model.state_dict() if ".experts." in name]
    assert len(own) == 4
    found = names.in_files(model, model.state_dict())
    assert sum(".experts." in name for name in found) == 24
    fused = model.model.layers[1].mlp.experts.gate_up_proj
    assert torch.equal(found["model.layers.1.mlp.experts.3.up_proj.weight"], fused[3, 32:])


def test_a_model_that_is_not_converted_keeps_its_tensors(model: Any) -> None:
    state = {name: tensor for name, tensor in model.state_dict().items() if name != "lm_head.weight"}
    found = names.in_files(model, state)
    assert found.keys() == state.keys()
    assert all(found[name] is tensor for name, tensor in state.items())
    assert names.together(model, state) == [[name] for name in found]
