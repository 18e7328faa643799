"""Advantages against numbers derived by hand."""

from __future__ import annotations

import numpy as np
import pytest

from algorithms.advantages import group_relative_advantages


def test_groups_are_compared_within_themselves() -> None:
    # Group 7: rewards 1, 0, 0.5: mean 0.5, unbiased std sqrt((0.25 + 0.25 + 0) / 2) = 0.5 -> 1, -1, 0.
    # Group 3: rewards 10, 12: mean 11, std sqrt((1 + 1) / 1) = 1.414214 -> -0.707107, 0.707107.
    # The groups stand mixed up, as nothing promises an order.
    rewards, groups = np.array([1.0, 10.0, 0.0, 12.0, 0.5]), np.array([7, 3, 7, 3, 7])
    advantages = group_relative_advantages(rewards, groups)
    np.testing.assert_allclose(advantages, [1.0, -0.707107, -1.0, 0.707107, 0.0], atol=3e-6)


def test_without_scale_only_the_mean_is_taken_off() -> None:
    advantages = group_relative_advantages(np.array([1.0, 0.0, 0.5]), np.zeros(3, dtype=int), scale=False)
    np.testing.assert_allclose(advantages, [0.5, -0.5, 0.0])


def test_a_group_without_difference_has_no_signal() -> None:
    # 0.1 has no exact binary form, and the mean of eight of them is not 0.1: the advantage must still be exactly 0,
    # since only such rows are left out of the forward pass.
    advantages = group_relative_advantages(np.array([0.1] * 8 + [0.1, 1.0]), np.array([0] * 8 + [1] * 2))
    assert advantages[:8].tolist() == [0.0] * 8
    assert advantages[8] < 0 < advantages[9]


def test_a_group_of_one_has_no_baseline() -> None:
    advantages = group_relative_advantages(np.array([5.0, 1.0, 0.0]), np.array([0, 1, 1]))
    assert advantages[0] == 0.0
    assert advantages[1] > 0 > advantages[2]


def test_no_samples() -> None:
    assert group_relative_advantages(np.array([]), np.array([], dtype=int)).shape == (0,)


@pytest.mark.parametrize(("rewards", "groups"), [((3,), (2,)), ((2, 2), (2, 2))])
def test_shapes_are_checked(rewards: tuple[int, ...], groups: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="equal and flat"):
        group_relative_advantages(np.zeros(rewards), np.zeros(groups, dtype=int))
