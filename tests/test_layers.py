"""Imports go down only, and heavy packages stay in their layers. Read from the source, not by importing."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("llmenv", "algorithms", "envs", "experiments")
# A folder is a layer. The longest name that a module begins with decides; what stands in a package itself and has no
# line of its own is of the package's layer.
LAYERS = {
    "llmenv": 0,
    "envs": 0,
    "llmenv.models": 1,
    "llmenv.policy": 1,
    "algorithms.losses": 1,
    "algorithms.advantages": 1,
    "llmenv.weights": 2,
    "llmenv.samplers": 2,
    "llmenv.engines": 2,
    "llmenv.rollout": 2,
    "llmenv.evaluation": 2,
    "llmenv.rllib": 3,
    "algorithms": 4,
    "experiments": 5,
}
# These modules import what judges answers, and run in processes of their own.
IN_WORKERS = ("envs.verify.math_answer", "envs.verify.reasoning_gym_worker")
LIGHT = {*sys.stdlib_module_names, "numpy", "gymnasium", *PACKAGES}


def room_of(module: str) -> str:
    """The line of the table that a module falls under."""
    return max((name for name in LAYERS if f"{module}.".startswith(f"{name}.")), key=len)


def layer_of(module: str) -> int:
    return LAYERS[room_of(module)]


MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in PACKAGES
    for path in sorted((ROOT / package).rglob("*.py"))
}


def imports(path: Path, *, top_level_only: bool = False) -> Iterator[str]:
    """Full names of what a file imports; `from llmenv import weights` gives llmenv.weights."""
    tree = ast.parse(path.read_text())
    lazy = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if top_level_only and id(node) in lazy:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            name = node.module or ""
            for alias in node.names:
                inner = f"{name}.{alias.name}"
                yield inner if inner in MODULES else name


def ours(path: Path) -> set[str]:
    return {name for name in imports(path) if name.split(".")[0] in PACKAGES}


def test_there_is_something_to_check() -> None:
    assert {"llmenv.rllib.learner", "algorithms.base", "envs.countdown"} <= MODULES.keys()
    assert "algorithms.losses" in ours(ROOT / "algorithms" / "learner.py")
    assert "llmenv.weights.format" in ours(ROOT / "llmenv" / "samplers" / "transformers.py")


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down_only(module: str) -> None:
    above = {name for name in ours(MODULES[module]) if layer_of(name) > layer_of(module)}
    assert not above, f"{module} (layer {layer_of(module)}) imports {above} from above"


def test_no_two_rooms_import_each_other() -> None:
    """Within a layer too, arrows between rooms go one way: each room can be read without those that use it."""
    arrows = {(room_of(module), room_of(name)) for module, path in MODULES.items() for name in ours(path)}
    below = {room: {to for source, to in arrows if source == room} - {room} for room in LAYERS}
    while leaves := {room for room, rooms in below.items() if not rooms & below.keys()}:
        below = {room: rooms for room, rooms in below.items() if room not in leaves}
    assert not below


@pytest.mark.parametrize("module", MODULES)
def test_packages_know_only_those_they_may(module: str) -> None:
    package = module.split(".")[0]
    forbidden = {
        "llmenv": {"algorithms", "envs", "experiments"},
        "envs": {"algorithms", "experiments"},
        "algorithms": {"envs", "experiments"},
        "experiments": set(),
    }[package]
    assert not {name for name in ours(MODULES[module]) if name.split(".")[0] in forbidden}


@pytest.mark.parametrize(
    "module", [name for name in MODULES if name.startswith("llmenv") and layer_of(name) < 3]
)
def test_only_the_seams_of_llmenv_import_ray(module: str) -> None:
    assert not {name for name in imports(MODULES[module]) if name.split(".")[0] == "ray"}


@pytest.mark.parametrize("module", [name for name in MODULES if layer_of(name) == 0])
def test_the_lowest_layer_is_light_at_import(module: str) -> None:
    light = (
        LIGHT | {"sympy", "mpmath", "mpmath.libmp", "reasoning_gym"}
        if module.startswith(IN_WORKERS)
        else LIGHT
    )
    names = imports(MODULES[module], top_level_only=True)
    assert not {name for name in names if name.split(".")[0] not in light}


@pytest.mark.parametrize("module", [name for name in MODULES if not name.startswith(IN_WORKERS)])
def test_what_runs_in_worker_processes_is_imported_there_alone(module: str) -> None:
    assert not {name for name in imports(MODULES[module]) if name.startswith(IN_WORKERS)}


@pytest.mark.parametrize("module", [name for name in MODULES if layer_of(name) == 1])
def test_losses_and_advantages_and_their_layer_import_no_rllib(module: str) -> None:
    assert not {
        name for name in imports(MODULES[module]) if name.split(".")[0] in ("ray", "deepspeed", "vllm")
    }


# Declarations of options: a line an argument, and one for what it says.
LONG_FUNCTIONS = {
    "experiments/run.py": {"main"},
    "experiments/evaluate.py": {"main"},
    "experiments/sweep.py": {"main"},
    "algorithms/sections/training.py": {"training"},
}


FILES = sorted(path for package in (*PACKAGES, "tests") for path in (ROOT / package).rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_hold_one_idea(path: Path) -> None:
    """A file that has more than 350 lines, or a function more than 60, has a second one in it."""
    text = path.read_text()
    assert len(text.splitlines()) <= 350
    long = {
        node.name
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or 0) - node.lineno >= 60
    }
    assert long == LONG_FUNCTIONS.get(path.relative_to(ROOT).as_posix(), set())
