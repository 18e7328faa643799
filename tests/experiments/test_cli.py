"""The command `llmenv`: the scripts' own functions, listed without importing one."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from experiments import run
from experiments.cli import ScriptGroup, app
from experiments.common.commands import COMMANDS, called

ROOT = Path(__file__).parents[2]


def group() -> ScriptGroup:
    made = typer.main.get_command(app)
    assert isinstance(made, ScriptGroup)
    return made


def test_every_script_is_a_command() -> None:
    scripts = {file.stem for file in (ROOT / "experiments").glob("*.py")}
    assert {command.script for command in COMMANDS.values()} == scripts - {"__init__", "cli", "make_tiny"}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_its_script(name: str) -> None:
    whole = group()
    found, command, rest = whole.resolve_command(typer.Context(whole), [name, "--help"])
    script = import_module(f"experiments.{COMMANDS[name].script}")
    assert (found, rest) == (name, ["--help"])
    assert inspect.unwrap(command.callback) is script.main
    assert COMMANDS[name].about == inspect.getdoc(script.main).partition("\n")[0]


LIGHT = """
import sys
from typer.testing import CliRunner
from experiments.cli import app

print(CliRunner().invoke(app, ["--help"], prog_name="llmenv").output)
print("heavy:", *{"numpy", "gymnasium", "pandas", "torch", "ray", "transformers"} & sys.modules.keys())
print("scripts:", *sorted(name for name in sys.modules if name.startswith("experiments.")))
"""


def test_help_has_groups_and_imports_nothing_heavy() -> None:
    environment = {**os.environ, "COLUMNS": "80"}
    command = [sys.executable, "-c", LIGHT]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, cwd=ROOT)
    shown, _, imported = done.stdout.partition("heavy:")
    assert imported.split() == [
        "scripts:",
        "experiments.cli",
        "experiments.common",
        "experiments.common.commands",
    ]
    assert max(map(len, shown.splitlines())) <= 80
    first_words = [line.split()[1] for line in shown.splitlines() if line.startswith(("│ ", "╭─ "))]
    listed = [word for word in first_words if word in {*COMMANDS, "Train", "Evaluate", "Data"}]
    assert listed == [
        *("Train", "train", "sweep", "r1"),
        *("Evaluate", "evaluate", "compare", "play", "report"),
        *("Data", "data", "generate", "export"),
    ]


@pytest.mark.parametrize("wrong", [["--iteration", "3"], ["--lr=-0.5"], ["--env=Nope-v0"], ["--gpus=1"]])
def test_what_is_wrong_is_told_as_the_script_tells_it(wrong: list[str]) -> None:
    here = CliRunner().invoke(app, ["train", *wrong], prog_name="llmenv")
    there = CliRunner().invoke(run.app, wrong, prog_name="run.py")
    assert here.exit_code == there.exit_code == 2
    assert here.stderr.replace("llmenv train", "run.py") == there.stderr


def test_a_command_that_there_is_not_is_told_with_the_nearest() -> None:
    done = CliRunner().invoke(app, ["trian"], prog_name="llmenv")
    assert done.exit_code == 2
    assert "Did you mean 'train'?" in done.stderr


@pytest.mark.parametrize(
    ("words", "at", "completed"),
    [("llmenv e", "1", ["evaluate", "export"]), ("llmenv train --ite", "2", ["--iterations"])],
)
def test_a_shell_completes_commands_and_their_options(words: str, at: str, completed: list[str]) -> None:
    environment = {"_LLMENV_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": at}
    done = CliRunner().invoke(app, prog_name="llmenv", env=environment)
    assert done.stdout.split() == completed


def test_what_to_do_next_is_called_as_this_was(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["experiments/run.py", "--plan"])
    assert called("train") == "python experiments/run.py"
    assert called("data") == "python experiments/prepare_data.py"
    monkeypatch.setattr(sys, "argv", ["/usr/bin/llmenv", "train"])
    assert called("train") == "llmenv train"
    monkeypatch.setattr(sys, "argv", ["/lib/experiments/run.py"])  # python -m, elsewhere
    monkeypatch.chdir(tmp_path)
    assert called("train") == "llmenv train"


def test_no_message_names_a_script_beside_called() -> None:
    """What is printed is true for both ways; docstrings are for readers."""
    for file in (ROOT / "experiments").rglob("*.py"):
        for line in file.read_text().splitlines():
            if re.search(r"""(?<!["'])["'](?!["']).*python experiments/""", line):
                assert "benchmarks" in file.parts, f"{file}: {line}"
