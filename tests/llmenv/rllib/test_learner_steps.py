"""The steps of one learner: ratios, epochs, clipping, what is skipped, what is measured, and at which rate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.utils.metrics import NUM_ENV_STEPS_SAMPLED_LIFETIME

from algorithms.learner import PolicyLearner
from llmenv.policy.batch import TokenRow
from llmenv.rllib.learner import LLMLearner, NonFiniteStepsError
from support import (
    flat_weights,
    relative_gap,
    small_config,
)
from updates import SPACES, Update, make_group, make_plan, make_rows

pytestmark = pytest.mark.usefixtures("ray_cluster")  # RLlib would start a Ray of its own


class RatioSpy(PolicyLearner):
    """Notes each micro-batch's greatest distance of the ratio from 1."""

    def compute_loss_for_module(self, *, batch: Any, fwd_out: Any, **kwargs: Any) -> torch.Tensor:
        gap = (fwd_out.logps.detach() - batch.old_logps).exp().sub(1).abs().max()
        self.ratio_gaps = [*getattr(self, "ratio_gaps", []), float(gap)]
        self.old_logps = [*getattr(self, "old_logps", []), batch.old_logps]
        return super().compute_loss_for_module(batch=batch, fwd_out=fwd_out, **kwargs)


def make_spy(model_folder: str, **training: Any) -> LLMLearner:
    config = small_config(model_folder, **training).learners(learner_class=RatioSpy)
    return config.build_learner_group(spaces=SPACES)._learner


def test_one_step_has_ratio_exactly_one(model_folder: str) -> None:
    learner = make_spy(model_folder)
    for seed in range(2):
        learner.update(make_plan(make_rows(seed=seed), 1, tokens=100)[0])
    assert len(learner.ratio_gaps) > 4
    assert set(learner.ratio_gaps) == {0.0}


def test_several_steps_keep_the_log_probabilities_from_before_the_first(model_folder: str) -> None:
    learner = make_spy(model_folder, lr=1e-2)
    rows = make_rows()
    (shares,) = make_plan(rows, 1, minibatch_size=9, tokens=100_000)
    with torch.no_grad():
        before = {share.num_tokens: learner.policy(share.micro_batches[0]).logps for share in shares}
    learner.update(shares, num_epochs=3)
    assert len(learner.ratio_gaps) == 6
    assert learner.ratio_gaps[0] < 1e-5  # the first step's forward pass is the one before it
    assert min(learner.ratio_gaps[1:]) > 1e-3
    expected = [before[share.num_tokens] for share in shares]
    for old_logps in learner.old_logps:
        assert any(old_logps.shape == e.shape and torch.equal(old_logps, e) for e in expected)


def test_every_epoch_passes_over_every_minibatch_in_an_order_of_its_own(model_folder: str) -> None:
    learner = make_spy(model_folder)
    (shares,) = make_plan(make_rows(8, 2), 1, minibatch_size=2, tokens=100_000)
    learner.update(shares, num_epochs=2, seed=5)
    sums = [float(old_logps.sum()) for old_logps in learner.old_logps]
    assert sorted(sums[:8]) == sorted(sums[8:])
    assert len(set(sums[:8])) == 8
    assert sums[:8] != sums[8:]


def test_kl_to_the_reference_starts_at_zero_and_grows(model_folder: str) -> None:
    group = make_group(model_folder, kl_coeff=0.05)
    plan = make_plan(make_rows(), 1)
    values = [Update(group, plan).summed("kl_reference") for _ in range(3)]
    assert values[0] == pytest.approx(0.0, abs=1e-6)
    assert values[2] > values[1] > 1e-4


def test_without_a_kl_no_reference_is_loaded(model_folder: str) -> None:
    group = make_group(model_folder)
    assert group._learner.reference is None
    assert "kl_reference" not in Update(group, make_plan(make_rows(), 1)).metrics[0]


def test_a_positive_advantage_raises_the_likelihood_and_a_negative_one_lowers_it(model_folder: str) -> None:
    for sign in (1.0, -1.0):
        learner = make_group(model_folder)._learner
        rows = make_rows(1, 1)
        rows[0].advantages = np.where(rows[0].response_mask, np.float32(sign), np.float32(0.0))
        ((share,),) = make_plan(rows, 1)
        (batch,) = share.micro_batches
        with torch.no_grad():
            before = learner.policy(batch).logps.sum()
        learner.update([share])
        with torch.no_grad():
            assert (learner.policy(batch).logps.sum() - before) * sign > 0.1


def test_gradients_are_clipped_to_the_global_norm(model_folder: str) -> None:
    """A step of plain SGD is minus the learning rate times the clipped gradient."""
    learner = make_group(model_folder, grad_clip=0.5)._learner
    learner.engine.optimizer = torch.optim.SGD(learner.policy.parameters(), lr=1.0)
    for p in learner.policy.parameters():
        p.grad = torch.full_like(p, 2.0)
    before = flat_weights(learner)
    norm = learner.engine.step()
    assert norm == pytest.approx(2.0 * math.sqrt(len(before)), rel=1e-5)
    change = flat_weights(learner) - before
    assert float(change.norm()) == pytest.approx(0.5, rel=1e-2)  # rounding in weights of about 0.3
    assert all(p.grad is None for p in learner.policy.parameters())


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_skips_the_step(model_folder: str, bad: float) -> None:
    group = make_group(model_folder)
    rows = make_rows()
    rows[0].advantages = np.where(rows[0].response_mask, np.float32(bad), np.float32(0.0))
    update = Update(group, make_plan(rows, 1))
    assert not update.change.any()
    assert update.metrics[0]["num_steps_skipped"] == 1
    sound = Update(group, make_plan(make_rows(), 1))  # nothing of it is left behind
    assert sound.change.any()
    assert torch.isfinite(sound.after[0]).all()
    assert sound.metrics[0]["num_steps_skipped"] == 0


def poisoned_rows() -> list[TokenRow]:
    rows = make_rows()
    rows[0].advantages = np.where(rows[0].response_mask, np.float32(math.nan), np.float32(0.0))
    return rows


def test_skipped_steps_are_counted_one_by_one(model_folder: str) -> None:
    """Of 3 minibatches one holds the bad row, and comes up in both epochs; the other 4 steps are taken."""
    group = make_group(model_folder)
    steps = []
    optimizer = group._learner.engine.optimizer
    step = optimizer.step
    optimizer.step = lambda: steps.append(1) or step()
    update = Update(group, make_plan(poisoned_rows(), 1, minibatch_size=5), num_epochs=2)
    assert update.metrics[0]["num_steps_skipped"] == 2
    assert len(steps) == 4
    assert update.change.any() and torch.isfinite(update.after[0]).all()


def test_steps_that_are_skipped_count_in_a_row_and_over_a_resume(model_folder: str, tmp_path: Path) -> None:
    sound, poisoned = make_plan(make_rows(), 1), make_plan(poisoned_rows(), 1)
    group = make_group(model_folder, max_skipped_steps=3)
    for plan in (poisoned, poisoned, sound, poisoned, poisoned):
        group.update(plan)
    resumed = make_group(model_folder, max_skipped_steps=3)
    resumed.restore_from_path(group.save_to_path(tmp_path))
    before = flat_weights(resumed._learner)
    with pytest.raises(NonFiniteStepsError, match=r"^3 optimizer steps in a row.*learning rate"):
        resumed.update(poisoned)
    assert torch.equal(flat_weights(resumed._learner), before)
    assert torch.equal(before, flat_weights(group._learner))


def shift_sampling_logps(learner: LLMLearner, rows: Sequence[TokenRow], shift: float) -> None:
    """Gives the rows a sampler whose log-probabilities are the learner's own, less `shift`."""
    for row in rows:
        (batch,) = make_plan([row], 1)[0][0].micro_batches
        with torch.no_grad():
            logps = learner.policy(batch).logps[0].numpy()
        row.sampling_logps = np.where(row.response_mask, logps - np.float32(shift), np.float32(0.0))


def test_sampler_gap_is_measured(model_folder: str) -> None:
    """Log-probabilities of the learner's own, off by 0.25 everywhere and by 1 in one place."""
    learner = make_group(model_folder)._learner
    rows = make_rows()
    shift_sampling_logps(learner, rows, 0.25)
    first = int(rows[0].response_mask.argmax())
    rows[0].sampling_logps[first] -= 0.75
    result = learner.update(make_plan(rows, 1)[0])[DEFAULT_MODULE_ID]
    tokens = sum(row.num_response_tokens for row in rows)
    assert result["sampler_logp_gap_mean"].peek() == pytest.approx(0.25 + 0.75 / tokens, abs=1e-5)
    assert result["sampler_logp_gap_max"].peek() == pytest.approx(1.0, abs=1e-5)
    # k3 of a log-ratio x is e^x - 1 - x: 0.034025 at 0.25, 0.718282 at 1.
    expected = 0.034025 + (0.718282 - 0.034025) / tokens
    assert result["sampler_kl"].peek() == pytest.approx(expected, abs=1e-5)
    assert "tis_fraction" not in result  # no importance weights unless asked for


@pytest.mark.parametrize(("shift", "weight"), [(0.5, 1.648721), (-1.0, 0.367879), (1.0, 2.0)])
def test_importance_weights_scale_the_gradient(model_folder: str, shift: float, weight: float) -> None:
    """The same ratio everywhere is one factor: e^0.5 = 1.648721, e^-1 = 0.367879, and e = 2.718282 over a cap of 2."""
    rows = make_rows()
    plain = Update(make_group(model_folder, tis_cap=None), make_plan(rows, 1))
    group = make_group(model_folder, tis_cap=2.0)
    shift_sampling_logps(group._learner, rows, shift)
    update = Update(group, make_plan(rows, 1))
    assert relative_gap(update.gradients[0][0], weight * plain.gradients[0][0]) < 1e-4
    assert update.metrics[0]["tis_fraction"] == pytest.approx(float(shift == 1.0))


def test_the_share_of_truncated_tokens(model_folder: str) -> None:
    rows = make_rows()
    group = make_group(model_folder, tis_cap=2.0)
    shift_sampling_logps(group._learner, rows, 0.0)
    for row in rows[:2]:
        row.sampling_logps = row.sampling_logps - row.response_mask.astype(np.float32)  # ratio e, over 2
    update = Update(group, make_plan(rows, 1))
    share = sum(row.num_response_tokens for row in rows[:2]) / sum(row.num_response_tokens for row in rows)
    assert update.metrics[0]["tis_fraction"] == pytest.approx(share)


def learning_rates(learner: LLMLearner, timesteps: Sequence[int]) -> list[float]:
    """The rate that each update's steps were taken at."""
    rates: list[float] = []
    optimizer = learner.engine.optimizer
    step = optimizer.step
    optimizer.step = lambda: rates.append(optimizer.param_groups[0]["lr"]) or step()
    for t in timesteps:
        learner.update(make_plan(make_rows(), 1)[0], timesteps={NUM_ENV_STEPS_SAMPLED_LIFETIME: t})
    return rates


def test_learning_rate_warms_up(model_folder: str) -> None:
    # 16 samples an iteration, warm-up over 4 iterations to 1e-3: a quarter more each, then constant.
    learner = make_group(model_folder, lr=1e-3, lr_warmup_iterations=4)._learner
    rates = learning_rates(learner, [16, 32, 48, 64, 80, 160])
    assert rates == pytest.approx([0.25e-3, 0.5e-3, 0.75e-3, 1e-3, 1e-3, 1e-3])


def test_learning_rate_without_warm_up_and_by_schedule(model_folder: str) -> None:
    assert learning_rates(make_group(model_folder)._learner, [16, 32]) == pytest.approx([1e-3, 1e-3])
    learner = make_group(model_folder, lr=[[0, 1e-3], [100, 0.0]])._learner
    assert learning_rates(learner, [25, 75]) == pytest.approx([0.75e-3, 0.25e-3])
