"""Files that are whole or not there, whatever is killed, and when. Knows nothing about what is in them."""

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
