"""What a page says of a run, an evaluation, a comparison, a sweep: read from what they left, in any state of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from experiments.common.page import samples
from experiments.common.page.curves import curves
from experiments.common.records import read_records
from experiments.common.run_folder import read_config, read_table
from llmenv.evaluation.scores import score

Table = dict[str, Any]  # title, columns, rows of texts, note

BOUNDS = "Bounds, where samples are missing: the accuracy if those were all wrong, and if all were right."
NOTES = {
    "run": "Training's samples are those of its groups that were kept; held out are the evaluations'.",
    "evaluation": "Intervals are of 95 %, over tasks.",
    "comparison": "Here are the samples of tasks where two models differ, the largest differences first.",
    "sweep": "Accuracies are on the same held-out tasks with the same random streams in all trials.",
}


def of_run(path: Path) -> dict[str, Any]:
    """A training run's, also of one that was stopped, or is still going on."""
    config = read_config(path)
    env = str((config.get("environment") or {}).get("env"))
    progress, evaluations = read_table(path, "progress"), read_table(path, "evaluations")
    frames = []
    for file in sorted((path / "samples").glob("[!.]*.parquet"), key=_newest_evaluation_first):
        try:
            frames.append(samples.of_run(pd.read_parquet(file), _set_name(file), env))
        except (pa.ArrowInvalid, OSError):  # it is being written
            continue
    summary = _json(path / "summary.json")
    settings = _flat({key: value for key, value in config.items() if key != "versions"})
    model = (config.get("policy") or {}).get("model")
    return _content(
        "run",
        f"{config.get('algo')} on {env} with {model}",
        path,
        [_evaluations_table(evaluations), _training_table(progress, summary)],
        _sent({"": {**settings, **_flat({"versions": summary.get("versions", {})})}}),
        frames,
        curves(progress, evaluations),
    )


def of_evaluation(path: Path) -> dict[str, Any]:
    """An evaluation's. The figures are its summary's; of one that was stopped, those of the records there are."""
    frame = read_records(path)
    summary = _json(path / "summary.json")
    found = summary.get("environments") or {
        env: score(own, len(own)) for env, own in frame.groupby("env", sort=False)
    }
    versions = summary.get("versions") or json.loads(frame["versions"].iloc[-1] or "{}")
    settings = {**_json(path / "evaluation.json"), "versions": versions}
    counted = sum(row["scored"] + row["errored"] for row in found.values())
    tables = [_coverage_table(found, _state(bool(summary), counted, len(frame))), _figures_table(found)]
    title = f"{settings.get('model', path.name)} on {', '.join(found)}"
    own = samples.of_evaluation(frame, "evaluation")
    return _content("evaluation", title, path, tables, _sent({"": _flat(settings)}), [own], [])


def of_comparison(
    paths: Mapping[str, Path],
    frames: Mapping[str, pd.DataFrame],
    tables: Sequence[Table],
    flipped: Sequence[str],
) -> dict[str, Any]:
    """A comparison's.

    Args:
        paths: Of the evaluations, by the models' names.
        frames: Their records, as `read_records` gives them.
        tables: What was found.
        flipped: Tasks where two differ, the largest differences first.
    """
    place = {task: i for i, task in enumerate(dict.fromkeys(flipped))}
    chosen, settings = [], {}
    for name, frame in frames.items():
        own = frame[frame["task"].isin(place)]
        is_of_a_run = "group" in own
        chosen.append(_of_a_run(own, name) if is_of_a_run else samples.of_evaluation(own, name))
        settings[name] = {"folder": str(paths[name]), **_flat(_json(paths[name] / "evaluation.json"))}
    ordered = pd.concat(chosen).sort_values("key", key=lambda keys: keys.map(place), kind="stable")
    title = " and ".join(f"{name} ({path.name})" for name, path in paths.items())
    return _content("comparison", title, Path(), tables, _sent(settings), [ordered], []) | {"together": True}


def of_sweep(
    path: Path, settings: Mapping[str, Any], tables: Sequence[Table], drawn: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """A sweep's: what it was asked for, what was found, and what is drawn of it. Its completions are the trials'."""
    return _content("sweep", f"Sweep {path.name}", path, tables, _sent({"": _flat(settings)}), [], drawn)


def _of_a_run(frame: pd.DataFrame, name: str) -> pd.DataFrame:
    """A run's samples in a comparison, whose task is named after the environment as well."""
    envs = frame["env"]
    return samples.of_run(frame, name, "").assign(env=envs, key=frame["task"])


def _content(
    kind: str,
    title: str,
    path: Path,
    tables: Sequence[Table],
    sent: Table,
    frames: Sequence[pd.DataFrame],
    drawn: Sequence[dict[str, Any]],
) -> dict[str, Any]:
    whole = pd.concat(frames) if frames else samples.nothing()
    content = {
        "title": title,
        "source": "" if path == Path() else f"{kind}: {path}",
        "tables": [*tables],
        "curves": [*drawn],
        "sent": sent,
        "together": False,
        **samples.embedded(whole),
    }
    left_out = content["left_out"]
    more = (
        f" {left_out:,} samples were left out, tasks evenly over all: the files have them."
        if left_out
        else ""
    )
    return {**content, "note": NOTES[kind] + more}


def _newest_evaluation_first(file: Path) -> tuple[bool, int]:
    """Sampled evaluations, then greedy ones, then training; of each kind the newest first."""
    kind, _, iteration = file.stem.rpartition("_")
    kinds = ["eval_sampled", "eval_greedy"]
    return (kinds.index(kind) if kind in kinds else len(kinds), -int(iteration))  # type: ignore[return-value]


def _set_name(file: Path) -> str:
    """What the page calls the samples of a file, such as eval_greedy_000040: "iteration 40, held out, greedy"."""
    kind, _, iteration = file.stem.rpartition("_")
    kinds = {
        "train": "training",
        "train_some": "training, some",
        "eval_sampled": "held out, sampled",
        "eval_greedy": "held out, greedy",
    }
    return f"iteration {int(iteration)}, {kinds.get(kind, kind)}"


def _json(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text()) if file.is_file() else {}


def _flat(settings: Mapping[str, Any], before: str = "") -> dict[str, str]:
    """Settings of settings under names such as `training.lr`; texts as they are, else JSON."""
    flat: dict[str, str] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{before}{name}.")
        else:
            flat[before + name] = value if isinstance(value, str) else json.dumps(value, default=str)
    return flat


def _sent(settings: Mapping[str, Mapping[str, str]]) -> Table:
    names = dict.fromkeys(name for each in settings.values() for name in each)
    rows = [[name, *(each.get(name, "-") for each in settings.values())] for name in names]
    return {"title": None, "columns": ["", *settings], "rows": rows, "note": None}


def _coverage_table(found: Mapping[str, Mapping[str, Any]], state: str) -> Table:
    counts = ("expected", "scored", "errored", "truncated", "over_limit")
    rows = []
    for env, row in found.items():
        bounds = interval(row["lower_bound"], row["upper_bound"]) if row["scored"] < row["expected"] else "-"
        rows.append([env, *(f"{row[name]:,}" for name in counts), bounds])
    columns = ["environment", *(name.replace("_", " ") for name in counts), "bounds"]
    return {"title": "Samples", "columns": columns, "rows": rows, "note": state + BOUNDS}


def _state(is_whole: bool, counted: int, there: int) -> str:
    """What figures and samples have to do with each other, where that needs saying."""
    if not is_whole:
        return "It was stopped: these are the records there are. "
    return (
        ""
        if counted == there
        else f"Of the folder's {there:,} samples the last evaluation asked for {counted:,}. "
    )


def _figures_table(found: Mapping[str, Mapping[str, Any]]) -> Table:
    powers = sorted({int(k) for row in found.values() for k in row["pass_at_k"]})[1:]
    columns = ["environment", "tasks", "accuracy", "95 %", *(f"pass@{k}" for k in powers)]
    rows = []
    for env, row in found.items():
        cells = [env, f"{row['tasks']:,}", percent(row["accuracy"])]
        cells += [interval(row["accuracy_low"], row["accuracy_high"])]
        cells += [percent(row["pass_at_k"].get(str(k))) for k in powers]
        numbers = (row[name] for name in ("reward", "response_tokens", "seconds"))
        rows.append([*cells, percent(row["format_rate"]), *map(_number, numbers)])
    columns += ["format", "reward", "response tokens", "seconds"]
    return {"title": "Figures", "columns": columns, "rows": rows, "note": None}


def _evaluations_table(rows: pd.DataFrame) -> Table:
    columns = ["iteration", "tasks", "sampled", "95 %", "greedy", "95 %", "format", "length"]
    shown = []
    for row in rows.to_dict("records"):
        cells = [f"{row['iteration']:.0f}", f"{row['num_tasks']:,.0f}"]
        for name in ("sampled", "greedy"):
            cells.append(percent(row[f"{name}_accuracy"]))
            cells.append(interval(row[f"{name}_accuracy_low"], row[f"{name}_accuracy_high"]))
        shown.append([*cells, percent(row["sampled_format_rate"]), _number(row["sampled_response_length"])])
    return {"title": "On held-out tasks", "columns": columns, "rows": shown, "note": None}


def _training_table(progress: pd.DataFrame, summary: Mapping[str, Any]) -> Table:
    if progress.empty:
        return {"title": "Training", "columns": ["nothing has been trained"], "rows": [], "note": None}
    values = {
        "iterations": f"{progress['iteration'].max():.0f}",
        "samples": f"{progress['num_episodes'].sum():,.0f}",
        "tokens": f"{progress['num_tokens'].sum():,.0f}",
        "seconds, training": _number(progress["seconds"].sum()),
        "seconds, an iteration (median)": _number(progress["seconds"].median()),
        "tokens a second (median)": _number(progress["tokens_per_second"].median()),
    }
    note = None if summary else "It has no summary.json: it was stopped, or is still going on."
    return {"title": "Training", "columns": [*values], "rows": [[*values.values()]], "note": note}


def percent(share: float | None) -> str:
    return "-" if share is None or pd.isna(share) else f"{100 * share:.1f} %"


def interval(low: float | None, high: float | None) -> str:
    return "-" if low is None or high is None or pd.isna(low) else f"{100 * low:.1f} to {100 * high:.1f} %"


def _number(value: float | None) -> str:
    return "-" if value is None or pd.isna(value) else f"{value:,.4g}"
