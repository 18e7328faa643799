"""What the documentation says, out of its pages: commands, blocks, links, messages. Parses commands, runs none."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import typer

from experiments.common.commands import COMMANDS as SUB_COMMANDS

ROOT = Path(__file__).parents[1]
PAGES = {
    page.relative_to(ROOT).as_posix(): page.read_text()
    for page in (
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "AGENTS.md", "SECURITY.md")),
        *sorted((ROOT / "docs").rglob("*.md")),
    )
}
PYTHON = ("python", "python3", ".venv/bin/python")
STANDS_FOR_A_MODEL = ("/models/", "runs/", "s3://bucket/")  # folders of the reader's
OF_THE_READER = ("my_module:", "Reverse-v0")  # environments


def blocks(text: str, language: str) -> list[str]:
    """Fenced blocks, indented ones too."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL)
    return ["\n".join(line.removeprefix(indent) for line in body.splitlines()) for indent, body in found]


def commands(text: str) -> Iterator[str]:
    """Lines of ```bash blocks, and commands within a sentence or a table."""
    for block in blocks(text, "bash"):
        yield from (line for line in block.replace("\\\n", " ").splitlines() if line.strip())
    prose = re.sub(r"^ *```.*?^ *```", "", text, flags=re.MULTILINE | re.DOTALL)
    yield from re.findall(r"`((?:python|llmenv|make|pip) [^`]+)`", " ".join(prose.split()))


COMMANDS = [(page, command) for page, text in PAGES.items() for command in commands(text)]


def check(command: str) -> None:
    """Raises for a command that could not be run as it is written."""
    words = shlex.split(command, comments=True)
    while "&&" in words:
        _check(words[: words.index("&&")])
        words = words[words.index("&&") + 1 :]
    _check(words)


def _check(words: list[str]) -> None:
    match words:
        case [python, "-m", "venv" | "build", *_] if python in PYTHON:
            pass
        case [python, "-m", module, *rest] if python in PYTHON:
            _check_script(ROOT / f"{module.replace('.', '/')}.py", rest)
        case [python, script, *rest] if python in PYTHON:
            _check_script(ROOT / script, rest)
        case ["llmenv", "--help" | "--install-completion"]:
            pass
        case ["llmenv", name]:  # spoken of
            assert name in SUB_COMMANDS, name
        case ["llmenv", name, *rest]:
            _check_script(ROOT / "experiments" / f"{SUB_COMMANDS[name].script}.py", rest)
        case ["make", *rest]:
            (targets,) = re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
            assert {word for word in rest if "=" not in word} <= {*targets.split()}, rest
        case ["pip", "install", *rest]:
            known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
            for names in re.findall(r"(?:llmenv|^|\s|\.)\[([\w,-]+)\]", " ".join(rest)):
                assert {*names.split(",")} <= known.keys(), names
        case ["pip", "uninstall", *_] | [".", ".venv/bin/activate"] | [".venv/bin/pre-commit", "install"]:
            pass
        case _:
            raise AssertionError(f"nobody knows how to check {words}")


def _check_script(script: Path, arguments: list[str]) -> None:
    assert script.is_file(), script
    if "--" in arguments:  # what follows is a command line of run.py
        _check_script(ROOT / "experiments" / "run.py", arguments[arguments.index("--") + 1 :])
        arguments = arguments[: arguments.index("--")]
    if script.parent.name != "experiments" or "typer" not in script.read_text():
        given = {word.partition("=")[0] for word in arguments if word.startswith("--")}
        assert given <= _declared(script), f"{script} has no {given - _declared(script)}"
        return
    values, rest = _parsed(script.stem, arguments)
    _check_names(script.stem, values)
    if script.stem == "generate":  # what it does not know itself is evaluate.py's
        _check_names("evaluate", _parsed("evaluate", rest)[0])


def _parsed(name: str, arguments: list[str]) -> tuple[dict[str, Any], list[str]]:
    """What a command of typer's makes of arguments, and those that it passes on."""
    command = typer.main.get_command(importlib.import_module(f"experiments.{name}").app)
    context = command.make_context(name, [*arguments])
    return context.params, context.args


@cache
def _declared(script: Path) -> set[str]:
    """Options of a script that is too heavy to import: argparse's by name, typer's by the arguments of `main`."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(script.read_text())):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "add_argument":
            found |= {argument.value for argument in node.args if isinstance(argument, ast.Constant)}
        elif isinstance(node, ast.FunctionDef) and node.name == "main":
            found |= {f"--{argument.arg.replace('_', '-')}" for argument in node.args.args}
    return found


def _check_names(command: str, values: dict[str, Any]) -> None:
    """Presets, environments, settings and files that a command names are there."""
    if command == "r1":
        from experiments.recipes.recipe import read_recipe

        recipe = read_recipe(values["preset"], values.get("set_") or [], values.get("seed"))
        stages = {values.get("stage"), values.get("until")} - {None}
        assert stages <= recipe.stages.keys(), stages
        return
    from algorithms.names import method_name
    from experiments import prepare_data, sweep
    from experiments.common import refusals, settings, suites
    from llmenv.models import names

    assigned = settings.from_assignments(values.get("set_") or [])
    refusals.refuse(assigned, {})
    if values.get("preset"):
        settings.load_preset(values["preset"])
    if values.get("algo"):
        method_name(values["algo"])
    if values.get("suite"):
        suites.read_suite(values["suite"])
    if command == "sweep" and values.get("space"):
        assert (sweep.SPACES / f"{values['space']}.yaml").is_file()
    if command == "prepare_data" and values.get("task"):
        assert values["task"] in prepare_data.RECIPES
    model = values.get("model")
    if model and command != "export" and not values.get("base_url"):
        known = (*names.EMBEDDED, names.smollm2.NAME, "human")
        assert model in known or model.startswith(STANDS_FOR_A_MODEL), model
    check_environment(values.get("env") or [], assigned.get("environment", {}))


def check_environment(chosen: str | list[str], given: dict[str, Any]) -> None:
    """Environments are there, and those whose tasks are drawn take the arguments that they are given."""
    import gymnasium

    from experiments.common import settings
    from experiments.common.environments import environment

    chosen = [chosen] if isinstance(chosen, str) else chosen
    ours = [env for env in chosen if not env.startswith(OF_THE_READER)]
    section = {"environment": environment(ours) if ours else {}}
    section = settings.merge(section, {"environment": given})["environment"]
    drawn = ("Countdown", "Multiplication", "GuessNumber", "Mixture")
    parts = section.get("env_config", {}).get("parts", {}).values()
    named = [section.get("env", ""), *(part["env"] for part in parts)]
    if all(name.removeprefix("envs:").startswith(drawn) for name in named):
        gymnasium.make(section["env"], **section.get("env_config", {})).close()


def texts_of_sources() -> list[str]:
    """All texts in the sources; what is put in is NUL."""
    found = []
    for package in ("algorithms", "envs", "experiments", "llmenv"):
        for file in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.JoinedStr):
                    found.append(
                        "".join(
                            str(part.value) if isinstance(part, ast.Constant) else "\0"
                            for part in node.values
                        )
                    )
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.append(node.value)
    return found


def anchors(text: str) -> set[str]:
    """Of the headings of a page, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
