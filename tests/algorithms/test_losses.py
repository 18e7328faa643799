"""Losses against numbers derived by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from algorithms.losses import (
    KL_ESTIMATORS,
    NORMALISERS,
    SURROGATES,
    aggregate,
    clipped_surrogate,
    clipped_tokens,
    clipped_value_loss,
    clipped_weight,
    dual_clip,
    importance_weights,
    kl_k1,
    kl_k2,
    kl_k3,
    sequence_logps,
)

# Ratios 1, 1.5, 0.5, 1.5, 0.5 with eps = 0.2.
RATIOS = torch.tensor([[1.0, 1.5, 0.5, 1.5, 0.5]])
ADVANTAGES = torch.tensor([[2.0, 2.0, 2.0, -2.0, -2.0]])
# -min(rho A, clip(rho) A):
#   rho 1.0, A  2: min( 2.0,  2.0)            -> -2.0
#   rho 1.5, A  2: min( 3.0, 1.2 *  2 =  2.4) -> -2.4, clipped from above
#   rho 0.5, A  2: min( 1.0, 0.8 *  2 =  1.6) -> -1.0
#   rho 1.5, A -2: min(-3.0, 1.2 * -2 = -2.4) ->  3.0
#   rho 0.5, A -2: min(-1.0, 0.8 * -2 = -1.6) ->  1.6, clipped from below
LOSSES = torch.tensor([[-2.0, -2.4, -1.0, 3.0, 1.6]])
# d loss / d logp = -rho A where the clip is not active (d rho / d logp = rho), else 0.
GRADIENTS = torch.tensor([[-2.0, 0.0, -1.0, 3.0, 0.0]])


def test_clipped_surrogate_and_its_gradient() -> None:
    old_logps = torch.tensor([[-1.0, -2.0, -0.5, -3.0, -0.1]])
    logps = (old_logps + RATIOS.log()).requires_grad_()
    losses = clipped_surrogate(logps, old_logps, ADVANTAGES, 0.2, 0.2)
    torch.testing.assert_close(losses, LOSSES)
    losses.sum().backward()
    torch.testing.assert_close(logps.grad, GRADIENTS)


def test_clip_higher() -> None:
    # With 0.6 above, the ratio 1.5 is not clipped where A = 2: -1.5 * 2 = -3, with a gradient of -3.
    logps = RATIOS.log().requires_grad_()
    losses = clipped_surrogate(logps, torch.zeros(1, 5), ADVANTAGES, 0.2, 0.6)
    torch.testing.assert_close(losses, torch.tensor([[-2.0, -3.0, -1.0, 3.0, 1.6]]))
    losses.sum().backward()
    torch.testing.assert_close(logps.grad, torch.tensor([[-2.0, -3.0, -1.0, 3.0, 0.0]]))
    _, high = clipped_tokens(RATIOS.log(), torch.zeros(1, 5), ADVANTAGES, 0.2, 0.6)
    assert not high.any()


def test_dual_clip_bounds_the_loss_of_a_bad_token_that_became_likely() -> None:
    # Ratios 1.1, 4 and 4 with A = -2, -2 and 2: the surrogate is 2.2, 8 and -2.4. With c = 3 the loss of A = -2 is at
    # most 6; the last one, A > 0, is left alone. Where it is bounded there is no gradient: d 2.2 / d logp = 2.2, and 0.
    logps = torch.tensor([[1.1, 4.0, 4.0]]).log().requires_grad_()
    advantages = torch.tensor([[-2.0, -2.0, 2.0]])
    losses = dual_clip(clipped_surrogate(logps, torch.zeros(1, 3), advantages, 0.2, 0.2), advantages, 3.0)
    torch.testing.assert_close(losses, torch.tensor([[2.2, 6.0, -2.4]]))
    losses.sum().backward()
    torch.testing.assert_close(logps.grad, torch.tensor([[2.2, 0.0, 0.0]]))


def test_cispo_clips_the_weight_and_keeps_the_gradient() -> None:
    # Probabilities 0.6, 0.2 and 0.1 that were 0.2, 0.2 and 0.5: ratios 3, 1 and 0.2. With no bound below (low = 1) and
    # 1 + 1 above, the weights are 2, 1 and 0.2. Loss: -w A logp; gradient: -w A, of every token.
    logps = torch.tensor([[0.6, 0.2, 0.1]]).log().requires_grad_()
    old_logps, advantages = torch.tensor([[0.2, 0.2, 0.5]]).log(), torch.tensor([[1.0, -1.0, 2.0]])
    losses = clipped_weight(logps, old_logps, advantages, 1.0, 1.0)
    # -2 ln 0.6 = 1.021651; ln 0.2 = -1.609438; -0.4 ln 0.1 = 0.921034.
    torch.testing.assert_close(losses, torch.tensor([[1.021651, -1.609438, 0.921034]]))
    losses.sum().backward()
    torch.testing.assert_close(logps.grad, torch.tensor([[-2.0, 1.0, -0.4]]))


def test_the_ratio_of_a_sequence() -> None:
    # Log-ratios 0.3 and -0.1 of two tokens (a third is no response): log s = 0.1, s = 1.105171. With A = 2 and the mean
    # over tokens the objective is s A = 2.210342, and its gradient by each token's log-probability s A / 2 = 1.105171.
    old_logps = torch.tensor([[-1.0, -2.0, -9.0]])
    logps = (old_logps + torch.tensor([[0.3, -0.1, 5.0]])).requires_grad_()
    mask, advantages = torch.tensor([[True, True, False]]), torch.tensor([[2.0, 2.0, 0.0]])
    of_sequence = sequence_logps(logps, old_logps, mask)
    torch.testing.assert_close((of_sequence - old_logps)[mask], torch.tensor([0.1, 0.1]))
    loss = aggregate(
        clipped_surrogate(of_sequence, old_logps, advantages, 0.2, 0.2), mask, "sequence", 2, 1, 5
    )
    assert loss.item() == pytest.approx(-2.210342, abs=1e-6)
    loss.backward()
    torch.testing.assert_close(logps.grad, torch.tensor([[-1.105171, -1.105171, 0.0]]))
    # Clipped as a whole: with s beyond 1.05 and A > 0 no token has a gradient.
    logps.grad = None
    of_sequence = sequence_logps(logps, old_logps, mask)
    clipped_surrogate(of_sequence, old_logps, advantages, 0.05, 0.05).sum().backward()
    assert logps.grad.tolist() == [[0.0, 0.0, 0.0]]


def test_value_loss() -> None:
    # Targets 1, old values 0, values 0.2, 0.8, 0.8, clip 0.5 (the last: none).
    #   0.2: (0.2 - 1)^2 / 2 = 0.32, within the clip; gradient 0.2 - 1 = -0.8.
    #   0.8: the clipped value 0.5 is farther off: (0.5 - 1)^2 / 2 = 0.125, without gradient.
    #   0.8 without a clip: (0.8 - 1)^2 / 2 = 0.02.
    values = torch.tensor([[0.2, 0.8]], requires_grad=True)
    losses = clipped_value_loss(values, torch.zeros(1, 2), torch.ones(1, 2), 0.5)
    torch.testing.assert_close(losses, torch.tensor([[0.32, 0.125]]))
    losses.sum().backward()
    torch.testing.assert_close(values.grad, torch.tensor([[-0.8, 0.0]]))
    assert clipped_value_loss(values, torch.zeros(1, 2), torch.ones(1, 2), None)[
        0, 1
    ].item() == pytest.approx(0.02)


def test_clipped_tokens_are_those_without_gradient() -> None:
    low, high = clipped_tokens(RATIOS.log(), torch.zeros(1, 5), ADVANTAGES, 0.2, 0.2)
    assert low.tolist() == [[False, False, False, False, True]]
    assert high.tolist() == [[False, True, False, False, False]]


def test_at_ratio_one_the_gradient_is_the_policy_gradient() -> None:
    logps = torch.tensor([[-1.0, -2.0]], requires_grad=True)
    clipped_surrogate(logps, logps.detach(), torch.tensor([[1.5, -0.5]]), 0.2, 0.2).sum().backward()
    # -A: a step against the gradient raises the log-probability where A > 0 and lowers it where A < 0.
    assert logps.grad.tolist() == [[-1.5, 0.5]]


def test_importance_weights_are_truncated_ratios_without_gradient() -> None:
    # The learner's probabilities 0.5, 0.2, 0.6 of tokens that the sampler drew with 0.5, 0.4, 0.2: ratios 1, 0.5, 3,
    # and the cap is 2. At the last position, outside the response, both log-probabilities are 0.
    old_logps = torch.tensor([[0.5, 0.2, 0.6, 1.0]]).log().requires_grad_()
    weights = importance_weights(old_logps, torch.tensor([[0.5, 0.4, 0.2, 1.0]]).log(), 2.0)
    torch.testing.assert_close(weights, torch.tensor([[1.0, 0.5, 2.0, 1.0]]))
    assert not weights.requires_grad
    # A token that the sampler took for impossible is bounded too, not infinite.
    assert importance_weights(torch.zeros(1), torch.tensor([-1000.0]), 2.0).item() == 2.0


# e^20, where a log-ratio is cut.
E20 = 485_165_195.4


def test_a_log_ratio_that_would_overflow_is_cut_and_has_no_gradient() -> None:
    # Log-ratios 100, 0 and -100 with A = -1: the loss is rho, at most e^20. A token of ratio 1 keeps its gradient
    # -rho A = 1; at -100 the ratio is below 1 - 0.2 and clipped to 0.8.
    logps = torch.tensor([[100.0, 0.0, -100.0]], requires_grad=True)
    losses = clipped_surrogate(logps, torch.zeros(1, 3), -torch.ones(1, 3), 0.2, 0.2)
    torch.testing.assert_close(losses, torch.tensor([[E20, 1.0, 0.8]]))
    losses.sum().backward()
    assert logps.grad.tolist() == [[0.0, 1.0, 0.0]]


def test_a_sequence_beyond_the_limit_is_cut_as_a_whole() -> None:
    # Log-ratios 100 and 20: their mean is 60. That of the other sequence, 100 and -96, is 2: it is as it was, e^2 =
    # 7.389056, and by each of its two tokens' log-probabilities its gradient, with A = -1, is e^2 / 2 * 2 tokens.
    logps = torch.tensor([[100.0, 20.0], [100.0, -96.0]], requires_grad=True)
    mask, old_logps = torch.ones(2, 2, dtype=torch.bool), torch.zeros(2, 2)
    losses = clipped_surrogate(sequence_logps(logps, old_logps, mask), old_logps, -torch.ones(2, 2), 0.2, 0.2)
    torch.testing.assert_close(losses, torch.tensor([[E20, E20], [7.389056, 7.389056]]))
    losses.sum().backward()
    torch.testing.assert_close(logps.grad, torch.tensor([[0.0, 0.0], [7.389056, 7.389056]]))


def test_k3_is_cut_where_the_reference_is_far_above_and_nowhere_else() -> None:
    # log(q/p) = 100: e^20 - 1 - 20, without gradient. log(q/p) = -100, where the policy has moved far from the
    # reference: e^-100 - 1 + 100 = 99, and the gradient 1 - q/p = 1 goes on pulling it back.
    logps = torch.tensor([-100.0, 0.0], requires_grad=True)
    kl = kl_k3(logps, torch.tensor([0.0, -100.0]))
    torch.testing.assert_close(kl, torch.tensor([E20 - 21, 99.0]))
    kl.sum().backward()
    assert logps.grad.tolist() == [0.0, 1.0]


def test_within_the_limit_a_ratio_is_exact_to_the_bit() -> None:
    log_ratios = torch.linspace(-120, 20, 1401)[None]
    old_logps = torch.full_like(log_ratios, -0.3)
    logps = old_logps + log_ratios
    assert (logps - old_logps).max() <= 20
    losses = clipped_surrogate(logps, old_logps, -torch.ones_like(logps), 1.0, 1e12)
    assert torch.equal(losses, torch.exp(logps - old_logps))
    difference = old_logps - logps
    kl = kl_k3(logps[difference <= 20], old_logps[difference <= 20])
    assert torch.equal(kl, (torch.exp(difference) - 1 - difference)[difference <= 20])


def test_kl_estimators() -> None:
    # p = 0.5, q = 0.25: log(p/q) = ln 2 = 0.693147.
    #   k1 = 0.693147; k2 = 0.693147^2 / 2 = 0.240227; k3 = 0.25/0.5 - 1 + 0.693147 = 0.193147.
    p, q = torch.tensor([0.5]).log(), torch.tensor([0.25]).log()
    assert kl_k1(p, q).item() == pytest.approx(0.693147, abs=1e-6)
    assert kl_k2(p, q).item() == pytest.approx(0.240227, abs=1e-6)
    assert kl_k3(p, q).item() == pytest.approx(0.193147, abs=1e-6)
    # The other way round k1 is negative, k3 is not: 2 - 1 - 0.693147 = 0.306853.
    assert kl_k1(q, p).item() == pytest.approx(-0.693147, abs=1e-6)
    assert kl_k3(q, p).item() == pytest.approx(0.306853, abs=1e-6)


@pytest.mark.parametrize("name", KL_ESTIMATORS)
def test_kl_of_equal_policies_is_zero(name: str) -> None:
    logps = torch.tensor([-0.1, -3.0])
    assert KL_ESTIMATORS[name](logps, logps).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("name", ["k1", "k3"])
def test_unbiased_kl_estimators_average_to_the_kl(name: str) -> None:
    # Over p = (0.7, 0.2, 0.1) against q = (0.2, 0.5, 0.3):
    #   0.7 ln(3.5) + 0.2 ln(0.4) + 0.1 ln(1/3) = 0.876934 - 0.183258 - 0.109861 = 0.583815.
    p, q = torch.tensor([0.7, 0.2, 0.1]), torch.tensor([0.2, 0.5, 0.3])
    assert (p * KL_ESTIMATORS[name](p.log(), q.log())).sum().item() == pytest.approx(0.583815, abs=1e-5)


def test_gradient_of_k2_averages_to_that_of_the_kl() -> None:
    logits, q = torch.tensor([1.0, -0.5, 0.2], requires_grad=True), torch.tensor([0.2, 0.5, 0.3])
    logps = logits.log_softmax(-1)
    (true_gradient,) = torch.autograd.grad((logps.exp() * (logps - q.log())).sum(), logits, retain_graph=True)
    (gradient,) = torch.autograd.grad((logps.exp().detach() * kl_k2(logps, q.log())).sum(), logits)
    torch.testing.assert_close(gradient, true_gradient)


PER_TOKEN = torch.tensor([[1.0, 2.0, 3.0], [4.0, 100.0, 100.0]])
MASK = torch.tensor([[True, True, True], [True, False, False]])


def test_aggregate_normalisers() -> None:
    # token: (1 + 2 + 3 + 4) / 4 = 2.5.  sequence: ((1 + 2 + 3) / 3 + 4 / 1) / 2 = 3.  constant, of at most 5 tokens:
    # (1 + 2 + 3 + 4) / (2 x 5) = 1.
    assert aggregate(PER_TOKEN, MASK, "token", 4, 2, 5).item() == 2.5
    assert aggregate(PER_TOKEN, MASK, "sequence", 4, 2, 5).item() == 3.0
    assert aggregate(PER_TOKEN, MASK, "constant", 4, 2, 5).item() == 1.0


@pytest.mark.parametrize("normaliser", NORMALISERS)
def test_shares_sum_to_the_whole(normaliser: str) -> None:
    whole = aggregate(PER_TOKEN, MASK, normaliser, 4, 2, 5)
    shares = [aggregate(PER_TOKEN[i : i + 1], MASK[i : i + 1], normaliser, 4, 2, 5) for i in range(2)]
    assert sum(shares).item() == pytest.approx(whole.item())


@pytest.mark.parametrize("normaliser", NORMALISERS)
def test_masked_tokens_have_exactly_no_gradient(normaliser: str) -> None:
    per_token = PER_TOKEN.clone()
    per_token[1, 1], per_token[1, 2] = math.nan, math.inf  # what stands outside the mask does not matter
    per_token.requires_grad_()
    loss = aggregate(per_token, MASK, normaliser, 4, 2, 5)
    assert math.isfinite(loss.item())
    loss.backward()
    assert per_token.grad[~MASK].tolist() == [0.0, 0.0]
    assert (per_token.grad[MASK] > 0).all()


def surrogate_by_loop(name: str, logp: float, old: float, advantage: float, low: float, high: float) -> float:
    ratio = math.exp(logp - old)
    clipped = min(max(ratio, 1 - low), 1 + high)
    if name == "cispo":
        return -clipped * advantage * logp
    return -min(ratio * advantage, clipped * advantage)


def loss_by_loop(name: str, level: str, normaliser: str, dual: float | None, columns: Sequence[Any]) -> float:
    """The whole loss, token by token in plain Python: the surrogate, the dual clip, and the normaliser."""
    total, num_tokens = 0.0, sum(len(tokens) for tokens in columns)
    for tokens in columns:
        mean_log_ratio = sum(logp - old for logp, old, _ in tokens) / len(tokens)
        losses = []
        for logp, old, advantage in tokens:
            if level == "sequence":
                logp = old + mean_log_ratio
            loss = surrogate_by_loop(name, logp, old, advantage, 0.2, 0.3)
            if dual is not None and advantage < 0:
                loss = min(loss, -dual * advantage)
            losses.append(loss)
        weight = {"token": num_tokens, "sequence": len(tokens) * len(columns), "constant": 7 * len(columns)}
        total += sum(losses) / weight[normaliser]
    return total


@pytest.mark.parametrize("normaliser", NORMALISERS)
@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize(("name", "dual"), [("clip", None), ("clip", 1.5), ("cispo", None)])
def test_every_loss_is_that_of_the_slow_reference(
    name: str, dual: float | None, level: str, normaliser: str
) -> None:
    generator = torch.Generator().manual_seed(0)
    mask = torch.tensor([[0, 1, 1, 1, 0, 1, 1], [1, 1, 0, 0, 0, 0, 0], [0, 0, 0, 1, 1, 1, 1]]).bool()
    old_logps, noise, advantages = torch.randn(3, 3, 7, generator=generator, dtype=torch.float64)
    old_logps = -old_logps.abs()
    logps = (old_logps + 0.5 * noise).requires_grad_()
    columns = [
        list(zip(*(column[here].tolist() for column in row), strict=True))
        for *row, here in zip(logps.detach(), old_logps, advantages, mask, strict=True)
    ]
    taken = sequence_logps(logps, old_logps, mask) if level == "sequence" else logps
    per_token = SURROGATES[name](taken, old_logps, advantages, 0.2, 0.3)
    if dual is not None:
        per_token = dual_clip(per_token, advantages, dual)
    num_tokens, num_sequences = int(mask.sum()), len(mask)
    loss = aggregate(per_token, mask, normaliser, num_tokens, num_sequences, 7)
    assert loss.item() == pytest.approx(loss_by_loop(name, level, normaliser, dual, columns), abs=1e-6)
    loss.backward()
    assert (logps.grad[~mask] == 0).all()
    assert (logps.grad[mask] != 0).any()


@pytest.mark.parametrize("name", SURROGATES)
def test_a_step_down_the_loss_raises_what_was_good_and_lowers_what_was_bad(name: str) -> None:
    logps = torch.tensor([[-1.0, -2.0]], requires_grad=True)
    SURROGATES[name](logps, logps.detach(), torch.tensor([[1.0, -1.0]]), 0.2, 0.2).sum().backward()
    assert logps.grad[0, 0] < 0 < logps.grad[0, 1]
