"""A group of remote learners: whatever they learn, all of them in step, or none."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
import torch
from torch.distributed import distributed_c10d

from adapters import move_adapters
from llmenv.rllib.learner import LLMLearner
from llmenv.rllib.learner_group import LearnersLostError, LLMLearnerGroup
from support import critic_weights, flat_weights, relative_gap, small_config
from updates import (
    SECONDS,
    Update,
    assert_same_update,
    make_group,
    make_plan,
    make_ppo,
    make_ppo_rows,
    make_rows,
    metric,
    start_anew,
    stir_values,
)


@pytest.fixture(scope="module")
def two(ray_cluster: None, model_folder: str) -> Iterator[LLMLearnerGroup]:
    group = make_group(model_folder, num_learners=2)
    yield group
    group.shutdown()


def test_two_learners_of_adapters_make_the_update_of_one(two: LLMLearnerGroup, model_folder: str) -> None:
    rows = make_rows()
    one = make_group(model_folder, kl_coeff=0.05)
    for group, learners in ((two, 2), (one, 0)):
        config = small_config(model_folder, num_learners=learners, kl_coeff=0.05).policy(lora_rank=4)
        start_anew(group, config)
        group.on_all(lambda learner: move_adapters(learner.policy))
    ours, theirs = Update(two, make_plan(rows, 2)), Update(one, make_plan(rows, 1))
    assert_same_update(ours, theirs)
    assert torch.equal(ours.after[0], ours.after[1])
    for key in ("entropy", "kl_reference"):
        assert ours.summed(key) == pytest.approx(theirs.summed(key), abs=1e-5)


def start_ppo(group: LLMLearnerGroup, model: str, **training: Any) -> None:
    start_anew(group, small_config(model, "PPO", num_learners=2, **training))
    group.on_all(stir_values)


def test_two_learners_of_a_critic_make_the_update_of_one(two: LLMLearnerGroup, model_folder: str) -> None:
    rows, settings = make_ppo_rows(), {"kl_coeff": 0.05, "kl_target": 0.1}
    start_ppo(two, model_folder, **settings)
    one = make_ppo(model_folder, **settings)
    critics = [group.on_all(critic_weights)[0] for group in (two, one)]
    assert torch.equal(*critics)
    ours, theirs = Update(two, make_plan(rows, 2)), Update(one, make_plan(rows, 1))
    assert_same_update(ours, theirs)
    changes = [
        group.on_all(critic_weights)[0] - before for group, before in zip((two, one), critics, strict=True)
    ]
    assert relative_gap(*changes) < 1e-3
    for key in ("value_loss", "value"):
        assert ours.summed(key) == pytest.approx(theirs.summed(key), abs=1e-5)
    for key in ("explained_variance", "kl_reference", "kl_coeff"):
        for metrics in ours.metrics:
            assert metrics[key] == pytest.approx(theirs.metrics[0][key], abs=1e-5)
    assert two.on_all(lambda learner: learner.kl_coeff) == [one._learner.kl_coeff] * 2


def test_two_learners_warm_up_and_stop_as_one(two: LLMLearnerGroup, model_folder: str) -> None:
    """A head on the trunk: one update of it alone, then steps until the policy has gone far enough."""
    rows = make_ppo_rows()
    settings = {"critic": "shared", "value_warmup_iterations": 1, "kl_stop": 1e-4}
    start_ppo(two, model_folder, **settings)
    groups = [two, make_ppo(model_folder, **settings)]
    before = [group.on_all(flat_weights)[0] for group in groups]
    assert torch.equal(*before)
    for _ in range(2):
        results = [
            group.update(make_plan(rows, n, minibatch_size=5), num_epochs=2)
            for group, n in zip(groups, (2, 1), strict=True)
        ]
    assert metric(results[0], "num_steps") == metric(results[1], "num_steps") == 2
    changes = [group.on_all(flat_weights)[0] - old for group, old in zip(groups, before, strict=True)]
    assert relative_gap(*changes) < 1e-3


def fail_in_the_update(learner: LLMLearner) -> None:
    """On the second learner: out of memory, while the first goes on to wait for its gradient."""

    def prepare(batches: Any) -> None:
        raise MemoryError("no more of it")

    if learner._learner_index == 1:
        learner.prepare = prepare


def refuse(learner: LLMLearner) -> None:
    raise ValueError("not like this")


def test_an_exception_in_one_learner_ends_the_group_in_seconds(
    two: LLMLearnerGroup, model_folder: str
) -> None:
    """The last one that has the module's learners: it ends them."""
    start_anew(two, small_config(model_folder, num_learners=2))
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


@pytest.fixture
def own_two(ray_cluster: None, model_folder: str) -> Iterator[LLMLearnerGroup]:
    group = make_group(model_folder, num_learners=2)
    yield group
    group.shutdown()


def limit_collectives(learner: LLMLearner) -> int:
    """To seconds instead of half an hour; gives the learner's process."""
    distributed_c10d._set_pg_timeout(timedelta(seconds=5), distributed_c10d._get_default_group())
    return os.getpid()


@pytest.mark.slow
def test_a_learner_that_hangs_ends_the_group(own_two: LLMLearnerGroup) -> None:
    """A stopped process neither answers nor dies: the other one's collective is over its time."""
    os.kill(own_two.on_all(limit_collectives)[1], signal.SIGSTOP)
    start = time.monotonic()
    with pytest.raises(LearnersLostError, match=r"lost learner 0 of 2.*Resume from the last checkpoint"):
        own_two.update(make_plan(make_rows(), 2))
    assert time.monotonic() - start < SECONDS
