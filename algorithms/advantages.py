"""Advantages: arrays in, array out.

Those of critic-free methods compare whole samples, on the driver, before rows are dealt out. Those by token need the
critic's values, and are computed where these are: in the learners.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional

EPSILON = 1e-6
BASELINES = ("group_mean", "leave_one_out")
SCALES = ("group", "batch", "none")


def group_relative_advantages(
    rewards: np.ndarray,
    groups: np.ndarray,
    *,
    baseline: str = "group_mean",
    scale: str = "group",
    lengths: np.ndarray | None = None,
) -> np.ndarray:
    """How much better each sample is than the others of its group.

    Baseline "group_mean": A_i = r_i - mean(r), DeepSeekMath (2402.03300), section 4.1.2. "leave_one_out":
    A_i = r_i - mean of the *others* = (r_i - mean(r)) n / (n - 1), RLOO (2402.14740), equation 6.

    Scale "group": divided by std(r) + 1e-6 of the group, unbiased, DeepSeekMath. "none": as it is, Dr. GRPO
    (2503.20783). "batch": (A_i - mean(A)) / (std(A) + 1e-6) over the response tokens of the batch, REINFORCE++ with
    baseline (2501.03262v9), equations 6 and 7. The paper's A has an index for tokens, and over samples its mean would
    be 0 already, the groups' means being off; OpenRLHF, its authors' code, and verl count tokens too. So where long
    samples are the worse ones, a group without difference has a small advantage, and goes through the model.

    Args:
        rewards: float [N], of valid samples only.
        groups: int [N], the group of each sample. A group of one has no baseline and gets advantage 0.
        baseline: One of BASELINES.
        scale: One of SCALES.
        lengths: int [N], response tokens, which scale "batch" counts.

    Returns:
        float64 [N].

    Raises:
        ValueError: If the shapes differ, or lengths are needed.
    """
    if scale == "batch" and lengths is None:
        raise ValueError("scale='batch' is over tokens: pass the samples' lengths")
    rewards = np.asarray(rewards, dtype=np.float64)
    groups = np.asarray(groups)
    if rewards.shape != groups.shape or rewards.ndim != 1:
        raise ValueError(f"rewards {rewards.shape} and groups {groups.shape} must be equal and flat")
    _, first, index, counts = np.unique(groups, return_index=True, return_inverse=True, return_counts=True)
    # Counted from the group's first reward, so that equal ones give exactly 0, whatever their binary form.
    rewards = rewards - rewards[first][index]
    mean = np.bincount(index, rewards) / counts
    advantages = rewards - mean[index]
    others = np.maximum(counts - 1, 1)
    if scale == "group":
        variance = np.bincount(index, advantages**2) / others
        advantages = advantages / (np.sqrt(variance)[index] + EPSILON)
    if baseline == "leave_one_out":
        advantages = advantages * (counts / others)[index]
    if scale == "batch" and len(advantages):
        centred = advantages - np.average(advantages, weights=lengths)
        advantages = centred / (np.sqrt(np.average(centred**2, weights=lengths)) + EPSILON)
    return advantages


def overlong_penalties(lengths: np.ndarray, max_tokens: int, buffer: float) -> np.ndarray:
    """What DAPO takes off the reward of a response that comes near the cap (2503.14476, equation 13).

    0 up to (1 - buffer) max_tokens, from there linearly to 1 at max_tokens.

    Args:
        lengths: int [N], response tokens.
        max_tokens: The cap.
        buffer: The share of the cap over which the penalty rises, above 0.

    Returns:
        float64 [N].
    """
    start = (1 - buffer) * max_tokens
    return np.clip((np.asarray(lengths, dtype=np.float64) - start) / (max_tokens - start), 0.0, 1.0)


def generalized_advantages(
    rewards: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor,
    last_values: torch.Tensor,
    gamma: float,
    lambda_: float,
) -> torch.Tensor:
    """GAE over the tokens that the model sampled, across the turns of an episode (1506.02438, equation 16).

    delta_t = r_t + gamma V_{t+1} - V_t and A_t = delta_t + gamma lambda A_{t+1}, where t + 1 is the *next response
    token*, in the next turn if need be: what the environment says in between is no step of the policy's.

    Args:
        rewards: [B, T], at the token that earned it; those outside the mask do not count.
        values: [B, T], of the state in which a token was sampled.
        mask: bool [B, T], response tokens.
        last_values: [B], of the state after the last response token: 0 where the episode is over.
        gamma: Discount a token.
        lambda_: 1: the whole return, 0: one step and then the critic's word.

    Returns:
        [B, T]; 0 outside the mask.
    """
    size = values.shape[1]
    # [B, T]: the value after t, which is that at the first response token behind it.
    places = torch.arange(size, device=values.device).where(mask, size)
    following = places.flip(1).cummin(1).values.flip(1)
    following = torch.cat([following[:, 1:], places.new_full((len(places), 1), size)], 1)
    after = torch.cat([values, last_values[:, None]], 1).gather(1, following)
    deltas = (rewards + gamma * after - values).masked_fill(~mask, 0.0)
    factors = torch.full_like(deltas, gamma * lambda_, dtype=torch.float64).masked_fill(~mask, 1.0)
    return _scan(deltas.double(), factors).masked_fill(~mask, 0.0).to(values.dtype)


def _scan(terms: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """x_t = terms_t + factors_t x_{t+1} over the columns of [B, T], with x_{T+1} = 0.

    In log2(T) steps, each of which doubles how many terms x_t takes in (Hillis and Steele, 1986); token by token a GPU
    would be given some small operations for each of thousands of tokens, and have nothing to do for most of the time.
    """
    reach, size = 1, terms.shape[1]
    while reach < size:
        ahead = (functional.pad(x[:, reach:], (0, reach)) for x in (terms, factors))
        terms, factors = (torch.addcmul(terms, factors, next(ahead)), factors * next(ahead))
        reach *= 2
    return terms
