"""What a sweep shows on the console: a line a round, and at the end a table. Starts nothing."""

from __future__ import annotations

from typing import Any

from ray import tune
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from experiments.common.plain import printable
from experiments.sweeps.search import cause_of


def value_of(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def settings_of(settings: dict[str, Any]) -> str:
    """Such as `lr=3e-05 group_size=8`."""
    return " ".join(f"{path.rpartition('.')[2]}={value_of(value)}" for path, value in settings.items())


def interval(row: dict[str, Any]) -> str:
    if row.get("score") is None:
        return "-"
    return f"{row['score']:.1%} ({100 * row['score_low']:.1f} to {row['score_high']:.1%})"


class Lines(tune.Callback):
    """A line a round, of whichever trial, and one where a trial ends.

    Args:
        arm: What is shown before each line.
    """

    def __init__(self, arm: str):
        self._arm = arm

    def on_trial_result(self, iteration: int, trials: list, trial: Any, result: dict, **info: Any) -> None:
        given = result["config"]["trial"]  # those of the trial may be others since, by an exchange
        cells = f"{self._arm:>8} {given['number']:>5} {result['tokens']:>10} {result['seconds']:>8.0f} s"
        self._say(f"{cells}   {interval(result):<26} {settings_of(given['settings'])}")

    def on_trial_error(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        number = trial.config["trial"]["number"]
        self._say(f"{self._arm:>8} {number:>5} failed: {cause_of(trial)}")

    def _say(self, line: str) -> None:
        Console(highlight=False).print(Text(printable(line)), soft_wrap=True)


HEADER = f"{'arm':>8} {'trial':>5} {'tokens':>10} {'training':>10}   accuracy (95 %)"


def table(summary: dict[str, Any]) -> Table:
    """All trials of all arms, best first within each."""
    paths = list(summary["space"])
    shown = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in ("arm", "trial", *(path.rpartition(".")[2] for path in paths)):
        shown.add_column(column, justify="right")
    for column in ("tokens", "selected on (95 %)", "fresh (95 %)", ""):
        shown.add_column(column, justify="right")
    for name, arm in summary["arms"].items():
        ranked = sorted(arm["trials"], key=lambda trial: -1 if trial["score"] is None else trial["score"])
        for trial in reversed(ranked):
            fresh = arm["fresh"] if trial["number"] == arm["winner"] and arm["fresh"] else {}
            shown.add_row(
                name,
                str(trial["number"]),
                *(Text(value_of(trial["settings"].get(path, "-"))) for path in paths),
                str(trial["spent_tokens"]),
                interval(trial),
                interval(fresh) if fresh else "",
                trial["state"],
            )
    return shown


def verdict(about: str, comparison: dict[str, Any]) -> str:
    """A comparison on fresh tasks in a sentence."""
    low, high = comparison["low"], comparison["high"]
    found = "better" if low > 0 else "worse" if high < 0 else "not told apart from it"
    return (
        f"{about}: {100 * comparison['difference']:+.1f} points ({100 * low:+.1f} to {100 * high:+.1f}) "
        f"on {comparison['tasks']} fresh tasks: {found}"
    )
