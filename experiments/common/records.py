"""Reads what samples were drawn and how they were judged, of evaluations and of runs alike. Writes nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from experiments.common.run_folder import read_config
from llmenv.statistics import Accuracy, accuracy, verdict_table

COLUMNS = ("task", "env", "sample", "completion", "answer", "right_answer", "correct", "error")
ONLY_PAY = ("reward", "reward_amounts")  # arguments of an environment that change neither task nor verdict


def read_records(path: Path) -> pd.DataFrame:
    """The samples of an evaluation, or of the newest evaluation of a run.

    Args:
        path: An evaluation folder, a run folder, or one file of the latter's `samples/`.

    Returns:
        A row a sample with `COLUMNS`, where of a task's sample that was drawn twice the later counts, if it did not
        fail; and `options`, the environment's arguments as JSON where `task` does not depend on them, else "".

    Raises:
        ValueError: If there are none there.
    """
    if path.is_file():
        frame = _of_run(path, path.parent.parent)
    elif parts := _parts(path / "records", "*.parquet"):
        frame = pd.concat([pd.read_parquet(part) for part in parts], ignore_index=True).assign(options="")
    elif evaluations := _parts(path / "samples", "eval_sampled_*.parquet"):
        frame = _of_run(evaluations[-1], path)
    else:
        raise ValueError(
            f"{path} has neither records/*.parquet nor samples/eval_sampled_*.parquet: give an evaluation folder, a "
            "run folder, or a file of its samples/"
        )
    if lacking := sorted({*COLUMNS} - {*frame.columns}):
        raise ValueError(f"the records of {path} have no {', '.join(lacking)}: evaluate again")
    failed_first = frame.sort_values("error", key=lambda errors: errors.isna(), kind="stable")
    once = failed_first.drop_duplicates(["task", "sample"], keep="last").sort_index()
    return once.reset_index(drop=True)


def verdicts(frame: pd.DataFrame) -> tuple[list[Any], np.ndarray]:
    """The tasks, and whether their samples are right: see `llmenv.statistics`. A sample that failed is missing."""
    right = [
        None if pd.notna(error) else pd.notna(correct) and bool(correct)
        for correct, error in zip(frame["correct"], frame["error"], strict=True)
    ]
    return verdict_table(frame["task"].tolist(), right)


class Judged(NamedTuple):
    """One of the sets that are compared, in one environment.

    Attributes:
        name: The set's.
        env: The environment's id.
        frame: Its records there.
        correct: Whether they are right, [tasks, samples] (see `llmenv.statistics`).
        found: Their accuracy.
    """

    name: str
    env: str
    frame: pd.DataFrame
    correct: np.ndarray
    found: Accuracy


def judged(frames: Mapping[str, pd.DataFrame], cluster: str | None) -> Iterator[Judged]:
    """Each set in each environment that it has records of, environment by environment."""
    for env in dict.fromkeys(env for frame in frames.values() for env in frame["env"]):
        for name, frame in frames.items():
            own = frame[frame["env"] == env]
            if len(own):
                tasks, correct = verdicts(own)
                found = accuracy(correct, clusters_of(own, tasks, cluster))
                yield Judged(name, str(env), own, correct, found)


def clusters_of(frame: pd.DataFrame, tasks: Sequence[str], cluster: str | None) -> list[str] | None:
    """What each task has in a column of the records; None without a column."""
    if cluster is None:
        return None
    return frame.drop_duplicates("task").set_index("task")[cluster].astype(str).loc[list(tasks)].tolist()


def _parts(folder: Path, pattern: str) -> list[Path]:
    return sorted(part for part in folder.glob(pattern) if not part.name.startswith("."))


def _of_run(file: Path, run: Path) -> pd.DataFrame:
    """A file of a run's `samples/`: what makes its tasks is the environment, its arguments, seed and index."""
    config = read_config(run)
    settings = config.get("environment") or {}
    changed = (config.get("evaluation") or {}).get("evaluation_config") or {}
    if not file.name.startswith("eval_"):
        changed = {}
    env = changed.get("env", settings.get("env"))
    options = {**(settings.get("env_config") or {}), **(changed.get("env_config") or {})}
    options = {name: value for name, value in options.items() if name not in ONLY_PAY}
    frame = pd.read_parquet(file)
    tasks = [
        f"{env} seed {seed}" + ("" if pd.isna(index) else f" index {int(index)}")
        for seed, index in zip(frame["seed"], frame["index"], strict=True)
    ]
    return frame.assign(task=tasks, env=env, options=json.dumps(options, sort_keys=True))
