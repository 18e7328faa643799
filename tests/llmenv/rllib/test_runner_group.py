"""Asking runners: what raises is told at once, who dies or hangs is replaced, and a restart is waited for.

On actors of Ray's that are runners in name alone.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray
from ray.rllib.utils.actor_manager import FaultTolerantActorManager

from llmenv.rllib.runner_group import RunnerError, RunnerGroup, RunnersLostError
from name_only_runner import Request, Runner


class Setup:
    """A group of two such runners."""

    def __init__(self, folder: Path):
        self.orders = [folder / "orders0", folder / "orders1"]
        self.calls = [folder / "calls0", folder / "calls1"]
        for file in (*self.orders, *self.calls):
            file.write_text("")
        runner = ray.remote(num_cpus=0.1, max_restarts=100)(Runner)
        self.actors = [runner.remote(str(o), str(c)) for o, c in zip(self.orders, self.calls, strict=True)]
        self.manager = FaultTolerantActorManager(self.actors, init_id=1)
        group = SimpleNamespace(_worker_manager=self.manager, num_remote_env_runners=lambda: 2)
        learners = SimpleNamespace(pack_weights=lambda: ({"w": 1}, 7))
        self.config = SimpleNamespace(
            sample_timeout_s=60.0, env_runner_restore_timeout_s=60.0, weight_transfer=None
        )
        self.runners = RunnerGroup(group, learners, self.config)

    def sample(self, count: int = 4) -> list[tuple[int, int]]:
        requests = [Request(i, 2) for i in range(count)]
        episodes, _ = self.runners.collect(self.runners.submit(requests))
        return [(episode.group, episode.sample) for episode in episodes]

    def num_calls(self) -> list[int]:
        return [len(file.read_text()) for file in self.calls]


@pytest.fixture
def two(ray_cluster: None, tmp_path: Path) -> Iterator[Setup]:
    setup = Setup(tmp_path)
    ray.get([actor.ping.remote() for actor in setup.actors])
    yield setup
    for actor in setup.actors:
        ray.kill(actor)


ALL = [(group, sample) for group in range(4) for sample in range(2)]


def test_groups_are_dealt_out_and_come_back_in_order(two: Setup) -> None:
    assert two.sample() == ALL
    assert two.num_calls() == [1, 1]
    assert two.sample(1) == ALL[:2]  # the second one is not asked for nothing
    assert two.num_calls() == [2, 1]


def test_two_submissions_may_be_under_way_at_once(two: Setup) -> None:
    handles = [two.runners.submit([Request(i, 1)]) for i in range(3)]
    for i in (2, 0, 1):
        episodes, metrics = two.runners.collect(handles[i])
        assert ([episode.group for episode in episodes], metrics) == ([i], ["metrics"])


def test_what_a_runner_raises_is_told_and_not_asked_for_again(two: Setup) -> None:
    two.orders[1].write_text("raise")
    with pytest.raises(RunnerError, match=r"^env runner 2 raised KeyError: 'token 99'$") as caught:
        two.sample()
    assert isinstance(caught.value.__cause__, KeyError)
    assert two.num_calls()[1] == 1
    two.orders[1].write_text("")
    assert two.sample() == ALL  # it lives on
    assert two.manager.num_healthy_actors() == 2


def test_the_groups_of_one_that_dies_are_sampled_by_the_other(two: Setup) -> None:
    two.orders[0].write_text("die\n0")
    assert two.sample() == ALL
    assert two.num_calls() == [1, 2]
    deadline = time.monotonic() + 60
    while two.manager.num_healthy_actors() < 2 and time.monotonic() < deadline:
        two.runners.restore(1.0)
    assert ray.get(two.actors[0].get_version.remote()) == 7  # with the current weights
    assert two.sample() == ALL


def test_one_that_hangs_is_killed_and_starts_anew(two: Setup, caplog: pytest.LogCaptureFixture) -> None:
    two.config.sample_timeout_s = 2.0
    two.orders[0].write_text("hang")
    with caplog.at_level(logging.WARNING, "llmenv.rllib.runner_group"):
        assert two.sample(3) == ALL[:6]
    assert two.manager.healthy_actor_ids() == [2]
    (said,) = [record.getMessage() for record in caplog.records if "gave no answer" in record.getMessage()]
    # Of three groups the first runner has the first and the third.
    assert re.match(r"env runner 1 gave no answer for [2-5] s, and is killed .* asked for 2 groups\. ", said)
    assert "raise env_runners(sample_timeout_s=...), which is 2 s" in said


def test_nobody_waits_for_a_restart_while_others_are_in_service(two: Setup) -> None:
    two.orders[0].write_text("die\n30")
    two.sample()
    start = time.monotonic()
    assert two.runners.restore() == []
    assert two.runners.restore() == []
    assert time.monotonic() - start < 5


def test_where_nobody_is_left_a_restart_is_waited_for(two: Setup) -> None:
    """Longer than a ping would be: a large model takes its time to load."""
    for orders in two.orders:
        orders.write_text("die\n3")
    assert two.sample() == ALL
    assert two.num_calls() == [2, 1] or two.num_calls() == [1, 2] or two.num_calls() == [2, 2]


def test_a_restart_that_takes_too_long_names_the_setting(two: Setup) -> None:
    two.config.env_runner_restore_timeout_s = 2.0
    for orders in two.orders:
        orders.write_text("die\n100")
    with pytest.raises(
        RunnersLostError, match=r"none came back in 2 s \(fault_tolerance\(env_runner_restore_timeout_s"
    ):
        two.sample()


def test_runners_that_cannot_start_again_are_not_waited_for(two: Setup) -> None:
    for orders in two.orders:
        orders.write_text("die\nraise")
    start = time.monotonic()
    with pytest.raises(
        RunnersLostError, match=r"Ray will start none again. The last error: .*no model there"
    ):
        two.sample()
    assert time.monotonic() - start < 50  # of 60


def test_a_task_that_kills_whoever_takes_it_costs_its_own_group(two: Setup) -> None:
    for orders in two.orders:
        orders.write_text("die of 2")
    requests = [Request(i, 2, first=4, seed=10 * i, options={"index": 7}) for i in range(4)]
    episodes, metrics = two.runners.collect(two.runners.submit(requests))
    assert [(episode.group, episode.sample % 4) for episode in episodes] == ALL
    assert [episode.group for episode in episodes if not episode.valid] == [2, 2]
    assert (episodes[4].error or "").startswith(
        "RunnerLost: the task of seed 20, index 7 ended every env runner that took it. The last error: "
    )
    assert [(e.sample, e.seed, e.index) for e in episodes[4:6]] == [(4, 20, 7), (5, 20, 7)]
    assert len(metrics) == sum(two.num_calls()) - 3  # together twice, and once alone


def test_runners_that_die_of_any_request_end(two: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmenv.rllib.runner_group.ROUNDS_TOGETHER", 1)
    monkeypatch.setattr("llmenv.rllib.runner_group.MAX_LOST_ALONE", 1)
    for orders in two.orders:
        orders.write_text("die")
    with pytest.raises(
        RunnersLostError,
        match=r"4 groups could not be sampled in 2 attempts.*sample_timeout_s.*last error",
    ):
        two.sample()
