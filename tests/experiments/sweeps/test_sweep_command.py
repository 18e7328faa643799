"""What the command refuses before anything starts, in words and quickly."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from experiments.sweep import SPACES, app

SPACE = {"training": {"lr": {"loguniform": [1e-6, 1e-4]}, "group_size": 4}, "policy": {"model": "tiny"}}
TOKENS = "--budget-tokens=1000"


def write(folder: Path, **sections: dict) -> str:
    file = folder / "space.yaml"
    file.write_text(yaml.safe_dump({**SPACE, **sections}))
    return str(file)


@pytest.mark.parametrize(
    ("sections", "options", "says"),
    [
        ({}, [], "in one of --budget-tokens and --budget-minutes"),
        ({}, [TOKENS, "--budget-minutes=1"], "in one of --budget-tokens and --budget-minutes"),
        ({}, ["--budget-minutes=-1"], "--budget-minutes must be above 0"),
        ({}, [TOKENS, "--scheduler=ahsa"], "--scheduler must be one of none, asha, pbt"),
        ({}, [TOKENS, "--search=bayes"], "--search must be one of random, optuna"),
        ({}, [TOKENS, "--search=optuna", "--scheduler=pbt"], "a population begins at once: take asha"),
        ({}, [TOKENS, "--compare-with=grid"], "--compare-with must be one of random, default"),
        ({"sweep": {"schedular": "asha"}}, [TOKENS], "sweep.schedular (did you mean scheduler"),
        ({"training": {"lrr": {"uniform": [0, 1]}}}, [TOKENS], "no setting training.lrr (did you mean lr"),
        ({"training": {"lr": {"uniform": [-1, 1]}}}, [TOKENS], "training.lr must not be negative"),
        (
            {"training": {"group_size": {"choice": [4, 0]}}},
            [TOKENS],
            "training.group_size must be a whole number",
        ),
        ({"evaluation": {"evaluation_duration": {"choice": [4, 8]}}}, [TOKENS], "the same in all trials"),
        # Not a multiple of the batch of 4 x 4 or 4 x 8 samples: a combination, of which each value is possible.
        (
            {
                "training": {
                    "prompts_per_iteration": 4,
                    "minibatch_size": 32,
                    "group_size": {"choice": [8, 4]},
                }
            },
            [TOKENS],
            "a corner of the space is impossible (training.group_size=4): minibatch_size=32 must divide",
        ),
        (
            {"policy": {"model": "tiny", "lora_rank": {"choice": [4, 8]}}},
            [TOKENS, "--scheduler=pbt"],
            "policy.lora_rank cannot change",
        ),
        ({}, [TOKENS, "--compare-with=default"], "training.lr has no default to compare with"),
        ({}, ["--resume=/nowhere"], "--resume goes on with the sweep as it was started"),
    ],
)
def test_refusals(tmp_path: Path, sections: dict, options: list[str], says: str) -> None:
    folder = tmp_path / "out"
    done = CliRunner().invoke(app, [write(tmp_path, **sections), f"--output={folder}", *options])
    assert done.exit_code == 2
    assert says in " ".join(done.stderr.split())
    assert not folder.exists()


@pytest.mark.parametrize("name", [file.stem for file in sorted(SPACES.glob("*.yaml"))])
def test_the_spaces_that_come_along_are_possible(name: str) -> None:
    from experiments.sweep import _asked
    from experiments.sweeps.sweeping import Sweep

    asked = _asked(name, {"scheduler": "pbt", "compare_with": ["default"]}, [])
    assert asked["budget"] > 0 and asked["unit"] == "tokens"
    Sweep(asked, Path("nowhere")).check()
