"""Which held-out tasks are asked for, and which samples of them: a pure function of the seed and their numbers.

An evaluation in training and one of its own ask for the same ones. Knows no model.
"""

from __future__ import annotations

from typing import Any

from llmenv.env import make_env
from llmenv.rollout import GroupRequest, row_at

# First keys of the random streams; those of training are in `algorithms.tasks`.
EVALUATION_STREAM, EVALUATION_ROWS_STREAM = 2, 5
SEEDED = 1  # stands behind a seed other than 0: keys that end in zeros are the same as without them


def evaluation_requests(
    count: int, num_tasks: int | None, samples: int = 1, seed: int = 0, first: int = 0
) -> list[GroupRequest]:
    """Samples of each of `count` held-out tasks, or of all from `first` on where they are fewer.

    Args:
        count: Of tasks.
        num_tasks: Rows of the environment's data set; None where it draws its tasks.
        samples: Of each task. The first ones are the same however many there are.
        seed: 0 asks for what every training run is evaluated on.
        first: The number of the first task. Those of other numbers are other rows of a data set.
    """
    keys = (seed, SEEDED) if seed else ()
    tasks = range(first, first + count)
    if num_tasks is not None:
        tasks = range(min(first, num_tasks), min(first + count, num_tasks))
    rows = rows_of(num_tasks, tasks, EVALUATION_ROWS_STREAM, *keys)
    return [
        GroupRequest.derive(task, samples, EVALUATION_STREAM, *keys, options=row)
        for task, row in zip(tasks, rows, strict=True)
    ]


def count_tasks(env_id: str, env_config: dict[str, Any]) -> int | None:
    """How many rows the environment's data set has; None for one that draws its tasks."""
    env = make_env(env_id, env_config)
    num_tasks = getattr(env.unwrapped, "num_tasks", None)
    env.close()
    return num_tasks


def rows_of(num_tasks: int | None, positions: range, *keys: int) -> list[dict[str, int] | None]:
    """The `reset` options for positions in a data set's walk; None each where the environment draws its tasks."""
    if num_tasks is None:
        return [None for _ in positions]
    return [{"index": row_at(position, num_tasks, *keys)} for position in positions]
