"""The console command `llmenv`: each sub-command is a script of this folder, the same function with the same options.

    llmenv train --env Countdown-v0 --algo GRPO

Imports a script when it is asked for: `llmenv --help` answers at once.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup

from experiments.common.commands import COMMANDS


class ScriptGroup(TyperGroup):
    """Lists commands by what stands in their place, and takes the scripts' own."""

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        name, _, rest = super().resolve_command(ctx, args)
        if name is None:  # while a shell completes one
            return None, None, rest
        script = import_module(f"experiments.{COMMANDS[name].script}")
        return name, typer.main.get_command(script.app), rest


app = typer.Typer(cls=ScriptGroup, no_args_is_help=True, pretty_exceptions_enable=False)


@app.callback()
def main() -> None:
    """Reinforcement learning of language models in Gymnasium text environments, on RLlib."""


def _listed() -> None:
    """Stands in a command's place where commands are listed."""


for _name, _command in COMMANDS.items():
    app.command(_name, help=_command.about, rich_help_panel=_command.panel)(_listed)

if __name__ == "__main__":
    app()
