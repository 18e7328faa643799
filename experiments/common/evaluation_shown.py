"""What an evaluation shows on the console: how far it is, then its figures, coverage first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from experiments.common.plain import one_line

if TYPE_CHECKING:
    from llmenv.evaluation.parity import Parting

CHANGES_SHOWN = 20  # summary.json has all of them
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
    rows = summary["environments"]
    samples = max((int(k) for row in rows.values() for k in row["pass_at_k"]), default=1)
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="")
    table.add_column("environment", overflow="fold")
    for name in (*COVERAGE, "accuracy", "95 %", f"pass@{samples}"):
        table.add_column(name, justify="right")
    for env, row in rows.items():
        best = _percent(row["pass_at_k"].get(str(samples)))
        cells = [env.rpartition(":")[2], *(f"{row[name]}" for name in COVERAGE)]
        table.add_row(*map(Text, (*cells, _percent(row["accuracy"]), _interval(row), best)))
    console.print(table)
    if accounts := summary.get("asking"):
        console.print(asking_line(accounts))
    for env, row in summary["environments"].items():
        if row["scored"] < row["expected"]:
            low, high = (_percent(row[f"{end}_bound"]) for end in ("lower", "upper"))
            missing = row["expected"] - row["scored"]
            console.print(
                Text(f"{env}: {missing} samples have no score; all wrong to all right: {low} to {high}")
            )


def asking_line(accounts: list[dict[str, Any]]) -> str:
    """What a server was asked for and gave, over all commands that came to their end."""

    def total(name: str) -> float:
        return sum(account.get(name, 0) for account in accounts)

    requests = f"{total('requests_sent'):,} requests for {total('responses'):,} responses"
    tokens = f"{total('prompt_tokens'):,} tokens of prompts, {total('completion_tokens'):,} written"
    cost = f", cost {total('cost'):.4f}" if any("cost" in account for account in accounts) else ""
    return f"{requests}; {tokens}{cost}"


def show_changes(changed: list[dict[str, Any]], console: Console) -> None:
    """Whose verdict is another one now, by task."""
    if not changed:
        return console.print("no record's verdict has changed")
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="")
    for name in ("task", "sample", "then -> now", "answer", "right answer", "failure"):
        table.add_column(name)
    by_task = sorted(changed, key=lambda row: (row["env"], row["task"], row["sample"]))
    for row in by_task[:CHANGES_SHOWN]:
        texts = (row["answer"], row["right_answer"], row["failure"])
        verdict = f"{row['then']} -> {row['now']}"
        table.add_row(row["task"], str(row["sample"]), verdict, *(one_line(text, 18) for text in texts))
    console.print(f"verdicts that have changed: {len(changed)}")
    return console.print(table)


def show_parting(parted: list[Parting], console: Console) -> None:
    """A row a task where two samplers part, with what both go on with."""
    if not parted:
        return
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="")
    for name in ("task", "token", "transformers", "log-prob", "the other", "log-prob"):
        table.add_column(name, justify="right")
    for task, position, tokens, logps in parted:
        place = "prompt" if position < 0 else str(position)
        ours, theirs = (one_line(repr(token)) for token in tokens)
        table.add_row(str(task), place, ours, f"{logps[0]:.4f}", theirs, f"{logps[1]:.4f}")
    console.print(table)
    console.print("log-prob: of both tokens, by the model under transformers after what they have in common")


def _interval(row: dict[str, Any]) -> str:
    low, high = row["accuracy_low"], row["accuracy_high"]
    return "-" if low is None else f"{100 * low:.1f}-{100 * high:.1f}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"
