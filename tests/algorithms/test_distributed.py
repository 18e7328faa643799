"""Two runners and two learners: the same as in one process, and what happens when a runner dies."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import numpy as np
import psutil
import pytest
import ray
import torch
from ray.rllib.core import DEFAULT_MODULE_ID

from algorithms import GRPO
from algorithms.config import LLMConfig
from llmenv.rllib.probe import measure
from support import (
    assert_weights_are_in_sync,
    contents,
    flat_weights,
    relative_gap,
    small_config,
    wait_for_runners,
)

pytestmark = pytest.mark.usefixtures("ray_cluster")  # RLlib would start a Ray of its own


def learning_config(**settings: int) -> LLMConfig:
    """The embedded model; with a weight of the entropy every sample teaches something, whatever its reward."""
    return small_config("tiny", entropy_coeff=0.01, **settings)


@pytest.fixture(scope="module")
def distributed_algorithm(ray_cluster: None) -> Iterator[Any]:
    """GRPO with two runners and two learners on the embedded model. Whoever uses it leaves it able to train."""
    algorithm = learning_config(num_env_runners=2, num_learners=2).build_algo()
    yield algorithm
    algorithm.stop()


def test_two_runners_and_two_learners_train(distributed_algorithm: GRPO) -> None:
    algorithm = distributed_algorithm
    for _ in range(2):
        result = algorithm.train()
        assert result["rollout"]["num_episodes"] == 16
        assert [(e.group, e.sample) for e in algorithm.last_episodes] == [
            (group, sample) for group in range(4) for sample in range(4)
        ]
        rewards = [episode.total_reward for episode in algorithm.last_episodes]
        assert result["env_runners"]["episode_return_mean"] == pytest.approx(np.mean(rewards))
        assert result["rollout"]["staleness"] == 0.0
        # float32 sampler and float32 learner: the same numbers.
        assert result["learners"][DEFAULT_MODULE_ID]["sampler_logp_gap_max"] < 1e-4
        assert_weights_are_in_sync(algorithm)
    for shared in (True, False):
        gap = measure(algorithm.runners, algorithm.learner_group, algorithm.config, shared_prompts=shared)
        assert gap is not None
        assert gap < 1e-5


def test_how_many_share_the_work_changes_nothing(distributed_algorithm: GRPO) -> None:
    """A fresh run with 0 runners and 0 learners samples the very episodes of iteration 0 of 2 and 2."""
    local = learning_config().build_algo()
    saved, start = local.save_to_path(), flat_weights(local.learner_group._learner)
    local.train()
    distributed_algorithm.restore_from_path(saved)
    distributed_algorithm.train()
    assert contents(distributed_algorithm.last_episodes) == contents(local.last_episodes)
    ours = distributed_algorithm.learner_group.on_all(flat_weights)[0]
    theirs = flat_weights(local.learner_group._learner)
    assert (theirs - start).norm() > 0.1
    assert relative_gap(ours - start, theirs - start) < 1e-3
    local.stop()


def test_a_killed_runner_is_replaced_and_the_iteration_complete(distributed_algorithm: GRPO) -> None:
    manager = distributed_algorithm.env_runner_group._worker_manager
    ray.kill(manager.actors()[1], no_restart=False)
    result = distributed_algorithm.train()  # the driver learns of the death when it asks for samples
    assert result["rollout"]["num_episodes"] == 16
    assert sorted((e.group, e.sample) for e in distributed_algorithm.last_episodes) == [
        (group, sample) for group in range(4) for sample in range(4)
    ]
    assert wait_for_runners(distributed_algorithm, 2)
    assert_weights_are_in_sync(distributed_algorithm)  # the new one too


@pytest.mark.slow
@pytest.mark.parametrize("phase", ["sampling", "sync"])
def test_a_runner_that_hangs_is_replaced_and_the_iteration_complete(
    distributed_algorithm: GRPO, monkeypatch: pytest.MonkeyPatch, phase: str
) -> None:
    """A stopped process neither answers nor dies: only a time limit tells."""
    algorithm = distributed_algorithm
    manager = algorithm.env_runner_group._worker_manager
    assert wait_for_runners(algorithm, 2)
    monkeypatch.setitem(vars(algorithm.config), "sample_timeout_s", 15.0)
    pid = ray.get(manager.actors()[1].apply.remote(lambda runner: os.getpid()))
    if phase == "sampling":
        os.kill(pid, signal.SIGSTOP)
    else:  # after it has sampled
        update = algorithm.update_rows
        monkeypatch.setattr(
            algorithm, "update_rows", lambda rows: (update(rows), os.kill(pid, signal.SIGSTOP))
        )
    result = algorithm.train()
    assert result["rollout"]["num_episodes"] == 16
    assert sorted((e.group, e.sample) for e in algorithm.last_episodes) == [
        (group, sample) for group in range(4) for sample in range(4)
    ]
    monkeypatch.undo()
    assert wait_for_runners(algorithm, 2)
    assert ray.get(manager.actors()[1].apply.remote(lambda runner: os.getpid())) != pid
    assert not psutil.pid_exists(pid)
    assert_weights_are_in_sync(algorithm)


@pytest.mark.parametrize("runners", [0, 2])
def test_evaluation_is_on_the_same_held_out_tasks(request: pytest.FixtureRequest, runners: int) -> None:
    algorithm = (
        request.getfixturevalue("distributed_algorithm") if runners else small_config("tiny").build_algo()
    )
    first, second = algorithm.evaluate(), algorithm.evaluate()
    assert first == second
    for summary in (first["env_runners"], first["greedy"]):
        assert summary["num_episodes"] == 16
        assert 0 <= summary["accuracy_low"] <= summary["accuracy"] <= summary["accuracy_high"] <= 1
    result = algorithm.train()
    # Evaluation leaves no trace in the metrics of training.
    rewards = [episode.total_reward for episode in algorithm.last_episodes]
    assert result["env_runners"]["episode_return_mean"] == pytest.approx(np.mean(rewards))
    assert result["env_runners"]["num_episodes"] == 16
    if not runners:
        algorithm.stop()


@pytest.mark.parametrize("runners", [0, 2])
def test_completions_to_prompts_of_ones_own(request: pytest.FixtureRequest, runners: int) -> None:
    algorithm = (
        request.getfixturevalue("distributed_algorithm") if runners else small_config("tiny").build_algo()
    )
    messages = [
        {"role": "system", "content": "Think first."},
        {"role": "user", "content": "Using the numbers [3, 5], create an equation that equals 8."},
        {"role": "assistant", "content": "<think>\n3 +"},
    ]
    prompts = [messages[1]["content"], messages, "What is 2 x 3?"]
    texts = algorithm.generate(prompts, n=3, max_new_tokens=8)
    assert [len(each) for each in texts] == [3, 3, 3]
    assert all(text.startswith("<think>\n3 +") for text in texts[1])
    assert len(set(texts[0])) > 1  # samples of their own
    assert (
        algorithm.generate(prompts, n=3, max_new_tokens=8) == texts
    )  # a function of place, seed and updates
    greedy = algorithm.generate(prompts[:1], n=2, temperature=0, max_new_tokens=8)
    assert greedy[0][0] == greedy[0][1]
    with pytest.raises(ValueError, match="a prompt is a text, or messages"):
        algorithm.generate([[{"role": "assistant", "content": "hello"}]])
    if not runners:
        algorithm.stop()


def test_state_and_weights_by_rllibs_names(distributed_algorithm: GRPO) -> None:
    algorithm = small_config("tiny").build_algo()
    algorithm.train()
    ours = algorithm.get_weights()[DEFAULT_MODULE_ID]
    module = algorithm.get_module()
    theirs = module.policy.model.state_dict()
    assert ours.keys() == theirs.keys() - {"lm_head.weight"}  # tied to the embeddings
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert distributed_algorithm.get_weights()[DEFAULT_MODULE_ID].keys() == ours.keys()
    with pytest.raises(ValueError, match=r"export_policy\(folder\)"):
        distributed_algorithm.get_module()
    with pytest.raises(ValueError, match=r"save_to_path\(path\).*restore_from_path"):
        algorithm.get_state()
    with pytest.raises(ValueError, match=r"policy\(model=\.\.\.\)"):
        algorithm.set_weights({})
    state = algorithm.get_state(not_components=["learner_group"])
    other = small_config("tiny").build_algo()
    other.set_state(state)
    assert other.iteration == 1
    algorithm.stop()
    other.stop()
