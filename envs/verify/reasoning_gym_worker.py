"""What runs reasoning-gym in worker processes (`envs.verify.workers`): tasks, scores; knows no environment and no form.

Tasks are made here and not beside the environment because some of them depend on the order of sets, which a worker
fixes, and because not all that they are judged by can be sent. Some of the library's scorers evaluate the answer as
Python. Here they get functions in place of `eval` and of sympy's `parse_expr` that run no code of a model's.
"""

from __future__ import annotations

import ast
import json
import re
from functools import lru_cache
from typing import Any

import reasoning_gym
import sympy
from reasoning_gym.algorithmic import binary_matrix, spiral_matrix, string_insertion
from reasoning_gym.composite import DatasetSpec
from reasoning_gym.factory import DATASETS
from reasoning_gym.games import countdown, n_queens, puzzle24

_COMPARED = {"game_of_life_halting"}  # its own scorer takes any text for right
_FORMULA = re.compile(r"[\w\s+\-*/^(),.]*")
_NAME = re.compile(r"[^\W\d]\w*")
_FUNCTIONS = {
    *("sin", "cos", "tan", "sec", "csc", "cot", "asin", "acos", "atan", "sinh", "cosh", "tanh"),
    *("exp", "log", "ln", "sqrt", "Abs", "pi"),
}
_SUM = re.compile(r"(?:[\d\s()]|(?P<operator>[+\-*/])(?!(?P=operator)))*")
_parse_expr = sympy.parse_expr


def _parse_formula(text: str, *arguments: Any, **options: Any) -> Any:
    """`sympy.parse_expr` of arithmetic over single letters and known functions, which leaves nothing to call."""
    names = set(_NAME.findall(text))
    if not _FORMULA.fullmatch(text) or any(len(name) > 1 and name not in _FUNCTIONS for name in names):
        raise SyntaxError("not a formula")
    return _parse_expr(text, *arguments, **options)


for _module in (binary_matrix, spiral_matrix, string_insertion, n_queens):
    _module.eval = ast.literal_eval
sympy.parse_expr = countdown.parse_expr = puzzle24.parse_expr = _parse_formula


@lru_cache(maxsize=4)
def _dataset(name: str, config: str) -> Any:
    if name not in DATASETS:
        raise ValueError(f"there is no data set {name!r}")
    arguments = json.loads(config)
    if name == "composite":
        specs = arguments.get("datasets", [])
        arguments["datasets"] = [DatasetSpec(**{"weight": 1.0, "config": {}, **spec}) for spec in specs]
    return reasoning_gym.create_dataset(name, **arguments)


@lru_cache(maxsize=64)  # the samples of a group are scored one after the other
def _entry(name: str, config: str, index: str) -> dict[str, Any]:
    """Any index is a task; of the few data sets that hold no more than their size, in a circle."""
    dataset = _dataset(name, config)
    try:
        return dataset[int(index)]
    except IndexError:
        return dataset[int(index) % len(dataset)]


def ask(name: str, config: str, index: str) -> dict[str, str | None]:
    """A task's question, and its oracle answer or None."""
    entry = _entry(name, config, index)
    return {"question": entry["question"], "answer": entry["answer"]}


def score(name: str, config: str, index: str, answer: str) -> float:
    """What the data set's own scorer says of an answer; 0 where it fails on such a text."""
    entry = _entry(name, config, index)
    if name in _COMPARED:
        return float(answer == entry["answer"])
    try:
        if name == "puzzle24" and not _makes_24(answer, entry["metadata"]["numbers"]):
            return 0.0
        return float(_dataset(name, config).score_answer(answer, entry))
    except (MemoryError, RecursionError):
        raise
    except Exception:
        return 0.0


def _makes_24(answer: str, numbers: list[int]) -> bool:
    """Whether it uses the task's numbers, to which the library's scorer does not look, and is 24 and not 24.5."""
    uses = _SUM.fullmatch(answer) and sorted(map(int, re.findall(r"\d+", answer))) == sorted(numbers)
    return bool(uses and _parse_formula(answer.strip()) == 24)
