"""What an evaluation shows on the console: how far it is, then its figures, coverage first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

COVERAGE = ("expected", "scored", "errored", "truncated")


@contextmanager
def progress(console: Console) -> Iterator[Callable[[int, int], None]]:
    """A bar of the samples that are there; gives what tells it."""
    columns = (TextColumn("samples"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("samples", total=None)
        yield lambda done, all_of_them: bar.update(task, completed=done, total=all_of_them)


def show(summary: dict[str, Any], console: Console) -> None:
    """Prints a row an environment; in 80 columns."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    table.add_column("environment", overflow="fold")
    for name in (*COVERAGE, "accuracy"):
        table.add_column(name, justify="right")
    samples = max((int(k) for row in summary["environments"].values() for k in row["pass_at_k"]), default=1)
    if samples > 1:
        table.add_column(f"pass@{samples}", justify="right")
    for env, row in summary["environments"].items():
        best = [_percent(row["pass_at_k"].get(str(samples)))] if samples > 1 else []
        cells = [env.rpartition(":")[2], *(f"{row[name]}" for name in COVERAGE), _accuracy(row), *best]
        table.add_row(*map(Text, cells))
    console.print(table)
    for env, row in summary["environments"].items():
        if row["scored"] < row["expected"]:
            low, high = (_percent(row[f"{end}_bound"]) for end in ("lower", "upper"))
            missing = row["expected"] - row["scored"]
            console.print(
                Text(f"{env}: {missing} samples have no score; all wrong to all right: {low} to {high}")
            )


def _accuracy(row: dict[str, Any]) -> str:
    value = _percent(row["accuracy"])
    if row["accuracy_low"] is None:
        return value
    return f"{value} ({_percent(row['accuracy_low'])} to {_percent(row['accuracy_high'])})"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"
