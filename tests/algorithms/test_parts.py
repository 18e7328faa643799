"""Training in a mixture of environments: shares, figures and held-out tasks by part, and a curriculum over them."""

from __future__ import annotations

import json
import logging
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from algorithms import GRPO, GRPOConfig
from llmenv.episode import TextEpisode
from support import contents, small_config

pytestmark = pytest.mark.usefixtures("ray_cluster")  # RLlib would start a Ray of its own


@pytest.fixture
def parts(tmp_path: Path) -> dict[str, Any]:
    """Countdown, and a data set of 6 rows to train on and 3 held out."""
    for split, count in (("train", 6), ("test", 3)):
        rows = [{"question": f"{split} {i}", "answer": str(i)} for i in range(count)]
        (tmp_path / f"{split}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return {
        "Countdown-v0": {"env": "envs:Countdown-v0", "weight": 3},
        "rows": {"env": "envs:GSM8K-v0", "env_config": {"data": str(tmp_path)}},
    }


def mixed(model: str, parts: dict[str, Any], **training: Any) -> GRPOConfig:
    config = small_config(model, **training).environment("envs:Mixture-v0", env_config={"parts": parts})
    return config.evaluation(evaluation_duration=5)


def test_shares_figures_and_rows(model_folder: str, parts: dict[str, Any]) -> None:
    algorithm = mixed(model_folder, parts).build_algo()
    rows = []
    for _ in range(3):
        rollout = algorithm.train()["rollout"]
        episodes = algorithm.last_episodes
        assert Counter(episode.part for episode in episodes) == {"Countdown-v0": 12, "rows": 4}
        for part in ("Countdown-v0", "rows"):
            own = [episode for episode in episodes if episode.part == part]
            assert rollout[f"{part}/num_episodes"] == len(own)
            assert rollout[f"{part}/episode_return_mean"] == pytest.approx(
                np.mean([e.total_reward for e in own])
            )
        rows += {episode.observation for episode in episodes if episode.part == "rows"}
    algorithm.stop()
    assert len(set(rows)) == 3 and all(row.startswith("train ") for row in rows)  # one after the other


def test_held_out_tasks_are_those_of_each_part_alone(model_folder: str, parts: dict[str, Any]) -> None:
    algorithm = mixed(model_folder, parts).build_algo()
    results = algorithm.evaluate()
    found = algorithm.last_evaluation["greedy"]
    algorithm.stop()
    assert Counter(e.part for e in found) == {"Countdown-v0": 5, "rows": 3}
    assert results["env_runners"]["num_episodes"] == 8
    assert results["parts"]["rows"]["sampled"]["num_episodes"] == 3

    alone = small_config(model_folder).evaluation(evaluation_duration=5).build_algo()
    expected = alone.evaluate()
    own = [episode for episode in found if episode.part == "Countdown-v0"]
    assert contents(own) == contents(alone.last_evaluation["greedy"])
    alone.stop()
    assert results["parts"]["Countdown-v0"]["greedy"] == pytest.approx(expected["greedy"])


def test_a_curriculum_goes_on_where_it_was(
    model_folder: str, parts: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The random model solves nothing: levels begin at the hardest, and go down."""
    levels = [{"rows": 1}, {"Countdown-v0": 1}]
    config = mixed(model_folder, parts, curriculum={"levels": levels, "window": 2})

    def train(algorithm: GRPO, count: int) -> list[list[TextEpisode]]:
        return [algorithm.train() and algorithm.last_episodes for _ in range(count)]

    algorithm = config.build_algo()
    algorithm.curriculum.level = 1
    with caplog.at_level(logging.WARNING, "algorithms"):
        episodes = train(algorithm, 3)
    assert "the curriculum's level is 1 of 2 now: {'rows': 1}" in caplog.text
    assert [{e.part for e in each} for each in episodes] == [{"Countdown-v0"}, {"Countdown-v0"}, {"rows"}]
    state = algorithm.curriculum.get_state()
    assert state == {"level": 0, "since": 2, "walked": {"Countdown-v0": 8}, "window": [0.0]}
    algorithm.save_to_path(tmp_path / "saved")
    (expected,) = train(algorithm, 1)
    algorithm.stop()

    resumed = GRPO.from_checkpoint(str(tmp_path / "saved"))
    assert resumed.curriculum.get_state() == state
    (found,) = train(resumed, 1)
    resumed.stop()
    assert contents(found) == contents(expected)


def test_levels_of_an_environment_without_parts_are_refused(model_folder: str) -> None:
    config = small_config(model_folder, curriculum={"levels": [{"easy": 1}, {"hard": 1}]})
    with pytest.raises(ValueError, match="the environment's parts are none: take envs:Mixture-v0"):
        config.build_algo()
