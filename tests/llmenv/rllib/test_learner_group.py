"""A group of remote learners: all of them in step, or none."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
import ray
from torch.distributed import distributed_c10d

from llmenv.rllib.learner import LLMLearner
from llmenv.rllib.learner_group import LearnersLostError, LLMLearnerGroup
from support import flat_weights
from updates import make_group, make_plan, make_rows

# What must take seconds took half an hour, the time limit of a collective.
SECONDS = 60.0


@pytest.fixture
def two(ray_cluster: None, model_folder: str) -> Iterator[LLMLearnerGroup]:
    group = make_group(model_folder, num_learners=2)
    yield group
    group.shutdown()


def fail_in_the_update(learner: LLMLearner) -> None:
    """On the second learner: out of memory, while the first goes on to wait for its gradient."""

    def prepare(batches: Any) -> None:
        raise MemoryError("no more of it")

    if learner._learner_index == 1:
        learner.prepare = prepare


def refuse(learner: LLMLearner) -> None:
    raise ValueError("not like this")


def test_an_exception_in_one_learner_ends_the_group_in_seconds(two: LLMLearnerGroup) -> None:
    plan = make_plan(make_rows(), 2)
    # What all of them raise, nobody waits for: the group lives on.
    with pytest.raises(ValueError, match=r"^not like this$"):
        two.on_all(refuse)
    two.update(plan)
    assert len(two.on_all(flat_weights)) == 2

    two.on_all(fail_in_the_update)
    start = time.monotonic()
    lost = (
        r"^the learner group lost learner 1 of 2.*Resume from the last checkpoint.*MemoryError: no more of it"
    )
    with pytest.raises(LearnersLostError, match=lost):
        two.update(plan)
    assert time.monotonic() - start < SECONDS
    for call in (lambda: two.update(plan), lambda: two.on_all(flat_weights), two.pack_weights):
        start = time.monotonic()
        with pytest.raises(LearnersLostError, match=lost):
            call()
        assert time.monotonic() - start < 1.0


@pytest.mark.slow
def test_a_learner_that_dies_ends_the_group_in_seconds(two: LLMLearnerGroup) -> None:
    ray.kill(two._workers[0])
    start = time.monotonic()
    for _ in range(2):
        with pytest.raises(
            LearnersLostError, match=r"lost learner 0 of 2.*Resume from the last checkpoint.*ActorDiedError"
        ):
            two.update(make_plan(make_rows(), 2))
    assert time.monotonic() - start < SECONDS


def limit_collectives(learner: LLMLearner) -> int:
    """To seconds instead of half an hour; gives the learner's process."""
    distributed_c10d._set_pg_timeout(timedelta(seconds=5), distributed_c10d._get_default_group())
    return os.getpid()


@pytest.mark.slow
def test_a_learner_that_hangs_ends_the_group(two: LLMLearnerGroup) -> None:
    """A stopped process neither answers nor dies: the other one's collective is over its time."""
    os.kill(two.on_all(limit_collectives)[1], signal.SIGSTOP)
    start = time.monotonic()
    with pytest.raises(LearnersLostError, match=r"lost learner 0 of 2.*Resume from the last checkpoint"):
        two.update(make_plan(make_rows(), 2))
    assert time.monotonic() - start < SECONDS
