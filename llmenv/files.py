"""Files and folders that are whole or not there, whatever is killed, and when. Knows nothing about what is in them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replaced(file: Path) -> Iterator[Path]:
    """Another name to write a file under, which then takes the place of `file` in one go, once it is on the disk.

    A kill may leave that name behind: `.partial_` and the file's own.
    """
    partial = file.with_name(f".partial_{file.name}")
    try:
        yield partial
        sync(partial)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    os.replace(partial, file)
    sync(file.parent)


def sync(path: Path) -> None:
    """Puts a file, or the names in a folder, onto the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def cache() -> Path:
    """Where this machine keeps what was made from something else, or brought from elsewhere; made if needed."""
    path = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "llmenv"
    path.mkdir(parents=True, exist_ok=True)
    return path


def put_in_place(made: Path, target: Path) -> None:
    """Moves a whole folder to its name, unless another process was first."""
    try:
        os.replace(made, target)
    except OSError:
        if not target.exists():
            raise
