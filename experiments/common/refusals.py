"""What a command refuses before anything heavy is imported: names that are misspelt, values that mean nothing.

The sections of a config are its methods, and their settings the arguments: they are read from the source, since
importing RLlib takes seconds.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import algorithms
from algorithms import bounds
from llmenv.misspelt import nearest

Sections = Mapping[str, Mapping[str, Any]]
OURS = (
    "config.py",
    "distill.py",
    "grpo.py",
    "ppo.py",
    "rft.py",
    "sft.py",
    "sections/*.py",
)  # of `algorithms`
RLLIB = Path("rllib", "algorithms", "algorithm_config.py")
# Settings that an option of another name sets.
OPTIONS = {"evaluation_duration": "eval-tasks", "run_seed": "seed", "zero_stage": "zero-stage"}


def refuse(sections: Sections, options: Sections) -> None:
    """Refuses settings by name and by value.

    Args:
        sections: Of presets, files and `--set`.
        options: The command line's own, which are called by their options' names.

    Raises:
        ValueError: For the first that is wrong.
    """
    for section, values in sections.items():
        refuse_names(section, values)
    for given, shown in ((sections, "{section}.{name}"), (options, "--{option}")):
        for section, values in given.items():
            bounds.check(
                section,
                values,
                lambda name, section=section, shown=shown: shown.format(  # type: ignore[misc]
                    section=section, name=name, option=option(name)
                ),
            )


def option(name: str) -> str:
    """What a setting's option is called on the command line."""
    return OPTIONS.get(name, name.replace("_", "-"))


def refuse_names(section: str, names: Iterable[str]) -> None:
    """Raises `ValueError`, with what may have been meant, for a section or a setting that there is not."""
    if section not in _ours() and section not in _rllibs():
        raise ValueError(
            f"there is no section {section!r}{nearest(section, _ours())}: one of {_list(_ours())}"
        )
    known = _ours().get(section, {})
    for name in names:
        if name not in known and name not in _rllibs().get(section, {}):
            raise ValueError(
                f"there is no setting {section}.{name}{nearest(name, known)}: {section} has {_list(known)}"
            )


def _list(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))


@cache
def _ours() -> dict[str, dict[str, None]]:
    """The sections and settings of our own configs, and those of RLlib's that have a bound here."""
    folder = Path(algorithms.__file__ or "").parent
    files = [file for pattern in OURS for file in sorted(folder.glob(pattern))]
    found: dict[str, dict[str, None]] = {}
    for part in (*map(_arguments, files), {name: dict.fromkeys(of) for name, of in bounds.BOUNDS.items()}):
        for section, names in part.items():
            found.setdefault(section, {}).update(names)
    return found


@cache
def _rllibs() -> dict[str, dict[str, None]]:
    ray = find_spec("ray")
    assert ray is not None and ray.submodule_search_locations
    return _arguments(Path(ray.submodule_search_locations[0], RLLIB))


def _arguments(file: Path) -> dict[str, dict[str, None]]:
    """The arguments of a file's methods that set something: those with arguments that may be `NotProvided`."""
    found: dict[str, dict[str, None]] = {}
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.FunctionDef):
            defaults = node.args.defaults
            pairs = [
                *zip(node.args.args[len(node.args.args) - len(defaults) :], defaults, strict=True),
                *zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True),
            ]
            if any(getattr(default, "id", None) == "NotProvided" for _, default in pairs):
                found.setdefault(node.name, {}).update(dict.fromkeys(arg.arg for arg, _ in pairs))
    return found
