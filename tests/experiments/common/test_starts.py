from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from experiments.common import starts
from llmenv.evaluation.records import STARTS


def git(folder: Path, *arguments: str) -> str:
    who = ("-c", "user.name=a", "-c", "user.email=a@b")
    return subprocess.run(
        ["git", "-C", str(folder), *who, *arguments], check=True, capture_output=True, text=True
    ).stdout.strip()


def test_a_start_is_a_line(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(sys, "argv", ["run.py", "--set", "environment.env_config={numbers: [1, 2]}"])
    for _ in range(2):
        starts.record_start(tmp_path)
    lines = [json.loads(line) for line in (tmp_path / STARTS).read_text().splitlines()]
    assert len(lines) == 2
    assert shlex.split(lines[0]["command"]) == sys.argv
    assert lines[0]["cpus"] >= 1 and lines[0]["versions"]["torch"].startswith("2.")


def test_the_commit_and_whether_files_differ_from_it(tmp_path: Path) -> None:
    assert starts.git_state(tmp_path) is None
    git(tmp_path, "init", "-q")
    (tmp_path / "file").write_text("a")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "first")
    commit = git(tmp_path, "rev-parse", "HEAD")
    assert starts.git_state(tmp_path) == {"commit": commit, "changed": False}
    (tmp_path / "file").write_text("b")
    assert starts.git_state(tmp_path) == {"commit": commit, "changed": True}
    # A package installed inside somebody's repository is not of that repository.
    (tmp_path / "site-packages").mkdir()
    assert starts.git_state(tmp_path / "site-packages") is None


def test_what_does_not_answer_is_not_waited_for(monkeypatch: Any) -> None:
    assert starts._answer("no-such-program") is None
    assert starts._answer("false") is None
    monkeypatch.setattr(starts, "_PATIENCE_S", 0.1)
    assert starts._answer("sleep", "30") is None
