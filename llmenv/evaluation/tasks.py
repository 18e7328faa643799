"""Which held-out tasks are asked for, and which samples of them: a pure function of the seed and their numbers.

An evaluation in training and one of its own ask for the same ones. Knows no model.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from llmenv.env import make_env
from llmenv.rollout import GroupRequest, row_at

# First keys of the random streams; those of training are in `algorithms.tasks`.
EVALUATION_STREAM, EVALUATION_ROWS_STREAM = 2, 5
SEEDED = 1  # stands behind a seed other than 0: keys that end in zeros are the same as without them


@dataclass(frozen=True)
class Source:
    """Where tasks come from: an environment, or one of its parts.

    Attributes:
        part: Its name; None for an environment without parts.
        weight: Its share of what is trained on is this over the sum of all.
        num_tasks: Rows of its data set; None where it draws its tasks.
    """

    part: str | None
    weight: float
    num_tasks: int | None

    def options(self, row: dict[str, int] | None) -> dict[str, Any] | None:
        """Those of `reset`, for one of its tasks."""
        return row if self.part is None else {"part": self.part, **(row or {})}


def sources_of(env_id: str, env_config: dict[str, Any]) -> list[Source]:
    """The parts of an environment, or it alone."""
    env = make_env(env_id, env_config)
    own = env.unwrapped
    num_tasks, weights = getattr(own, "num_tasks", None), getattr(own, "part_weights", None)
    found = [Source(None, 1.0, num_tasks)]
    if weights is not None:
        found = [Source(part, weight, own.part_tasks[part]) for part, weight in weights.items()]  # type: ignore[attr-defined]
    env.close()
    return found


def requests_by_source(count: int, sources: Sequence[Source], first: int = 0) -> list[GroupRequest]:
    """A sample of each of `count` held-out tasks of every source: what each would be asked for alone.

    Args:
        count: Of tasks.
        sources: The parts of an environment, or it alone.
        first: The number of the first task.
    """
    requests: list[GroupRequest] = []
    for source in sources:
        for request in evaluation_requests(count, source.num_tasks, first=first):
            options = source.options(request.options)
            requests.append(replace(request, group=len(requests), options=options))
    return requests


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


def tasks_hash(env_id: str, env_config: dict[str, Any], requests: Sequence[GroupRequest]) -> str:
    """Of all that the environment says to these tasks, in order: another one is another benchmark, SHA-256 in hex."""
    env = make_env(env_id, env_config)
    digest = hashlib.sha256()
    for request in requests:
        observation, info = env.reset(seed=request.seed, options=request.options)
        said = [observation, info.get("system"), info.get("assistant_prefix", "")]
        digest.update(json.dumps(said).encode() + b"\n")
    env.close()
    return digest.hexdigest()


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
