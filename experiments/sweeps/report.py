"""What stays of a sweep: summary.json, trials.parquet, report.html, the winner's policy, its settings as a preset."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from experiments.common.commands import called
from experiments.export import export
from experiments.sweeps import page
from experiments.sweeps.results import (
    FRESH,
    LINEAGE,
    RESULTS,
    SEARCH,
    START,
    best,
    read_lines,
    schedules,
    trials_of,
)
from experiments.sweeps.schedulers import verdicts
from experiments.sweeps.shown import settings_of
from experiments.sweeps.trial import sections_of
from llmenv.comparison import compare
from llmenv.files import replaced
from llmenv.versions import versions

SUMMARY, PRESET, TRIALS = "summary.json", "preset.yaml", "trials.parquet"
SCORES = ("score", "score_low", "score_high")


def summarize(output: Path, asked: Mapping[str, Any], command: str) -> dict[str, Any]:
    """The content of summary.json, in types of JSON's, from what the sweep has written down.

    Args:
        output: Its folder.
        asked: What sweep.yaml holds.
        command: That repeats it.
    """
    lines = read_lines(output / RESULTS)
    fresh = {trial["of"]: trial for trial in trials_of(lines, FRESH)}
    lineage = read_lines(output / LINEAGE)
    arms = {}
    for arm in dict.fromkeys(line["arm"] for line in lines if line["arm"] != FRESH):
        trials = trials_of(lines, arm)
        winner = best(trials)
        trained_with = schedules(lines, lineage if arm == SEARCH else [], arm)
        trials = [{**trial, "schedule": trained_with[trial["number"]]} for trial in trials]
        arms[arm] = {
            "winner": winner and winner["number"],
            "selected": winner and {name: winner[name] for name in SCORES},
            "fresh": _scored(fresh.get(arm)),
            "tokens": sum(trial["spent_tokens"] for trial in trials),
            "training_seconds": sum(trial["spent_seconds"] for trial in trials),
            "busy_seconds": sum(trial["busy_seconds"] for trial in trials),
            "failed": sum(trial["state"] == "failed" for trial in trials),
            "trials": trials,
        }
    return _plain(
        {
            "command": command,
            "asked": dict(asked),
            "space": asked["space"],
            "arms": arms,
            "before": _scored(fresh.get(START)),
            "comparisons": _comparisons(fresh),
            "lineage": lineage,
            "versions": versions(),
        }
    )


def _scored(trial: dict[str, Any] | None) -> dict[str, Any] | None:
    if trial is None or trial["score"] is None:
        return None
    return {name: trial[name] for name in (*SCORES, "verdicts")}


def _comparisons(fresh: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """The search's winner against each other policy, on the tasks that nobody was selected on."""
    ours = _scored(fresh.get(SEARCH))
    found = {}
    for other, trial in fresh.items():
        theirs = _scored(trial)
        if other != SEARCH and ours and theirs:
            found[other] = asdict(compare(verdicts(theirs["verdicts"]), verdicts(ours["verdicts"])))
    return found


def write(
    output: Path, summary: Mapping[str, Any], winner: Mapping[str, Any] | None, checkpoint: Path | None
) -> None:
    """Writes all that stays.

    Args:
        output: The sweep's folder.
        summary: See `summarize`.
        winner: The config of the winning trial, with the settings that it ended with.
        checkpoint: Its newest.
    """
    rows = [
        {"arm": arm, **_flat(trial)} for arm, found in summary["arms"].items() for trial in found["trials"]
    ]
    with replaced(output / TRIALS) as file:
        pd.DataFrame(rows).to_parquet(file, index=False)
    if winner is not None:
        with replaced(output / PRESET) as file:
            file.write_text(preset(winner, summary))
    if checkpoint is not None:
        shutil.rmtree(output / "policy", ignore_errors=True)  # of a sweep that has been gone on with
        export(checkpoint, output / "policy")
    with replaced(output / SUMMARY) as file:
        file.write_text(json.dumps(summary, indent=2) + "\n")
    page.write(output, summary)


def preset(winner: Mapping[str, Any], summary: Mapping[str, Any]) -> str:
    """The winner's settings in YAML, as run.py takes them."""
    number = summary["arms"][SEARCH]["winner"]
    trial = next(t for t in summary["arms"][SEARCH]["trials"] if t["number"] == number)
    sections = sections_of(dict(winner))
    sections["run"] = {**sections.get("run", {}), "iterations": trial["iterations"]}
    env = sections.get("environment", {}).get("env", "")
    head = (
        f"# Trial {number} of a sweep: {trial['score']:.1%} on the tasks it was selected on.\n"
        f"#   {called('train')} --env {env.removeprefix('envs:')} --algo {winner['algo']} --preset THIS_FILE\n"
    )
    if len(trial["schedule"]) > 1:
        head += "# These are the settings that it ended with. It was trained with\n"
        head += "".join(
            f"#   from iteration {step['iterations']}: {settings_of(step['settings'])}\n"
            for step in trial["schedule"]
        )
    return head + yaml.safe_dump(sections, sort_keys=False)


def _flat(trial: Mapping[str, Any]) -> dict[str, Any]:
    """One trial as a row: a column a setting."""
    rest = {name: value for name, value in trial.items() if name not in ("settings", "curve", "schedule")}
    return {**rest, **trial["settings"]}


def _plain(value: Any) -> Any:
    """JSON has no NaN and no infinity."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
