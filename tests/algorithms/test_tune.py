"""Ray Tune: trials that are what their settings say."""

from __future__ import annotations

from pathlib import Path

import pytest
from ray import tune
from ray.rllib.core import DEFAULT_MODULE_ID

from algorithms import GRPO
from support import (
    small_config,
)

pytestmark = pytest.mark.usefixtures("ray_cluster")  # RLlib would start a Ray of its own


def test_tuner_with_two_trials(ray_cluster: None, tmp_path: Path) -> None:
    config = small_config("tiny", prompts_per_iteration=2, lr=tune.grid_search([1e-4, 1e-3]))
    results = tune.Tuner(
        GRPO,
        param_space=config,
        tune_config=tune.TuneConfig(metric="env_runners/episode_return_mean", mode="max"),
        run_config=tune.RunConfig(
            storage_path=str(tmp_path),
            stop={"training_iteration": 2},
            verbose=0,
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=True),
        ),
    ).fit()
    assert not results.errors
    assert sorted(result.config["lr"] for result in results) == [1e-4, 1e-3]
    for result in results:
        assert result.metrics["training_iteration"] == 2
        assert result.metrics["learners"][DEFAULT_MODULE_ID][
            "default_optimizer_learning_rate"
        ] == pytest.approx(result.config["lr"])
    assert 0 <= results.get_best_result().metrics["env_runners"]["episode_return_mean"] <= 1
    assert results.get_best_result().checkpoint is not None
