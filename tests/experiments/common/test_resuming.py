"""What a resumed run may be given anew, and what not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from experiments.common import settings
from experiments.common.resuming import resumed

RECORDED: dict[str, Any] = {
    "algo": "GRPO",
    "environment": {"env": "envs:Countdown-v0"},
    "policy": {"model": "tiny", "dtype": "float32"},
    "training": {"lr": 1e-4, "micro_batch_tokens": 8192},
    "sampling": {
        "sampler": "vllm",
        "sampler_kwargs": {"gpu_memory_utilization": 0.5, "enforce_eager": True},
        "weight_transfer": "nccl",
    },
    "env_runners": {"num_env_runners": 8, "num_gpus_per_env_runner": 1},
    "learners": {"num_learners": 8, "num_gpus_per_learner": 1, "num_cpus_per_learner": 4},
    "run": {"iterations": 100, "keep_checkpoints": 2},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(RECORDED))
    (tmp_path / "checkpoints" / "iteration_000025").mkdir(parents=True)
    return tmp_path


def test_nothing_given_anew_is_the_run_as_it_was(folder):
    algo, sections = resumed(folder, {}, {"policy": {}, "run": {}})
    assert {"algo": algo, **sections} == RECORDED


@pytest.mark.parametrize(
    "setting",
    [
        "env_runners.num_env_runners=2",
        "env_runners.num_cpus_per_env_runner=0.5",
        "env_runners.num_gpus_per_env_runner=0",
        "env_runners.sample_timeout_s=60",
        "learners.num_learners=2",
        "learners.num_cpus_per_learner=0.5",
        "learners.num_gpus_per_learner=0.25",
        "deepspeed.offload_optimizer=true",
        "deepspeed.offload_parameters=true",
        "policy.gradient_checkpointing=true",
        "training.micro_batch_tokens=512",
        "sampling.max_rows_per_sampler=16",
        "sampling.weight_transfer=null",
        "sampling.env_timeout_s=60",
        "run.iterations=200",
        "run.time_limit=5",
        "run.evaluate_every=7",
        "run.checkpoint_every=1",
        "run.keep_checkpoints=5",
        "run.show_every=3",
    ],
)
@pytest.mark.parametrize("as_option", [False, True])
def test_placement_is_taken(folder, setting, as_option):
    given = settings.parse_assignment(setting)
    _, sections = resumed(folder, {} if as_option else given, given if as_option else {})
    assert sections == settings.merge({k: v for k, v in RECORDED.items() if k != "algo"}, given)


@pytest.mark.parametrize(
    "setting",
    [
        "policy.model=smollm2-135m",
        "policy.dtype=bfloat16",
        "policy.lora_rank=4",
        "training.lr=1e-5",
        "training.group_size=4",
        "training.minibatch_size=8",
        "sampling.temperature=0.5",
        "sampling.run_seed=1",
        "deepspeed.zero_stage=3",
        "environment.env_config.digits=2",
        "evaluation.evaluation_duration=8",
    ],
)
@pytest.mark.parametrize("as_option", [False, True])
def test_what_is_learned_is_refused_by_name(folder, setting, as_option):
    given = settings.parse_assignment(setting)
    name = setting.split("=")[0].split(".")[1]
    with pytest.raises(
        ValueError, match=rf"cannot take {name}\. It takes where .* micro_batch_tokens.*export\.py"
    ):
        resumed(folder, {} if as_option else given, given if as_option else {})


def test_all_that_is_refused_is_named(folder):
    with pytest.raises(ValueError, match="cannot take group_size, lr, model"):
        resumed(
            folder,
            settings.from_assignments(["training.lr=1", "learners.num_learners=1"]),
            {"policy": {"model": "tiny"}, "training": {"group_size": 4}},
        )


def test_options_win_over_assignments(folder):
    _, sections = resumed(folder, {"learners": {"num_learners": 1}}, {"learners": {"num_learners": 2}})
    assert sections["learners"] == {"num_learners": 2, "num_gpus_per_learner": 1, "num_cpus_per_learner": 4}


def test_another_sampler_comes_without_what_was_the_first_ones(folder):
    _, sections = resumed(folder, {"sampling": {"sampler_kwargs": {"gpu_memory_utilization": 0.9}}}, {})
    assert sections["sampling"] == {
        "sampler": "vllm",
        "sampler_kwargs": {"gpu_memory_utilization": 0.9, "enforce_eager": True},
        "weight_transfer": "nccl",
    }
    _, sections = resumed(folder, {}, {"sampling": {"sampler": "transformers"}})
    assert sections["sampling"] == {"sampler": "transformers"}
    runners = {"num_env_runners": 0, "num_gpus_per_env_runner": 0}
    learners = {"num_learners": 1, "num_gpus_per_learner": 0}
    algo, sections = resumed(
        folder,
        {},
        {"sampling": {"sampler": "transformers"}, "env_runners": runners, "learners": learners},
    )
    config, _ = settings.build(algo, sections)
    assert (config.sampler, config.num_learners, config.num_gpus_per_learner) == ("transformers", 1, 0)


def test_a_folder_without_a_checkpoint_has_nothing_to_go_on_from(folder):
    (folder / "checkpoints" / "iteration_000025").rmdir()
    with pytest.raises(ValueError, match="holds no checkpoint to resume from"):
        resumed(folder, {}, {})


def with_changed(change: dict[str, Any]) -> dict[str, Any]:
    sections = {name: values for name, values in RECORDED.items() if name != "algo"}
    return {"algo": RECORDED["algo"], **settings.merge(sections, change)}


def checkpoint_with(folder: Path, settings_then: dict[str, Any]) -> None:
    (folder / "checkpoints" / "iteration_000025" / "config.yaml").write_text(yaml.safe_dump(settings_then))


@pytest.mark.parametrize(
    ("setting", "was", "now"),
    [("training.lr", 1e-4, 3e-4), ("policy.dtype", "float32", "bfloat16"), ("policy.lora_rank", None, 8)],
)
def test_an_edit_of_what_is_learned_is_refused(folder, setting, was, now):
    section, name = setting.split(".")
    checkpoint_with(folder, with_changed({section: {name: was}}))
    (folder / "config.yaml").write_text(yaml.safe_dump(with_changed({section: {name: now}})))
    with pytest.raises(ValueError, match=rf"was edited.*{setting} \(was {was!r}, is {now!r}\)\. .*undo that"):
        resumed(folder, {}, {})


def test_another_method_is_refused_and_a_setting_that_is_left_out(folder):
    checkpoint_with(folder, RECORDED)
    edited = {**RECORDED, "algo": "PPO", "policy": {"model": "tiny"}}
    (folder / "config.yaml").write_text(yaml.safe_dump(edited))
    with pytest.raises(ValueError, match=r"algo \(was 'GRPO', is 'PPO'\), policy.dtype \(.*is 'left out'\)"):
        resumed(folder, {}, {})


def test_an_edit_of_where_things_run_is_applied(folder):
    checkpoint_with(folder, RECORDED)
    edited = with_changed({"learners": {"num_learners": 2}, "run": {"iterations": 300}})
    (folder / "config.yaml").write_text(yaml.safe_dump(edited))
    algo, sections = resumed(folder, {}, {})
    assert {"algo": algo, **sections} == edited
