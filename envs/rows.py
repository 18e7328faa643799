"""The environment made of a data set: tasks are its rows, by chance or by index. Knows no data set and no format."""

from __future__ import annotations

from abc import abstractmethod
from operator import index
from typing import Any

from llmenv.data import Rows
from llmenv.env import Task, TaskEnv


class RowEnv(TaskEnv[Task]):
    """A one-turn environment whose tasks are the rows of a data set.

    A subclass gives the rows (`set_rows`), and says which task a row is (`from_row`). `reset` draws a row uniformly,
    `reset(options={"index": i})` sets row i: to go through them in some order is for others to do.
    """

    def set_rows(self, rows: Rows) -> None:
        """Take `rows`, and make a task of the first, so that data of another kind is refused here."""
        self.rows = rows
        self.num_tasks = len(rows)
        self.task_at(0)

    @abstractmethod
    def from_row(self, row: dict[str, Any], number: int) -> Task:
        """Make the task of row `number`; `ValueError` says what the row lacks."""

    def draw(self) -> Task:
        return self.task_at(int(self.np_random.integers(len(self.rows))))

    def from_options(self, options: dict[str, Any]) -> Task:
        remedy = f'give options={{"index": i}}, with i from 0 to {len(self.rows) - 1}'
        number = index_from(options, remedy)
        if not 0 <= number < len(self.rows):
            raise ValueError(f"there is no row {number}: {remedy}")
        return self.task_at(number)

    def task_at(self, number: int) -> Task:
        """The task of a row; `ValueError` names the row and says why it is none."""
        try:
            return self.from_row(self.rows[number], number)
        except ValueError as error:
            raise ValueError(f"{self.rows.where(number)}: {error}") from error


def index_from(options: dict[str, Any], remedy: str) -> int:
    """The i of `reset(options={"index": i})`; `ValueError`, which ends with the remedy, for any other options."""
    if set(options) != {"index"}:
        raise ValueError(f"options has the keys {sorted(map(str, options))}: {remedy}")
    try:
        return index(options["index"])
    except TypeError as error:
        raise ValueError(f"{error}: {remedy}") from None
