"""Writes the data set of a task, in the schema of TinyZero and verl.

    python experiments/prepare_data.py --task countdown --out data/countdown
    python experiments/prepare_data.py --check-data data/countdown

The folder gets train.parquet and test.parquet, which have no task in common: for `--env Dataset-v0`, TinyZero or verl.
The same options give the same bytes. Generated tasks are drawn as the environment draws them, each once as long as
there are new ones. Of a data set, rows are taken in their order, all of them unless told otherwise; those that an
environment refuses are left out, and told of. `--check-data` writes nothing, and tells of all rows of what is there.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from envs.countdown import CountdownEnv
from envs.multiplication import MultiplicationEnv
from envs.rows import RowEnv
from envs.sources import SOURCES
from experiments.common.check_data import AllOfGSM8K, AllOfMATH, check_data, read_tasks
from experiments.common.errors import told
from experiments.common.here import folder
from experiments.common.plain import printable
from llmenv.env import TaskEnv
from llmenv.schema import Prompt, flat_prompt, task_row, task_schema, write_rows

Option = typer.Option
SPLITS = {"train": 327_680, "test": 1024}  # and how many tasks TinyZero generates for each
TEMPLATES = ("r1", "chat")
MAX_STALE_DRAWS = 1000  # in a row without a new task: the split is exhausted, and from then on tasks repeat


@dataclass(frozen=True)
class Recipe:
    """What the rows of a task are made of.

    Attributes:
        env: Draws the tasks and asks them.
        data_source: Tells a trainer how to judge answers.
        key: The same for two tasks if they are the same task.
        truth: What a task's answers are judged by.
        truth_type: The type of that.
        columns: What a task has in columns of its own.
        fields: The names and types of those.
        splits: Those that it has.
    """

    env: Callable[..., TaskEnv]
    data_source: str
    key: Callable[[Any], Hashable]
    truth: Callable[[Any], Any]
    truth_type: pa.DataType
    columns: Callable[[Any], dict[str, Any]] = lambda task: {}
    fields: tuple[pa.Field, ...] = ()
    splits: tuple[str, ...] = tuple(SPLITS)


NUMBERS = pa.list_(pa.int64())
RECIPES = {
    "countdown": Recipe(
        CountdownEnv,
        "countdown",
        key=lambda task: (*sorted(task.numbers), task.target),
        truth=lambda task: {"target": task.target, "numbers": task.numbers},
        truth_type=pa.struct([("target", pa.int64()), ("numbers", NUMBERS)]),
        columns=lambda task: {"target": task.target, "nums": task.numbers},
        fields=(pa.field("target", pa.int64()), pa.field("nums", NUMBERS)),
    ),
    "multiplication": Recipe(
        MultiplicationEnv,
        "multiply",
        key=lambda task: tuple(sorted(task)),
        truth=lambda task: task.a * task.b,
        truth_type=pa.int64(),
        columns=lambda task: {"num1": task.a, "num2": task.b, "result": task.a * task.b},
        fields=tuple(pa.field(name, pa.int64()) for name in ("num1", "num2", "result")),
    ),
    "gsm8k": Recipe(
        AllOfGSM8K,
        "openai/gsm8k",
        key=lambda task: task.question,
        truth=lambda task: task.answer,
        truth_type=pa.string(),
    ),
    "math": Recipe(
        AllOfMATH,
        "DigitalLearningGmbH/MATH-lighteval",
        key=lambda task: task.question,
        truth=lambda task: task.answer,
        truth_type=pa.string(),
    ),
}
for _name, _source in SOURCES.items():
    if _name not in RECIPES and "prompt" not in _source.columns and "nums" not in _source.columns:
        RECIPES[_name] = Recipe(
            partial(AllOfMATH, data=_name),
            f"math/{_name}",  # which Dataset-v0 knows as mathematics
            key=lambda task: task.question,
            truth=lambda task: task.answer,
            truth_type=pa.string(),
            splits=tuple(split for split in SPLITS if _source.hub(split)),
        )


@dataclass
class Written:
    """What is known of a split once it is written."""

    num_rows: int = 0
    num_characters: int = 0
    refused: list[ValueError] = field(default_factory=list)
    keys: set[Hashable] = field(default_factory=set)
    seconds: float = 0.0


def main(
    task: Annotated[str | None, Option(help=f"{', '.join(RECIPES)}.")] = None,
    out: Annotated[
        Path | None, Option(parser=folder, help="Folder for train.parquet and test.parquet.")
    ] = None,
    num_train: Annotated[
        int | None, Option(min=1, help="Rows to train on. [default: 327680, or all of a data set]")
    ] = None,
    num_test: Annotated[
        int | None, Option(min=1, help="Rows held out. [default: 1024, or all of a data set]")
    ] = None,
    seed: Annotated[int, Option(min=0, help="Generated tasks are a function of it.")] = 0,
    template: Annotated[
        str,
        Option(
            help="r1: one message with the whole prompt, as TinyZero has it; chat: a system and a user message."
        ),
    ] = "r1",
    check: Annotated[
        str | None,
        Option(
            "--check-data", help="Write nothing: read all rows of a file, folder, hub id or named data set."
        ),
    ] = None,
    env: Annotated[
        str | None, Option(help="The environment that is to read them. [default: by their columns]")
    ] = None,
) -> None:
    """Writes the data set of a task, in the schema of TinyZero and verl."""
    with told():
        if check is not None:
            check_data(check, env, Console(highlight=False))
            return
        if task is None or out is None:
            raise ValueError("say --task and --out to write a data set, or --check-data to look at one")
        if task not in RECIPES:
            raise ValueError(f"there is no task {task!r}: choose one of {', '.join(RECIPES)}")
        if template not in TEMPLATES:
            raise ValueError(f"there is no template {template!r}: choose one of {', '.join(TEMPLATES)}")
        prepare(RECIPES[task], out, {"train": num_train, "test": num_test}, seed, template)


def prepare(recipe: Recipe, out: Path, counts: dict[str, int | None], seed: int, template: str) -> None:
    """Writes both splits under temporary names; they get their own when both are whole, and disjoint.

    Raises:
        ValueError: If the environment finds no data, or the splits have tasks in common.
    """
    console = Console(highlight=False)
    envs = {split: recipe.env(split=split) for split in recipe.splits}
    out.mkdir(parents=True, exist_ok=True)
    parts = {split: out / f".{split}.parquet.part" for split in recipe.splits}
    try:
        written = {
            split: _write_split(recipe, envs[split], parts[split], counts[split], seed, template, console)
            for split in recipe.splits
        }
        if (
            common := set.intersection(*(part.keys for part in written.values()))
            if len(written) > 1
            else None
        ):
            raise ValueError(
                f"{len(common)} tasks are in both splits, such as {min(map(str, common))[:80]!r}: take them out of the "
                "held-out data first; nothing was written"
            )
        for split in recipe.splits:
            os.replace(parts[split], out / f"{split}.parquet")
    finally:
        for part in parts.values():
            part.unlink(missing_ok=True)
    _summarize(out, written, console)


def _write_split(
    recipe: Recipe, env: TaskEnv, file: Path, count: int | None, seed: int, template: str, console: Console
) -> Written:
    started = time.monotonic()
    count = count or env.num_tasks or SPLITS[env.split]
    count = min(count, env.num_tasks or count)
    env.np_random = np.random.default_rng([seed, list(SPLITS).index(env.split)])
    written = Written()
    progress = Progress(
        TextColumn(f"{env.split:5}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )

    def rows() -> Iterator[dict[str, Any]]:
        for index, task in enumerate(_tasks(recipe, env, count, written)):
            prompt = _prompt(env, task, template)
            written.num_characters += sum(len(message["content"]) for message in prompt)
            yield task_row(
                recipe.data_source, prompt, recipe.truth(task), env.split, index, **recipe.columns(task)
            )
            written.num_rows += 1
            if written.num_rows % 1000 == 0:
                progress.update(bar, completed=written.num_rows)

    with progress:
        bar = progress.add_task(env.split, total=count)
        write_rows(file, rows(), task_schema(recipe.truth_type, *recipe.fields))
        progress.update(bar, completed=count)
    written.seconds = time.monotonic() - started
    return written


def _tasks(recipe: Recipe, env: TaskEnv, count: int, written: Written) -> Iterator[Any]:
    """The rows of a data set in their order, or drawn tasks; their keys are added to those of what is written."""
    keys = written.keys
    if isinstance(env, RowEnv):
        good = 0
        for _, task in read_tasks(env):
            if isinstance(task, ValueError):
                written.refused.append(task)
            else:
                keys.add(recipe.key(task))
                yield task
                good += 1
            if good == count:
                return
        return
    num_stale = 0
    for _ in range(count):
        task = env.draw()
        while (key := recipe.key(task)) in keys and num_stale < MAX_STALE_DRAWS:
            num_stale += 1
            task = env.draw()
        if num_stale < MAX_STALE_DRAWS:
            num_stale = 0
        keys.add(key)
        yield task


def _prompt(env: TaskEnv, task: Any, template: str) -> list[dict[str, str]]:
    question, info = env.question(task), env.prompt_info(task)
    if template == "r1":
        return [{"role": "user", "content": flat_prompt(Prompt(question, **info))}]
    return [{"role": "system", "content": info["system"]}, {"role": "user", "content": question}]


def _summarize(out: Path, written: dict[str, Written], console: Console) -> None:
    table = Table(title=str(out))
    for column in ("", "rows", "distinct tasks", "characters a prompt", "bytes", "seconds"):
        table.add_column(column, justify="right")
    for split, part in written.items():
        size = (out / f"{split}.parquet").stat().st_size
        mean = part.num_characters / part.num_rows
        table.add_row(
            split,
            f"{part.num_rows:,}",
            f"{len(part.keys):,}",
            f"{mean:.1f}",
            f"{size:,}",
            f"{part.seconds:.1f}",
        )
    console.print(table)
    for split, part in written.items():
        if part.refused:
            first = f"{len(part.refused):,} rows were left out, the first since {part.refused[0]}"
            console.print(printable(f"{split}: {first}"), markup=False)
        if len(part.keys) < part.num_rows:
            console.print(
                f"{split}: there are no more than {len(part.keys):,} tasks, so some are there twice or more"
            )


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
app.command()(main)

if __name__ == "__main__":
    app()
