"""Whose a run folder is: two never write into one, and what is left behind by the dead is no obstacle."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments.common.ownership import LOCK, claim

CLAIMS = """
import sys, time
from pathlib import Path
from experiments.common.ownership import claim

while time.time() < float(sys.argv[2]):
    pass
claim(Path(sys.argv[1]), resuming=sys.argv[3] == "resuming")
print("mine", flush=True)
sys.stdin.read()
"""


def claiming(folder: Path, how: str = "new", at: float = 0.0) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", CLAIMS, str(folder), str(at), how]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def killed_run(folder: Path) -> None:
    """A folder whose run was killed: it has its settings and its lock still."""
    owner = claiming(folder)
    assert owner.stdout is not None and owner.stdout.readline() == "mine\n"
    (folder / "config.yaml").write_text("algo: GRPO\n")
    owner.kill()
    owner.communicate()
    assert (folder / LOCK).exists()


@pytest.mark.parametrize("how", ["new", "resuming"])
def test_of_many_at_once_one_gets_the_folder(tmp_path: Path, how: str) -> None:
    folder = tmp_path / "run"
    if how == "resuming":
        killed_run(folder)
    many = [claiming(folder, how, at=time.time() + 1.0) for _ in range(4)]
    lines = [process.stdout.readline() for process in many if process.stdout]
    assert lines.count("mine\n") == 1
    owner = many[lines.index("mine\n")]
    errors = [process.communicate()[1] for process in many if process is not owner]
    owner.communicate()
    assert all(f"process {owner.pid} on {socket.gethostname()}" in error for error in errors)


def test_a_living_owner_is_named(tmp_path: Path) -> None:
    owner = claiming(tmp_path)
    assert owner.stdout is not None and owner.stdout.readline() == "mine\n"
    for resuming in (False, True):
        with pytest.raises(ValueError, match=rf"being written by process {owner.pid} on .*\.lock"):
            claim(tmp_path, resuming=resuming)
    owner.communicate()


def test_a_dead_owner_is_succeeded_by_who_resumes_alone(tmp_path: Path) -> None:
    killed_run(tmp_path)
    with pytest.raises(ValueError, match=rf"was killed .*--resume {tmp_path}"):
        claim(tmp_path, resuming=False)
    claimed = claim(tmp_path, resuming=True)
    assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()
    claimed.release()
    assert os.listdir(tmp_path) == ["config.yaml"]


def test_a_number_that_another_process_has_got_is_no_owner(tmp_path: Path) -> None:
    """This process lives, and did not begin at the kernel's first tick."""
    owner = {"host": socket.gethostname(), "pid": os.getpid(), "started": "1"}
    (tmp_path / LOCK).write_text(json.dumps(owner))
    claim(tmp_path, resuming=True).release()


@pytest.mark.parametrize("text", ['{"host": "elsewhere", "pid": 1, "started": "1"}', ""])
def test_of_another_host_nothing_is_known(tmp_path: Path, text: str) -> None:
    (tmp_path / LOCK).write_text(text)
    with pytest.raises(ValueError, match=rf"delete {tmp_path / LOCK}"):
        claim(tmp_path, resuming=True)


@pytest.mark.parametrize(
    ("file", "message"), [("config.yaml", "a run already: .*--resume"), ("notes.txt", r"'notes\.txt'")]
)
def test_a_new_run_wants_a_folder_of_its_own(tmp_path: Path, file: str, message: str) -> None:
    (tmp_path / file).touch()
    with pytest.raises(ValueError, match=message):
        claim(tmp_path, resuming=False)
    assert os.listdir(tmp_path) == [file]


def test_what_is_discarded_leaves_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    for folder in (tmp_path / "runs", tmp_path / "new" / "a"):
        claimed = claim(folder, resuming=False)
        (folder / "checkpoints" / "iteration_000000").mkdir(parents=True)
        (folder / "config.yaml").touch()
        claimed.discard()
    assert sorted(tmp_path.rglob("*")) == [tmp_path / "runs"]
