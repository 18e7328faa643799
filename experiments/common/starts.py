"""Each start of a command, as a line of JSON in its folder's starts.jsonl: by what, of which code, on which machine.

A run that is gone on with has several. Nothing is asked of the folder but that it can be written to.
"""

from __future__ import annotations

import json
import os
import shlex
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from llmenv.evaluation.records import STARTS
from llmenv.versions import versions

SOURCE = Path(__file__).parents[2]
_PATIENCE_S = 10  # for a program that only says what there is


def record_start(folder: Path) -> None:
    """Writes this process's line. A command that is a library's call has that program's arguments."""
    line = {
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "command": shlex.join(sys.argv),
        "directory": os.getcwd(),
        "git": git_state(SOURCE),
        "host": socket.gethostname(),
        "cpus": len(os.sched_getaffinity(0)),
        "gpus": gpus(),
        "versions": versions(),
    }
    with (folder / STARTS).open("a") as file:
        file.write(json.dumps(line) + "\n")


def git_state(source: Path) -> dict[str, Any] | None:
    """The commit of a source folder, and whether files differ from it; None where it is no repository of its own.

    An installed package may lie inside somebody's repository, whose commit says nothing about it.
    """
    top = _answer("git", "-C", str(source), "rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != source.resolve():
        return None
    commit = _answer("git", "-C", str(source), "rev-parse", "HEAD")
    changes = _answer("git", "-C", str(source), "status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "changed": bool(changes)}


def gpus() -> list[str]:
    """What NVIDIA's driver calls them. Not asked by PyTorch, which would take memory of the first for it."""
    return (_answer("nvidia-smi", "--query-gpu=name", "--format=csv,noheader") or "").splitlines()


def _answer(*command: str) -> str | None:
    """What a program says; None where it is not there, fails, or does not answer."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE_S)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
