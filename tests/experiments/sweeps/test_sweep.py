"""A sweep from end to end, killed and gone on with, with trials that fail; and an exchange of a population."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from experiments.common.settings import load_preset
from experiments.sweeps.results import read_lines

ROOT = Path(__file__).parents[3]
pytestmark = pytest.mark.slow
SPACE: dict[str, Any] = {
    "training": {"prompts_per_iteration": 2, "group_size": 4, "lr": {"loguniform": [1e-4, 1e-2]}},
    "environment": {"env_config": {"raises": {"grid": [0, 1]}}},
    "sampling": {"max_new_tokens": 2},
    "evaluation": {"evaluation_duration": 8, "evaluation_config": None},
    "sweep": {"env": "raising:Raising-v0", "num_samples": 2, "budget_tokens": 64, "compare_with": ["random"]},
}


def command(variables: dict[str, str], *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(ROOT / "experiments" / "sweep.py"), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env={**os.environ, **variables, "COLUMNS": "200"},
    )


def rounds(output: Path) -> list[dict[str, Any]]:
    return [line for line in read_lines(output / "results.jsonl") if "score" in line]


def processes_of(marker: str) -> list[str]:
    """Command lines of processes whose environment has the marker: the sweep's, and of all that it started."""
    found = []
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if folder.name.isdigit() and marker.encode() in (folder / "environ").read_bytes():
                found.append((folder / "cmdline").read_text().replace("\0", " "))
    return found


def left_of(marker: str, seconds: float = 30) -> list[str]:
    """What of it is alive after so long at most. Ray's own agents, which hold no model, look seldom whether to end."""
    deadline = time.monotonic() + seconds
    while (left := [p for p in processes_of(marker) if "Agent" not in p]) and time.monotonic() < deadline:
        time.sleep(0.5)
    return [line[:80].strip() for line in left]


def unmapped(names: set[str]) -> set[str]:
    """Those of `/dev/shm` that no process has: other tests' are in use."""
    used = ""
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            used += (folder / "maps").read_text() if folder.name.isdigit() else ""
    return {name for name in names if f"/dev/shm/{name}" not in used}


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory, model_folder: str) -> Iterator[dict[str, Any]]:
    """Killed after its second round, and gone on with to the end."""
    folder = tmp_path_factory.mktemp("sweep")
    variable = {"SWEEP_OF_A_TEST": str(folder)}
    marker = f"SWEEP_OF_A_TEST={folder}"
    shared = {file.name for file in Path("/dev/shm").iterdir()}
    output, space = folder / "out", folder / "space.yaml"
    space.write_text(yaml.safe_dump({**SPACE, "policy": {"model": model_folder}}))
    found: dict[str, Any] = {"output": output}
    first = command(variable, str(space), f"--output={output}")
    while len(rounds(output)) < 2 and first.poll() is None:
        time.sleep(0.1)
    first.send_signal(signal.SIGKILL)
    first.wait()
    found["before"] = read_lines(output / "results.jsonl")
    found["left_by_kill"] = left_of(marker)
    second = command(variable, f"--resume={output}")
    try:
        found["text"], _ = second.communicate(timeout=400)
    finally:
        second.kill()
    found["status"] = second.returncode
    found["left"] = left_of(marker)
    found["shared"] = unmapped({file.name for file in Path("/dev/shm").iterdir()} - shared)
    yield found


def test_a_killed_sweep_goes_on_with_what_is_unfinished(swept: dict[str, Any]) -> None:
    assert swept["status"] == 0, swept["text"]
    before = [line for line in swept["before"] if "score" in line]
    lines = rounds(swept["output"])
    assert lines[: len(before)] == before
    summary = json.loads((swept["output"] / "summary.json").read_text())
    for trial in summary["arms"]["search"]["trials"]:
        counted = [
            line["tokens"] for line in lines if (line["arm"], line["number"]) == ("search", trial["number"])
        ]
        # What a kill lost is done again: at most the round at hand, and the one whose checkpoint was being written.
        assert len(counted) - len(set(counted)) <= 2
    assert {trial["state"] for trial in summary["arms"]["search"]["trials"]} == {"finished", "failed"}


def test_trials_that_fail_are_told_with_their_cause_and_end_nothing(swept: dict[str, Any]) -> None:
    summary = json.loads((swept["output"] / "summary.json").read_text())
    trials = summary["arms"]["search"]["trials"]
    assert [trial["settings"]["environment.env_config.raises"] for trial in trials] == [0, 1, 0, 1]
    assert [trial["state"] for trial in trials] == ["finished", "failed", "finished", "failed"]
    assert all("the reward service is down" in trial["cause"] for trial in trials[1::2])
    assert summary["arms"]["search"]["failed"] == 2 and "the reward service is down" in swept["text"]


def test_what_stays(swept: dict[str, Any], model_folder: str) -> None:
    output = swept["output"]
    summary = json.loads((output / "summary.json").read_text())
    search, random = summary["arms"]["search"], summary["arms"]["random"]
    winner = next(trial for trial in search["trials"] if trial["number"] == search["winner"])
    assert winner["score"] == max(t["score"] for t in search["trials"] if t["state"] == "finished")
    assert search["selected"]["score"] == winner["score"] and len(winner["verdicts"]) == 8
    assert len(search["fresh"]["verdicts"]) == len(summary["before"]["verdicts"]) == 8
    assert search["fresh"]["score_low"] <= search["fresh"]["score"] <= search["fresh"]["score_high"]
    assert "start" in summary["comparisons"] and len(random["trials"]) >= 1
    frame = pd.read_parquet(output / "trials.parquet")
    assert len(frame) == len(search["trials"]) + len(random["trials"]) and "training.lr" in frame
    preset = load_preset(str(output / "preset.yaml"))
    assert preset["training"]["lr"] == winner["settings"]["training.lr"]
    assert preset["run"]["iterations"] == winner["iterations"]
    assert (output / "policy" / "config.json").is_file()
    assert summary["command"].endswith(f"sweep.py {output / 'sweep.yaml'}")


def test_nothing_of_it_is_left(swept: dict[str, Any]) -> None:
    assert not swept["left_by_kill"] and not swept["left"]
    assert not swept["shared"]
