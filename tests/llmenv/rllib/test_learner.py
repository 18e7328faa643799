"""The update: from the same episodes, the same gradients and weights however the work is cut and dealt."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch
from pyarrow.fs import LocalFileSystem, SubTreeFileSystem
from ray.rllib.core import DEFAULT_MODULE_ID

from llmenv.engines.torch import TorchEngine
from llmenv.policy.batch import LossBatch
from llmenv.rllib import learner_group
from llmenv.rllib.learner import LLMLearner, NonFiniteStepsError
from llmenv.rllib.learner_group import LearnersLostError, LLMLearnerGroup
from support import (
    flat_weights,
    relative_gap,
)
from updates import SECONDS, Update, assert_same_update, locally_normalised, make_group, make_plan, make_rows

pytestmark = pytest.mark.usefixtures("ray_cluster")  # RLlib would start a Ray of its own


@pytest.fixture(scope="module")
def group_of_two(ray_cluster: None, model_folder: str, tmp_path_factory: Any) -> Iterator[LLMLearnerGroup]:
    group = make_group(model_folder, num_learners=2, kl_coeff=0.05)
    yield group
    group.shutdown()


@pytest.fixture(scope="module")
def start(group_of_two: LLMLearnerGroup, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where every comparison begins: a checkpoint of the group of two before its first update."""
    return Path(group_of_two.save_to_path(tmp_path_factory.mktemp("start")))


@pytest.fixture
def two(group_of_two: LLMLearnerGroup, start: Path) -> LLMLearnerGroup:
    group_of_two.restore_from_path(start)
    return group_of_two


@pytest.fixture
def one(model_folder: str) -> LLMLearnerGroup:
    return make_group(model_folder, kl_coeff=0.05)


def test_two_learners_make_the_update_of_one(one: LLMLearnerGroup, two: LLMLearnerGroup) -> None:
    rows = make_rows()
    ours, theirs = Update(two, make_plan(rows, 2)), Update(one, make_plan(rows, 1))
    assert_same_update(ours, theirs)
    assert torch.equal(ours.after[0], ours.after[1])  # the two stay the same to the bit
    for key in ("entropy", "kl_behaviour", "kl_reference", "sampler_logp_gap_mean"):
        assert ours.summed(key) == pytest.approx(theirs.summed(key), abs=1e-5)
    for metrics in ours.metrics:
        assert metrics["gradient_norm"] == pytest.approx(float(theirs.gradients[0][0].norm()), rel=1e-5)


def test_over_several_minibatches_and_epochs_too(one: LLMLearnerGroup, two: LLMLearnerGroup) -> None:
    rows = make_rows()
    ours, theirs = (
        Update(group, make_plan(rows, learners, minibatch_size=4), num_epochs=2, seed=3)
        for group, learners in ((two, 2), (one, 1))
    )
    assert len(theirs.gradients[0]) == 8  # 3 + 4 + 4 + 4 rows, twice
    # Each step's rounding is amplified by AdamW and by the next steps' ratios: the first step is exact.
    assert relative_gap(ours.gradients[0][0], theirs.gradients[0][0]) < 1e-5
    assert relative_gap(ours.change, theirs.change) < 1e-3
    assert theirs.summed("kl_behaviour") > 1e-6
    assert ours.summed("kl_behaviour") == pytest.approx(theirs.summed("kl_behaviour"), rel=1e-3)


def test_a_learner_without_rows_takes_part(one: LLMLearnerGroup, two: LLMLearnerGroup) -> None:
    rows = make_rows()[:1]
    rows[0].advantages = np.where(rows[0].response_mask, np.float32(1.0), np.float32(0.0))
    plan = make_plan(rows, 2)
    assert [int(share.micro_batches[0].response_mask.any()) for (share,) in plan] == [1, 0]
    assert_same_update(Update(two, plan), Update(one, make_plan(rows, 1)))


def test_the_comparison_notices_a_wrong_denominator(one: LLMLearnerGroup, two: LLMLearnerGroup) -> None:
    rows = make_rows()
    theirs = Update(one, make_plan(rows, 1))
    wrong = Update(two, locally_normalised(make_plan(rows, 2)))
    assert relative_gap(wrong.gradients[0][0], theirs.gradients[0][0]) > 1e-3
    with pytest.raises(AssertionError):
        assert_same_update(wrong, theirs)


@pytest.mark.parametrize("normaliser", ["token", "sequence"])
def test_any_micro_batch_budget_gives_the_same_update(model_folder: str, normaliser: str) -> None:
    rows = make_rows()
    kwargs = {"kl_coeff": 0.05, "loss_normaliser": normaliser}
    theirs = Update(make_group(model_folder, **kwargs), make_plan(rows, 1, tokens=100_000))
    for tokens in (1, 100):
        ours = Update(make_group(model_folder, **kwargs), make_plan(rows, 1, tokens=tokens))
        assert_same_update(ours, theirs)


@pytest.mark.parametrize("tokens", [1, 100, 100_000])
def test_shared_prompts_make_the_update_of_padded_rows(model_folder: str, tokens: int) -> None:
    """In several steps, with a reference and with the log-probabilities from before the first."""
    rows = make_rows()
    ours, theirs = (
        Update(
            make_group(model_folder, kl_coeff=0.05, shared_prompts=shared),
            make_plan(rows, 1, tokens=tokens, minibatch_size=9, shared_prompts=shared),
            seed=2,
        )
        for shared in (True, False)
    )
    assert len(ours.gradients[0]) == 2
    assert_same_update(ours, theirs)
    assert theirs.summed("kl_reference") > 1e-6
    for key in ("entropy", "kl_behaviour", "kl_reference", "sampler_logp_gap_mean"):
        assert ours.summed(key) == pytest.approx(theirs.summed(key), rel=1e-3)


def test_the_comparison_notices_a_denominator_per_micro_batch(model_folder: str) -> None:
    rows = make_rows()
    theirs = Update(make_group(model_folder), make_plan(rows, 1, tokens=100_000))
    plan = make_plan(rows, 1, tokens=100)
    ((minibatch,),) = plan
    wrong = [
        replace(
            minibatch,
            micro_batches=[batch],
            num_tokens=len(minibatch.micro_batches) * int(batch.response_mask.sum()),
        )
        for batch in minibatch.micro_batches
    ]
    learner = make_group(model_folder)._learner
    for share in wrong:
        for prepared in learner._prepare(share, fixed_old_logps=True).micro_batches:
            batch = LossBatch(
                tokens=prepared.tokens,
                old_logps=prepared.old_logps,
                ref_logps=None,
                num_tokens=share.num_tokens,
                num_sequences=share.num_sequences,
                num_learned_tokens=share.num_learned_tokens,
            )
            output = learner.module[DEFAULT_MODULE_ID].forward_train(batch.tokens)
            learner.engine.backward(
                learner.compute_loss_for_module(
                    module_id=DEFAULT_MODULE_ID, config=learner.config, batch=batch, fwd_out=output
                ),
                last=False,
            )
    gradient = torch.cat([p.grad.flatten() for p in learner.policy.parameters()])
    assert relative_gap(gradient, theirs.gradients[0][0]) > 1e-3


def test_the_gradient_is_that_of_the_formula(model_folder: str) -> None:
    """GRPO at ratio 1 over whole logits: -sum_t A_t grad log p_t / N; the gradient of the KL is 0 at the start."""
    rows = make_rows()
    group = make_group(model_folder, kl_coeff=0.05)
    model = group._learner.policy.model
    loss = torch.zeros(())
    for row in rows:
        ids = torch.from_numpy(row.token_ids)
        logps = model(input_ids=ids[None]).logits[0, :-1].log_softmax(-1).gather(-1, ids[1:, None])[:, 0]
        loss = loss - (logps * torch.from_numpy(row.advantages[1:])).sum()
    (loss / sum(row.num_response_tokens for row in rows)).backward()
    expected = torch.cat([p.grad.flatten() for p in model.parameters()])
    model.zero_grad()
    assert relative_gap(Update(group, make_plan(rows, 1)).gradients[0][0], expected) < 1e-5


def test_rows_without_gradient_need_no_forward_pass(model_folder: str) -> None:
    rows = make_rows()
    for row in rows[3:9]:
        row.advantages = np.zeros_like(row.advantages)
    whole = make_plan(rows, 1)
    parts = make_plan(rows, 1, has_gradient=lambda row: bool(row.advantages.any()))
    assert sum(len(batch) for batch in parts[0][0].micro_batches) == 9
    ours, theirs = (Update(make_group(model_folder), plan) for plan in (parts, whole))
    assert_same_update(ours, theirs)
    nobody = make_plan(rows[3:9], 1, has_gradient=lambda row: False)
    assert not Update(make_group(model_folder), nobody).change.any()


def infinite_loss(learner: LLMLearner) -> None:
    """On the first learner: an infinite constant, whose gradient is 0, in the loss from now on."""
    if learner._learner_index == 0:
        compute = type(learner).compute_loss_for_module
        learner.compute_loss_for_module = lambda **kwargs: compute(learner, **kwargs) + math.inf


def sound_loss(learner: LLMLearner) -> None:
    vars(learner).pop("compute_loss_for_module", None)


def test_a_loss_that_is_not_finite_skips_the_step_on_all_learners(two: LLMLearnerGroup) -> None:
    plan = make_plan(make_rows(), 2)
    two.on_all(infinite_loss)
    try:
        update = Update(two, plan)
        assert not update.change.any()
        assert [metrics["num_steps_skipped"] for metrics in update.metrics] == [1, 1]
        for _ in range(3):
            two.update(plan)
        with pytest.raises(NonFiniteStepsError, match=r"^5 optimizer steps in a row"):
            two.update(plan)
        assert torch.equal(two.on_all(flat_weights)[0], update.before[0])
    finally:
        two.on_all(sound_loss)


def test_a_checkpoint_fits_any_number_of_learners(
    two: LLMLearnerGroup, one: LLMLearnerGroup, tmp_path: Path
) -> None:
    rows = make_rows()
    one.update(make_plan(rows, 1))
    two.restore_from_path(one.save_to_path(tmp_path))
    assert_same_update(Update(two, make_plan(rows, 2)), Update(one, make_plan(rows, 1)))


def test_a_sharded_checkpoint_is_that_of_its_number_of_learners(
    one: LLMLearnerGroup, start: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = flat_weights(one._learner) * 1.0
    monkeypatch.setattr(TorchEngine, "sharded", True)
    with pytest.raises(
        ValueError, match=r"of 2 learners, and here are 1: .*num_learners=2, .*export.py .*--model"
    ):
        one.restore_from_path(start)
    assert torch.equal(flat_weights(one._learner), before)


@pytest.mark.parametrize("where", ["another filesystem", "another node"])
def test_learners_bring_to_a_checkpoint_what_they_wrote(
    two: LLMLearnerGroup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """And take it from there. A learner is on another node if it does not see the driver's folder."""
    plan = make_plan(make_rows(), 2)
    two.update(plan)
    disk: dict[str, Any] = {"filesystem": SubTreeFileSystem(str(tmp_path), LocalFileSystem())}
    root = Path()
    if where == "another node":
        monkeypatch.setattr(learner_group, "sees", lambda folder, changed: False)
        disk, root = {}, tmp_path
    two.save_to_path(str(root / "run"), **disk)
    two.export_policy(str(root / "policy"), **disk)
    saved = {file.relative_to(tmp_path).as_posix() for file in tmp_path.rglob("*") if file.is_file()}
    assert {"run/metadata.json", "run/learner/engine.pt", "run/learner/learner.pt"} <= saved
    assert {"run/learner/policy/model.safetensors", "policy/model.safetensors"} <= saved
    before = two.on_all(flat_weights)
    theirs = Update(two, plan)
    two.restore_from_path(str(root / "run"), **disk)
    assert all(torch.equal(now, then) for now, then in zip(two.on_all(flat_weights), before, strict=True))
    assert torch.equal(Update(two, plan).after[1], theirs.after[1])


def test_a_learner_that_dies_ends_the_group_in_seconds(two: LLMLearnerGroup) -> None:
    """The last one here: it ends the module's learners."""
    ray.kill(two._workers[0])
    start = time.monotonic()
    for _ in range(2):
        with pytest.raises(
            LearnersLostError, match=r"lost learner 0 of 2.*Resume from the last checkpoint.*ActorDiedError"
        ):
            two.update(make_plan(make_rows(), 2))
    assert time.monotonic() - start < SECONDS
