"""What a page says of a comparison: the models' accuracies, their differences, and the tasks where they differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from experiments.common.page.assemble import write_page
from experiments.common.page.contents import BOUNDS, Table, interval, of_comparison, percent
from experiments.common.records import judged

if TYPE_CHECKING:
    from experiments.compare import Pair


def write_comparison(
    file: Path,
    paths: Mapping[str, Path],
    frames: Mapping[str, pd.DataFrame],
    pairs: Sequence[Pair],
    cluster: str | None,
) -> None:
    """Writes the page of a comparison, with the samples of the tasks where two models differ.

    Args:
        file: Its name; the folder is made if needed.
        paths: Of what is compared, by the models' names.
        frames: What `read_records` gave for each.
        pairs: What `compare_all` found.
        cluster: A column, in which tasks that have something in common have the same value.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    changes = pd.concat([pair.flips for pair in pairs])
    size = (changes["second_accuracy"] - changes["first_accuracy"]).abs()
    flipped = changes.loc[size.sort_values(ascending=False, kind="stable").index, "task"].tolist()
    tables = [_accuracies(frames, cluster), _differences(pairs)]
    write_page(file, of_comparison(paths, frames, tables, flipped))


def _accuracies(frames: Mapping[str, pd.DataFrame], cluster: str | None) -> Table:
    rows = []
    for name, env, _, _, found in judged(frames, cluster):
        whole = found.scored == found.expected
        bounds = "-" if whole else interval(found.lowest, found.highest)
        counts = [f"{count:,}" for count in (found.tasks, found.expected, found.scored)]
        rows.append([name, env, *counts, percent(found.value), interval(found.low, found.high), bounds])
    columns = ["", "environment", "tasks", "expected", "scored", "accuracy", "95 %", "bounds"]
    return {"title": "Accuracies", "columns": columns, "rows": rows, "note": BOUNDS}


def _differences(pairs: Sequence[Pair]) -> Table:
    rows = []
    for pair in pairs:
        found = pair.found
        counts = (found.wins, found.ties, found.losses, found.tasks_for_two_points)
        rows.append(
            [
                f"{pair.first} to {pair.second}",
                pair.env,
                f"{found.tasks:,}",
                f"{100 * found.difference:+.1f}",
                f"{100 * found.low:+.1f} to {100 * found.high:+.1f}",
                f"{found.p_value:.4f}" if found.p_value >= 0.0001 else "<0.0001",
                *(f"{count:,}" for count in counts),
            ]
        )
    p_value = "p" if len(pairs) == 1 else "p (Holm)"
    columns = [
        "",
        "environment",
        "tasks",
        "difference",
        "95 %",
        p_value,
        "won",
        "tied",
        "lost",
        "for 2 points",
    ]
    note = "In points, of the second from the first. The last: tasks that would show 2 points in 80 of 100 evaluations."
    return {"title": "Differences", "columns": columns, "rows": rows, "note": note}
