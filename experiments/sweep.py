"""Searches a space of settings: many trials of a run, side by side on Ray Tune.

    python experiments/sweep.py sweep_tiny --num-samples 4 --budget-tokens 100000

A space is a preset some of whose values are ranges (`experiments/spaces/` has some), and a section `sweep` with
defaults of the options below. All trials are scored on the same held-out tasks, and the winner once more on others.
Budgets are of a trial. `--resume FOLDER` goes on with the trials that are unfinished.
"""

from __future__ import annotations

import os
import sys
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

HERE = Path(__file__).resolve().parent
if sys.path and Path(sys.path[0]).resolve() == HERE:
    sys.path[0] = str(HERE.parent)  # as in run.py

from experiments.common.here import folder  # noqa: E402

SPACES = HERE / "spaces"
DEFAULTS: dict[str, Any] = {
    "env": None,  # the section environment's, or Countdown-v0
    "algo": "GRPO",
    "scheduler": "none",
    "search": "random",
    "num_samples": None,
    "budget_tokens": None,
    "budget_minutes": None,
    "seed": 0,
    "compare_with": [],
    "wandb": False,
    "path": None,  # of a sweep that has been run: where names are from
}


def main(
    space: Annotated[
        str | None, typer.Argument(help="A YAML file, or one of experiments/spaces, such as sweep_tiny.")
    ] = None,
    env: Annotated[str | None, typer.Option(help="Gymnasium id. (default: Countdown-v0)")] = None,
    algo: Annotated[str | None, typer.Option(help="As in run.py. (default: GRPO)")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="section.key=value of all trials; repeatable.")
    ] = None,
    num_samples: Annotated[
        int | None,
        typer.Option(min=1, help="Trials, of each grid point. (default: 8; with pbt as many as fit)"),
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option(
            help="none: all to their end; asha: poor ones stop early; pbt: poor ones take over better ones' weights. "
            "(default: none)"
        ),
    ] = None,
    search: Annotated[
        str | None,
        typer.Option(
            help="random: trials are drawn beforehand; optuna: by what earlier ones came to. (default: random)"
        ),
    ] = None,
    budget_tokens: Annotated[int | None, typer.Option(min=1, help="Sampled tokens of a trial.")] = None,
    budget_minutes: Annotated[float | None, typer.Option(help="Minutes of training of a trial.")] = None,
    compare_with: Annotated[
        list[str] | None,
        typer.Option(
            help="random: random search of the same total; default: one trial of the ranges' defaults; repeatable."
        ),
    ] = None,
    wandb: Annotated[
        bool | None, typer.Option("--wandb", help="Log to Weights & Biases too: a run a trial, in a group.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="All is a function of it. (default: 0)")] = None,
    output: Annotated[
        Path | None, typer.Option(parser=folder, help="Folder. (default: a new one under runs/)")
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(parser=folder, help="Go on with the sweep of this folder.")
    ] = None,
) -> None:
    """Searches a space of settings by many trials side by side."""
    given = {
        "env": env,
        "algo": algo,
        "num_samples": num_samples,
        "scheduler": scheduler,
        "search": search,
        "budget_tokens": budget_tokens,
        "budget_minutes": budget_minutes,
        "compare_with": compare_with,
        "seed": seed,
        "wandb": wandb,
    }
    given = {name: value for name, value in given.items() if value is not None}
    from experiments.common.errors import told

    with told():
        from experiments.common.own_packages import import_ours, refuse_others

        import_ours()
        refuse_others(Path.cwd())
        sys.path.append(os.getcwd())  # environments of one's own; Ray looks there for its workers too
        if resume is not None:
            if space or given or set_ or output:
                raise ValueError("--resume goes on with the sweep as it was started: leave out all else")
            from experiments.sweeps.sweeping import read_asked, start

            status = start(read_asked(resume), resume, resuming=True)
        else:
            if space is None:
                raise ValueError(
                    "name a space: a YAML file, or one of experiments/spaces, such as sweep_tiny"
                )
            asked = _asked(space, given, set_ or [])
            output = output or Path("runs") / f"sweep-{Path(space).stem}-{datetime.now():%Y%m%d-%H%M%S}"
            from experiments.sweeps.sweeping import start

            status = start(asked, output, resuming=False)
    raise typer.Exit(status)


def _asked(space: str, given: dict[str, Any], assignments: list[str]) -> dict[str, Any]:
    """The space and the options, once all names and single values have been looked at."""
    from algorithms.names import method_name
    from experiments.common import environments, settings
    from experiments.common.named import named_file
    from experiments.sweeps import checks
    from experiments.sweeps.space import parse

    sections = settings.load_preset(str(named_file(space, SPACES, "space")))
    options = {**DEFAULTS, **checks.check_options(sections.pop("sweep", {}), DEFAULTS), **given}
    sections = settings.merge(sections, settings.from_assignments(assignments))
    checks.check_choices(options)
    checks.check_names(parse(sections))
    environment, env = sections.setdefault("environment", {}), options.pop("env")
    if env is not None or "env" not in environment:
        environment["env"] = environments.env_id(env or "Countdown-v0")
    tokens, minutes = options.pop("budget_tokens"), options.pop("budget_minutes")
    if (
        "budget_tokens" in given or "budget_minutes" in given
    ):  # the command line's own, and not the space's other
        tokens, minutes = given.get("budget_tokens"), given.get("budget_minutes")
    return {
        **options,
        "algo": method_name(options["algo"]),
        **checks.budget(tokens, minutes),
        "path": options["path"] or os.getcwd(),
        "sections": sections,
    }


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
app.command()(main)

if __name__ == "__main__":
    app()
