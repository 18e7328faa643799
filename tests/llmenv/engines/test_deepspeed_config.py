"""What DeepSpeed is told, and what it may not be told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llmenv.engines import deepspeed as deepspeed_engine
from llmenv.engines.deepspeed import build_config, read_config
from support import small_config


def settings(**changes: Any) -> dict[str, Any]:
    plain: dict[str, Any] = {
        "zero_stage": 2,
        "offload_optimizer": False,
        "offload_parameters": False,
        "dtype": "float32",
        "grad_clip": 1.0,
        "extra": {},
    }
    return build_config(**{**plain, **changes})


def test_settings_become_deepspeed_s() -> None:
    config = settings(zero_stage=3, offload_optimizer=True, offload_parameters=True, dtype="bfloat16")
    assert config["zero_optimization"]["stage"] == 3
    assert config["zero_optimization"]["offload_optimizer"]["device"] == "cpu"
    assert config["zero_optimization"]["offload_param"]["device"] == "cpu"
    assert config["bf16"]["enabled"] and not config["fp16"]["enabled"]
    assert config["gradient_clipping"] == 1.0
    assert settings(grad_clip=None)["gradient_clipping"] == 0.0
    assert "offload_optimizer" not in settings()["zero_optimization"]


def test_more_settings_are_merged_in_last() -> None:
    extra = {
        "zero_optimization": {"stage": 2, "overlap_comm": False, "reduce_bucket_size": "auto"},
        "gradient_clipping": 1.0,
        "train_batch_size": "auto",
        "wall_clock_breakdown": True,
    }
    config = settings(extra=extra)
    assert config["zero_optimization"] == {"stage": 2, "overlap_comm": False}
    assert config["wall_clock_breakdown"] is True
    assert "train_batch_size" not in config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"zero_stage": 4}, "zero_stage must be 0, 1, 2, 3 or None"),
        ({"offload_parameters": True}, "offload_parameters needs zero_stage=3"),
        ({"zero_stage": 0, "offload_optimizer": True}, "offload_optimizer needs zero_stage 1, 2 or 3"),
        ({"extra": {"train_batch_size": 8}}, "train_batch_size=8.*set training.minibatch_size"),
        ({"extra": {"gradient_accumulation_steps": 2}}, "set training.micro_batch_tokens"),
        ({"extra": {"gradient_clipping": 0.5}}, "set training.grad_clip"),
        ({"extra": {"optimizer": {"type": "Adam"}}}, "set training.lr"),
        ({"extra": {"scheduler": {"type": "WarmupLR"}}}, "set training.lr"),
        ({"extra": {"fp16": {"enabled": True}}}, "set policy.dtype"),
        ({"extra": {"zero_optimization": {"stage": 3}}}, "set deepspeed.zero_stage"),
        ({"extra": {"data_types": {"grad_accum_dtype": "bf16"}}}, "set policy.dtype"),
        ({"zero_stage": 0, "dtype": "bfloat16"}, "set zero_stage=1, or None for PyTorch"),
        ({"extra": {"zero_optimization": {"offload_optimizer": {"device": "nvme"}}}}, "offload_optimizer"),
    ],
)
def test_contradictions_name_the_remedy(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        settings(**changes)


def test_a_config_refuses_contradictions_before_anything_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="offload_parameters needs zero_stage=3"):
        small_config("nowhere").deepspeed(zero_stage=2, offload_parameters=True).validate()
    with pytest.raises(ValueError, match="set zero_stage"):
        small_config("nowhere").deepspeed(offload_optimizer=True).validate()
    half = small_config("nowhere").policy(dtype="float16")
    for config in (half, half.copy().deepspeed(zero_stage=2), half.copy().learners(num_gpus_per_learner=1)):
        with pytest.raises(
            ValueError, match=r"float16 needs the scaling of the loss.*zero_stage=1 and num_gpus"
        ):
            config.validate()
    half.deepspeed(zero_stage=1).learners(num_gpus_per_learner=1).validate()
    file = tmp_path / "deepspeed.json"
    with pytest.raises(ValueError, match="cannot read DeepSpeed settings"):
        small_config("nowhere").deepspeed(zero_stage=2, config=str(file))
    file.write_text(json.dumps({"wall_clock_breakdown": True}))
    config = small_config("nowhere").deepspeed(zero_stage=2, config=str(file))
    config.validate()
    assert config.deepspeed_config["wall_clock_breakdown"] is True
    file.write_text("[1]")
    with pytest.raises(ValueError, match="must hold a JSON object"):
        read_config(file)


@pytest.mark.usefixtures("ray_cluster")
def test_without_deepspeed_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deepspeed_engine.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'llmenv\[deepspeed\]'"):
        small_config("tiny").deepspeed(zero_stage=2).build_algo()
