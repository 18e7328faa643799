"""Advantages: arrays in, array out. Computed on the driver, over the whole batch, before rows are dealt out."""

from __future__ import annotations

import numpy as np

EPSILON = 1e-6


def group_relative_advantages(rewards: np.ndarray, groups: np.ndarray, *, scale: bool = True) -> np.ndarray:
    """How much better each sample is than the others of its group.

    A_i = (r_i - mean(r)) / (std(r) + 1e-6), DeepSeekMath (2402.03300), equation in section 4.1.2, with the
    unbiased standard deviation of the group. Without `scale`: A_i = r_i - mean(r), Dr. GRPO (2503.20783).

    Args:
        rewards: float [N], of valid samples only.
        groups: int [N], the group of each sample. A group of one has no baseline and gets advantage 0.
        scale: Whether to divide by the group's standard deviation.

    Returns:
        float64 [N].

    Raises:
        ValueError: If the shapes differ.
    """
    rewards = np.asarray(rewards, dtype=np.float64)
    groups = np.asarray(groups)
    if rewards.shape != groups.shape or rewards.ndim != 1:
        raise ValueError(f"rewards {rewards.shape} and groups {groups.shape} must be equal and flat")
    _, first, index, counts = np.unique(groups, return_index=True, return_inverse=True, return_counts=True)
    # Counted from the group's first reward, so that equal ones give exactly 0, whatever their binary form.
    rewards = rewards - rewards[first][index]
    mean = np.bincount(index, rewards) / counts
    advantages = rewards - mean[index]
    if scale:
        variance = np.bincount(index, advantages**2) / np.maximum(counts - 1, 1)
        advantages = advantages / (np.sqrt(variance)[index] + EPSILON)
    return advantages
