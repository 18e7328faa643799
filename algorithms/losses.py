"""Losses: tensors in, tensor out, one value a token. How tokens are summed up is `aggregate`'s business alone.

Shapes: B sequences, T tokens.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from llmenv.policy.ratio import bounded


def clipped_surrogate(
    logps: torch.Tensor, old_logps: torch.Tensor, advantages: torch.Tensor, low: float, high: float
) -> torch.Tensor:
    """The negative PPO surrogate of each token.

    -min(rho A, clip(rho, 1 - low, 1 + high) A) with rho = exp(logp - old_logp), Schulman et al. (1707.06347),
    equation 7; low < high is DAPO's clip-higher (2503.14476, equation 10). Wherever a ratio is taken here, one
    beyond `llmenv.policy.ratio.LOG_RATIO_LIMIT` counts as at the limit, and has no gradient.

    Args:
        logps: [B, T], with gradient.
        old_logps: [B, T], of the policy that the ratio is taken against.
        advantages: [B, T].
        low: eps below.
        high: eps above.

    Returns:
        [B, T].
    """
    ratio = torch.exp(bounded(logps - old_logps))
    clipped = ratio.clamp(1 - low, 1 + high)
    return -torch.minimum(ratio * advantages, clipped * advantages)


def clipped_weight(
    logps: torch.Tensor, old_logps: torch.Tensor, advantages: torch.Tensor, low: float, high: float
) -> torch.Tensor:
    """CISPO's loss of each token: REINFORCE, weighted with a clipped ratio that has no gradient.

    -sg(clip(rho, 1 - low, 1 + high)) A logp, MiniMax-M1 (2506.13585), equations 4 and 5. No token loses its gradient.
    Arguments and result as in `clipped_surrogate`; low = 1 leaves the ratio unbounded below.
    """
    weight = torch.exp(bounded(logps - old_logps)).clamp(1 - low, 1 + high).detach()
    return -weight * advantages * logps


def negative_log_likelihood(logps: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """The loss of each token that is to be imitated: -w log p, cross-entropy where the weights are 1.

    Over all response tokens of a batch, divided by their number, it is the loss of supervised fine-tuning (InstructGPT,
    2203.02155, section 3.5).

    Args:
        logps: [B, T], with gradient.
        weights: [B, T].

    Returns:
        [B, T].
    """
    return -weights * logps


SURROGATES = {"clip": clipped_surrogate, "cispo": clipped_weight}


def dual_clip(per_token: torch.Tensor, advantages: torch.Tensor, bound: float) -> torch.Tensor:
    """Bounds the surrogate where A < 0 and the ratio is large: the loss is at most -bound A.

    max(min(rho A, clip(rho) A), c A) for A < 0, Ye et al. (1912.09729), equation 5, negated here as the surrogate is.

    Args:
        per_token: [B, T], from `clipped_surrogate`.
        advantages: [B, T].
        bound: c, above 1.

    Returns:
        [B, T].
    """
    return torch.where(advantages < 0, torch.minimum(per_token, -bound * advantages), per_token)


def sequence_logps(logps: torch.Tensor, old_logps: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Log-probabilities whose ratio to the old ones is that of the whole sequence, at each of its tokens.

    log s = mean_t (logp_t - old_logp_t), the length-normalised ratio of GSPO (2507.18071), equation 7. With the
    "sequence" normaliser the surrogate of these is GSPO's objective, equation 5.

    Args:
        logps: [B, T], with gradient.
        old_logps: [B, T].
        mask: bool [B, T], response tokens.

    Returns:
        [B, T], old_logp + log s.
    """
    log_ratio = (logps - old_logps).masked_fill(~mask, 0.0)
    return old_logps + (log_ratio.sum(-1) / mask.sum(-1).clamp(min=1))[:, None]


def clipped_tokens(
    logps: torch.Tensor, old_logps: torch.Tensor, advantages: torch.Tensor, low: float, high: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Where the ratio is beyond the clip: below (A < 0) and above (A > 0). bool [B, T] each.

    `clipped_surrogate` has no gradient there.
    """
    ratio = torch.exp(bounded(logps - old_logps))
    return (ratio < 1 - low) & (advantages < 0), (ratio > 1 + high) & (advantages > 0)


def clipped_value_loss(
    values: torch.Tensor, old_values: torch.Tensor, targets: torch.Tensor, clip: float | None
) -> torch.Tensor:
    """The critic's squared error of each token, with steps beyond `clip` from the old value not rewarded.

    max((V - R)^2, (clip(V, V_old - c, V_old + c) - R)^2) / 2, as in OpenAI Baselines' PPO2 and TinyZero (verl).

    Args:
        values: [B, T], with gradient.
        old_values: [B, T], before the first step on the batch.
        targets: [B, T], R.
        clip: c; None clips nothing.

    Returns:
        [B, T].
    """
    squared = (values - targets) ** 2
    if clip is not None:
        clipped = old_values + (values - old_values).clamp(-clip, clip)
        squared = torch.maximum(squared, (clipped - targets) ** 2)
    return 0.5 * squared


def importance_weights(old_logps: torch.Tensor, sampling_logps: torch.Tensor, cap: float) -> torch.Tensor:
    """What corrects a token's loss for having been drawn by the sampler's engine and not by the learner's.

    min(exp(old_logp - sampling_logp), cap), a constant: truncated importance sampling, Yao et al. (2025), "Your
    Efficient RL Framework Secretly Brings You Off-Policy RL Training". The cap bounds the variance; weights below
    it are exact.

    The weight is of the surrogate's kind, so that weight times ratio is the ratio to the policy that sampled. Where the
    surrogate's is that of whole sequences, `sequence_logps` of the first two arguments goes in as the first: the ratio
    to the sampler is then (pi / mu)^(1/|y|), GSPO's equation 7 with the sampler's likelihood as the old one, which its
    section 5.4 (2507.18071) proposes. The product of the tokens' ratios, the weight of a sequence's probability, would
    be unbiased without a cap. But its logarithm spreads with the root of the length: by 1.8 nats over 8,192 tokens
    that are off by 0.02 each, half of the sequences weigh below 0.2, and the cap cuts those that make up for it.

    Args:
        old_logps: [B, T], the learner's own, before the first step on the batch.
        sampling_logps: [B, T], the sampler's.
        cap: Above 0.

    Returns:
        [B, T], without gradient.
    """
    return torch.exp(bounded(old_logps - sampling_logps)).clamp(max=cap).detach()


def kl_k1(logps: torch.Tensor, ref_logps: torch.Tensor) -> torch.Tensor:
    """log(p/q): unbiased, high variance. Schulman, "Approximating KL divergence" (joschu.net/blog/kl-approx)."""
    return logps - ref_logps


def kl_k2(logps: torch.Tensor, ref_logps: torch.Tensor) -> torch.Tensor:
    """log(p/q)^2 / 2: biased, low variance; its gradient is that of the true KL. Same source."""
    return 0.5 * (logps - ref_logps) ** 2


def kl_k3(logps: torch.Tensor, ref_logps: torch.Tensor) -> torch.Tensor:
    """q/p - 1 - log(q/p): unbiased, low variance, never negative; GRPO's choice. Same source."""
    log_ratio = bounded(ref_logps - logps)
    return torch.exp(log_ratio) - 1 - log_ratio


KL_ESTIMATORS: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "k1": kl_k1,
    "k2": kl_k2,
    "k3": kl_k3,
}


def aggregate(
    per_token: torch.Tensor,
    mask: torch.Tensor,
    normaliser: str,
    num_tokens: int,
    num_sequences: int,
    max_tokens: int,
) -> torch.Tensor:
    """A micro-batch's share of the minibatch's loss: shares sum to the whole over micro-batches and learners.

    "token": sum over all tokens / tokens of the minibatch, so that each token weighs the same (DAPO, 2503.14476,
    equation 8). "sequence": mean over sequences of the mean over each one's tokens (GRPO, 2402.03300,
    equation 3). "constant": sum over all tokens / (sequences x `max_tokens`), so that a token's weight depends on no
    length (Dr. GRPO, 2503.20783, section 3.2).

    Args:
        per_token: [B, T].
        mask: bool [B, T], response tokens.
        normaliser: One of NORMALISERS.
        num_tokens: Response tokens of the whole minibatch.
        num_sequences: Sequences of the whole minibatch.
        max_tokens: The longest response that there may be.

    Returns:
        A scalar.
    """
    per_token = per_token.masked_fill(~mask, 0.0)
    if normaliser == "token":
        return per_token.sum() / num_tokens
    if normaliser == "sequence":
        return (per_token.sum(-1) / mask.sum(-1).clamp(min=1)).sum() / num_sequences
    return per_token.sum() / (num_sequences * max_tokens)


NORMALISERS = ("token", "sequence", "constant")
