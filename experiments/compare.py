"""Compares models that were evaluated on the same tasks.

    python experiments/compare.py evals/before evals/after
    python experiments/compare.py runs/A runs/B runs/C --output flips.csv

Each is an evaluation folder, a run folder (its newest evaluation counts), or a file of a run's `samples/`, such as
`runs/A/samples/eval_sampled_000000.parquet`, what the model was before training. Differences are over the tasks that
two have in common, and p values are adjusted for all that is compared. In the .csv, text that a spreadsheet would take
for a formula has a ' before it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations, groupby
from pathlib import Path
from string import ascii_uppercase
from typing import Annotated, Any, NamedTuple

import numpy as np
import pandas as pd
import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from experiments.common.errors import told
from experiments.common.page.comparison import write_comparison
from experiments.common.plain import one_line
from experiments.common.records import clusters_of, judged, read_records, verdicts
from experiments.common.settings import number
from llmenv.comparison import ROUNDING, Comparison, compare, holm
from llmenv.files import replaced
from llmenv.statistics import pass_at_k, task_means

SHOWN = 5  # flipped tasks of each pair: the file has all of them
FORMULAS = ("=", "+", "-", "@", "\t", "\r")  # how a cell begins that a spreadsheet may take for one
LONGEST_NAME = 255  # bytes of a file's name


class Pair(NamedTuple):
    """Two models on the tasks of one environment that both have, and the tasks where they differ."""

    env: str
    first: str
    second: str
    found: Comparison
    flips: pd.DataFrame


def main(
    evaluations: Annotated[
        list[Path],
        typer.Argument(
            help="Two or more: evaluation folders, run folders, or files of a run folder's samples/."
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(help="A .csv file to write all flipped tasks to, with what both models wrote."),
    ] = None,
    cluster: Annotated[
        str | None,
        typer.Option(help="A column of the records: tasks with the same value there are not independent."),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(
            help="The page's file. (default: report.html in one under comparisons/, by their names)"
        ),
    ] = None,
) -> None:
    """Compares models on the tasks that they have in common: accuracy, differences with their intervals, flips."""
    with told():
        if not 2 <= len(evaluations) <= len(ascii_uppercase):
            raise ValueError(f"give 2 to {len(ascii_uppercase)} evaluations, not {len(evaluations)}")
        frames = {name: read_records(path) for name, path in zip(ascii_uppercase, evaluations, strict=False)}
        pairs = compare_all(frames, cluster)
        if output is not None:
            with replaced(output) as partial:
                pd.concat([pair.flips for pair in pairs]).map(_cell).to_csv(partial, index=False)
        paths = dict(zip(frames, evaluations, strict=True))
        report = report or page_of(evaluations)
        write_comparison(report, paths, frames, pairs, cluster)
    console = Console(highlight=False)
    for name, path in paths.items():
        console.print(Text(f"{name}  {path}"), soft_wrap=True)
    _show_accuracies(frames, cluster, console)
    _show_pairs(pairs, console)
    for pair in pairs:
        _show_flips(pair, console)
    console.print(Text(f"the page: {report}"), soft_wrap=True)
    if output is not None:
        console.print(Text(f"{sum(len(pair.flips) for pair in pairs)} flips: {output}"), soft_wrap=True)


def page_of(evaluations: Sequence[Path]) -> Path:
    """The page's file, unless another is given: by the names of what is compared, and parents' where two are equal."""
    paths = [Path(os.path.abspath(path)) for path in evaluations]
    parts = [(*path.parts[1:-1], path.stem if path.is_file() else path.name) for path in paths]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["-".join(part[-depth:]) for part in parts]
        if len({*names}) == len({*parts}):
            break
    name = "-".join(names)
    if len(name.encode()) > LONGEST_NAME:
        kept = name.encode()[: LONGEST_NAME - 13].decode(errors="ignore")
        name = f"{kept}-{hashlib.sha256(name.encode()).hexdigest()[:12]}"
    return Path("comparisons", name, "report.html")


def _cell(value: Any) -> Any:
    """What a spreadsheet would take for a formula, as text: what a model wrote must not run there. Numbers stay."""
    if not isinstance(value, str) or not value.startswith(FORMULAS) or isinstance(number(value), float):
        return value
    return f"'{value}"


def compare_all(frames: dict[str, pd.DataFrame], cluster: str | None = None) -> list[Pair]:
    """Every two models on every environment that both have tasks of, with p values adjusted for there being several.

    Args:
        frames: What `read_records` gave, by the models' names.
        cluster: A column, in which tasks that have something in common have the same value.

    Raises:
        ValueError: If two have no task in common, their environments' arguments differ, or one lacks that column.
    """
    for name, frame in frames.items():
        if cluster is not None and cluster not in frame:
            raise ValueError(f"{name} has no column {cluster!r} to cluster by: it has {', '.join(frame)}")
    pairs = []
    for first, second in combinations(frames, 2):
        _refuse_others(first, frames[first], second, frames[second])
        for env in dict.fromkeys(frames[first]["env"]):
            ours, theirs = (frames[name][frames[name]["env"] == env] for name in (first, second))
            if set(ours["task"]) & set(theirs["task"]):
                pairs.append(_pair(str(env), first, ours, second, theirs, cluster))
    adjusted = holm([pair.found.p_value for pair in pairs])
    return [
        pair._replace(found=replace(pair.found, p_value=p)) for pair, p in zip(pairs, adjusted, strict=True)
    ]


def _refuse_others(first: str, ours: pd.DataFrame, second: str, theirs: pd.DataFrame) -> None:
    for env in set(ours["env"]) & set(theirs["env"]):
        given = [min(frame["options"][frame["env"] == env]) for frame in (ours, theirs)]
        if given[0] != given[1] and all(given):
            left, right = map(json.loads, given)
            differ = sorted(name for name in left.keys() | right.keys() if left.get(name) != right.get(name))
            shown = "; ".join(f"{name}: {left.get(name)!r} and {right.get(name)!r}" for name in differ)
            raise ValueError(
                f"{first} and {second} have other arguments of {env}, so that their tasks are not the same ({shown}): "
                "evaluate both with the same ones"
            )
    if not set(ours["task"]) & set(theirs["task"]):
        envs = " and ".join(", ".join(sorted(set(frame["env"].astype(str)))) for frame in (ours, theirs))
        raise ValueError(
            f"{first} and {second} have no task in common (their environments are {envs}): evaluate both on the same "
            "environments, with the same arguments, split and seed, or compare runs with runs"
        )


def _pair(
    env: str, first: str, ours: pd.DataFrame, second: str, theirs: pd.DataFrame, cluster: str | None
) -> Pair:
    (our_tasks, our_table), (their_tasks, their_table) = verdicts(ours), verdicts(theirs)
    their_rows = {task: i for i, task in enumerate(their_tasks)}
    both = [i for i, task in enumerate(our_tasks) if task in their_rows]
    tasks = [our_tasks[i] for i in both]
    left, right = our_table[both], their_table[[their_rows[task] for task in tasks]]
    try:
        found = compare(left, right, clusters_of(ours, tasks, cluster))
    except ValueError as error:
        raise ValueError(f"{first} and {second}, {env}: {error}") from error
    means = pd.DataFrame({"first_accuracy": task_means(left), "second_accuracy": task_means(right)}, tasks)
    flips = _flips(means, ours, theirs)
    for place, (name, value) in enumerate({"env": env, "first": first, "second": second}.items()):
        flips.insert(place, name, value)
    return Pair(env, first, second, found, flips)


def _flips(means: pd.DataFrame, ours: pd.DataFrame, theirs: pd.DataFrame) -> pd.DataFrame:
    """A row a task where two differ, the largest differences first, with what each wrote in its first sample."""
    change = (means["second_accuracy"] - means["first_accuracy"]).abs()
    change = change[change > ROUNDING].sort_values(ascending=False, kind="stable")
    flips = means.loc[change.index]
    said = [frame.drop_duplicates("task").set_index("task").loc[flips.index] for frame in (ours, theirs)]
    flips = flips.assign(right_answer=said[0]["right_answer"])
    for column in ("answer", "completion"):
        for which, frame in zip(("first", "second"), said, strict=True):
            flips[f"{which}_{column}"] = frame[column]
    return flips.reset_index(names="task")


def _show_accuracies(frames: dict[str, pd.DataFrame], cluster: str | None, console: Console) -> None:
    for env, sets in groupby(judged(frames, cluster), key=lambda one: one.env):
        table = _table(env, ("", "tasks", "accuracy", "95 %", "bounds", "expected", "scored", "errored"))
        passes = []
        for name, _, own, correct, found in sets:
            whole = found.scored == found.expected
            table.add_row(
                name,
                f"{found.tasks:,}",
                f"{found.value:.1%}",
                f"{100 * found.low:.1f}-{found.high:.1%}",
                "" if whole else f"{100 * found.lowest:.1f}-{found.highest:.1%}",
                f"{found.expected:,}",
                f"{found.scored:,}",
                f"{own['error'].notna().sum():,}",
            )
            chances = {k: pass_at_k(correct, k) for k in (1, 2, 4, 8, 16, 32, 64) if k <= correct.shape[1]}
            known = [f"pass@{k} {chance:.1%}" for k, chance in chances.items() if not np.isnan(chance)]
            if len(known) > 1:
                passes.append(f"{name}  {'  '.join(known)}")
        console.print(table)
        for line in passes:
            console.print(Text(line))
    console.print(
        "bounds, where samples are missing: the accuracy if all those were wrong, and if all were right"
    )


def _show_pairs(pairs: Sequence[Pair], console: Console) -> None:
    p_value = "p" if len(pairs) == 1 else "p (Holm)"
    columns = ("", "tasks", "difference", "95 %", p_value, "won", "tied", "lost", "for 2 pts")
    table = _table("differences, of the second from the first, in points", columns)
    for pair in pairs:
        found = pair.found
        table.add_row(
            f"{pair.first} to {pair.second}",
            f"{found.tasks:,}",
            f"{100 * found.difference:+.1f}",
            f"{100 * found.low:+.1f} to {100 * found.high:+.1f}",
            f"{found.p_value:.4f}" if found.p_value >= 0.0001 else "<0.0001",
            *(f"{count:,}" for count in (found.wins, found.ties, found.losses, found.tasks_for_two_points)),
        )
    console.print(table)
    console.print("for 2 pts: tasks that would show 2 points in 80 of 100 evaluations, at p < 0.05")


def _show_flips(pair: Pair, console: Console) -> None:
    if pair.flips.empty:
        return
    title = f"{len(pair.flips):,} flips, {pair.first} to {pair.second}, {pair.env}"
    table = _table(title, ("task", "accuracy", "right answer", f"{pair.first} says", f"{pair.second} says"))
    for row in pair.flips.head(SHOWN).itertuples():
        table.add_row(
            one_line(row.task),
            f"{row.first_accuracy:.0%} to {row.second_accuracy:.0%}",
            *map(one_line, (row.right_answer, row.first_answer, row.second_answer)),
        )
    console.print(table)


def _table(title: str, columns: Sequence[str]) -> Table:
    table = Table(title=Text(title), title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in columns:
        table.add_column(column, justify="right")
    return table


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
app.command()(main)

if __name__ == "__main__":
    app()
