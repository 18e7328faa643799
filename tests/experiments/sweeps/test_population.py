"""A population on Ray Tune: an exchange in place, to settings that act at once, in the processes that are there."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from experiments.sweeps.results import LINEAGE, RESULTS, read_lines, trials_of
from experiments.sweeps.schedulers import PairedPopulation
from experiments.sweeps.search import run_arm
from experiments.sweeps.space import parse
from experiments.sweeps.trial import Trial

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_cluster")]


def wait_for(file: Path) -> None:
    deadline = time.monotonic() + 60
    while not file.exists() and time.monotonic() < deadline:
        time.sleep(0.1)


class Settled(Trial):
    """Scores by its number, and not by what it learned; says which settings the last iteration had where they act."""

    def step(self) -> dict[str, Any]:
        """The worse one looks at the better one's first round, and the better one goes on while it does."""
        folder, poor = Path(self._trial["path"]), bool(self._trial["number"])
        (folder / f"begun_{poor}").touch()
        wait_for(folder / f"begun_{not poor}")
        if not poor:
            time.sleep(3 * (folder / "scored").exists())
        result = super().step()
        if poor:
            wait_for(folder / "scored")
            time.sleep(1)  # until Tune has its checkpoint
        else:
            (folder / "scored").touch()
        learner: Any = self.algorithm.learner_group._learner
        (group,) = learner.engine.optimizer.param_groups
        acting = [group["lr"], group["weight_decay"], learner.kl_coeff, learner.config.clip_param]
        result["acting"] = json.dumps(acting)
        verdicts = ("0" if poor else "1") * 64
        return {**result, "score": float(verdicts[0]), "verdicts": verdicts}


SPACE = {
    "environment": {"env": "support:NoDigit-v0"},
    "sampling": {"max_new_tokens": 2},
    "training": {
        "prompts_per_iteration": 2,
        "group_size": 4,
        "lr": {"loguniform": [1e-4, 1e-2]},
        "weight_decay": {"uniform": [0.0, 0.1]},
        "kl_coeff": {"choice": [0.01, 0.02, 0.05]},
        "clip_param": {"choice": [0.1, 0.2, 0.3]},
    },
    "learners": {"num_cpus_per_learner": 0.4},
    "evaluation": {"evaluation_duration": 4, "evaluation_config": None},
}


def test_an_exchange_in_place(tmp_path: Path, model_folder: str) -> None:
    space = parse({**SPACE, "policy": {"model": model_folder}})
    common = {"algo": "GRPO", "unit": "tokens", "budget": 96, "round": 24, "path": str(tmp_path), "of": None}
    starts = [(1e-3, 0.0, 0.01, 0.1), (1e-4, 0.1, 0.05, 0.3)]
    trials = [
        {
            **common,
            "base": space.base,
            "number": i,
            "seed": i,
            "exchanged": False,
            "settings": dict(zip([axis.path for axis in space.axes], start, strict=True)),
        }
        for i, start in enumerate(starts)
    ]
    scheduler = PairedPopulation(space, "tokens", 24, lambda settings: None, tmp_path / LINEAGE, seed=0)
    checkpoints = run_arm(Settled, trials, tmp_path, "search", at_once=2, scheduler=scheduler, callbacks=[])
    good, poor = trials_of(read_lines(tmp_path / RESULTS), "search")
    assert (good["state"], poor["state"]) == ("finished", "finished") and set(checkpoints) == {0, 1}
    exchanges = read_lines(tmp_path / LINEAGE)
    # Rounds of 24 tokens: the donor leaves four checkpoints, none of which is taken twice.
    assert 1 <= len(exchanges) == len({e["donor_tokens"] for e in exchanges}) <= 4 and {
        (e["trial"], e["donor"]) for e in exchanges
    } == {(1, 0)}
    assert exchanges[0]["donor_settings"] == trials[0]["settings"] and exchanges[0]["low"] > 0
    rows = [
        json.loads(line)
        for line in (tmp_path / "tune" / "search" / "trial_001" / "result.json").read_text().splitlines()
    ]
    # One process through all of them, and the new settings act from the first round after an exchange on.
    assert len({row["pid"] for row in rows}) == 1
    exchanged = [row for row in rows if row["exchange_seconds"] > 0]
    assert exchanged and len(exchanged) >= len(exchanges) - 1
    for row in rows:
        settings = row["config"]["trial"]["settings"]
        assert json.loads(row["acting"]) == pytest.approx(list(settings.values()))
    assert [row["config"]["trial"]["settings"] for row in exchanged] == [
        exchange["settings"] for exchange in exchanges[: len(exchanged)]
    ]
    assert {row["config"]["trial"]["seed"] for row in rows} == {1}
    # What is written down of a round are the settings that it had, and not those that its result led to.
    lines = [line for line in read_lines(tmp_path / RESULTS) if line["number"] == 1 and "score" in line]
    written = {line["seconds"]: line["settings"] for line in lines}
    assert all(written[row["seconds"]] == row["config"]["trial"]["settings"] for row in rows)
    assert lines[0]["settings"] == trials[1]["settings"]
