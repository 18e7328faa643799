"""Takes DeepSeek-R1's road as one recipe: imitation, RL, rejection sampling, imitation, RL again, distillation.

    python experiments/r1.py --preset r1_tiny

Each stage has a folder named by the hash of its settings and of what it starts from: the same command goes on where it
was interrupted, and a changed setting does that stage anew and those after it. `--table` only shows what is there.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

HERE = Path(__file__).resolve().parent
if sys.path and Path(sys.path[0]).resolve() == HERE:
    sys.path[0] = str(HERE.parent)  # as in run.py

from experiments.common.here import folder  # noqa: E402


def main(
    preset: Annotated[
        str | None,
        typer.Option(
            help="A recipe: a YAML file, or one of experiments/recipes, such as r1_tiny. (default: r1_tiny)"
        ),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="stage.key=value or stage.section.key=value; repeatable."),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="All is a function of it. (default: the recipe's)")
    ] = None,
    stage: Annotated[str | None, typer.Option(help="Do this stage alone.")] = None,
    until: Annotated[str | None, typer.Option(help="Do this stage and what it starts from.")] = None,
    compare_with: Annotated[
        list[str] | None, typer.Option(help="A comparison of the recipe's, such as rl; repeatable.")
    ] = None,
    table: Annotated[bool, typer.Option("--table", help="Show what is there, and do nothing.")] = False,
    output: Annotated[
        Path | None, typer.Option(parser=folder, help="Folder. (default: runs/ and the recipe's name)")
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(parser=folder, help="Go on with this folder, as the last command asked.")
    ] = None,
) -> None:
    """Takes a recipe's stages one after another, and says what each is worth and what it took."""
    from experiments.common.errors import told

    with told():
        from experiments.common.own_packages import import_ours

        import_ours()
        sys.path.append(os.getcwd())  # environments of one's own; Ray looks there for its workers too
        if stage and until:
            raise ValueError("--stage does one stage and --until all before it, too: give one of them")
        if resume is not None and (preset or set_ or output or seed is not None):
            raise ValueError(
                "--resume goes on as it was asked: leave out --preset, --set, --seed and --output"
            )
        from experiments.recipes import recipe as recipes

        preset = preset or "r1_tiny"
        if Path(preset).is_file():
            preset = str(Path(preset).absolute())  # --resume may come from elsewhere
        asked: dict[str, Any] = {
            "preset": preset,
            "set": set_ or [],
            "seed": seed,
            "compare_with": compare_with or [],
        }
        if resume is not None:
            asked = {**recipes.read_asked(resume), **({"compare_with": compare_with} if compare_with else {})}
        found = recipes.read_recipe(asked["preset"], asked["set"], asked["seed"])
        place = resume or output or Path("runs") / Path(asked["preset"]).stem
        from experiments.recipes.walking import walk

        status = walk(found, place, asked, only=stage, until=until, look=table)
    raise typer.Exit(status)


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
app.command()(main)

if __name__ == "__main__":
    app()
