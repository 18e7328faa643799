"""The policy's loss as a learner takes it: ratios out of range, and weights that correct for the sampler."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from algorithms.learner import PolicyLearner
from llmenv.episode import TextEpisode, Turn
from llmenv.policy.batch import LossBatch, TokenBatch, TokenRow
from llmenv.policy.policy import PolicyOutput
from support import small_config
from updates import Update, make_group, make_plan, make_rows


class LossOnly:
    """What `compute_loss_for_module` asks of a learner."""

    kl_coeff = 0.0
    policy_loss = PolicyLearner.policy_loss

    def __init__(self) -> None:
        self.shares: dict[str, float] = {}

    def log_share(self, **shares: torch.Tensor) -> None:
        self.shares.update({key: float(share) for key, share in shares.items()})


def lift_one_token(learner: Any, nats: float, call: int) -> None:
    """In one of the forward passes to come the first token with A < 0 is so much more likely."""
    forward, calls = learner.engine.forward, []

    def lifted(batch: TokenBatch, **asked: Any) -> PolicyOutput:
        output = forward(batch, **asked)
        calls.append(batch)
        if len(calls) != call:
            return output
        lift = torch.zeros_like(output.logps)
        lift[tuple((batch.advantages < 0).nonzero()[0])] = nats
        return output._replace(logps=output.logps + lift)

    learner.engine.forward = lifted


def test_a_token_out_of_range_is_cut_and_counted_and_the_step_is_taken(model_folder: str) -> None:
    """Forward passes before the first step, in it, and in the second, where a ratio is e^100."""
    rows = make_rows()
    rows[0].sampling_logps[int(rows[0].response_mask.argmax())] -= 1000.0
    group = make_group(model_folder, lr=0.0)
    lift_one_token(group._learner, 100.0, call=3)
    update = Update(group, make_plan(rows, 1, tokens=100_000), num_epochs=2)
    metrics, tokens = update.metrics[0], sum(row.num_response_tokens for row in rows)
    assert metrics["num_steps_skipped"] == 0
    first, second = update.gradients[0]
    assert torch.isfinite(second).all()
    assert second.norm() > 0.5 * first.norm()  # all the other tokens teach what they did
    # k3 of a log-ratio that is cut is e^20 - 1 - 20; in one of two steps, where the learning rate of 0 adds nothing.
    assert metrics["kl_behaviour"] == pytest.approx((math.exp(20) - 21) / tokens / 2, rel=1e-6)
    # Beside one of e^20, all the other tokens, which a sampler of random log-probabilities drew, are next to nothing.
    assert metrics["sampler_kl"] == pytest.approx((math.exp(20) - 21) / tokens, rel=1e-4)
    assert metrics["log_ratio_clamped_fraction"] == pytest.approx(1 / tokens / 2, rel=1e-6)


def test_a_sequences_weight_is_its_length_normalised_ratio_to_the_sampler() -> None:
    # The learner's log-probabilities less the sampler's: 0.3 and -0.1 for a sample with A = 1, whose mean is 0.1; 1.5
    # and 0.5 for one with A = -1, whose mean is 1. The weights are e^0.1 = 1.105171, and e, which is over the cap of 2.
    # With a ratio of 1 the loss is (-1.105171 + 2) / 2 sequences = 0.447414, and its gradient by a token's
    # log-probability -w A / (2 tokens x 2 sequences): -0.276293 and 0.5.
    gaps, advantages = [[0.3, -0.1], [1.5, 0.5]], [1.0, -1.0]
    episodes = [
        TextEpisode(0, i, [Turn(prompt_ids=[3], response_ids=[4, 5], logps=[-2.0 - gap for gap in row])])
        for i, row in enumerate(gaps)
    ]
    tokens = TokenBatch.from_rows(
        [TokenRow.from_episode(e, a) for e, a in zip(episodes, advantages, strict=True)]
    )
    logps = torch.where(tokens.response_mask, -2.0, 0.0).requires_grad_()
    learner = LossOnly()
    loss = PolicyLearner.compute_loss_for_module(
        learner,
        module_id="",
        config=small_config("tiny", "GSPO", tis_cap=2.0),
        batch=LossBatch(tokens, logps.detach(), None, num_tokens=4, num_sequences=2, num_learned_tokens=4),
        fwd_out=PolicyOutput(logps, torch.zeros_like(logps)),
    )
    assert loss.item() == pytest.approx(0.447414, abs=1e-6)
    loss.backward()
    expected = torch.tensor([[0.0, -0.276293, -0.276293], [0.0, 0.5, 0.5]])
    torch.testing.assert_close(logps.grad, expected, atol=1e-6, rtol=0)
    assert learner.shares["tis_fraction"] == 0.5  # both tokens of the second
