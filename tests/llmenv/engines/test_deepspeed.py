"""DeepSpeed's engine at every stage: the update, the weights and the state of PyTorch's."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ray.rllib.core import DEFAULT_MODULE_ID

from algorithms.learner import PolicyLearner
from llmenv.engines import deepspeed as deepspeed_engine
from llmenv.engines.deepspeed import build_config, read_config
from llmenv.policy.batch import Minibatch
from llmenv.rllib.learner_group import LLMLearnerGroup
from support import critic_weights, flat_weights, relative_gap, runner_weights, small_config
from updates import SPACES, Update, locally_normalised, make_group, make_plan, make_rows

pytest.importorskip("deepspeed")
pytestmark = pytest.mark.usefixtures("ray_cluster")

# By default stage 3 leaves parameters of less than 100,000 elements whole: all that the test's model has.
PARTITION_ALL = {"zero_optimization": {"stage3_param_persistence_threshold": 0}}
STAGES = {
    "0": {"zero_stage": 0},
    "1": {"zero_stage": 1},
    "2": {"zero_stage": 2},
    "2-offload": {"zero_stage": 2, "offload_optimizer": True},
    "3": {"zero_stage": 3, "config": PARTITION_ALL},
    "3-offload": {
        "zero_stage": 3,
        "offload_optimizer": True,
        "offload_parameters": True,
        "config": PARTITION_ALL,
    },
}
each_stage = pytest.mark.parametrize("stage", STAGES)


def set_stage(config: Any, stage: str) -> Any:
    off = {"zero_stage": None, "offload_optimizer": False, "offload_parameters": False, "config": {}}
    return config.deepspeed(**{**off, **STAGES[stage]})


def local_group(
    model: str, stage: str, algo: str = "GRPO", *, learner_class: type | None = None, **training: Any
) -> Any:
    """One learner in this process."""
    config = set_stage(small_config(model, algo, kl_coeff=0.05, **training), stage)
    if learner_class is not None:
        config.learners(learner_class=learner_class)
    config.validate()
    return config.build_learner_group(spaces=SPACES)


def rebuild(group: LLMLearnerGroup, stage: str, config: Any = None) -> LLMLearnerGroup:
    """The learners start anew from the model's folder with another engine; their processes are the same ones.

    By their first config, unless another one is given.
    """
    if config is not None:
        config.validate()

    def start_anew(learner: Any) -> None:
        first = vars(learner).setdefault("first", (type(learner), learner.config, learner._module_spec))
        index, (cls, own, spec) = learner._learner_index, first
        if config is not None:
            cls, own, spec = config.learner_class, config, config.get_multi_rl_module_spec(spaces=SPACES)
        config_of_stage = set_stage(own.copy(copy_frozen=False), stage)
        learner.__class__ = cls
        learner.__init__(config=config_of_stage, module_spec=spec)
        learner._learner_index = index
        learner.build()

    group.on_all(start_anew)
    return group


@pytest.fixture(scope="module")
def algorithm(ray_cluster: None, model_folder: str) -> Iterator[Any]:
    """GRPO with a sampler in this process and two learners in their own."""
    config = small_config(model_folder, num_learners=2, kl_coeff=0.05, micro_batch_tokens=200)
    algorithm = set_stage(config, "3").build_algo()
    yield algorithm
    algorithm.stop()


@pytest.fixture
def two(algorithm: Any) -> LLMLearnerGroup:
    return algorithm.learner_group


def uneven_plan(learners: int) -> list[list[Minibatch]]:
    """Three steps of 5 rows in micro-batches of at most 70 tokens."""
    return make_plan(make_rows(), learners, minibatch_size=5, tokens=70)


def is_idle(batch: Any) -> bool:
    return not batch.response_mask.any()


@pytest.fixture(scope="module")
def theirs(ray_cluster: None, model_folder: str) -> Update:
    """What one learner with PyTorch's engine makes of those three steps."""
    return Update(make_group(model_folder, kl_coeff=0.05), uneven_plan(1))


def assert_same_steps(ours: Update, theirs: Update) -> None:
    """Gradients to 1e-5, weight changes to 1e-3 (norm of the difference over norm of the change)."""
    assert relative_gap(ours.before[0], theirs.before[0]) == 0.0
    assert len(theirs.gradients[0]) == 3
    for gradients in ours.gradients:
        assert len(gradients) == 3
        for ours_step, theirs_step in zip(gradients, theirs.gradients[0], strict=True):
            assert relative_gap(ours_step, theirs_step) < 1e-5
    assert theirs.change.norm() > 1e-2
    for before, after in zip(ours.before, ours.after, strict=True):
        assert relative_gap(after - before, theirs.change) < 1e-3
    for metrics in ours.metrics:
        assert metrics["gradient_norm"] == pytest.approx(theirs.metrics[0]["gradient_norm"], rel=1e-5)
    for key in ("total_loss", "entropy", "kl_reference"):
        assert ours.summed(key) == pytest.approx(theirs.summed(key), abs=1e-5)


@each_stage
def test_two_learners_take_the_steps_of_one_plain_one(
    two: LLMLearnerGroup, theirs: Update, stage: str
) -> None:
    plan = uneven_plan(2)
    assert any(is_idle(b) for share in plan for minibatch in share for b in minibatch.micro_batches)
    ours = Update(rebuild(two, stage), plan)
    assert_same_steps(ours, theirs)
    assert torch.equal(ours.after[0], ours.after[1])
    gathered = two.on_all(lambda learner: learner.engine.gather(learner.policy.model))
    assert gathered[1] is None
    weights = torch.cat([tensor.flatten() for tensor in gathered[0].values()])
    assert torch.equal(weights, ours.after[0])  # in the model's own order, tied ones once


@pytest.mark.parametrize("stage", ["0", "2", "3"])
def test_the_comparison_notices_wrong_denominators_and_a_learner_that_did_nothing(
    two: LLMLearnerGroup, theirs: Update, stage: str
) -> None:
    (idle,) = (b for b in uneven_plan(2)[1][2].micro_batches if is_idle(b))
    first, second = uneven_plan(2)
    lazy = [replace(m, micro_batches=[idle] * len(m.micro_batches)) for m in second]
    for plan in (locally_normalised([first, second]), [first, lazy]):
        ours = Update(rebuild(two, stage), plan)
        assert relative_gap(ours.gradients[0][0], theirs.gradients[0][0]) > 1e-3
        with pytest.raises(AssertionError):
            assert_same_steps(ours, theirs)


@each_stage
def test_a_learner_without_rows_takes_part(two: LLMLearnerGroup, model_folder: str, stage: str) -> None:
    rows = make_rows()[:1]
    rows[0].advantages = np.where(rows[0].response_mask, np.float32(1.0), np.float32(0.0))
    plan = make_plan(rows, 2)
    assert [is_idle(share.micro_batches[0]) for (share,) in plan] == [False, True]
    theirs = Update(make_group(model_folder, kl_coeff=0.05), make_plan(rows, 1))
    ours = Update(rebuild(two, stage), plan)
    assert relative_gap(ours.gradients[1][0], theirs.gradients[0][0]) < 1e-5
    assert relative_gap(ours.change, theirs.change) < 1e-3


def test_what_a_stage_partitions_is_held_once(two: LLMLearnerGroup) -> None:
    """Elements that both learners together hold, over those of the model; padding adds a few.

    Of the weights that the forward pass takes, and of a moment of AdamW.
    """

    def held(learner: Any) -> tuple[int, int]:
        weights = sum(getattr(p, "ds_tensor", p).numel() for p in learner.policy.parameters())
        moments = sum(state["exp_avg"].numel() for state in learner.engine.optimizer.state.values())
        return weights, moments

    size = two.on_all(flat_weights)[0].numel()
    for stage, copies in (("0", (2, 2)), ("1", (2, 1)), ("2", (2, 1)), ("3", (1, 1))):
        rebuild(two, stage).update(make_plan(make_rows(), 2))
        found = np.sum(two.on_all(held), axis=0) / size
        assert found == pytest.approx(copies, rel=0.01)


@pytest.mark.parametrize("stage", ["0", "1", "2-offload", "3"])
def test_a_checkpoint_brings_back_every_bit(two: LLMLearnerGroup, tmp_path: Path, stage: str) -> None:
    plan = make_plan(make_rows(), 2)
    rebuild(two, stage)
    for _ in range(2):
        two.update(plan)
    path = two.save_to_path(tmp_path)
    theirs = Update(two, plan)
    rebuild(two, stage).restore_from_path(path)
    ours = Update(two, plan)
    for i in range(2):
        assert torch.equal(ours.before[i], theirs.before[i])
        assert torch.equal(ours.after[i], theirs.after[i])
    assert two.pack_weights()[1] == 3


def test_the_sampler_has_the_weights_of_the_learners(algorithm: Any) -> None:
    rebuild(algorithm.learner_group, "3").update(make_plan(make_rows(), 2))
    before = runner_weights(algorithm.env_runner_group.local_env_runner)
    algorithm.sync_weights()
    after = runner_weights(algorithm.env_runner_group.local_env_runner)
    learners = algorithm.learner_group.on_all(flat_weights)
    assert not torch.equal(before, after)
    assert torch.equal(after, learners[0]) and torch.equal(after, learners[1])


def test_a_sharded_policy_is_exported_whole(algorithm: Any, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    rebuild(algorithm.learner_group, "3")
    algorithm.learner_group.update(make_plan(make_rows(), 2))
    algorithm.export_policy(tmp_path)
    exported = AutoModelForCausalLM.from_pretrained(tmp_path)
    weights = torch.cat([p.detach().flatten() for p in exported.parameters()])
    assert torch.equal(weights, algorithm.learner_group.on_all(flat_weights)[0])


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


@pytest.mark.parametrize("stage", ["0", "1", "2", "3"])
def test_bfloat16_equals_plain_bfloat16(model_folder: str, stage: str) -> None:
    """Gradients to 0.05: a bfloat16 has 8 bits, and the stages add micro-batches up in another order."""
    plain = small_config(model_folder).policy(dtype="bfloat16")
    ours, theirs = (
        Update(config.build_learner_group(spaces=SPACES), make_plan(make_rows(), 1))
        for config in (set_stage(plain.copy(), stage), plain)
    )
    gradients = [update.gradients[0][0].float() for update in (ours, theirs)]
    assert relative_gap(*gradients) < 0.05
    assert ours.metrics[0]["gradient_norm"] == pytest.approx(float(gradients[1].norm()), rel=0.01)
    assert ours.change.any()


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
    with pytest.raises(ValueError, match="float16 needs GPUs"):
        small_config("nowhere").policy(dtype="float16").deepspeed(zero_stage=2).validate()
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


def test_without_deepspeed_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deepspeed_engine.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'llmenv\[deepspeed\]'"):
        small_config("tiny").deepspeed(zero_stage=2).build_algo()


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


POLICIES = {
    "plain": ("GRPO", {}, {}),
    "padded": ("GRPO", {}, {}),  # the only one that shares no prompts
    "shared critic": ("PPO", {"critic": "shared", "value_clip": None}, {}),
    "separate critic": ("PPO", {"critic": "separate", "value_clip": None}, {}),
    "adapters": ("GRPO", {}, {"lora_rank": 3}),
}


@pytest.mark.parametrize("stage", ["0", "2", "3"])
@pytest.mark.parametrize("kind", POLICIES)
def test_two_learners_take_the_gradients_of_one_that_shares_nothing(
    two: LLMLearnerGroup, model_folder: str, kind: str, stage: str
) -> None:
    """In each of three steps, with PyTorch's engine."""
    algo, training, policy = POLICIES[kind]

    def config(**more: Any) -> Any:
        return small_config(model_folder, algo, kl_coeff=0.05, **training, **more).policy(**policy)

    plain = config(shared_prompts=False).build_learner_group(spaces=SPACES)
    theirs = Update(plain, make_plan(make_rows(), 1, minibatch_size=5, tokens=70, shared_prompts=False))
    shared = kind != "padded"
    plan = make_plan(make_rows(), 2, minibatch_size=5, tokens=70, shared_prompts=shared)
    ours = Update(rebuild(two, stage, config(num_learners=2, shared_prompts=shared)), plan)
    assert len(theirs.gradients[0]) == (6 if kind == "separate critic" else 3)
    for gradients in ours.gradients:
        for ours_step, theirs_step in zip(gradients, theirs.gradients[0], strict=True):
            assert relative_gap(ours_step, theirs_step) < 1e-4
    assert ours.summed("total_loss") == pytest.approx(theirs.summed("total_loss"), abs=1e-5)
