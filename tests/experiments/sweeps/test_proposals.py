"""Optuna's search: within the space, after what earlier trials came to, and the same again after a restore."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from ray import tune
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher

from experiments.sweeps.proposals import Proposals
from experiments.sweeps.search import run_arm
from experiments.sweeps.space import Space, parse

pytest.importorskip("optuna")
SPACE: Space = parse(
    {
        "training": {"lr": {"loguniform": [1e-6, 1e-1]}, "group_size": {"choice": [4, 8, 16]}},
        "environment": {"env_config": {"digits": {"randint": [1, 3]}}},
    }
)
NUMBER = 40


def trials(number: int = NUMBER) -> list[dict[str, Any]]:
    common = {"of": None, "unit": "tokens", "budget": 1}
    return [{**common, "number": i, "seed": 100 + i, "settings": {}} for i in range(number)]


def distance(settings: dict[str, Any]) -> float:
    """From the best learning rate, in powers of ten."""
    return abs(math.log10(settings["training.lr"]) + 3)


def proposed(proposals: Proposals, first: int, last: int) -> list[dict[str, Any]]:
    found = []
    for i in range(first, last):
        trial = proposals.suggest(f"trial_{i}")["trial"]
        proposals.on_trial_complete(f"trial_{i}", {"score": -distance(trial["settings"])})
        found.append(trial)
    return found


def test_they_are_in_the_space_and_go_where_scores_are_good() -> None:
    proposals = Proposals(SPACE, trials(), seed=0)
    found = proposed(proposals, 0, NUMBER)
    assert proposals.suggest("one more") == Searcher.FINISHED
    assert [trial["number"] for trial in found] == list(range(NUMBER))
    assert [trial["seed"] for trial in found] == list(range(100, 100 + NUMBER))
    for trial in found:
        assert trial["settings"].keys() == {axis.path for axis in SPACE.axes}
        assert all(axis.holds(trial["settings"][axis.path]) for axis in SPACE.axes)
        assert isinstance(trial["settings"]["environment.env_config.digits"], int)
    mean = [sum(distance(t["settings"]) for t in part) / 10 for part in (found[:10], found[-10:])]
    # Of random draws over five powers of ten it is 1.3 in the mean.
    assert mean[1] < 0.6 < mean[0]


def test_a_restored_search_goes_on_as_the_one_that_was_saved(tmp_path: Path) -> None:
    whole, begun, again = (Proposals(SPACE, trials(), seed=3) for _ in range(3))
    expected = proposed(whole, 0, 20)
    assert proposed(begun, 0, 14) == expected[:14]
    begun.save(str(tmp_path / "saved"))
    again.restore(str(tmp_path / "saved"))
    assert proposed(again, 14, 20) == expected[14:]


class Toy(tune.Trainable):
    """Scores by its learning rate."""

    def setup(self, config: dict[str, Any]) -> None:
        self.trial = config["trial"]

    def reset_config(self, config: dict[str, Any]) -> bool:
        self.setup(config)
        return True

    def step(self) -> dict[str, Any]:
        return {"score": -distance(self.trial["settings"]), "tokens": 1, "done": True}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        Path(checkpoint_dir, "weights").write_text("")

    def load_checkpoint(self, checkpoint: Any) -> None:
        pass


@pytest.mark.usefixtures("ray_cluster")
def test_tune_asks_for_them(tmp_path: Path) -> None:
    checkpoints = run_arm(
        Toy,
        Proposals(SPACE, trials(3), seed=0),
        tmp_path,
        "search",
        at_once=1,
        scheduler=FIFOScheduler(),
        callbacks=[],
    )
    assert sorted(checkpoints) == [0, 1, 2]
    assert all((path / "weights").is_file() for path in checkpoints.values())
