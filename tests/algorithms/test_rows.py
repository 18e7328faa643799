"""Environments that are rows of data: which rows a run sees, and when."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from algorithms import GRPO, GRPOConfig
from llmenv.episode import TextEpisode
from support import (
    contents,
    small_config,
)

pytestmark = pytest.mark.usefixtures("ray_cluster")  # RLlib would start a Ray of its own


@pytest.fixture
def rows_folder(tmp_path: Path) -> str:
    """A data set of 10 rows to train on and 5 held out, whose questions are their split and number."""
    for split, count in (("train", 10), ("test", 5)):
        rows = [
            {
                "data_source": "multiply",
                "prompt": [{"role": "user", "content": f"<answer> {split} {i}"}],
                "reward_model": {"ground_truth": i},
            }
            for i in range(count)
        ]
        (tmp_path / f"{split}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return str(tmp_path)


def rows_of(episodes: list[TextEpisode], split: str) -> list[int]:
    """The rows of the groups, in order."""
    assert all(episode.valid for episode in episodes)
    return [int(e.observation.removeprefix(f"<answer> {split} ")) for e in episodes if e.sample == 0]


def rows_config(model: str, folder: str, **kwargs: int) -> GRPOConfig:
    return small_config(model, **kwargs).environment("envs:Dataset-v0", env_config={"data": folder})


def test_training_goes_through_the_rows_epoch_by_epoch(model_folder: str, rows_folder: str) -> None:
    algorithm = rows_config(model_folder, rows_folder).build_algo()
    rows = []
    for _ in range(5):  # 5 iterations of 4 groups are two epochs; the third iteration is in both
        algorithm.train()
        assert len({(e.group, e.observation) for e in algorithm.last_episodes}) == 4  # a group is one row
        rows += rows_of(algorithm.last_episodes, "train")
    algorithm.stop()
    assert sorted(rows[:10]) == sorted(rows[10:]) == list(range(10))
    assert rows[:10] != rows[10:]
    assert rows[:10] != list(range(10))


def test_a_resumed_run_sees_the_rows_of_an_uninterrupted_one(
    model_folder: str, rows_folder: str, tmp_path: Path
) -> None:
    config = rows_config(model_folder, rows_folder)
    uninterrupted = config.copy(copy_frozen=False).build_algo()
    for _ in range(2):
        uninterrupted.train()
    checkpoint = uninterrupted.save_to_path(str(tmp_path / "checkpoint"))
    uninterrupted.train()
    resumed = GRPO.from_checkpoint(checkpoint)
    resumed.train()
    assert contents(resumed.last_episodes) == contents(uninterrupted.last_episodes)
    assert len(set(rows_of(resumed.last_episodes, "train"))) == 4
    other = config.copy(copy_frozen=False).sampling(run_seed=1).build_algo()
    other.train()
    fresh = config.copy(copy_frozen=False).build_algo()
    fresh.train()
    assert rows_of(other.last_episodes, "train") != rows_of(fresh.last_episodes, "train")
    for algorithm in (uninterrupted, resumed, other, fresh):
        algorithm.stop()


@pytest.mark.parametrize(("duration", "count"), [(3, 3), (5, 5), (16, 5)])
def test_evaluation_takes_a_held_out_row_once(
    model_folder: str, rows_folder: str, duration: int, count: int
) -> None:
    config = rows_config(model_folder, rows_folder).evaluation(evaluation_duration=duration)
    seen = []
    for seed in (0, 1):
        algorithm = config.copy(copy_frozen=False).sampling(run_seed=seed).build_algo()
        for _ in range(2):
            assert algorithm.evaluate()["env_runners"]["num_episodes"] == count
            seen += [rows_of(episodes, "test") for episodes in algorithm.last_evaluation.values()]
        algorithm.stop()
    assert len(set(seen[0])) == count
    assert seen == [seen[0]] * 8  # the same ones every time, sampled and greedy, in any run


def test_a_data_set_without_held_out_rows_says_so(model_folder: str, rows_folder: str) -> None:
    (Path(rows_folder) / "test.jsonl").unlink()
    algorithm = rows_config(model_folder, rows_folder).build_algo()
    with pytest.raises(ValueError, match=r"cannot be evaluated .*test\*.jsonl.*evaluation_config=None"):
        algorithm.evaluate()
    algorithm.stop()


def test_an_environment_without_a_test_split_says_how_to_evaluate_it(model_folder: str) -> None:
    config = small_config(model_folder).environment("support:NoDigit-v0")
    algorithm = config.copy(copy_frozen=False).build_algo()
    with pytest.raises(ValueError, match=r"split.*evaluation_config=None"):
        algorithm.evaluate()
    algorithm.stop()
    algorithm = config.evaluation(evaluation_config=None).build_algo()
    assert algorithm.evaluate()["env_runners"]["num_episodes"] == 16
    algorithm.stop()
