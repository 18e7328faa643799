"""What the command refuses before anything starts, in words and quickly."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from experiments.sweep import SPACES, _asked, app
from experiments.sweeps.results import FRESH, RESULTS, write_line
from experiments.sweeps.sweeping import Sweep

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


@pytest.mark.parametrize(
    ("given", "sections", "assigned", "expected"),
    [
        ({}, {}, [], "envs:Countdown-v0"),
        ({}, {"environment": {"env": "envs:Multiplication-v0"}}, [], "envs:Multiplication-v0"),
        ({}, {}, ["environment.env=envs:GSM8K-v0"], "envs:GSM8K-v0"),
        ({}, {"sweep": {"env": "Multiplication-v0"}}, [], "envs:Multiplication-v0"),
        ({"env": "GSM8K-v0"}, {"sweep": {"env": "Multiplication-v0"}}, [], "envs:GSM8K-v0"),
    ],
)
def test_the_environment_is_the_space_s_unless_an_option_names_one(
    given: dict, sections: dict, assigned: list[str], expected: str, tmp_path: Path
) -> None:
    asked = _asked(write(tmp_path, **sections), {"budget_tokens": 1000, **given}, assigned)
    assert asked["sections"]["environment"]["env"] == expected


def test_looks_at_fresh_tasks_that_were_stopped_or_failed_are_seen(tmp_path: Path) -> None:
    sweep = Sweep(_asked(write(tmp_path), {"budget_tokens": 1000}, []), tmp_path)
    common = {"arm": FRESH, "seed": 0, "settings": {}}
    write_line(tmp_path / RESULTS, {**common, "number": 0, "of": "start", "state": "finished"})
    assert sweep._are_through(FRESH, 1) and not sweep._are_through(FRESH, 2)
    write_line(tmp_path / RESULTS, {**common, "number": 1, "of": "search", "state": "running"})
    assert not sweep._are_through(FRESH, 2) and sweep._failed_afresh() == []
    failed = {**common, "number": 1, "of": "search", "state": "failed", "cause": "OSError: lost"}
    write_line(tmp_path / RESULTS, failed)
    assert sweep._are_through(FRESH, 2)
    assert [(trial["of"], trial["cause"]) for trial in sweep._failed_afresh()] == [
        ("search", "OSError: lost")
    ]


def test_no_folder_of_another_filesystem_is_made_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, [write(tmp_path), TOKENS, "--output=s3://bucket/sweep"])
    assert done.exit_code == 2 and "s3://bucket/sweep: this command works on" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["space.yaml"]


@pytest.mark.parametrize("name", [file.stem for file in sorted(SPACES.glob("*.yaml"))])
def test_the_spaces_that_come_along_are_possible(name: str) -> None:
    asked = _asked(name, {"scheduler": "pbt", "compare_with": ["default"]}, [])
    assert asked["budget"] > 0 and asked["unit"] == "tokens"
    Sweep(asked, Path("nowhere")).check()
