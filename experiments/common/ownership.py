"""Whose a run folder is: one process's at a time. Knows nothing about what is in it.

The owner's host and process stand in the file `.lock`, which is made exclusively, before anything else is, and taken
away at the end. A process that was killed leaves it behind: on the same host `claim` finds out that nobody is there any
more. Of another host nothing can be known.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

LOCK = ".lock"


class Claim:
    """A folder that is this process's. Made by `claim`."""

    def __init__(self, path: Path, made: list[Path]):
        self.path = path
        self._made = made  # folders that were not there before, the innermost first

    def release(self) -> None:
        (self.path / LOCK).unlink(missing_ok=True)

    def discard(self) -> None:
        """Gives the folder back as it was found: empty, or not there. Of a new run alone."""
        for inside in self.path.iterdir():
            if inside.name != LOCK:
                shutil.rmtree(inside) if inside.is_dir() else inside.unlink()
        self.release()
        for folder in self._made:
            with contextlib.suppress(OSError):  # another run has begun beside it
                folder.rmdir()


def claim(path: Path, *, resuming: bool) -> Claim:
    """Makes a folder this process's, or says whose it is.

    Args:
        path: The folder. A new run's is made, with those above it, unless it is there and empty.
        resuming: Whether it holds the run that this process goes on with.

    Raises:
        ValueError: If another process has it, or a new run's holds something.
    """
    if path.exists() and not path.is_dir():
        raise ValueError(f"{path} is a file, and a run needs a folder: name another")
    made = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    claimed = Claim(path, made)
    with _alone(path):
        _lock(path, take_over=resuming)
    others = [] if resuming else sorted(inside.name for inside in path.iterdir() if inside.name != LOCK)
    if others:
        claimed.release()
        holds = (
            f"a run already: go on with it by --resume {path}, or name another folder"
            if "config.yaml" in others
            else f"{others[0]!r}: a run needs a folder of its own, a new or an empty one"
        )
        raise ValueError(f"{path} holds {holds}")
    return claimed


def _lock(path: Path, take_over: bool) -> None:
    file = path / LOCK
    with contextlib.suppress(FileNotFoundError):
        refuse_others(str(path), file.read_text(), take_over=take_over)
        file.unlink()
    try:
        with file.open("x") as text:
            text.write(_this_process())
    except FileExistsError as error:  # of another host, a moment ago
        raise ValueError(f"{path} has just been taken by another run: name another folder") from error


def refuse_others(place: str, lock: str, *, take_over: bool) -> None:
    """Says whose a place is.

    Args:
        place: A folder, or a URI.
        lock: What stands in its LOCK.
        take_over: Whether it may be that of a process which was killed.

    Raises:
        ValueError: Unless it may, and was.
    """
    try:
        owner = dict(json.loads(lock))
    except ValueError:  # it says nothing, as when a disk was full
        owner = {}
    holder = f"process {owner.get('pid')} on {owner.get('host')}"
    if not _is_gone(owner):
        raise ValueError(
            f"{place} is being written by {holder}: wait for it, or stop it. (If that is no run any more, delete "
            f"{place}/{LOCK})"
        )
    if not take_over:
        raise ValueError(f"{place} holds a run that was killed ({holder}): go on with it by --resume {place}")


def _this_process() -> str:
    """What a lock of this process's says."""
    ours = {"host": socket.gethostname(), "pid": os.getpid(), "started": _started(os.getpid())}
    return json.dumps(ours)


def _is_gone(owner: dict[str, Any]) -> bool:
    """Whether a process was of this host, and is not there any more; another may have its number now."""
    if owner.get("host") != socket.gethostname():
        return False
    try:
        os.kill(owner["pid"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass  # it is another user's
    started = _started(owner["pid"])
    return started is not None and started != owner.get("started")


def _started(pid: int) -> str | None:
    """When a process began, in the kernel's count, or "dead" of one that nobody has buried; None where unknown."""
    try:  # proc(5): after the name, which may hold anything, come the state (3) and, as field 22, the start
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return "dead" if fields[0] in "ZX" else fields[19]


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """One process of this host at a time: between finding a dead owner and taking its place nobody else may."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a filesystem without such locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
