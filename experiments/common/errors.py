"""How a command says what is wrong: in one line, with status 2, and with the traceback where that is asked for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from experiments.common.plain import printable


@contextmanager
def told() -> Iterator[None]:
    """Ends the command with what is said by an error of its input, its surroundings or its disk."""
    try:
        yield
    except (ValueError, RuntimeError, OSError) as error:
        if os.environ.get("LLMENV_TRACEBACK"):
            raise
        # What was noted on the way is how to go on.
        message = printable(". ".join([str(error), *getattr(error, "__notes__", [])]))
        typer.secho(f"error: {message}", fg="red", err=True)
        typer.echo("(LLMENV_TRACEBACK=1 shows where it came from)", err=True)
        raise typer.Exit(2) from error
