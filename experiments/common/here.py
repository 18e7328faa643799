"""A folder of this machine's, as a command takes it that works on no other filesystem."""

from __future__ import annotations

from pathlib import Path

import typer

from llmenv.remote import is_uri


def folder(name: str) -> Path:
    """An option's value, for its `parser`.

    Raises:
        typer.BadParameter: If it is a URI: as a path it would become a folder `s3:` here, and nobody would know.
    """
    if is_uri(name):
        raise typer.BadParameter(f"{name}: this command works on folders of this machine")
    return Path(name)
