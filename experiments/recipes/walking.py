"""Walks a road for a command: one process at a time, with the table at the end."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from experiments.common.display import quieten
from experiments.common.ownership import claim
from experiments.common.starts import record_start
from experiments.recipes.recipe import Recipe, write_asked
from experiments.recipes.road import Road
from experiments.recipes.table import cells, header, in_order, totals


def walk(
    recipe: Recipe, output: Path, asked: Mapping[str, Any], *, only: str | None, until: str | None, look: bool
) -> int:
    """Does what is asked for, and shows the table.

    Args:
        recipe: The recipe, read.
        output: The road's folder.
        asked: How it was asked for, to be written down.
        only: See `Road.chosen`; so is `until`.
        look: Show the table alone.

    Returns:
        The exit status.
    """
    quieten()
    console = Console(highlight=False)
    road = Road(recipe, output, asked["compare_with"])
    names = road.chosen(only, until)
    status = 0
    if look:
        if not output.is_dir():
            raise ValueError(f"there is no {output}: leave --table out, and the road is taken")
    else:
        claimed = claim(output, resuming=True)
        try:
            record_start(output)
            write_asked(output, asked)
            status = road.walk(names, lambda text: console.print(text, markup=False, soft_wrap=True))
        finally:
            claimed.release()
    show(road, console)
    if status:
        console.print("stopped: the same command goes on", markup=False)
    return status


def show(road: Road, console: Console) -> None:
    """Prints a row a stage, comparisons below."""
    rows, environments = road.rows(), [*road.recipe.environments]
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="")
    for name in header(environments):
        table.add_column(name, no_wrap=name == "stage", overflow="fold")
    for row in in_order(rows):
        table.add_row(*cells(row, environments))
    console.print(table)
    for arm, price in totals(rows).items():
        console.print(
            f"{arm}: {price['sampled']:,} tokens sampled, {price['imitated']:,} imitated, {price['seconds']:.0f} s",
            markup=False,
        )
    console.print(f"summary.json, table.md, report.html: {road.output}", markup=False, soft_wrap=True)
