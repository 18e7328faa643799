"""Which groups are asked for: a pure function of the run's seed, the number of updates so far, and the group."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from algorithms.config import LLMConfig
from algorithms.curriculum import Curriculum
from llmenv.env import make_env
from llmenv.episode import derive_seed
from llmenv.evaluation.tasks import Source, requests_by_source, rows_of, sources_of
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


def training_requests(config: LLMConfig, curriculum: Curriculum, update: int) -> list[GroupRequest]:
    """The `prompts_per_iteration` groups of a batch.

    Args:
        config: The run's.
        curriculum: Where their tasks come from.
        update: How many updates came before this batch.
    """
    return _requests(config, 0, update, curriculum.deal(update), TRAIN_ROWS_STREAM)


def refill_requests(
    config: LLMConfig, curriculum: Curriculum, update: int, groups: range, most: int
) -> list[GroupRequest]:
    """More groups for a batch, whose numbers go on from those of `training_requests`.

    Their rows are a walk of their own, so that refills do not move an epoch's.

    Args:
        config: The run's.
        curriculum: Where their tasks come from.
        update: How many updates came before this batch.
        groups: Their numbers.
        most: How many a batch may have.
    """
    # Of twice the places that it may need; from a place of the first half, or every update would begin with one part.
    offset = derive_seed(REFILL_ROWS_STREAM, config.root_seed, update) % most
    start = update * 2 * most + offset + groups.start - config.prompts_per_iteration
    walk = curriculum.refill(start, len(groups))
    return _requests(config, groups.start, update, walk, REFILL_ROWS_STREAM)


def _requests(
    config: LLMConfig, first: int, update: int, walk: Sequence[tuple[Source, int]], stream: int
) -> list[GroupRequest]:
    """Groups numbered from `first` on, of places in their sources' walks."""
    seed, requests = config.root_seed, []
    for group, (source, place) in enumerate(walk, first):
        (row,) = rows_of(source.num_tasks, range(place, place + 1), stream, seed)
        options = source.options(row)
        requests.append(
            GroupRequest.derive(group, config.group_size, TRAIN_STREAM, seed, update, options=options)
        )
    return requests


def update_seed(config: LLMConfig, update: int) -> int:
    """What shuffles the groups of a batch, and the order of its minibatches."""
    return derive_seed(UPDATE_STREAM, config.root_seed, update)


def held_out_requests(config: LLMConfig, count: int, first: int = 0) -> list[GroupRequest]:
    """A sample of each of `count` held-out tasks, of every part of an environment that has some.

    Args:
        config: The evaluation's.
        count: Of tasks.
        first: The number of the first one.

    Raises:
        ValueError: If the environment cannot be made.
    """
    try:
        sources = sources_of(config.env, dict(config.env_config))
    except Exception as error:
        raise not_evaluable(config, error) from error
    return requests_by_source(count, sources, first)


def not_evaluable(config: LLMConfig, reason: object) -> ValueError:
    """What is raised where there is no evaluation, with its remedy."""
    return ValueError(
        f"the environment {config.env!r} cannot be evaluated with {dict(config.env_config)}: {reason}. If it has no "
        "test split, evaluation(evaluation_config=None) evaluates on what it is trained on"
    )


def prompt_parts(env_id: str, env_config: dict[str, Any]) -> dict[str, str]:
    """The texts that the environment puts into every prompt, as its first task has them; none where it fails.

    Of an environment with parts those that all of them have.
    """
    env = make_env(env_id, env_config)
    infos: list[dict[str, Any]] = []
    with suppress(Exception):  # what fails here fails in sampling too, where it is counted and told
        parts = getattr(env.unwrapped, "part_weights", None) or [None]
        infos = [env.reset(seed=0, options=part and {"part": part})[1] for part in parts]
    env.close()
    first = infos[0] if infos else {}
    return {
        name: first[name]
        for name in ("system", "assistant_prefix")
        if first.get(name) and all(info.get(name) == first[name] for info in infos)
    }
