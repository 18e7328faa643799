"""Checkpoints that are not what was written: they are found, named and set aside."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from experiments.common.checksums import SUMS, damage, write_sums
from experiments.common.run_folder import RunFolder, checkpoints, newest_whole
from experiments.export import export


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("state.pt", "inner/policy.safetensors", "inner/deeper/a b.json"):
        file = tmp_path / "whole" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(name.encode() * 1000)
    write_sums(tmp_path / "whole")
    return tmp_path / "whole"


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1  # a bit
    file.write_bytes(data)


def cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "flipped bit": (lambda folder: flip(folder / "state.pt"), "state.pt is not what was written"),
    "cut short": (lambda folder: cut(folder / "inner/policy.safetensors"), "inner/policy.safetensors is not what"),
    "empty file": (lambda folder: os.truncate(folder / "state.pt", 0), "state.pt is not what was written"),
    "missing": (lambda folder: (folder / "inner/deeper/a b.json").unlink(), "inner/deeper/a b.json is not there"),
    "empty": (lambda folder: (shutil.rmtree(folder), folder.mkdir()), "it is empty"),
    "list cut short": (lambda folder: os.truncate(folder / SUMS, 0), "SHA256SUMS is damaged"),
    "list flipped": (lambda folder: flip(folder / SUMS), "is not"),
}  # fmt: skip


def test_what_was_written_is_whole_and_sha256sum_agrees(folder: Path) -> None:
    assert damage(folder) is None
    done = subprocess.run(["sha256sum", "-c", SUMS], cwd=folder, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.count(": OK")) == (0, 3)
    (folder / SUMS).unlink()
    assert damage(folder) is None, "of a time before there were lists"


@pytest.mark.parametrize("how", DAMAGES)
def test_damage_is_found_and_named(folder: Path, how: str) -> None:
    inject, words = DAMAGES[how]
    inject(folder)
    assert words in (damage(folder) or "")


def test_a_part_is_looked_at_alone(folder: Path) -> None:
    flip(folder / "state.pt")
    assert damage(folder, "inner") is None
    assert damage(folder, "state.pt") == "state.pt is not what was written"


def save(path: str) -> None:
    policy = Path(path) / "learner_group" / "learner" / "policy"
    policy.mkdir(parents=True)
    (policy / "model.safetensors").write_bytes(bytes(1000))
    (policy.parent / "engine.pt").write_bytes(bytes(1000))


def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_taken(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    for iteration in (1, 2, 3):
        run.save_checkpoint(iteration, save, keep=3)
    told: list[str] = []
    assert newest_whole(tmp_path, told.append) == tmp_path / "checkpoints" / "iteration_000003" and not told
    flip(checkpoints(tmp_path)[2] / "learner_group" / "learner" / "engine.pt")
    cut(checkpoints(tmp_path)[1] / "learner_group" / "learner" / "policy" / "model.safetensors")
    assert newest_whole(tmp_path, told.append) == tmp_path / "checkpoints" / "iteration_000001"
    assert [line.split(":")[0] for line in told] == [
        "checkpoint iteration_000003 is damaged (learner_group/learner/engine.pt is not what was written)",
        "checkpoint iteration_000002 is damaged "
        "(learner_group/learner/policy/model.safetensors is not what was written)",
    ]
    assert sorted(os.listdir(tmp_path / "checkpoints")) == [
        "damaged_000002",
        "damaged_000003",
        "iteration_000001",
    ]
    run.save_checkpoint(3, save, keep=3)  # it is written again
    told.clear()
    assert newest_whole(tmp_path, told.append) == tmp_path / "checkpoints" / "iteration_000003" and not told


def test_where_none_is_whole_nothing_is_touched(tmp_path: Path) -> None:
    for iteration in (1, 2):
        RunFolder(tmp_path).save_checkpoint(iteration, save, keep=2)
    for checkpoint in checkpoints(tmp_path):
        flip(checkpoint / "learner_group" / "learner" / "engine.pt")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(
        ValueError, match=r"to resume from: iteration_000002 is damaged .*; iteration_000001 is"
    ):
        newest_whole(tmp_path, print)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_damaged_policy_is_not_exported(tmp_path: Path) -> None:
    RunFolder(tmp_path).save_checkpoint(1, save, keep=1)
    flip(checkpoints(tmp_path)[0] / "learner_group" / "learner" / "policy" / "model.safetensors")
    with pytest.raises(ValueError, match=r"iteration_000001 is damaged \(.*model.safetensors is not what"):
        export(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
