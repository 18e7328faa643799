"""Reads all rows of a data set as an environment would, and tells which of them are of no use, and why.

An environment reads a row when it is drawn, so that a bad one shows in the middle of a run. Knows no model.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from envs import dataset
from envs.dataset import DatasetEnv
from envs.math_word import GSM8KEnv, MATHEnv
from envs.rows import RowEnv
from envs.sources import SOURCES, load_source
from experiments.common.plain import printable
from llmenv.data import Rows

SPLITS = ("train", "test")
MOST_SHOWN = 10  # reasons, and golds
_DOLLARS = re.compile(r"(?<!\\)\$")
_VALUES = re.compile(r"'(?:[^'\\]|\\.)*'|\[.*\]|\{.*\}", re.DOTALL)


class AllRows(RowEnv[Any]):
    """Mixed into an environment, it takes its rows unseen: the first need not be a good one."""

    def set_rows(self, rows: Rows) -> None:
        self.rows = rows
        self.num_tasks = len(rows)


class AllOfDataset(AllRows, DatasetEnv):
    """`Dataset-v0` on any rows."""


class AllOfGSM8K(AllRows, GSM8KEnv):
    """`GSM8K-v0` on any rows."""


class AllOfMATH(AllRows, MATHEnv):
    """`MATH-v0` on any rows."""


READERS: dict[str, type[Any]] = {"Dataset-v0": AllOfDataset, "GSM8K-v0": AllOfGSM8K, "MATH-v0": AllOfMATH}


@dataclass
class Checked:
    """What was found in a split.

    Attributes:
        origin: A file, folder or hub id.
        rows: How many there are.
        refused: The numbers of refused rows by reason, with an example of each.
        unread: Number and gold of the usable rows whose gold, between dollar signs, is not what the verifier accepts.
        golds: The gold of each question among the usable rows, the first one's.
        repeated: Usable rows whose question stands in an earlier one.
        contradicting: Those of them that have another gold.
    """

    origin: str
    rows: int
    refused: dict[str, list[int]] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    unread: list[tuple[int, str]] = field(default_factory=list)
    golds: dict[str, str] = field(default_factory=dict)
    repeated: int = 0
    contradicting: int = 0

    @property
    def usable(self) -> int:
        return self.rows - sum(map(len, self.refused.values()))


def read_tasks(env: RowEnv[Any]) -> Iterator[tuple[int, Any | ValueError]]:
    """Each row's number and task, or the error that refuses it."""
    for number in range(len(env.rows)):
        try:
            yield number, env.task_at(number)
        except ValueError as error:
            yield number, error.__cause__ if isinstance(error.__cause__, ValueError) else error


def check(env: RowEnv[Any]) -> Checked:
    """Reads all of an environment's rows."""
    found = Checked(env.rows.origin, len(env.rows))
    for number, task in read_tasks(env):
        if isinstance(task, ValueError):
            kind = _VALUES.sub("...", str(task))
            found.refused.setdefault(kind, []).append(number)
            found.reasons.setdefault(kind, str(task))
            continue
        gold = env.solution(task) or ""
        has_gold = getattr(task, "verifier", "math") in ("math", "integer")
        if has_gold and env.verify(task, f"${_DOLLARS.sub('', gold)}$") is not None:
            found.unread.append((number, gold))
        question = " ".join(env.question(task).split())
        first = found.golds.setdefault(question, gold)
        found.contradicting += first != gold
        found.repeated += 1
    found.repeated -= len(found.golds)
    return found


def reader_of(data: str) -> str:
    """The environment for a data set, by its columns."""
    columns: set[str] = set()
    if data in SOURCES:
        columns |= set(SOURCES[data].columns)
    for split in () if columns else SPLITS:
        with suppress(ValueError):
            columns |= set(load_source(data, split, (*dataset.COLUMNS, "question")).columns)
    if columns & {"prompt", "nums"}:
        return "Dataset-v0"
    return "GSM8K-v0" if "question" in columns else "MATH-v0"


def check_data(data: str, env_id: str | None, console: Console) -> dict[str, Checked]:
    """Checks all splits that a data set has, and prints what was found.

    Raises:
        ValueError: If it has none.
    """
    env_id = env_id or reader_of(data)
    if env_id not in READERS:
        raise ValueError(f"there are no rows for --env {env_id}: choose one of {', '.join(READERS)}")
    found: dict[str, Checked] = {}
    errors: dict[str, ValueError] = {}
    for split in SPLITS:
        try:
            env = READERS[env_id](data=data, split=split)
        except ValueError as error:
            errors[split] = error
            continue
        found[split] = check(env)
    if not found:
        raise next(iter(errors.values()))
    for split, missing in errors.items():
        _tell(console, f"no split {split!r}: {missing}")
    _show(found, env_id, console)
    return found


def _show(found: dict[str, Checked], env_id: str, console: Console) -> None:
    splits = list(found.values())
    table = Table(title=f"{splits[0].origin}, as {env_id} reads it")
    table.add_column("")
    for split in found:
        table.add_column(split, justify="right")
    common = len(set.intersection(*(set(part.golds) for part in splits))) if len(splits) == 2 else 0
    lines: list[tuple[str, Sequence[int]]] = [
        ("rows", [part.rows for part in splits]),
        ("usable", [part.usable for part in splits]),
        ("refused", [part.rows - part.usable for part in splits]),
        ("golds that do not accept themselves", [len(part.unread) for part in splits]),
        ("questions asked before", [part.repeated for part in splits]),
        ("of these, with another gold", [part.contradicting for part in splits]),
        ("questions that are in both splits", [common for _ in splits]),
    ]
    for name, numbers in lines:
        table.add_row(name, *(f"{number:,}" for number in numbers))
    console.print(table)
    for split, part in found.items():
        for kind, rows in sorted(part.refused.items(), key=lambda item: -len(item[1]))[:MOST_SHOWN]:
            _tell(
                console, f"{split}: {len(rows):,} refused, the first is row {rows[0]}: {part.reasons[kind]}"
            )
        if len(part.refused) > MOST_SHOWN:
            _tell(console, f"{split}: and {len(part.refused) - MOST_SHOWN} more reasons")
        for row, gold in part.unread[:MOST_SHOWN]:
            _tell(
                console,
                f"{split}: the gold of row {row} is not read, so that only its own characters are right: {gold[:100]}",
            )


def _tell(console: Console, text: str) -> None:
    console.print(
        Text(printable(text))
    )  # a row may have what rich takes for markup, or a terminal for commands
