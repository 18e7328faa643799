"""Writes the tables of docs/ that come from summaries of sweeps: nobody types their numbers.

    python experiments/benchmarks/tables.py --keep runs/sweep-... --as sweep_tiny_seed0   # docs/figures/NAME.json
    python experiments/benchmarks/tables.py                                               # all tables, anew

A table stands between `<!-- table NAME -->` and `<!-- end -->`, and is of all `docs/figures/NAME_seed*.json`.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any

import typer

from experiments.sweeps.shown import interval, settings_of
from llmenv.files import replaced

DOCS = Path(__file__).resolve().parents[2] / "docs"
FIGURES = DOCS / "figures"
TABLE = re.compile(r"(<!-- table (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
SCORES = ("score", "score_low", "score_high")


def main(
    keep: Annotated[
        Path | None, typer.Option(help="A sweep's folder, whose figures docs/ is to keep.")
    ] = None,
    name: Annotated[str | None, typer.Option("--as", help="By which they are kept: TABLE_seedN.")] = None,
) -> None:
    """Keeps a sweep's figures, or writes all tables anew."""
    if (keep is None) != (name is None):
        raise typer.BadParameter("--keep FOLDER and --as NAME go together")
    if keep is not None:
        with replaced(FIGURES / f"{name}.json") as file:
            file.write_text(
                json.dumps(figures_of(json.loads((keep / "summary.json").read_text())), indent=1) + "\n"
            )
    for page in DOCS.glob("*.md"):
        if (text := written(before := page.read_text())) != before:
            page.write_text(text)


def figures_of(summary: dict[str, Any]) -> dict[str, Any]:
    """What is kept of a sweep's summary: no verdict of a single task, no curve, no path."""
    asked = {name: summary["asked"][name] for name in ("seed", "scheduler", "budget", "unit", "num_samples")}
    arms = {}
    for arm, found in summary["arms"].items():
        trials = [
            {name: trial[name] for name in ("number", "state", "spent_tokens", "settings", *SCORES)}
            for trial in found["trials"]
        ]
        fresh = found["fresh"] and {name: found["fresh"][name] for name in SCORES}
        arms[arm] = {"winner": found["winner"], "fresh": fresh, "trials": trials}
        arms[arm] |= {name: found[name] for name in ("tokens", "training_seconds", "busy_seconds")}
    comparisons = {
        other: {name: comparison[name] for name in ("difference", "low", "high", "tasks")}
        for other, comparison in summary["comparisons"].items()
    }
    before = {name: (summary["before"] or {}).get(name) for name in SCORES}
    return {"asked": asked, "arms": arms, "before": before, "comparisons": comparisons}


def written(text: str) -> str:
    """A page with its tables as the figures have them."""
    return TABLE.sub(lambda found: found[1] + table(found[2]) + found[3], text)


def table(name: str) -> str:
    """A row an arm of each sweep.

    Raises:
        FileNotFoundError: If no figures are kept under that name.
    """
    if not (files := sorted(FIGURES.glob(f"{name}_seed*.json"))):
        raise FileNotFoundError(f"docs/figures has no {name}_seed*.json")
    head = (
        "seed",
        "arm",
        "trials",
        "tokens",
        "the winner's settings",
        "selected on",
        "on fresh tasks",
        "winner over it",
    )
    rows = [head, ("---",) * len(head)]
    for file in files:
        kept = json.loads(file.read_text())
        rows.append(
            (
                str(kept["asked"]["seed"]),
                "before",
                "",
                "0",
                "",
                "",
                interval(kept["before"]),
                _over(kept, "start"),
            )
        )
        for arm, found in kept["arms"].items():
            winner: dict[str, Any] = next((t for t in found["trials"] if t["number"] == found["winner"]), {})
            stopped = sum(trial["state"] == "stopped" for trial in found["trials"])
            trials = f"{len(found['trials'])}" + (f", {stopped} stopped early" if stopped else "")
            label = kept["asked"]["scheduler"] if arm == "search" else arm
            cells = (label, trials, f"{found['tokens']:,}", settings_of(winner.get("settings", {})))
            rows.append(("", *cells, interval(winner), interval(found["fresh"] or {}), _over(kept, arm)))
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _over(kept: dict[str, Any], other: str) -> str:
    """How many points more the search's winner has on fresh tasks, with its interval."""
    if (found := kept["comparisons"].get(other)) is None:
        return ""
    return f"{100 * found['difference']:+.1f} ({100 * found['low']:+.1f} to {100 * found['high']:+.1f})"


if __name__ == "__main__":
    typer.run(main)
