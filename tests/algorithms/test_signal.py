"""Iterations whose rewards teach nothing are told of, once."""

from __future__ import annotations

from typing import Any

import pytest

from support import small_config

pytestmark = pytest.mark.usefixtures("ray_cluster")


@pytest.mark.parametrize("settings", [{"algo": "GRPO"}, {"algo": "PPO", "group_size": 1}])
def test_no_signal_is_told_once(
    model_folder: str, settings: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """A random model solves no Countdown, and what is not in tags pays nothing."""
    algorithm = small_config(model_folder, **settings).build_algo()
    for _ in range(2):
        assert algorithm.train()["rollout"]["groups_without_signal"] == 1
    algorithm.stop()
    told = [record.getMessage() for record in caplog.records if "has no signal" in record.getMessage()]
    assert len(told) == 1
    assert told[0].startswith("iteration 1 ")
    for remedy in ("easier tasks", "another reward", "more samples a group", "supervised fine-tuning"):
        assert remedy in told[0]


@pytest.mark.parametrize("settings", [{"algo": "GRPO"}, {"algo": "PPO", "group_size": 1}])
def test_signal_is_not_told_of(
    model_folder: str, settings: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """Messages without a digit are some, and not all, of what it says."""
    config = small_config(model_folder, **{"prompts_per_iteration": 8, "group_size": 8, **settings})
    config.environment("support:NoDigit-v0").sampling(max_new_tokens=1)
    algorithm = config.build_algo()
    algorithm.train()
    rewards = {episode.total_reward for episode in algorithm.last_episodes}
    algorithm.stop()
    assert rewards == {0.0, 1.0}
    assert "has no signal" not in caplog.text
