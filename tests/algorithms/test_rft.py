"""Expert iteration: what of a batch is kept, and the step on it, by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from algorithms.rft import RFT
from llmenv.episode import TextEpisode, Turn
from support import small_config
from updates import plain_losses

pytestmark = pytest.mark.usefixtures("ray_cluster")


def episode(group: int, info: dict[str, Any], reward: float, size: int = 2, end: str = "stop") -> TextEpisode:
    turn = Turn(
        [5, 6, 7], [*range(10, 10 + size)], [-1.0] * size, finish_reason=end, reward=reward, info=info
    )
    return TextEpisode(group, 0, [turn])


RIGHT, WRONG = {"correct": True}, {"correct": False}
EPISODES = [
    episode(0, RIGHT, 1.0, 4),
    episode(0, WRONG, 0.5),  # paid for its form
    episode(0, RIGHT, 1.5, 6),
    episode(0, RIGHT, 1.0, 3, end="length"),  # right, and without an end
    episode(1, {}, 0.1, 5),  # not judged: by its reward
    episode(1, {}, 0.0),
    TextEpisode(1, 2, error="the environment failed"),
]


@pytest.mark.parametrize(
    ("training", "weights"),
    [
        ({}, [1, 0, 1, 0, 1, 0]),
        ({"keep": "best"}, [0, 0, 1, 0, 1, 0]),
        ({"keep": "shortest"}, [1, 0, 0, 0, 1, 0]),
        ({"most_kept": 1}, [1, 0, 0, 0, 1, 0]),
    ],
)
def test_what_is_kept_and_the_step_on_it(
    model_folder: str, monkeypatch: pytest.MonkeyPatch, training: dict[str, Any], weights: list[int]
) -> None:
    algorithm = small_config(model_folder, "RFT", **training).build_algo()
    monkeypatch.setattr(algorithm, "collect", lambda: EPISODES)
    assert isinstance(algorithm, RFT)
    usable = algorithm.usable(EPISODES)
    assert usable == EPISODES[:6]
    np.testing.assert_array_equal(algorithm.assign_credit(usable), weights)
    result = algorithm.train()
    algorithm.stop()
    # The loss is the plain cross-entropy over the tokens of the kept ones alone.
    size = [len(one.token_ids) for one in usable]
    pairs = [
        (one.token_ids, np.arange(n) >= 3)
        for one, n, weight in zip(usable, size, weights, strict=True)
        if weight
    ]
    loss = result["learners"]["default_policy"]["likelihood_loss"]
    assert loss == pytest.approx(plain_losses(model_folder, [pairs], lr=0.0)[0], abs=1e-5)
    assert result["rollout"]["num_kept"] == result["rollout"]["effective_batch"] == sum(weights)


def test_an_iteration_without_a_right_sample_takes_no_step(
    model_folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    algorithm = small_config(model_folder, "RFT").build_algo()
    monkeypatch.setattr(algorithm, "collect", lambda: [EPISODES[1], EPISODES[5]])
    result = algorithm.train()
    algorithm.stop()
    assert result["learners"]["default_policy"]["num_steps"] == result["rollout"]["num_kept"] == 0
    assert algorithm.num_updates == 1


def test_a_kl_is_refused() -> None:
    with pytest.raises(ValueError, match="RFT has no such term in its loss: leave kl_coeff at 0"):
        small_config("tiny", "RFT", kl_coeff=0.1).validate()
