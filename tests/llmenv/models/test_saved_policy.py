"""The policy comes out of a checkpoint whole, also where it holds adapters alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from llmenv.models.names import (
    ADAPTERS_IN_CHECKPOINT,
    POLICY_IN_CHECKPOINT,
    load_causal_lm,
    load_tokenizer,
)
from llmenv.models.renderer import Renderer
from llmenv.models.saved_policy import has_policy, write_policy
from support import small_config
from updates import SPACES, make_plan, make_rows

pytestmark = pytest.mark.usefixtures("ray_cluster")


@pytest.mark.parametrize(("rank", "dtype"), [(None, "float32"), (4, "float32"), (4, "bfloat16")])
def test_what_comes_out_is_what_the_run_exports(
    model_folder: str, tmp_path: Path, rank: int | None, dtype: str
) -> None:
    config = small_config(model_folder, lr=1e-2).policy(lora_rank=rank, template="r1", dtype=dtype)
    config.env_prompt = {"system": "Be brief.", "assistant_prefix": "<think>"}
    group = config.build_learner_group(spaces=SPACES)
    group.update(make_plan(make_rows(), 1))
    group.export_policy(tmp_path / "exported")
    checkpoint = tmp_path / "checkpoint"
    assert not has_policy(checkpoint)
    group.save_to_path(checkpoint / "learner_group")
    assert has_policy(checkpoint)

    write_policy(checkpoint, tmp_path / "out")
    exported, out = (load_file(tmp_path / name / "model.safetensors") for name in ("exported", "out"))
    assert out.keys() == exported.keys()
    assert {str(tensor.dtype) for tensor in out.values()} == {f"torch.{dtype}"}
    assert all(torch.equal(tensor, exported[name]) for name, tensor in out.items())
    files = {file.name for file in (tmp_path / "exported").iterdir()}
    assert {file.name for file in (tmp_path / "out").iterdir()} == files
    # Either way with the prompt of training.
    prompt = Renderer.from_model(model_folder, "r1").encode("1 + 2?", "Be brief.", "<think>")
    for name in ("exported", "out"):
        tokenizer = load_tokenizer(str(tmp_path / name))
        question = [{"role": "user", "content": "1 + 2?"}]
        asked = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_dict=False)
        assert asked == prompt.token_ids

    state = torch.load(checkpoint / POLICY_IN_CHECKPOINT.with_name("engine.pt"), weights_only=True)
    assert all("lora_" in name for name in state["module"]) == (rank is not None)
    assert (checkpoint / POLICY_IN_CHECKPOINT).exists() == (rank is None)


def test_peft_loads_the_adapters_of_a_checkpoint(model_folder: str, tmp_path: Path) -> None:
    config = small_config(model_folder, lr=1e-2).policy(lora_rank=4, lora_targets=["q_proj", "down_proj"])
    group = config.build_learner_group(spaces=SPACES)
    group.update(make_plan(make_rows(), 1))
    group.save_to_path(tmp_path / "learner_group")
    base = load_causal_lm(model_folder)
    ids = torch.arange(20)[None]
    with torch.no_grad():
        plain = base(ids).logits
        adapted = PeftModel.from_pretrained(base, tmp_path / ADAPTERS_IN_CHECKPOINT)
        assert adapted.peft_config["default"].base_model_name_or_path == model_folder
        torch.testing.assert_close(adapted(ids).logits, group._learner.policy.model(ids).logits)
        assert not torch.allclose(adapted(ids).logits, plain, atol=0.01)
