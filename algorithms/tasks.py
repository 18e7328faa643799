"""Which groups are asked for: a pure function of the run's seed, the number of updates so far, and the group."""

from __future__ import annotations

import re
import zlib
from contextlib import suppress
from typing import Any

from algorithms.config import LLMConfig
from llmenv.env import make_env
from llmenv.episode import derive_seed
from llmenv.evaluation.tasks import rows_of
from llmenv.rollout import GroupRequest

# First keys of the random streams: what is drawn for training never meets what is drawn for evaluation, whose are 2
# and 5 (see `llmenv.evaluation.tasks`).
TRAIN_STREAM, UPDATE_STREAM, TRAIN_ROWS_STREAM, REFILL_ROWS_STREAM, GENERATE_STREAM = 1, 3, 4, 6, 7
DEMONSTRATIONS_STREAM, VALIDATION_STREAM = 8, 9


def seed_of_trial(folder: str | None) -> int:
    """The seed of a run that was given none: 0, and in Ray Tune the number of the trial.

    Args:
        folder: The name of Tune's folder for the trial, which holds its id and the number; a name without one, as
            some search algorithms give, has a seed of its own all the same. None outside of Tune.
    """
    if folder is None:
        return 0
    number = re.search(r"_[0-9a-f]{5}_(\d{5})(_|$)", folder)
    return int(number[1]) if number else zlib.crc32(folder.encode())


def training_requests(config: LLMConfig, num_tasks: int | None, update: int) -> list[GroupRequest]:
    """The `prompts_per_iteration` groups of a batch.

    Args:
        config: The run's.
        num_tasks: Rows of the environment's data set; None where it draws its tasks.
        update: How many updates came before this batch.
    """
    size = config.prompts_per_iteration
    rows = range(update * size, (update + 1) * size)
    return _requests(
        config, range(size), update, rows_of(num_tasks, rows, TRAIN_ROWS_STREAM, config.root_seed)
    )


def refill_requests(
    config: LLMConfig, num_tasks: int | None, update: int, groups: range, most: int
) -> list[GroupRequest]:
    """More groups for a batch, whose numbers go on from those of `training_requests`.

    Their rows are a walk of their own, so that refills do not move an epoch's.

    Args:
        config: The run's.
        num_tasks: Rows of the environment's data set; None where it draws its tasks.
        update: How many updates came before this batch.
        groups: Their numbers.
        most: How many a batch may have.
    """
    start = update * most + groups.start - config.prompts_per_iteration
    rows = rows_of(num_tasks, range(start, start + len(groups)), REFILL_ROWS_STREAM, config.root_seed)
    return _requests(config, groups, update, rows)


def _requests(
    config: LLMConfig, groups: range, update: int, rows: list[dict[str, int] | None]
) -> list[GroupRequest]:
    return [
        GroupRequest.derive(group, config.group_size, TRAIN_STREAM, config.root_seed, update, options=row)
        for group, row in zip(groups, rows, strict=True)
    ]


def update_seed(config: LLMConfig, update: int) -> int:
    """What shuffles the groups of a batch, and the order of its minibatches."""
    return derive_seed(UPDATE_STREAM, config.root_seed, update)


def prompt_parts(env_id: str, env_config: dict[str, Any]) -> dict[str, str]:
    """The texts that the environment puts into every prompt, as its first task has them; none where it fails."""
    env = make_env(env_id, env_config)
    info: dict[str, Any] = {}
    with suppress(Exception):  # what fails here fails in sampling too, where it is counted and told
        _, info = env.reset(seed=0)
    env.close()
    return {name: info[name] for name in ("system", "assistant_prefix") if info.get(name)}
