"""The algorithm as an RLlib user meets it: build, train, evaluate, save, restore."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.core import DEFAULT_MODULE_ID

import algorithms.base
import llmenv.policy.policy
import llmenv.samplers.vllm
from algorithms import GRPO, GRPOConfig
from llmenv.episode import TextEpisode
from support import (
    assert_weights_are_in_sync,
    contents,
    flat_weights,
    small_config,
)

pytestmark = pytest.mark.usefixtures("ray_cluster")  # RLlib would start a Ray of its own


def test_the_lines_an_rllib_user_writes() -> None:
    algorithm = (
        GRPOConfig()
        .environment("envs:Countdown-v0")
        .env_runners(num_env_runners=0)
        .training(prompts_per_iteration=2, group_size=4, lr=1e-3)
        .sampling(max_new_tokens=16)
        .build_algo()
    )
    result = algorithm.train()
    assert result["training_iteration"] == 1
    assert result["env_runners"]["num_episodes"] == 8
    rewards = [episode.total_reward for episode in algorithm.last_episodes]
    assert result["env_runners"]["episode_return_mean"] == pytest.approx(np.mean(rewards))
    assert result["rollout"]["episode_return_mean"] == pytest.approx(np.mean(rewards))
    assert result["learners"][DEFAULT_MODULE_ID]["gradient_norm"] >= 0
    assert result["timers"].keys() >= {"sampling", "learning", "weight_sync"}
    assert_weights_are_in_sync(algorithm)
    algorithm.stop()


def test_held_out_tasks_keep_the_training_environments_other_arguments() -> None:
    config = small_config("tiny").environment("envs:Countdown-v0", env_config={"num_numbers": (2,)})
    algorithm = config.build_algo()
    assert dict(algorithm.evaluation_config.env_config) == {"num_numbers": (2,), "split": "test"}
    assert dict(algorithm.config.env_config) == {"num_numbers": (2,)}
    algorithm.train()
    assert all(len(re.findall(r"\d+", _numbers(e))) == 2 for e in algorithm.last_episodes)
    algorithm.stop()


def _numbers(episode: TextEpisode) -> str:
    return episode.observation.split("[")[1].split("]")[0]


def test_evaluation_every_iteration_stands_in_the_result() -> None:
    algorithm = small_config("tiny").evaluation(evaluation_interval=1, evaluation_duration=4).build_algo()
    result = algorithm.train()
    assert result["evaluation"]["env_runners"]["num_episodes"] == 4
    assert 0 <= result["evaluation"]["greedy"]["accuracy"] <= 1
    algorithm.stop()


def test_a_checkpoint_resumes_to_the_same_episodes_and_weights(tmp_path: Path) -> None:
    config = small_config("tiny", minibatch_size=8, num_epochs=2, kl_coeff=0.01, lr_warmup_iterations=4)
    config.environment(env_config={"num_numbers": (3,)})
    algorithm = config.build_algo()
    for _ in range(2):
        algorithm.train()
    path = algorithm.save_to_path(tmp_path)
    saved = flat_weights(algorithm.learner_group._learner)
    algorithm.train()

    resumed = GRPO.from_checkpoint(path)
    assert torch.equal(flat_weights(resumed.learner_group._learner), saved)
    assert_weights_are_in_sync(resumed)
    assert (resumed.iteration, resumed.num_updates) == (2, 2)
    result = resumed.train()
    assert result["training_iteration"] == 3
    assert contents(resumed.last_episodes) == contents(algorithm.last_episodes)
    assert torch.equal(
        flat_weights(resumed.learner_group._learner), flat_weights(algorithm.learner_group._learner)
    )
    algorithm.stop()
    resumed.stop()


def test_another_runs_checkpoint_of_the_same_version_reaches_the_runners(tmp_path: Path) -> None:
    """What population based training does: the version number alone does not tell whose weights they are."""
    ours = small_config("tiny").build_algo()
    theirs = small_config("tiny").sampling(run_seed=1).build_algo()
    for algorithm in (ours, theirs):
        learner = algorithm.learner_group._learner
        with torch.no_grad():
            for parameter in learner.policy.parameters():
                parameter.mul_(1.01 if algorithm is ours else 0.99)
        algorithm.train()
    assert ours.num_updates == theirs.num_updates == 1
    ours.restore_from_path(theirs.save_to_path(tmp_path))
    assert_weights_are_in_sync(ours)
    assert torch.equal(flat_weights(ours.learner_group._learner), flat_weights(theirs.learner_group._learner))
    ours.stop()
    theirs.stop()


def test_iterations_and_groups_have_tasks_of_their_own() -> None:
    algorithm = small_config("tiny").build_algo()
    observations = []
    for _ in range(2):
        algorithm.train()
        observations += [episode.observation for episode in algorithm.last_episodes]
    assert len(set(observations)) == 8  # 2 iterations x 4 groups
    other = small_config("tiny").sampling(run_seed=1).build_algo()
    other.train()
    assert not {e.observation for e in other.last_episodes} & set(observations)
    algorithm.stop()
    other.stop()


@pytest.mark.parametrize(("able", "asked"), [(True, True), (False, True), (True, False)])
def test_micro_batches_are_cut_for_what_the_learners_compute(
    able: bool, asked: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if not able:
        monkeypatch.setattr(llmenv.policy.policy, "why_not", lambda model: "layers of its own")
    planned = []

    def plan_update(*args: Any, **kwargs: Any) -> Any:
        planned.append((kwargs["shared_prompts"], kwargs["costs"]))
        return original(*args, **kwargs)

    original = algorithms.base.plan_update
    monkeypatch.setattr(algorithms.base, "plan_update", plan_update)
    algorithm = small_config("tiny", shared_prompts=asked).build_algo()
    algorithm.train()
    algorithm.stop()
    # 4 layers of width 160, 1,271 tokens: 1,271 x 160 weights against 4 x 12 x 160^2.
    costs = (1 / (6 * 160), 1271 / (12 * 160 * 4))
    assert planned == [(able and asked, costs)]
    assert ("tiny has layers of its own: prompts are not shared" in caplog.text) == (asked and not able)


def test_reinforcement_learns_an_easy_task(model_folder: str) -> None:
    """No digit in one token: a fifth of the vocabulary qualifies. The reward must come near 1."""
    config = (
        small_config(model_folder, prompts_per_iteration=8, group_size=8, lr=1e-2)
        .environment("support:NoDigit-v0")
        .sampling(max_new_tokens=2, run_seed=2)
    )
    algorithm = config.build_algo()
    curve = [algorithm.train()["rollout"]["episode_return_mean"] for _ in range(15)]
    assert np.mean(curve[:2]) < 0.4
    assert np.mean(curve[-3:]) > 0.9
    algorithm.stop()


def test_the_sampler_sleeps_during_the_update(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is called, and when; the sampler itself has nothing to give back."""
    algorithm = small_config("tiny").build_algo()
    config, runner = algorithm.config, algorithm.env_runner_group.local_env_runner
    calls: list[str] = []

    def record(owner: Any, name: str) -> None:
        method = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *a, **k: (calls.append(name), method(*a, **k))[1])

    for owner, name in (
        (runner.sampler, "generate"),
        (runner.sampler, "sleep"),
        (algorithm.learner_group, "update"),
        (runner.sampler, "load_weights"),
    ):
        record(owner, name)
    algorithm.train()
    assert calls == ["generate", "update", "load_weights"]
    calls.clear()
    monkeypatch.setitem(vars(config), "sampler_kwargs", {"enable_sleep_mode": True})
    algorithm.train()
    assert calls == ["generate", "sleep", "update", "load_weights"]
    algorithm.stop()


def test_a_second_step_in_an_iteration_draws_what_a_second_iteration_would() -> None:
    """`reporting(min_sample_timesteps_per_iteration=)` and its like: draws go by updates, not by iterations."""
    config = small_config("tiny", lr_warmup_iterations=4, minibatch_size=8)
    one = config.copy(copy_frozen=False).build_algo()
    twice = config.copy(copy_frozen=False).reporting(min_sample_timesteps_per_iteration=20).build_algo()
    seen: list[list[TextEpisode]] = []
    collect = twice.collect

    def collect_and_see() -> list[TextEpisode]:
        seen.append(collect())
        return seen[-1]

    twice.collect = collect_and_see
    result = twice.train()
    for episodes in seen:  # 16 samples are not 20 yet
        expected = one.train()
        assert contents(episodes) == contents(one.last_episodes)
    assert (twice.iteration, twice.num_updates, one.num_updates, len(seen)) == (1, 2, 2, 2)
    rates = [r["learners"][DEFAULT_MODULE_ID]["default_optimizer_learning_rate"] for r in (result, expected)]
    # A quarter and a half of the warm-up, in the mean over the iteration's steps; and the half alone.
    assert rates == [pytest.approx(1e-3 * (1 / 4 + 2 / 4) / 2), pytest.approx(1e-3 * 2 / 4)]
    weights = [flat_weights(algorithm.learner_group._learner) for algorithm in (one, twice)]
    assert torch.equal(*weights)
    one.stop()
    twice.stop()


class Counting(RLlibCallback):
    """Writes down who was called, and with what."""

    def _count(self, event: str, metrics_logger: Any, what: Any) -> None:
        EVENTS.append((event, what))
        metrics_logger.log_value(("events", event), 1, reduce="sum")

    def on_environment_created(self, *, env_runner, metrics_logger, env, env_context, **kwargs) -> None:
        self._count("created", metrics_logger, (env.split, env_context.get("split", "train")))

    def on_episode_start(self, *, episode, env_runner, metrics_logger, env, env_index, **kwargs) -> None:
        self._count("start", metrics_logger, (episode.group, episode.sample, len(episode.turns), env_index))

    def on_episode_end(self, *, episode, env_runner, metrics_logger, env, env_index, **kwargs) -> None:
        self._count("end", metrics_logger, (episode.group, episode.sample, episode.terminated, env_index))

    def on_sample_end(self, *, env_runner, metrics_logger, samples, **kwargs) -> None:
        self._count("sample", metrics_logger, len(samples))

    def on_evaluate_start(self, *, algorithm, metrics_logger, **kwargs) -> None:
        self._count("evaluate", metrics_logger, algorithm.iteration)

    def on_evaluate_end(self, *, algorithm, metrics_logger, evaluation_metrics, **kwargs) -> None:
        self._count("evaluated", metrics_logger, evaluation_metrics["env_runners"]["num_episodes"])


EVENTS: list[tuple[str, Any]] = []


def test_callbacks_are_called_with_our_episodes() -> None:
    EVENTS.clear()
    config = small_config("tiny", prompts_per_iteration=2).callbacks(Counting)
    algorithm = config.evaluation(evaluation_duration=3).build_algo()
    result = algorithm.train()
    samples = [(group, sample) for group in range(2) for sample in range(4)]
    # An environment is made where a sample needs the first of its slot, before it begins.
    assert [event for event, _ in EVENTS] == ["created", "start"] * 8 + ["end"] * 8 + ["sample"]
    assert [what for event, what in EVENTS if event == "created"] == [("train", "train")] * 8
    starts = [what for event, what in EVENTS if event == "start"]
    assert starts == [(group, sample, 1, i) for i, (group, sample) in enumerate(samples)]
    assert sorted(what for event, what in EVENTS if event == "end") == [
        (group, sample, True, i) for i, (group, sample) in enumerate(samples)
    ]
    assert result["env_runners"]["events"]["end"] == 8
    EVENTS.clear()
    algorithm.evaluate()
    kinds = [event for event, _ in EVENTS]
    assert (kinds[0], kinds[-1], kinds.count("start"), kinds.count("sample")) == (
        "evaluate",
        "evaluated",
        6,
        2,
    )
    assert EVENTS[-1] == ("evaluated", 3)
    assert [what for event, what in EVENTS if event == "created"] == [("test", "test")] * 3
    algorithm.stop()


def test_evaluation_has_settings_of_its_own() -> None:
    own = {
        "temperature": 0.0,
        "max_new_tokens": 5,
        "env": "envs:Multiplication-v0",
        "env_config": {"digits": 1},
    }
    algorithm = small_config("tiny").evaluation(evaluation_config=own, evaluation_duration=4).build_algo()
    algorithm.evaluate()
    sampled, greedy = (algorithm.last_evaluation[name] for name in ("sampled", "greedy"))
    assert contents(sampled) == contents(greedy)  # at temperature 0
    assert {len(e.turns[0].response_ids) for e in sampled} <= set(range(1, 6))
    assert all(re.search(r"\d × \d|\d \* \d|\d x \d", e.observation) for e in sampled), sampled[0].observation
    algorithm.train()
    assert max(len(e.turns[0].response_ids) for e in algorithm.last_episodes) > 5
    assert all("equation that equals" in e.observation for e in algorithm.last_episodes)
    algorithm.stop()
