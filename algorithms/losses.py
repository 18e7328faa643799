"""Losses: tensors in, tensor out, one value a token. How tokens are summed up is `aggregate`'s business alone.

Shapes: B sequences, T tokens.
"""

from __future__ import annotations

from collections.abc import Callable

import torch


def clipped_surrogate(
    logps: torch.Tensor, old_logps: torch.Tensor, advantages: torch.Tensor, clip_param: float
) -> torch.Tensor:
    """The negative PPO surrogate of each token.

    -min(rho A, clip(rho, 1 - eps, 1 + eps) A) with rho = exp(logp - old_logp), Schulman et al. (1707.06347),
    equation 7.

    Args:
        logps: [B, T], with gradient.
        old_logps: [B, T], of the policy that the ratio is taken against.
        advantages: [B, T].
        clip_param: eps.

    Returns:
        [B, T].
    """
    ratio = torch.exp(logps - old_logps)
    clipped = ratio.clamp(1 - clip_param, 1 + clip_param)
    return -torch.minimum(ratio * advantages, clipped * advantages)


def clipped_tokens(
    logps: torch.Tensor, old_logps: torch.Tensor, advantages: torch.Tensor, clip_param: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Where the clip takes a token's gradient away: below (A < 0) and above (A > 0). bool [B, T] each."""
    ratio = torch.exp(logps - old_logps)
    return (ratio < 1 - clip_param) & (advantages < 0), (ratio > 1 + clip_param) & (advantages > 0)


def importance_weights(old_logps: torch.Tensor, sampling_logps: torch.Tensor, cap: float) -> torch.Tensor:
    """What corrects a token's loss for having been drawn by the sampler's engine and not by the learner's.

    min(exp(old_logp - sampling_logp), cap), a constant: truncated importance sampling, Yao et al. (2025), "Your
    Efficient RL Framework Secretly Brings You Off-Policy RL Training". The cap bounds the variance; weights below
    it are exact.

    Args:
        old_logps: [B, T], the learner's own, before the first step on the batch.
        sampling_logps: [B, T], the sampler's.
        cap: Above 0.

    Returns:
        [B, T], without gradient.
    """
    return torch.exp(old_logps - sampling_logps).clamp(max=cap).detach()


def kl_k1(logps: torch.Tensor, ref_logps: torch.Tensor) -> torch.Tensor:
    """log(p/q): unbiased, high variance. Schulman, "Approximating KL divergence" (joschu.net/blog/kl-approx)."""
    return logps - ref_logps


def kl_k2(logps: torch.Tensor, ref_logps: torch.Tensor) -> torch.Tensor:
    """log(p/q)^2 / 2: biased, low variance; its gradient is that of the true KL. Same source."""
    return 0.5 * (logps - ref_logps) ** 2


def kl_k3(logps: torch.Tensor, ref_logps: torch.Tensor) -> torch.Tensor:
    """q/p - 1 - log(q/p): unbiased, low variance, never negative; GRPO's choice. Same source."""
    log_ratio = ref_logps - logps
    return torch.exp(log_ratio) - 1 - log_ratio


KL_ESTIMATORS: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "k1": kl_k1,
    "k2": kl_k2,
    "k3": kl_k3,
}


def aggregate(
    per_token: torch.Tensor, mask: torch.Tensor, normaliser: str, num_tokens: int, num_sequences: int
) -> torch.Tensor:
    """A micro-batch's share of the minibatch's loss: shares sum to the whole over micro-batches and learners.

    "token": sum over all tokens / tokens of the minibatch, so that each token weighs the same (DAPO, 2503.14476,
    equation 8). "sequence": mean over sequences of the mean over each one's tokens (GRPO, 2402.03300,
    equation 3).

    Args:
        per_token: [B, T].
        mask: bool [B, T], response tokens.
        normaliser: A key of NORMALISERS.
        num_tokens: Response tokens of the whole minibatch.
        num_sequences: Sequences of the whole minibatch.

    Returns:
        A scalar.
    """
    return NORMALISERS[normaliser](per_token.masked_fill(~mask, 0.0), mask, num_tokens, num_sequences)


def _per_token(
    per_token: torch.Tensor, mask: torch.Tensor, num_tokens: int, num_sequences: int
) -> torch.Tensor:
    return per_token.sum() / num_tokens


def _per_sequence(
    per_token: torch.Tensor, mask: torch.Tensor, num_tokens: int, num_sequences: int
) -> torch.Tensor:
    return (per_token.sum(-1) / mask.sum(-1).clamp(min=1)).sum() / num_sequences


NORMALISERS = {"token": _per_token, "sequence": _per_sequence}
