"""A learner's checkpoint: what comes back of it, on which filesystem it is, and what stays this run's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem
from pyarrow.fs import FSSpecHandler, LocalFileSystem, PyFileSystem, SubTreeFileSystem, copy_files
from ray.rllib.core import DEFAULT_MODULE_ID
from transformers import AutoModelForCausalLM

from llmenv.rllib import checkpoint
from llmenv.rllib.learner import LLMLearner, NonFiniteStepsError
from support import (
    flat_weights,
    small_config,
)
from updates import SPACES, Update, make_group, make_plan, make_rows

pytestmark = pytest.mark.usefixtures("ray_cluster")  # RLlib would start a Ray of its own


def test_a_checkpoint_brings_back_weights_optimizer_and_version(model_folder: str, tmp_path: Path) -> None:
    group = make_group(model_folder)
    plan = make_plan(make_rows(), 1)
    for _ in range(2):
        group.update(plan)
    path = group.save_to_path(tmp_path)
    theirs = Update(group, plan)
    other = make_group(model_folder)
    other.restore_from_path(path)
    ours = Update(other, plan)
    assert torch.equal(ours.before[0], theirs.before[0])
    assert torch.equal(ours.after[0], theirs.after[0])  # AdamW's moments too, or the step would be another
    assert other.pack_weights()[1] == group.pack_weights()[1] == 3


def test_exported_policy_is_a_hugging_face_folder(model_folder: str, tmp_path: Path) -> None:
    group = make_group(model_folder)
    group.update(make_plan(make_rows(), 1))
    group.on_all(lambda learner: learner.outbox.export(tmp_path))
    exported = AutoModelForCausalLM.from_pretrained(tmp_path)
    weights = torch.cat([p.detach().flatten() for p in exported.parameters()])
    assert torch.equal(weights, flat_weights(group._learner))


def build(model: str, algo: str, settings: dict[str, Any], critic: str | None = None) -> LLMLearner:
    settings = dict(settings)
    temperature = settings.pop("temperature", 1.0)
    more = {"critic": critic} if algo == "PPO" else {}
    config = small_config(model, algo, **more, **settings).sampling(temperature=temperature)
    config.validate()
    return config.build_learner_group(spaces=SPACES)._learner


def engines(learner: LLMLearner) -> list[Any]:
    return [learner.engine, *([learner.critic_engine] if learner.critic_engine else [])]


def hand_over(donor: LLMLearner, heir: LLMLearner) -> None:
    """Weights, moments and the version from one learner to another, in memory; no setting comes with them."""
    for theirs, ours in zip(engines(donor), engines(heir), strict=True):
        ours.module.load_state_dict(theirs.module.state_dict())
        pairs = zip(theirs.module.parameters(), ours.module.parameters(), strict=True)
        for given, taken in pairs:
            ours.optimizer.state[taken] = {
                name: value.clone() for name, value in theirs.optimizer.state[given].items()
            }
    heir._weights_seq_no = donor._weights_seq_no


def weights_after(learner: LLMLearner) -> torch.Tensor:
    """After two epochs of three steps."""
    learner.update(make_plan(make_rows(), 1, minibatch_size=5)[0], num_epochs=2, seed=1)
    return torch.cat(
        [p.detach().flatten().clone() for engine in engines(learner) for p in engine.module.parameters()]
    )


# Each of the checkpoint's run, and of the one that is restored from it.
SETTINGS: dict[str, tuple[str, str | None, dict[str, tuple[Any, Any]]]] = {
    "policy": (
        "GRPO",
        None,
        {
            "lr": (1e-3, 3e-3),
            "weight_decay": (0.1, 0.0),
            "adam_betas": ((0.5, 0.9), (0.9, 0.999)),
            "clip_param": (0.2, 1e-4),
            "clip_param_high": (None, 0.1),
            "entropy_coeff": (0.0, 0.1),
            "kl_coeff": (0.0, 0.5),
            "temperature": (1.0, 0.7),
        },
    ),
    "gradient": ("GRPO", None, {"grad_clip": (1.0, 1e-3)}),
    "critic": (
        "PPO",
        "separate",
        {"critic_lr": (1e-3, 3e-3), "gamma": (1.0, 0.5), "lambda_": (1.0, 0.5), "value_clip": (0.5, 1e-3)},
    ),
    "value head": ("PPO", "shared", {"vf_loss_coeff": (0.5, 5.0)}),
}


@pytest.mark.parametrize("kind", SETTINGS)
def test_a_restored_learner_steps_by_its_own_settings(model_folder: str, tmp_path: Path, kind: str) -> None:
    """To the bit as a learner that never had others, and otherwise than one with any of the checkpoint's."""
    algo, critic, settings = SETTINGS[kind]
    then, now = ({name: values[i] for name, values in settings.items()} for i in (0, 1))
    donor, heir, always = (build(model_folder, algo, each, critic) for each in (then, now, now))
    weights_after(donor)
    checkpoint.save(donor, tmp_path)
    checkpoint.load(heir, tmp_path)
    hand_over(donor, always)
    ours = weights_after(heir)
    assert torch.equal(ours, weights_after(always))
    for name, value in then.items():
        other = build(model_folder, algo, {**now, name: value}, critic)
        hand_over(donor, other)
        assert not torch.equal(ours, weights_after(other)), name


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        ({"kl_coeff": 0.5, "kl_target": 0.1}, 0.475),
        ({"kl_coeff": 0.5, "kl_target": 0.2}, 0.475),
        ({"kl_coeff": 0.1, "kl_target": 0.1}, 0.1),
        ({"kl_coeff": 0.5}, 0.5),
        ({}, 0.0),
    ],
)
def test_a_coefficient_goes_on_where_it_started_alike(
    model_folder: str, tmp_path: Path, now: dict[str, float], expected: float
) -> None:
    """It came to 0.5 * (1 - 0.2 * 16 samples / 64) = 0.475: the first KL is 0, an error that counts as -0.2."""
    donor, heir = (
        build(model_folder, "GRPO", {"kl_horizon": 64, **settings})
        for settings in ({"kl_coeff": 0.5, "kl_target": 0.1}, now)
    )
    donor.update(make_plan(make_rows(), 1)[0])
    assert donor.kl_coeff == pytest.approx(0.475)
    checkpoint.save(donor, tmp_path)
    checkpoint.load(heir, tmp_path)
    assert heir.kl_coeff == pytest.approx(expected)
    assert (heir.reference is None) == (expected == 0)


def test_how_many_steps_may_be_skipped_is_the_restored_runs_own(model_folder: str, tmp_path: Path) -> None:
    rows = make_rows()
    rows[0].advantages = np.where(rows[0].response_mask, np.float32(np.nan), np.float32(0.0))
    donor, heir = (build(model_folder, "GRPO", {"max_skipped_steps": n}) for n in (5, 2))
    donor.update(make_plan(rows, 1)[0])
    checkpoint.save(donor, tmp_path)
    checkpoint.load(heir, tmp_path)
    with pytest.raises(NonFiniteStepsError, match=r"^2 optimizer steps in a row"):
        heir.update(make_plan(rows, 1)[0])


def test_a_checkpoint_on_another_filesystem(
    model_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # a relative path on that filesystem is none here
    elsewhere = PyFileSystem(FSSpecHandler(MemoryFileSystem()))
    group, other = (make_group(model_folder) for _ in range(2))
    plan = make_plan(make_rows(), 1)
    group.update(plan)
    group.save_to_path("bucket/run", filesystem=elsewhere)
    group.export_policy("bucket/policy", filesystem=elsewhere)
    other.restore_from_path("bucket/run", filesystem=elsewhere)
    assert torch.equal(flat_weights(other._learner), flat_weights(group._learner))
    theirs, ours = (Update(each, plan) for each in (group, other))
    assert torch.equal(ours.after[0], theirs.after[0])
    assert not list(tmp_path.iterdir())
    copy_files(
        "/bucket/policy", str(tmp_path), source_filesystem=elsewhere, destination_filesystem=LocalFileSystem()
    )
    exported = AutoModelForCausalLM.from_pretrained(tmp_path)
    weights = torch.cat([p.detach().flatten() for p in exported.parameters()])
    assert torch.equal(weights, theirs.before[0])


def test_a_run_on_another_filesystem_goes_on_by_other_settings(model_folder: str, tmp_path: Path) -> None:
    """16 samples in minibatches of 8, twice, are 4 steps; they were one."""
    elsewhere = SubTreeFileSystem(str(tmp_path), LocalFileSystem())
    theirs = small_config(model_folder, entropy_coeff=0.01).build_algo()  # no reward moves the random model
    start = flat_weights(theirs.learner_group._learner)
    assert theirs.train()["learners"][DEFAULT_MODULE_ID]["num_steps"] == 1
    theirs.save_to_path("run", filesystem=elsewhere)
    ours = small_config(model_folder, minibatch_size=8, num_epochs=2, entropy_coeff=0.01).build_algo()
    ours.restore_from_path("run", filesystem=elsewhere)
    weights = [flat_weights(algorithm.learner_group._learner) for algorithm in (theirs, ours)]
    assert torch.equal(*weights)
    assert (weights[0] - start).norm() > 0.1
    assert ours.train()["learners"][DEFAULT_MODULE_ID]["num_steps"] == 4
    assert ours.iteration == 2
    ours.export_policy(f"file://{tmp_path}/policy")
    assert (tmp_path / "policy" / "model.safetensors").is_file()
    for algorithm in (theirs, ours):
        algorithm.stop()
