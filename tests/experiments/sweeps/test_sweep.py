"""A sweep that is stopped, killed and gone on with; a trial of it raises, and the learner of one is killed."""

from __future__ import annotations

import contextlib
import itertools
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
from started import Started

ROOT = Path(__file__).parents[3]
pytestmark = pytest.mark.slow
SPACE: dict[str, Any] = {
    "training": {"prompts_per_iteration": 2, "group_size": 4, "lr": {"loguniform": [1e-4, 1e-2]}},
    "environment": {"env_config": {"fails": {"grid": ["no", "raises", "is killed"]}}},
    "sampling": {"max_new_tokens": 2},
    "evaluation": {"evaluation_duration": 8, "evaluation_config": None},
    "learners": {
        "num_cpus_per_learner": 2
    },  # on two cores one trial at a time, and so few processes to start
    "sweep": {"env": "raising:Raising-v0", "num_samples": 1, "budget_tokens": 64},
}
# After how many looks at the trial that does not fail, of 4 (an iteration samples 16 tokens).
STOPPED = ((1, signal.SIGTERM), (3, signal.SIGKILL))
# Of Ray's own processes these two outlive a driver that was killed, by a minute: they see within 2 s that their raylet
# is gone, and then wait for Ray's control store, which is gone as well, to take their report of it: 60 s, which nothing
# sets (ray/_private/process_watcher.py, publish_error_to_driver). They hold no model, no GPU and no shared memory.
AGENTS = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")
PATIENCE = 300  # seconds: on a loaded machine a start alone takes a minute


def rounds(output: Path) -> list[dict[str, Any]]:
    return [
        line for line in read_lines(output / "results.jsonl") if "score" in line and line["arm"] == "search"
    ]


def begin(log: Path, *arguments: str) -> tuple[subprocess.Popen[bytes], Started]:
    command = [sys.executable, str(ROOT / "experiments" / "sweep.py"), *arguments]
    with log.open("ab") as text:
        process = subprocess.Popen(
            command,
            stdout=text,
            stderr=text,
            start_new_session=True,
            env={**os.environ, "COLUMNS": "200", "TUNE_GLOBAL_CHECKPOINT_S": "0.1"},
        )
    return process, Started(process.pid)


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory, model_folder: str) -> Iterator[dict[str, Any]]:
    """Stopped, killed, and gone on with to the end."""
    folder = tmp_path_factory.mktemp("sweep")
    output, space, log = folder / "out", folder / "space.yaml", folder / "log"
    space.write_text(yaml.safe_dump({**SPACE, "policy": {"model": model_folder}}))
    found: dict[str, Any] = {"output": output, "before": [], "left": [], "shared": set(), "started": []}
    found["status"] = []
    arguments = [str(space), f"--output={output}"]
    for looks, how in (*STOPPED, (None, None)):
        process, started = begin(log, *arguments)
        try:
            started.until(
                lambda process=process, looks=looks: (
                    process.poll() is not None
                    or (looks is not None and len({line["tokens"] for line in rounds(output)}) >= looks)
                ),
                PATIENCE,
            )
        finally:
            if process.poll() is None and how == signal.SIGTERM:
                process.terminate()
                time.sleep(0.5)
                process.terminate()  # as `timeout` does, which passes on what it is told itself
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(PATIENCE)
            if process.poll() is None:
                started.kill()
            found["status"].append(process.wait())
        found["before"].append(rounds(output))
        found["left"].append(started.left(seconds=30, but=AGENTS if how == signal.SIGKILL else ()))
        found["started"].append(started)
        found["shared"] |= started.shared
        arguments = [f"--resume={output}"]
    yield {**found, "text": log.read_text()}


def test_a_killed_sweep_goes_on_with_what_is_unfinished(swept: dict[str, Any]) -> None:
    assert swept["status"] == [130, -signal.SIGKILL, 0], swept["text"]
    assert f"stopped: go on with --resume {swept['output']}" in swept["text"]
    *earlier, lines = swept["before"]
    assert all(lines[: len(before)] == before for before in earlier)
    counted = [[line["tokens"] for line in before] for before in swept["before"]]
    assert {*counted[-1]} == {16, 32, 48, 64}
    # What a stop lost is done again: at most the round at hand, and the one whose checkpoint was being written. From
    # the beginning it would be 3 rounds after the kill.
    for before, after in itertools.pairwise(counted):
        assert sum(tokens <= max(before) for tokens in after[len(before) :]) <= 2


def test_trials_that_fail_are_told_with_their_cause_and_end_nothing(swept: dict[str, Any]) -> None:
    summary = json.loads((swept["output"] / "summary.json").read_text())
    trials = summary["arms"]["search"]["trials"]
    assert [trial["settings"]["environment.env_config.fails"] for trial in trials] == [
        "no",
        "raises",
        "is killed",
    ]
    assert [trial["state"] for trial in trials] == ["finished", "failed", "failed"]
    assert (
        "the reward service is down" in trials[1]["cause"] and "the reward service is down" in swept["text"]
    )
    assert "died" in trials[2]["cause"] and summary["arms"]["search"]["failed"] == 2


def test_what_stays(swept: dict[str, Any]) -> None:
    output = swept["output"]
    summary = json.loads((output / "summary.json").read_text())
    search = summary["arms"]["search"]
    winner = search["trials"][0]
    assert search["winner"] == 0 and search["selected"]["score"] == winner["score"]
    assert (
        len(winner["verdicts"]) == len(search["fresh"]["verdicts"]) == len(summary["before"]["verdicts"]) == 8
    )
    assert search["fresh"]["score_low"] <= search["fresh"]["score"] <= search["fresh"]["score_high"]
    assert list(summary["comparisons"]) == ["start"]
    frame = pd.read_parquet(output / "trials.parquet")
    assert len(frame) == 3 and "training.lr" in frame
    preset = load_preset(str(output / "preset.yaml"))
    assert preset["training"]["lr"] == winner["settings"]["training.lr"]
    assert preset["run"]["iterations"] == winner["iterations"]
    assert (output / "policy" / "config.json").is_file() and (output / "report.html").is_file()
    assert summary["command"].endswith(f"sweep.py {output / 'sweep.yaml'}")


def test_nothing_of_it_is_left(swept: dict[str, Any]) -> None:
    assert swept["left"] == [[]] * 3
    assert swept["started"][1].left(seconds=60) == [], "Ray's agents neither"
    assert swept["shared"], "Ray's object store at least is in shared memory: nothing was seen"
