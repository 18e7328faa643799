"""Losses against numbers derived by hand."""

from __future__ import annotations

import math

import pytest
import torch

from algorithms.losses import (
    KL_ESTIMATORS,
    NORMALISERS,
    aggregate,
    clipped_surrogate,
    clipped_tokens,
    importance_weights,
    kl_k1,
    kl_k2,
    kl_k3,
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
    losses = clipped_surrogate(logps, old_logps, ADVANTAGES, 0.2)
    torch.testing.assert_close(losses, LOSSES)
    losses.sum().backward()
    torch.testing.assert_close(logps.grad, GRADIENTS)


def test_clipped_tokens_are_those_without_gradient() -> None:
    low, high = clipped_tokens(RATIOS.log(), torch.zeros(1, 5), ADVANTAGES, 0.2)
    assert low.tolist() == [[False, False, False, False, True]]
    assert high.tolist() == [[False, True, False, False, False]]


def test_at_ratio_one_the_gradient_is_the_policy_gradient() -> None:
    logps = torch.tensor([[-1.0, -2.0]], requires_grad=True)
    clipped_surrogate(logps, logps.detach(), torch.tensor([[1.5, -0.5]]), 0.2).sum().backward()
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
    # token: (1 + 2 + 3 + 4) / 4 = 2.5.  sequence: ((1 + 2 + 3) / 3 + 4 / 1) / 2 = 3.
    assert aggregate(PER_TOKEN, MASK, "token", 4, 2).item() == 2.5
    assert aggregate(PER_TOKEN, MASK, "sequence", 4, 2).item() == 3.0


@pytest.mark.parametrize("normaliser", NORMALISERS)
def test_shares_sum_to_the_whole(normaliser: str) -> None:
    whole = aggregate(PER_TOKEN, MASK, normaliser, 4, 2)
    shares = [aggregate(PER_TOKEN[i : i + 1], MASK[i : i + 1], normaliser, 4, 2) for i in range(2)]
    assert sum(shares).item() == pytest.approx(whole.item())


@pytest.mark.parametrize("normaliser", NORMALISERS)
def test_masked_tokens_have_exactly_no_gradient(normaliser: str) -> None:
    per_token = PER_TOKEN.clone()
    per_token[1, 1], per_token[1, 2] = math.nan, math.inf  # what stands outside the mask does not matter
    per_token.requires_grad_()
    loss = aggregate(per_token, MASK, normaliser, 4, 2)
    assert math.isfinite(loss.item())
    loss.backward()
    assert per_token.grad[~MASK].tolist() == [0.0, 0.0]
    assert (per_token.grad[MASK] > 0).all()
