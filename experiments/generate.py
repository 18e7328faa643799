"""Samples what is worth learning from: rejection sampling.

    python experiments/generate.py --output generated --model tiny --env Countdown-v0 --num-tasks 64 --samples 8

Samples are drawn, and drawn on after an interruption, as evaluate.py does: its options are taken here too, and passed
on. Tasks are of the training split. What is right, readable, no duplicate and not held out stands in the folder's
kept.parquet, which `run.py --algo SFT --set data=generated` reads; the summary.json says how many samples came how far.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

HERE = Path(__file__).resolve().parent
if sys.path and Path(sys.path[0]).resolve() == HERE:
    sys.path[0] = str(HERE.parent)  # as in run.py

from experiments.common.here import folder  # noqa: E402

KEEP = ("all", "best", "shortest")  # as `llmenv.selection` has them


def main(
    context: typer.Context,
    output: Annotated[
        Path, typer.Option(parser=folder, help="Folder of the records, and of what is kept of them.")
    ],
    keep: Annotated[
        str, typer.Option(help="Of each task's right samples: all, best (by reward) or shortest.")
    ] = "all",
    most: Annotated[
        int | None,
        typer.Option(
            min=1, help="Of each task at most so many, and no more than 1 / its pass rate. (default: any)"
        ),
    ] = None,
    script: Annotated[str, typer.Option(help="Of readable letters, as Unicode names it.")] = "LATIN",
    held_out: Annotated[
        list[str] | None,
        typer.Option(
            help="Evaluation or data whose questions must not be learned from, beside the environments' own test "
            "split; repeatable."
        ),
    ] = None,
) -> None:
    """Samples what is worth learning from. All options of evaluate.py are taken too."""
    from experiments.common.errors import told

    with told():
        if keep not in KEEP:
            raise ValueError(f"--keep must be one of {', '.join(KEEP)}, got {keep!r}")
        _sample(output, context.args)
        from rich.console import Console
        from rich.table import Table

        from experiments.common.keeping import KEPT, STAGES, Wanted, keep_records

        funnel = keep_records(output, Wanted(keep=keep, most=most, script=script), held_out or [])
        table = Table(*("", *STAGES))
        for env, counts in funnel.items():
            table.add_row(env.rpartition(":")[2], *map(str, counts.values()))
        console = Console(highlight=False)
        console.print(table)
        console.print(f"kept: {output / KEPT}", markup=False, soft_wrap=True)


def _sample(output: Path, arguments: Sequence[str]) -> None:
    """Runs evaluate.py on the training split, unless its arguments name another one; of held-out tasks none."""
    from experiments import evaluate

    for option in ("--suite", "--parity"):
        if any(text.partition("=")[0] == option for text in arguments):
            raise ValueError(
                f"{option} is of evaluate.py alone: leave it out, and say --env, --num-tasks, --samples"
            )
    splits = [
        text.replace(" ", "") for text in arguments if text.replace("--env-set=", "").startswith("split")
    ]
    if any(text.endswith("=test") for text in splits):
        raise ValueError(
            "split=test is what is held out: leave --env-set split out, and training tasks are drawn"
        )
    train = [] if splits else ["--env-set", "split=train"]
    try:
        evaluate.app([*arguments, *train, "--output", str(output)])
    except SystemExit as done:
        if done.code:
            raise


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(main)

if __name__ == "__main__":
    app()
