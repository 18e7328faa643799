"""DeepSpeed's engine with one learner, in this process: the steps of PyTorch's, whatever the policy."""

from __future__ import annotations

import math
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ray.rllib.core import DEFAULT_MODULE_ID

from algorithms.learner import PolicyLearner
from support import critic_weights, flat_weights, relative_gap, small_config
from updates import (
    SPACES,
    STAGES,
    Update,
    assert_same_steps,
    make_group,
    make_plan,
    make_rows,
    set_stage,
    uneven_plan,
)

pytest.importorskip("deepspeed")
pytestmark = pytest.mark.usefixtures("ray_cluster")

each_stage = pytest.mark.parametrize("stage", STAGES)


@pytest.fixture(scope="module")
def theirs(ray_cluster: None, model_folder: str) -> Update:
    """What one learner with PyTorch's engine makes of those three steps."""
    return Update(make_group(model_folder, kl_coeff=0.05), uneven_plan(1))


def local_group(
    model: str, stage: str, algo: str = "GRPO", *, learner_class: type | None = None, **training: Any
) -> Any:
    """One learner in this process."""
    config = set_stage(small_config(model, algo, kl_coeff=0.05, **training), stage)
    if learner_class is not None:
        config.learners(learner_class=learner_class)
    config.validate()
    return config.build_learner_group(spaces=SPACES)


def test_a_learner_lives_in_a_world_of_its_own(model_folder: str, theirs: Update) -> None:
    """vLLM destroys the process's groups where it shuts down, those that DeepSpeed remembers among them."""
    local_group(model_folder, "3")
    torch.distributed.destroy_process_group()
    if vllm := sys.modules.get(
        "vllm.distributed.parallel_state"
    ):  # which another file's tests have made groups with
        for name, value in [*vars(vllm).items()]:
            if isinstance(value, vllm.GroupCoordinator):
                setattr(vllm, name, None)
    assert_same_steps(Update(local_group(model_folder, "3"), uneven_plan(1)), theirs)


@pytest.mark.parametrize("stage", ["2", "3"])
def test_a_learner_in_the_driver_needs_no_others(model_folder: str, theirs: Update, stage: str) -> None:
    group = local_group(model_folder, stage)
    ours = Update(group, uneven_plan(1))
    assert_same_steps(ours, theirs)
    from llmenv.models.names import load_causal_lm

    assert (
        load_causal_lm(model_folder).get_input_embeddings().weight.numel() > 0
    )  # what is loaded later is whole


@pytest.mark.parametrize("stage", ["2", "3"])
def test_gradient_checkpointing_takes_the_same_steps(model_folder: str, theirs: Update, stage: str) -> None:
    config = small_config(model_folder, kl_coeff=0.05).policy(gradient_checkpointing=True)
    group = set_stage(config, stage).build_learner_group(spaces=SPACES)
    assert_same_steps(Update(group, uneven_plan(1)), theirs)


class SGDLearner(PolicyLearner):
    """A step is minus the learning rate, 1e-3, times the clipped gradient."""

    def configure_optimizers_for_module(self, module_id: str, config: Any = None) -> None:
        parameters = list(self.module[module_id].parameters())
        optimizer = torch.optim.SGD(parameters)
        self.register_optimizer(
            module_id=module_id, optimizer=optimizer, params=parameters, lr_or_lr_schedule=1e-3
        )


@each_stage
def test_the_gradient_is_clipped_and_its_norm_is_that_before(model_folder: str, stage: str) -> None:
    update = Update(
        local_group(model_folder, stage, learner_class=SGDLearner, grad_clip=0.5), make_plan(make_rows(), 1)
    )
    norm = float(update.gradients[0][0].norm())
    assert norm > 1.0
    assert update.metrics[0]["gradient_norm"] == pytest.approx(norm, rel=1e-5)
    # Weights of about 0.3 round at 3e-8, the changes are of about 3e-6.
    assert float(update.change.norm()) == pytest.approx(0.5e-3, rel=1e-2)


@pytest.mark.parametrize("stage", ["0", "2", "3"])
def test_adapters_are_trained_as_by_the_plain_engine(model_folder: str, stage: str) -> None:
    """In two updates: in the second the reference, which is the model without them, is another policy."""
    plain = small_config(model_folder, kl_coeff=0.05).policy(lora_rank=3)
    sharded = set_stage(small_config(model_folder, kl_coeff=0.05).policy(lora_rank=3), stage)
    weights, metrics = [], []
    for config in (plain, sharded):
        config.learners(learner_class=PolicyLearner)
        learner = config.build_learner_group(spaces=SPACES)._learner
        start = learner.outbox.weights()
        ((minibatch,),) = make_plan(make_rows(), 1)
        learner.update([minibatch])
        metrics.append(learner.update([minibatch])["default_policy"])
        end = learner.outbox.weights()
        assert start.keys() == end.keys()
        weights.append(torch.cat([(end[name] - start[name]).flatten() for name in start]))
    assert weights[0].norm() > 1e-3
    assert relative_gap(weights[1], weights[0]) < 1e-3
    theirs, ours = (float(one["kl_reference"].peek()) for one in metrics)
    assert ours == pytest.approx(theirs, rel=1e-3)
    assert theirs > 1e-9


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@each_stage
def test_a_gradient_that_is_not_finite_skips_the_step(model_folder: str, stage: str, bad: float) -> None:
    group = local_group(model_folder, stage)
    rows = make_rows()
    rows[0].advantages = np.where(rows[0].response_mask, np.float32(bad), np.float32(0.0))
    update = Update(group, make_plan(rows, 1))
    assert not update.change.any()
    assert update.metrics[0]["num_steps_skipped"] == 1
    sound = Update(group, make_plan(make_rows(), 1))  # nothing of it is left behind
    theirs = Update(make_group(model_folder, kl_coeff=0.05), make_plan(make_rows(), 1))
    assert relative_gap(sound.change, theirs.change) < 1e-3
    assert sound.metrics[0]["num_steps_skipped"] == 0


@pytest.mark.parametrize("stage", ["0", "2", "3"])
@pytest.mark.parametrize("critic", ["separate", "shared"])
def test_a_critic_is_trained_as_by_the_plain_engine(model_folder: str, critic: str, stage: str) -> None:
    """With shared prompts, too, which the plain one here goes without."""
    settings = {"critic": critic, "value_clip": None, "value_warmup_iterations": 1}
    ours = local_group(model_folder, stage, "PPO", **settings)
    theirs = make_group(model_folder, "PPO", kl_coeff=0.05, shared_prompts=False, **settings)
    read = [flat_weights, critic_weights] if critic == "separate" else [flat_weights]
    before = [[f(group._learner) for f in read] for group in (ours, theirs)]
    for _ in range(3):
        metrics = [
            group.update(make_plan(make_rows(), 1, shared_prompts=group is ours))[0]
            for group in (ours, theirs)
        ]
    for i, f in enumerate(read):
        changes = [f(group._learner) - old[i] for group, old in zip((ours, theirs), before, strict=True)]
        assert changes[1].norm() > 1e-2
        assert relative_gap(*changes) < 1e-3
    for key in ("explained_variance", "value_loss"):
        mine, plain = (each[DEFAULT_MODULE_ID][key].peek() for each in metrics)
        assert mine == pytest.approx(plain, abs=1e-4)


SETTINGS = {
    "lr": (1e-3, 3e-3),
    "weight_decay": (0.0, 0.1),
    "adam_betas": ((0.9, 0.999), (0.5, 0.9)),
    "grad_clip": (1.0, 1e-3),
}


@pytest.mark.parametrize("stage", ["0", "1", "2", "3"])
def test_a_restored_learner_steps_by_its_own_settings(model_folder: str, tmp_path: Path, stage: str) -> None:
    """As PyTorch's engine does: the step after the restore, with other settings than those of the checkpoint."""
    then, now = ({name: values[i] for name, values in SETTINGS.items()} for i in (0, 1))
    plan = make_plan(make_rows(), 1)
    changes = []
    for name, make in (
        ("theirs", partial(make_group, kl_coeff=0.05)),
        ("ours", partial(local_group, stage=stage)),
    ):
        donor = make(model_folder, **then)
        donor.update(plan)
        path = donor.save_to_path(tmp_path / name)
        heir = make(model_folder, **now)
        heir.restore_from_path(path)
        assert relative_gap(flat_weights(heir._learner), flat_weights(donor._learner)) == 0.0
        changes.append(Update(heir, plan).change)
    assert changes[0].norm() > 1e-2
    assert relative_gap(changes[1], changes[0]) < 1e-3


@pytest.mark.parametrize("stage", ["1", "3"])
def test_a_checkpoint_holds_adapters_and_no_base_model(model_folder: str, tmp_path: Path, stage: str) -> None:
    config = set_stage(small_config(model_folder, lr=1e-2).policy(lora_rank=3), stage)
    plan = make_plan(make_rows(), 1)
    donor, heir = (config.copy().build_learner_group(spaces=SPACES) for _ in range(2))
    donor.update(plan)
    path = Path(donor.save_to_path(tmp_path))
    heir.restore_from_path(path)
    theirs, ours = (group._learner.outbox.weights() for group in (donor, heir))
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())
    # The model has 52,000 weights of 4 bytes; its adapters of rank 3 have 3,000, with two moments each.
    assert sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) < 150_000
    for group in (donor, heir):
        group.update(plan)
    theirs, ours = (group._learner.outbox.weights() for group in (donor, heir))
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())
