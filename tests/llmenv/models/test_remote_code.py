"""Python code that comes with a model: run where the user said so, else refused without a question on stdin."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from experiments.export import app
from llmenv.models import lora
from llmenv.models.names import ADAPTERS_IN_CHECKPOINT, load_causal_lm, trust_remote_code
from llmenv.models.saved_policy import BASE

CODE = """
from pathlib import Path

from transformers import LlamaConfig, LlamaForCausalLM

Path(__file__).parent.joinpath("it_ran").touch()


class MineConfig(LlamaConfig):
    model_type = "mine"


class MineForCausalLM(LlamaForCausalLM):
    config_class = MineConfig
"""


@pytest.fixture
def with_code(model_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder = tmp_path / "mine"
    shutil.copytree(model_folder, folder)
    (folder / "mine.py").write_text(CODE)
    config = json.loads((folder / "config.json").read_text())
    auto = {"AutoConfig": "mine.MineConfig", "AutoModelForCausalLM": "mine.MineForCausalLM"}
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "mine", "auto_map": auto}))
    yield folder
    trust_remote_code(False)


def test_code_is_refused_unless_it_is_trusted(with_code: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"Python code of its own.*--trust-remote-code"):
        load_causal_lm(str(with_code))
    assert not list(tmp_path.rglob("it_ran"))
    trust_remote_code(True)
    assert type(load_causal_lm(str(with_code))).__name__ == "MineForCausalLM"
    assert len(list(tmp_path.rglob("it_ran"))) == 1


def test_adapters_of_such_a_model_are_exported_where_it_is_trusted(with_code: Path, tmp_path: Path) -> None:
    checkpoint, out = tmp_path / "checkpoint", tmp_path / "out"
    adapters = checkpoint / ADAPTERS_IN_CHECKPOINT
    trust_remote_code(True)
    model = load_causal_lm(str(with_code))
    before = model.model.layers[0].mlp.up_proj.weight.detach().clone()
    lora.add_adapters(model, rank=2, alpha=4, targets=["up_proj"], seed=0)
    ones = {name: torch.ones_like(tensor) for name, tensor in model.state_dict().items()}
    lora.write_adapters(adapters, ones, str(with_code), rank=2, alpha=4)
    prompt = {"model": str(with_code), "template": "raw"}
    (adapters / BASE).write_text(json.dumps({"model": str(with_code), "dtype": "float32", "prompt": prompt}))

    refused = CliRunner().invoke(app, [str(checkpoint), str(out)])
    assert refused.exit_code == 2 and "--trust-remote-code" in refused.stderr
    done = CliRunner().invoke(app, [str(checkpoint), str(out), "--trust-remote-code"])
    assert done.exit_code == 0, done.stderr
    after = load_causal_lm(str(out)).model.layers[0].mlp.up_proj.weight
    torch.testing.assert_close(after, before + 4 / 2 * 2)  # alpha / rank x the sum over the rank
