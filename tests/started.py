"""What a command has started: its processes, and what they have in shared memory. Watched while it runs."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil

SHARED = Path("/dev/shm")
MAPPED = re.compile(rf"{SHARED}/(\S+)")


class Started:
    """All descendants of a process, and the names in `/dev/shm` that any of them has mapped.

    Args:
        pid: Of the command.
    """

    def __init__(self, pid: int):
        self._command = psutil.Process(pid)
        self.processes: dict[psutil.Process, str] = {}  # with the command lines that they had
        self.shared: set[str] = set()

    def look(self) -> None:
        with contextlib.suppress(psutil.NoSuchProcess):
            for process in self._command.children(recursive=True):
                with contextlib.suppress(psutil.Error, OSError):
                    self.processes[process] = " ".join(process.cmdline()).strip()[:100]
                    self.shared |= {*MAPPED.findall(Path(f"/proc/{process.pid}/maps").read_text())}

    def until(self, reached: Callable[[], bool], seconds: float) -> None:
        """Looks every now and then until something is so.

        Raises:
            TimeoutError: If it is not so in time.
        """
        deadline = time.monotonic() + seconds
        while not reached():
            if time.monotonic() > deadline:
                raise TimeoutError(f"not so after {seconds} s")
            self.look()
            time.sleep(0.2)

    def kill(self) -> None:
        """The command alone, by -9: what it started is left to itself."""
        self._command.suspend()
        self.look()
        self._command.kill()

    def left(self, seconds: float, but: Sequence[str] = ()) -> list[str]:
        """What is still there after so long at most: command lines but for these, and names in shared memory."""
        deadline = time.monotonic() + seconds
        ours = {process: line for process, line in self.processes.items() if line not in but}
        while (alive := [p for p in ours if _is_alive(p)]) and time.monotonic() < deadline:
            time.sleep(0.2)
        names = {file.name for file in SHARED.iterdir()}
        return [ours[process] for process in alive] + sorted(self.shared & names)


def _is_alive(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False
