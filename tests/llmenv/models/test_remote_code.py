"""Python code that comes with a model: run where the user said so, else refused without a question on stdin."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmenv.models.names import load_causal_lm, trust_remote_code

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
