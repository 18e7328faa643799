"""A wheel, as `python -m build` makes it, holds all of the program, and works in a folder of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("algorithms", "envs", "experiments", "llmenv")
pytestmark = pytest.mark.slow


class Installed(NamedTuple):
    """A wheel, and where it is installed: its interpreter's folder, and an empty one to work in."""

    wheel: Path
    bin: Path
    here: Path

    def run(self, program: str, *arguments: str) -> str:
        """What a program of that environment prints; it must end well."""
        command = [str(self.bin / program), *arguments]
        done = subprocess.run(
            command, cwd=self.here, env=elsewhere(), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


def elsewhere() -> dict[str, str]:
    """The environment without the tests' path, by which pip too would find this llmenv, and take it for installed."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """Built from a copy, without network. What it depends upon is this environment's, but not this llmenv."""
    folder = tmp_path_factory.mktemp("wheel")
    source, dist, venv = folder / "source", folder / "dist", folder / "venv"
    source.mkdir()
    for name in PACKAGES:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    python = [sys.executable, "-m"]
    subprocess.run(
        [*python, "build", "--no-isolation", "--outdir", dist, source], check=True, capture_output=True
    )
    subprocess.run([*python, "twine", "check", "--strict", *dist.iterdir()], check=True)
    (wheel,) = dist.glob("*.whl")
    subprocess.run([*python, "venv", "--without-pip", venv], check=True)
    pip = [*python, "pip", "--python", venv / "bin" / "python", "install", "-q", "--no-compile"]
    subprocess.run([*pip, "--no-deps", "--no-index", wheel], check=True, env=elsewhere())
    # Only now, so that pip finds no other llmenv to take away. What a .pth names has none of its own carried out.
    (site,) = venv.glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    here = folder / "here"
    here.mkdir()
    return Installed(wheel, venv / "bin", here)


def test_it_holds_every_file_of_the_packages(installed: Installed) -> None:
    tracked = subprocess.run(
        ["git", "ls-files", *PACKAGES], cwd=ROOT, capture_output=True, text=True, check=True
    )
    names = zipfile.ZipFile(installed.wheel).namelist()
    held = {name for name in names if not name.partition("/")[0].endswith(".dist-info")}
    assert held == {*tracked.stdout.splitlines()}


def test_the_command_trains_and_evaluates_elsewhere(installed: Installed) -> None:
    where = "import envs, llmenv, sys; print(envs.__file__, llmenv.__file__)"
    assert all(str(installed.bin.parent) in file for file in installed.run("python", "-c", where).split())
    assert "Evaluate and look" in installed.run("llmenv", "--help")
    size = ["--prompts-per-iteration=2", "--group-size=4", "--eval-tasks=4", "--max-new-tokens=32"]
    # A process of Ray's, too, finds what is installed.
    installed.run(
        *("llmenv", "train", "--env=Countdown-v0", "--algo=GRPO", "--iterations=1", "--output=run"),
        *("--num-env-runners=1", *size),
    )
    run = installed.here / "run"
    assert json.loads((run / "summary.json").read_text())["iterations"] == 1
    assert "<html" in (run / "report.html").read_text()
    assert "tinyzero_countdown" in installed.run("python", "-m", "experiments.run", "--help")
    installed.run("llmenv", "evaluate", "--model=run", "--num-tasks=2", "--samples=1", "--output=evaluation")
    assert json.loads((installed.here / "evaluation" / "summary.json").read_text())
    assert {file.name for file in installed.here.iterdir()} == {"run", "evaluation"}
