"""Advantages against numbers derived by hand, and against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from algorithms.advantages import (
    BASELINES,
    generalized_advantages,
    group_relative_advantages,
    overlong_penalties,
)


def test_groups_are_compared_within_themselves() -> None:
    # Group 7: rewards 1, 0, 0.5: mean 0.5, unbiased std sqrt((0.25 + 0.25 + 0) / 2) = 0.5 -> 1, -1, 0.
    # Group 3: rewards 10, 12: mean 11, std sqrt((1 + 1) / 1) = 1.414214 -> -0.707107, 0.707107.
    # The groups stand mixed up, as nothing promises an order.
    rewards, groups = np.array([1.0, 10.0, 0.0, 12.0, 0.5]), np.array([7, 3, 7, 3, 7])
    advantages = group_relative_advantages(rewards, groups)
    np.testing.assert_allclose(advantages, [1.0, -0.707107, -1.0, 0.707107, 0.0], atol=3e-6)


def test_without_scale_only_the_mean_is_taken_off() -> None:
    advantages = group_relative_advantages(np.array([1.0, 0.0, 0.5]), np.zeros(3, dtype=int), scale="none")
    np.testing.assert_allclose(advantages, [0.5, -0.5, 0.0])


def test_leave_one_out() -> None:
    # Rewards 1, 0, 0.5: the means of the others are 0.25, 0.75 and 0.5.
    advantages = group_relative_advantages(
        np.array([1.0, 0.0, 0.5]), np.zeros(3, dtype=int), baseline="leave_one_out", scale="none"
    )
    np.testing.assert_allclose(advantages, [0.75, -0.75, 0.0])


def test_whitened_over_the_tokens_of_the_batch() -> None:
    # Groups (1, 0) and (3, 0): 0.5, -0.5, 1.5, -1.5, of 1, 3, 2 and 2 tokens. Over the 8 tokens the mean is
    # (0.5 - 1.5 + 3 - 3) / 8 = -0.125 and the mean square (0.25 + 0.75 + 4.5 + 4.5) / 8 = 1.25, so the variance is
    # 1.25 - 0.015625 = 1.234375: (0.625, -0.375, 1.625, -1.375) / 1.111024.
    rewards, groups = np.array([1.0, 0.0, 3.0, 0.0]), np.array([0, 0, 1, 1])
    lengths = np.array([1, 3, 2, 2])
    advantages = group_relative_advantages(rewards, groups, scale="batch", lengths=lengths)
    np.testing.assert_allclose(advantages, [0.562544, -0.337526, 1.462614, -1.237597], atol=2e-6)
    # As the learners see them, a copy at each token, they have mean 0 and standard deviation 1.
    of_tokens = np.repeat(advantages, lengths)
    np.testing.assert_allclose([of_tokens.mean(), of_tokens.std()], [0.0, 1.0], atol=2e-6)
    # A third group without difference is as far from the mean as 0 is. Of 4 tokens more, the mean is -1 / 12 and the
    # variance 10 / 12 - 1 / 144 = 0.826389: 0.083333 / 0.909059 = 0.091670.
    rewards, groups = np.append(rewards, [2.0, 2.0]), np.append(groups, [2, 2])
    advantages = group_relative_advantages(rewards, groups, scale="batch", lengths=np.append(lengths, [3, 1]))
    np.testing.assert_allclose(advantages[4:], [0.091670, 0.091670], atol=2e-6)


def test_a_batch_without_any_difference_has_no_signal() -> None:
    advantages = group_relative_advantages(
        np.array([0.1] * 6), np.repeat([0, 1], 3), scale="batch", lengths=np.arange(1, 7)
    )
    assert advantages.tolist() == [0.0] * 6


def test_whitening_over_tokens_needs_their_number() -> None:
    with pytest.raises(ValueError, match=r"scale='batch' .*lengths"):
        group_relative_advantages(np.array([1.0, 0.0]), np.zeros(2, dtype=int), scale="batch")


@pytest.mark.parametrize("scale", ["group", "none"])
@pytest.mark.parametrize("baseline", BASELINES)
def test_a_group_without_difference_has_no_signal(baseline: str, scale: str) -> None:
    # 0.1 has no exact binary form, and the mean of eight of them is not 0.1: the advantage must still be exactly 0,
    # since only such rows are left out of the forward pass.
    rewards, groups = np.array([0.1] * 8 + [0.1, 1.0]), np.array([0] * 8 + [1] * 2)
    advantages = group_relative_advantages(rewards, groups, baseline=baseline, scale=scale)
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


def test_overlong_penalties() -> None:
    # The last 20 % of 100 tokens: 80 is free, 90 costs half, 100 all.
    penalties = overlong_penalties(np.array([10, 80, 90, 100]), 100, 0.2)
    np.testing.assert_allclose(penalties, [0.0, 0.0, 0.5, 1.0])


def gae_by_definition(
    rewards: list[float], values: list[float], last: float, gamma: float, lambda_: float
) -> list[float]:
    """The sum over k of (gamma lambda)^k delta_{t+k}, term by term."""
    after = [*values[1:], last]
    deltas = [r + gamma * v2 - v for r, v, v2 in zip(rewards, values, after, strict=True)]
    size = len(rewards)
    return [sum((gamma * lambda_) ** k * deltas[t + k] for k in range(size - t)) for t in range(size)]


@pytest.mark.parametrize(("gamma", "lambda_"), [(1.0, 1.0), (0.9, 0.8), (1.0, 0.0)])
def test_generalized_advantages_are_the_definition_over_turns(gamma: float, lambda_: float) -> None:
    generator = torch.Generator().manual_seed(0)
    # Two turns with the environment's words between them; one turn and padding; two turns to the very end.
    mask = torch.tensor([[0, 1, 1, 0, 0, 1, 1, 0], [0, 0, 1, 1, 1, 0, 0, 0], [0, 1, 0, 0, 1, 1, 1, 1]]).bool()
    rewards, values = torch.randn(2, 3, 8, generator=generator, dtype=torch.float64)
    last = torch.tensor([0.0, 0.7, -0.3], dtype=torch.float64)  # finished; cut short, twice
    advantages = generalized_advantages(rewards, values, mask, last, gamma, lambda_)
    assert (advantages[~mask] == 0).all()
    for row, here in enumerate(mask):
        expected = gae_by_definition(
            rewards[row][here].tolist(), values[row][here].tolist(), last[row].item(), gamma, lambda_
        )
        torch.testing.assert_close(advantages[row][here].tolist(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("gamma", "lambda_"), [(1.0, 1.0), (0.99, 0.95), (0.5, 0.0)])
def test_generalized_advantages_of_a_thousand_tokens_are_those_of_a_loop(
    gamma: float, lambda_: float
) -> None:
    """In float32, token by token, as an update would have them: rewards of 1 at the end, values about 0.5."""
    generator = torch.Generator().manual_seed(0)
    mask = torch.rand(5, 1000, generator=generator) > 0.2
    mask[3], mask[4] = False, True
    values, last = torch.rand(5, 1000, generator=generator), torch.tensor([0.0, 0.7, 0.2, 0.0, 0.4])
    rewards = torch.zeros(5, 1000)
    for row in (0, 1, 2, 4):
        rewards[row, mask[row].nonzero()[-1]] = 1.0
    expected = torch.zeros_like(values)
    for row in range(5):
        value, advantage = last[row].double(), torch.zeros((), dtype=torch.float64)
        for t in mask[row].nonzero().flatten().tolist()[::-1]:
            delta = rewards[row, t].double() + gamma * value - values[row, t].double()
            advantage = delta + gamma * lambda_ * advantage
            value = values[row, t].double()
            expected[row, t] = advantage
    advantages = generalized_advantages(rewards, values, mask, last, gamma, lambda_)
    assert advantages.dtype == torch.float32
    torch.testing.assert_close(advantages, expected, rtol=0, atol=1e-6)


def test_generalized_advantages_by_hand() -> None:
    # Three tokens, reward 1 at the last, values 0.5, 0.6, 0.8, gamma 0.5, lambda 0.5, terminated:
    #   delta_3 = 1 - 0.8 = 0.2              A_3 = 0.2
    #   delta_2 = 0.5 * 0.8 - 0.6 = -0.2     A_2 = -0.2 + 0.25 * 0.2 = -0.15
    #   delta_1 = 0.5 * 0.6 - 0.5 = -0.2     A_1 = -0.2 + 0.25 * -0.15 = -0.2375
    rewards, values = torch.tensor([[0.0, 0.0, 1.0]]), torch.tensor([[0.5, 0.6, 0.8]])
    mask = torch.ones(1, 3, dtype=torch.bool)
    advantages = generalized_advantages(rewards, values, mask, torch.zeros(1), 0.5, 0.5)
    torch.testing.assert_close(advantages, torch.tensor([[-0.2375, -0.15, 0.2]]))
    # Truncated, with 0.4 expected after it: delta_3 = 1 + 0.5 * 0.4 - 0.8 = 0.4.
    advantages = generalized_advantages(rewards, values, mask, torch.tensor([0.4]), 0.5, 0.5)
    torch.testing.assert_close(advantages[0, 2], torch.tensor(0.4))
