"""DeepSpeed's engine at every stage: the update, the weights and the state of PyTorch's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pyarrow.fs import LocalFileSystem, SubTreeFileSystem
from ray.rllib.core import DEFAULT_MODULE_ID

from llmenv.engines.deepspeed import DeepSpeedEngine, build_config, deepspeed_world
from llmenv.engines.frozen import SharedModule, shared_config
from llmenv.models.names import load_causal_lm
from llmenv.policy.batch import TokenBatch, TokenRow
from llmenv.policy.policy import CausalPolicy
from llmenv.rllib import outbox
from llmenv.rllib.learner_group import LLMLearnerGroup
from sent import ADAPTERS, Sender, assert_sent, config_with, make_model
from support import flat_weights, random_episodes, relative_gap, runner_weights, small_config
from updates import (
    PARTITION_ALL,
    SPACES,
    STAGES,
    Update,
    assert_same_steps,
    locally_normalised,
    make_group,
    make_plan,
    make_rows,
    plain_losses,
    set_stage,
    start_anew,
    uneven_plan,
)

pytest.importorskip("deepspeed")
pytestmark = pytest.mark.usefixtures("ray_cluster")

each_stage = pytest.mark.parametrize("stage", STAGES)


def rebuild(group: LLMLearnerGroup, stage: str, config: Any = None) -> LLMLearnerGroup:
    """The learners start anew with another engine, by the config of their group, unless another one is given."""
    start_anew(group, set_stage((config or group.config).copy(copy_frozen=False), stage))
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


def is_idle(batch: Any) -> bool:
    return not batch.response_mask.any()


@pytest.fixture(scope="module")
def theirs(ray_cluster: None, model_folder: str) -> Update:
    """What one learner with PyTorch's engine makes of those three steps."""
    return Update(make_group(model_folder, kl_coeff=0.05), uneven_plan(1))


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


def test_the_comparison_notices_wrong_denominators_and_a_learner_that_did_nothing(
    two: LLMLearnerGroup, theirs: Update
) -> None:
    (idle,) = (b for b in uneven_plan(2)[1][2].micro_batches if is_idle(b))
    first, second = uneven_plan(2)
    lazy = [replace(m, micro_batches=[idle] * len(m.micro_batches)) for m in second]
    for plan in (locally_normalised([first, second]), [first, lazy]):
        ours = Update(rebuild(two, "2"), plan)
        assert relative_gap(ours.gradients[0][0], theirs.gradients[0][0]) > 1e-3
        with pytest.raises(AssertionError):
            assert_same_steps(ours, theirs)


@pytest.mark.parametrize("stage", ["0", "2", "3"])
def test_a_learner_without_rows_takes_part(two: LLMLearnerGroup, model_folder: str, stage: str) -> None:
    rows = make_rows()[:1]
    rows[0].advantages = np.where(rows[0].response_mask, np.float32(1.0), np.float32(0.0))
    plan = make_plan(rows, 2)
    assert [is_idle(share.micro_batches[0]) for (share,) in plan] == [False, True]
    theirs = Update(make_group(model_folder, kl_coeff=0.05), make_plan(rows, 1))
    ours = Update(rebuild(two, stage), plan)
    assert relative_gap(ours.gradients[1][0], theirs.gradients[0][0]) < 1e-5
    assert relative_gap(ours.change, theirs.change) < 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["0", "3"])
def test_two_learners_imitate_as_a_plain_loop_does(
    two: LLMLearnerGroup, model_folder: str, stage: str
) -> None:
    """The losses of ten steps, three or four rows each, and that of rows without a step."""
    rows = [
        TokenRow.to_imitate(row.token_ids, row.response_mask, group=i)
        for i, row in enumerate(make_rows(num_groups=12))
    ]
    batches = [rows[36 * k // 10 : 36 * (k + 1) // 10] for k in range(10)]
    group, losses = rebuild(two, stage), []
    shares = [plan[0] for plan in make_plan(batches[0], 2, tokens=70)]
    before = group.on_all(lambda learner: learner.validation_loss(shares[learner._learner_index]))
    for batch in batches:
        results = group.update(make_plan(batch, 2, tokens=70))
        losses.append(sum(result[DEFAULT_MODULE_ID]["likelihood_loss"].peek() for result in results))
    pairs = [[(row.token_ids, row.response_mask) for row in batch] for batch in batches]
    theirs = plain_losses(model_folder, pairs, lr=1e-3)
    np.testing.assert_allclose(losses, theirs, atol=1e-4)
    np.testing.assert_allclose(before, theirs[0], atol=1e-4)  # every learner has the whole


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


@pytest.mark.parametrize(
    ("stage", "elsewhere"), [("0", True), ("1", False), ("2-offload", False), ("3", True)]
)
def test_a_checkpoint_brings_back_every_bit(
    two: LLMLearnerGroup, tmp_path: Path, stage: str, elsewhere: bool
) -> None:
    """From the plain disk, and from a filesystem on which learners cannot work."""
    plan = make_plan(make_rows(), 2)
    rebuild(two, stage)
    for _ in range(2):
        two.update(plan)
    where: dict[str, Any] = {"path": tmp_path}
    if elsewhere:
        where = {"path": "run", "filesystem": SubTreeFileSystem(str(tmp_path), LocalFileSystem())}
    two.save_to_path(**where)
    theirs = Update(two, plan)
    rebuild(two, stage).restore_from_path(**where)
    ours = Update(two, plan)
    for i in range(2):
        assert torch.equal(ours.before[i], theirs.before[i])
        assert torch.equal(ours.after[i], theirs.after[i])
    assert two.pack_weights()[1] == 3


def test_the_sampler_has_the_weights_of_the_learners(algorithm: Any) -> None:
    rebuild(algorithm.learner_group, "3").update(make_plan(make_rows(), 2))
    before = runner_weights(algorithm.env_runner_group.local_env_runner)
    algorithm.runners.sync_weights()
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


POLICIES = {
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


CPU = torch.device("cpu")


def partitioned(**settings: Any) -> dict[str, Any]:
    return build_config(
        zero_stage=3,
        offload_parameters=False,
        dtype="float32",
        grad_clip=1.0,
        extra=PARTITION_ALL,
        **settings,
    )


def compute_in_parts(learner: Any, folder: str) -> None:
    """With a frozen module that both learners have, and rows of one's own."""
    settings = shared_config(partitioned(offload_optimizer=True))
    with deepspeed_world(settings, CPU):
        shared = CausalPolicy(load_causal_lm(folder).requires_grad_(False))
    frozen = SharedModule(shared, settings)
    whole = CausalPolicy(load_causal_lm(folder))
    size = sum(p.numel() for p in whole.parameters())
    held = sum(p.ds_tensor.numel() for p in shared.parameters())
    assert held == pytest.approx(size / 2, rel=0.01)
    episodes = random_episodes(2, 2, seed=learner._learner_index)
    batch = TokenBatch.from_rows([TokenRow.from_episode(e) for e in episodes])
    with torch.no_grad():
        for _ in range(2):  # the second time DeepSpeed knows what comes next
            with frozen.ready() as ready:
                logps = ready(batch).logps
            torch.testing.assert_close(logps, whole(batch).logps)
            assert logps.min() < -1
            assert not any(p.numel() for p in shared.parameters())


def test_learners_hold_a_part_each_of_what_is_frozen(two: LLMLearnerGroup, model_folder: str) -> None:
    two.on_all(lambda learner: compute_in_parts(learner, model_folder))


def send_in_parts(learner: Any, folder: str) -> None:
    """The weights of policies without adapters and with them, of which no more than a tensor is whole at a time."""
    settings = partitioned(offload_optimizer=False)
    for adapters in (None, ADAPTERS):
        with deepspeed_world(settings, CPU):
            model = make_model(folder, adapters)
            policy = CausalPolicy(model)
        optimizer = torch.optim.AdamW([p for p in policy.parameters() if p.requires_grad])
        box = outbox.Outbox(DeepSpeedEngine(policy, optimizer, settings), policy, config_with(adapters), CPU)
        Sender.model = model
        assert not any(p.numel() for p in model.parameters())
        box.send(1, [], renew=True)
        assert not any(p.numel() for p in model.parameters())
        if learner._learner_index == 0:
            assert_sent(folder, adapters)
            parts = [len(tensors) for group in box._groups() for tensors in group.values()]
            assert Sender.whole == parts and max(parts) == (3 if adapters else 1)
        assert hasattr(Sender, "sent") == (learner._learner_index == 0)


def test_a_sharded_policy_is_sent_tensor_by_tensor(two: LLMLearnerGroup, model_folder: str) -> None:
    def send(learner: Any) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(outbox, "WeightSender", Sender)
            patch.setattr(outbox, "init_info_of", lambda *args, **kwargs: None)
            send_in_parts(learner, model_folder)

    two.on_all(send)
