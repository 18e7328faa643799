"""A whole road at a tiny size: killed in the middle of a stage, it goes on there and comes to the same table."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import yaml
from typer.testing import CliRunner

from experiments.common.run_folder import read_table
from experiments.r1 import app

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
RL = {"prompts_per_iteration": 4, "group_size": 4, "lr": 1e-4}
SFT = {"prompts_per_iteration": 16, "lr": 5e-4}
RECIPE = {
    "environments": {"Countdown-v0": {"num_numbers": 3}, "Multiplication-v0": {"digits": [1, 1]}},
    "evaluation": {"num_tasks": 4, "samples": 2, "max_new_tokens": 48},
    "settings": {
        "sampling": {"max_new_tokens": 48},
        "evaluation": {"evaluation_duration": 2},
        "run": {"evaluate_every": 0, "checkpoint_every": 1, "keep_checkpoints": 1, "show_every": 0},
    },
    "stages": {
        "base": {"kind": "model", "name": "tiny-zero"},
        "demonstrations": {"kind": "demonstrate", "tasks": 24, "style": "hasty"},
        "cold-start": {
            "algo": "SFT",
            "model": "base",
            "data": "demonstrations",
            "training": SFT,
            "run": {"iterations": 2},
        },
        "reasoning": {
            "algo": "GRPO",
            "model": "cold-start",
            "env": "Countdown-v0",
            "training": RL,
            "run": {"iterations": 3},
        },
        "samples": {"kind": "sample", "model": "reasoning", "tasks": 12, "samples": 4},
        "second-start": {
            "algo": "SFT",
            "model": "base",
            "data": ["samples", "demonstrations"],
            "training": SFT,
            "run": {"iterations": 2},
        },
        "all": {
            "algo": "GRPO",
            "model": "second-start",
            "env": {"Countdown-v0": 0.5, "Multiplication-v0": 0.5},
            "training": RL,
            "run": {"iterations": 1},
        },
        "student": {"kind": "build", "tokenizer_of": "base", "hidden_size": 32, "layers": 1},
        "taught": {
            "algo": "Distill",
            "model": "student",
            "teacher": "all",
            "training": RL,
            "run": {"iterations": 1},
        },
        "alone": {
            "arm": "rl",
            "algo": "GRPO",
            "model": "cold-start",
            "env": "Countdown-v0",
            "tokens_of": "reasoning",
            "training": RL,
        },
    },
}


def scores_of(output: Path, *stages: str) -> list[str]:
    """All that a policy is worth and that its stage took, but for the time."""
    rows = {row["stage"]: row for row in json.loads((output / "summary.json").read_text())["stages"]}
    found = []
    for stage in stages:
        row = rows[stage]
        scores = {env: {**score, "seconds": 0} for env, score in row["scores"].items()}
        found.append(json.dumps([row["folder"], row["sampled"], row["imitated"], scores]))
    return found


def test_the_whole_road(ray_cluster: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "road.yaml").write_text(yaml.safe_dump(RECIPE, sort_keys=False))
    monkeypatch.setattr("ray.init", lambda **kwargs: None)
    monkeypatch.setattr("ray.shutdown", lambda: None)

    def invoke(*arguments: str) -> str:
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 0, done.output
        return done.output

    whole = ("--preset=road.yaml", "--output=whole")
    invoke(*whole, "--until=reasoning")

    killed = ("--preset=road.yaml", "--output=killed", "--compare-with=rl")
    # The first stages are taken over: a folder's name is all that it needs.
    for name in ("base", "demonstrations", "cold-start"):
        (done,) = Path("whole").glob(f"{name}-*")
        Path("killed").mkdir(exist_ok=True)
        done.rename(Path("killed", done.name))
        os.symlink(Path("killed", done.name).absolute(), done)
    command = [sys.executable, str(ROOT / "experiments" / "r1.py"), *killed, "--until=reasoning"]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT, start_new_session=True
    )
    while process.poll() is None and not [*Path("killed").glob("reasoning-*/run/progress.csv")]:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    (run,) = Path("killed").glob("reasoning-*/run")
    assert len(read_table(run, "progress")) < 3 and not (run.parent / "done.json").exists()

    output = invoke(*killed)
    assert "cold-start: killed" not in output and "reasoning: killed" in output
    names = ("base", "cold-start", "reasoning")
    assert scores_of(Path("killed"), *names) == scores_of(Path("whole"), *names)
    rows = {row["stage"]: row for row in json.loads(Path("killed/summary.json").read_text())["stages"]}
    assert all(row["done"] for row in rows.values()) and len(rows) == len(RECIPE["stages"])
    # The comparison had the tokens of what it is compared with, give or take an iteration.
    assert rows["reasoning"]["sampled"] <= rows["alone"]["sampled"] < 2 * rows["reasoning"]["sampled"]
    (learned,) = Path("killed").glob("second-start-*/rows.parquet")
    (kept,) = Path("killed").glob("samples-*/rows.parquet")
    demonstrated = pd.read_parquet(next(Path("killed").glob("demonstrations-*/rows.parquet")))
    assert len(pd.read_parquet(learned)) == len(pd.read_parquet(kept)) + len(demonstrated)
    assert "taught" in Path("killed/table.md").read_text() and Path("killed/report.html").is_file()

    again = invoke("--resume=killed")  # all is there: nothing is done, and the table is shown
    assert "reasoning: killed" not in again and "summary.json, table.md, report.html: killed" in again
