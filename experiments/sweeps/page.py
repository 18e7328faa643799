"""The page of a sweep: its trials, how each setting goes with the result, curves, and who took over whose policy.

Made of a summary (`experiments.sweeps.report`), and so of a sweep in any state. Knows nothing of Ray.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.common.page.assemble import write_page
from experiments.common.page.contents import Table, interval, of_sweep, percent
from experiments.common.page.samples import plain
from experiments.sweeps.results import SEARCH, START, lives
from experiments.sweeps.shown import settings_of, value_of
from experiments.sweeps.space import LISTS

NAME = "report.html"
RESAMPLES = 2000
FEWEST = 8  # trials: of fewer a bootstrap's interval is much too narrow
NAMED = 3  # curves of an arm that have a colour and a name: its best


def write(output: Path, summary: Mapping[str, Any]) -> Path:
    """Writes the page into a sweep's folder, and returns where it is."""
    arms, lineage = summary["arms"], summary["lineage"]
    tables = [_winners(summary), _trials(summary), _correlations(summary)]
    drawn = [_parallel(summary), *(_curves(name, arm) for name, arm in arms.items())]
    if lineage:
        tables.append(_exchanges(lineage))
        drawn.append(_lineage(arms[SEARCH], lineage))
    settings = {name: summary[name] for name in ("command", "asked", "versions")}
    write_page(output / NAME, of_sweep(output, settings, tables, drawn))
    return output / NAME


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> tuple[float, float, float] | None:
    """Spearman's rank correlation, and its 95 % interval.

    Args:
        first: A number a trial.
        second: Another.

    Returns:
        The correlation, and the 2.5th and 97.5th percentile of it over resampled trials; None where one of the two is
        the same in all, or there are few.
    """
    pairs = np.array([first, second], dtype=float)
    if pairs.shape[1] < FEWEST or (pairs.min(axis=1) == pairs.max(axis=1)).any():
        return None
    chosen = np.random.default_rng(0).integers(pairs.shape[1], size=(RESAMPLES, pairs.shape[1]))
    low, high = np.nanpercentile(_correlated(pairs[0][chosen], pairs[1][chosen]), (2.5, 97.5))
    return float(_correlated(pairs[0], pairs[1])), float(low), float(high)


def _correlated(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Pearson's of the ranks, float [...] of float [..., trials]; NaN where one of the two is constant."""
    from scipy.stats import rankdata

    ranks = [rankdata(each, axis=-1) - (each.shape[-1] + 1) / 2 for each in (first, second)]
    sizes = [np.sqrt((each**2).sum(axis=-1)) for each in ranks]
    with np.errstate(invalid="ignore"):
        return (ranks[0] * ranks[1]).sum(axis=-1) / (sizes[0] * sizes[1])


def _winners(summary: Mapping[str, Any]) -> Table:
    columns = ["", "trial", "selected at", "fresh tasks", "95 %", "search's winner is better by", "95 %"]
    policies = [(name, arm["winner"], arm["selected"], arm["fresh"]) for name, arm in summary["arms"].items()]
    rows = []
    for name, trial, selected, fresh in (*policies, ("before training", None, None, summary["before"])):
        other = summary["comparisons"].get(START if selected is None else name)
        rows.append(
            [
                name,
                "-" if trial is None else str(trial),
                percent(selected and selected["score"]),
                percent(fresh and fresh["score"]),
                interval(fresh and fresh["score_low"], fresh and fresh["score_high"]),
                "-" if other is None else f"{100 * other['difference']:+.1f} points",
                "-" if other is None else f"{100 * other['low']:+.1f} to {100 * other['high']:+.1f}",
            ]
        )
    note = "Fresh tasks are those that no trial was selected on: what a winner was selected at flatters it."
    return {"title": "Winners", "columns": columns, "rows": rows, "note": note}


def _trials(summary: Mapping[str, Any]) -> Table:
    paths = list(summary["space"])
    rows = [
        [
            f"{name} {trial['number']}",
            *(value_of(trial["settings"].get(path, "-")) for path in paths),
            f"{trial['spent_tokens']:,}",
            f"{trial['busy_seconds']:,.0f}",
            percent(trial["score"]),
            interval(trial.get("score_low"), trial.get("score_high")),
            trial["state"] if trial["cause"] is None else f"failed: {trial['cause']}",
        ]
        for name, arm in summary["arms"].items()
        for trial in sorted(arm["trials"], key=_score, reverse=True)
    ]
    columns = ["trial", *map(_short, paths), "tokens", "seconds", "accuracy", "95 %", "state"]
    note = "Seconds are of training, evaluations and exchanges. A population's settings are those that it ended with."
    return {"title": "Trials", "columns": columns, "rows": rows, "note": note}


def _correlations(summary: Mapping[str, Any]) -> Table:
    """At the same cost for all: a trial that was stopped early has not learned less for its settings."""
    trials = _scored(summary)
    looks = min((len(trial["curve"]) for trial in trials), default=0)
    results = [trial["curve"][looks - 1]["score"] for trial in trials]
    rows = []
    for path in summary["space"]:
        values = [trial["settings"][path] for trial in trials]
        have_order = all(isinstance(value, int | float) for value in values)
        found = rank_correlation(values, results) if have_order else None
        cells = ["-", "-"] if found is None else [f"{found[0]:+.2f}", f"{found[1]:+.2f} to {found[2]:+.2f}"]
        rows.append([path, *cells])
    note = (
        f"Spearman's, over {len(trials)} trials of all arms; the result is the accuracy at look {looks}, which all of "
        "them came to. Intervals are a bootstrap's over trials: of few trials they say little."
    )
    columns = ["setting", "rank correlation with the result", "95 %"]
    return {"title": "Settings and results", "columns": columns, "rows": rows, "note": note}


def _exchanges(lineage: Sequence[Mapping[str, Any]]) -> Table:
    columns = ["trial", "from", "at tokens", "accuracy", "donor's", "better by", "settings", "from then on"]
    rows = [
        [
            str(exchange["trial"]),
            str(exchange["donor"]),
            f"{exchange['tokens']:,}",
            percent(exchange["score"]),
            percent(exchange["donor_score"]),
            f"{100 * exchange['low']:+.1f} to {100 * exchange['high']:+.1f}" if "low" in exchange else "-",
            settings_of(exchange["settings_before"]),
            settings_of(exchange["settings"]),
        ]
        for exchange in lineage
    ]
    note = "In points, the paired interval of 95 %: only beyond 0 is a policy taken over."
    return {"title": "Exchanges", "columns": columns, "rows": rows, "note": note}


def _parallel(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Parallel coordinates: places from 0 to 1 on an axis a setting, and on one of the results."""
    trials = sorted(_scored(summary), key=_score)
    scores = [trial["score"] for trial in trials] or [0.0]
    low, high = min(scores), max(scores)
    space = summary["space"]
    axes = [{"name": _short(path), "ticks": _ticks(axis)} for path, axis in space.items()]
    axes.append({"name": "accuracy", "ticks": [[0.0, percent(low)], [1.0, percent(high)]]})
    lines = []
    for rank, trial in enumerate(trials):
        places = [_place(axis, trial["settings"][path]) for path, axis in space.items()]
        result = (trial["score"] - low) / (high - low) if low < high else 0.5
        lines.append(
            {
                "name": f"{settings_of(trial['settings'])}: {percent(trial['score'])}",
                "places": plain([*places, result]),
                "rank": (rank + 1) / len(trials),
            }
        )
    title = "settings and result (the better a trial, the stronger its line)"
    return {"kind": "parallel", "title": title, "axes": axes, "lines": lines}


def _place(axis: Mapping[str, Sequence[Any]], value: Any) -> float:
    ((kind, values),) = axis.items()
    if kind in LISTS:
        return values.index(value) / (len(values) - 1) if len(values) > 1 else 0.5
    low, high, at = map(math.log, (*values, value)) if kind == "loguniform" else (*values, value)
    return (at - low) / (high - low)


def _ticks(axis: Mapping[str, Sequence[Any]]) -> list[list[Any]]:
    return [[_place(axis, value), value_of(value)] for values in axis.values() for value in values]


def _curves(name: str, arm: Mapping[str, Any]) -> dict[str, Any]:
    ranked = sorted((trial for trial in arm["trials"] if trial["curve"]), key=_score, reverse=True)
    series = [
        {
            "name": f"trial {trial['number']}",
            "x": plain(point["spent_tokens"] for point in trial["curve"]),
            "y": plain(point["score"] for point in trial["curve"]),
        }
        for trial in ranked
    ]
    return {"title": f"{name}: accuracy over tokens", "series": series, "named": NAMED}


def _lineage(arm: Mapping[str, Any], lineage: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    title = "lineage: policies over their tokens, and who took over whose (strong: the winner's forebears)"
    rows = [trial["number"] for trial in arm["trials"]]
    return {"kind": "lineage", "title": title, "rows": rows, "lives": lives(arm, lineage)}


def _scored(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    trials = [trial for arm in summary["arms"].values() for trial in arm["trials"]]
    return [trial for trial in trials if trial["score"] is not None and trial["cause"] is None]


def _score(trial: Mapping[str, Any]) -> float:
    return -1.0 if trial["score"] is None else trial["score"]


def _short(path: str) -> str:
    return path.rpartition(".")[2]
