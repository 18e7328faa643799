"""Writes the page of a run, an evaluation or a sweep anew, for what exists.

    python experiments/report.py runs/Countdown-v0-GRPO-tiny-20260101-120000
    python experiments/report.py evaluations/tiny-Countdown-v0
    python experiments/report.py runs/sweep-sweep_tiny-20260101-120000

The page is report.html in that folder: figures, curves and all completions, in one file that opens in any browser
without a network. run.py, evaluate.py and sweep.py write it at their end; this is for what was stopped, or is going on.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

HERE = Path(__file__).resolve().parent
if sys.path and Path(sys.path[0]).resolve() == HERE:
    sys.path[0] = str(HERE.parent)  # as in run.py


def main(
    folder: Annotated[Path, typer.Argument(help="A run folder, an evaluation's, or a sweep's.")],
) -> None:
    """Writes the page of a run, an evaluation or a sweep anew, for what exists."""
    from experiments.common.errors import told

    with told():
        if not folder.is_dir():
            raise ValueError(f"there is no folder {folder}: name a run's, an evaluation's, or a sweep's")
        if (folder / "sweep.yaml").is_file():
            from experiments.sweeps import page
            from experiments.sweeps.sweeping import Sweep, read_asked

            typer.echo(page.write(folder, Sweep(read_asked(folder), folder).summary()))
            return
        from experiments.common.page.reports import write_report

        typer.echo(write_report(folder))


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
app.command()(main)

if __name__ == "__main__":
    app()
