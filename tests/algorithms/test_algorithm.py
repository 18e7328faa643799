"""The algorithm as an RLlib user meets it: build, train, evaluate, save, restore, tune; and what goes wrong."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import ray
import torch
from ray import tune
from ray.rllib.core import DEFAULT_MODULE_ID

import algorithms.base
import llmenv.policy.policy
import llmenv.samplers.vllm
from algorithms import GRPO, GRPOConfig
from llmenv.episode import TextEpisode
from support import flat_weights, runner_weights, small_config, wait_for_runners

pytestmark = pytest.mark.usefixtures("ray_cluster")  # RLlib would start a Ray of its own


def contents(episodes: list[TextEpisode]) -> list[tuple[Any, ...]]:
    return [
        (e.group, e.sample, e.observation, e.token_ids.tolist(), e.total_reward, e.error) for e in episodes
    ]


def assert_weights_are_in_sync(algorithm: GRPO) -> None:
    """Every runner has the learners' weights, to the bit."""
    learners = algorithm.learner_group.on_all(flat_weights)
    group = algorithm.env_runner_group
    if group.num_remote_env_runners():
        runners = group.foreach_env_runner(runner_weights, local_env_runner=False)
        assert len(runners) == algorithm.config.num_env_runners
    else:
        runners = [runner_weights(group.local_env_runner)]
    assert all(torch.equal(weights, learners[0]) for weights in (*learners, *runners))


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


def test_two_runners_and_two_learners_train(distributed_algorithm: GRPO) -> None:
    for _ in range(2):
        result = distributed_algorithm.train()
        assert result["rollout"]["num_episodes"] == 16
        assert [(e.group, e.sample) for e in distributed_algorithm.last_episodes] == [
            (group, sample) for group in range(4) for sample in range(4)
        ]
        rewards = [episode.total_reward for episode in distributed_algorithm.last_episodes]
        assert result["env_runners"]["episode_return_mean"] == pytest.approx(np.mean(rewards))
        assert result["rollout"]["staleness"] == 0.0
        if result["rollout"]["groups_without_signal"] < 1:  # else there was nothing to compute
            # float32 sampler and float32 learner: the same numbers.
            assert result["learners"][DEFAULT_MODULE_ID]["sampler_logp_gap_max"] < 1e-4
        assert_weights_are_in_sync(distributed_algorithm)


def test_how_many_share_the_work_changes_nothing(distributed_algorithm: GRPO) -> None:
    """A fresh run with 0 runners and 0 learners samples the very episodes of iteration 0 of 2 and 2."""
    local = small_config("tiny").build_algo()
    start = local.save_to_path()
    local.train()
    distributed_algorithm.restore_from_path(start)
    distributed_algorithm.train()
    assert contents(distributed_algorithm.last_episodes) == contents(local.last_episodes)
    ours = distributed_algorithm.learner_group.on_all(flat_weights)[0]
    theirs = flat_weights(local.learner_group._learner)
    assert (ours - theirs).norm() < 1e-3 * max(1e-9, float(theirs.norm()))
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
        update = algorithm.update
        monkeypatch.setattr(algorithm, "update", lambda *a: (update(*a), os.kill(pid, signal.SIGSTOP)))
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
    assert (resumed.iteration, resumed.weights_version) == (2, 2)
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
    assert ours.weights_version == theirs.weights_version == 1
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
        planned.append((kwargs["shared_prompts"], kwargs["attention_cost"]))
        return original(*args, **kwargs)

    original = algorithms.base.plan_update
    monkeypatch.setattr(algorithms.base, "plan_update", plan_update)
    algorithm = small_config("tiny", shared_prompts=asked).build_algo()
    algorithm.train()
    algorithm.stop()
    assert planned == [(able and asked, 1 / (6 * 160))]
    assert ("tiny has layers of its own: prompts are not shared" in caplog.text) == (asked and not able)


def test_over_long_prompts_are_dropped_and_counted_or_refused() -> None:
    algorithm = small_config("tiny", prompts_per_iteration=8).build_algo()
    algorithm.train()
    lengths = sorted({len(episode.turns[0].prompt_ids) for episode in algorithm.last_episodes})
    algorithm.stop()
    assert len(lengths) > 1  # questions with three and with four numbers
    config = small_config("tiny", prompts_per_iteration=8).sampling(max_prompt_tokens=lengths[0])
    algorithm = config.build_algo()
    result = algorithm.train()
    valid = [episode for episode in algorithm.last_episodes if episode.valid]
    assert 0 < len(valid) < 32
    assert result["rollout"]["num_episodes"] == len(valid)
    assert result["rollout"]["num_invalid"] == 32 - len(valid)
    algorithm.stop()
    algorithm = config.copy(copy_frozen=False).sampling(overlong_prompts="error").build_algo()
    with pytest.raises(ValueError, match=r"PromptTooLong: \d+ tokens, over max_prompt_tokens=.*drop"):
        algorithm.train()
    algorithm.stop()


def test_when_no_sample_is_valid_the_iteration_says_why() -> None:
    algorithm = small_config("tiny").sampling(max_prompt_tokens=1).build_algo()
    with pytest.raises(RuntimeError, match=r"every sample of the iteration is invalid.*PromptTooLong"):
        algorithm.train()
    algorithm.stop()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"env": "envs:Nowhere-v0"}, r"environment 'envs:Nowhere-v0' cannot be made.*module:Id-v0"),
        ({"env": "nowhere:Countdown-v0"}, r"environment 'nowhere:Countdown-v0' cannot be made"),
        ({"env_config": {"spilt": "train"}}, r"cannot be made with \{'spilt': 'train'\}"),
        (
            {"env": "envs:GSM8K-v0", "env_config": {"data": "/no.jsonl"}},
            r"cannot be made .*no file /no.jsonl",
        ),
        ({"minibatch_size": 5}, r"minibatch_size=5 must divide .* = 4 x 4 = 16 samples"),
        ({"minibatch_size": 0}, r"minibatch_size=0 must divide"),
        ({"group_sise": 4}, r"unknown settings \['group_sise'\]"),
        ({"group_size": 0}, r"group_size must be a whole number of at least 1"),
        ({"prompts_per_iteration": 2.5}, r"prompts_per_iteration must be a whole number"),
        ({"num_epochs": 0}, r"num_epochs must be a whole number of at least 1"),
        ({"loss_normaliser": "tokens"}, r"loss_normaliser must be one of token, sequence"),
        ({"kl_estimator": "k4"}, r"kl_estimator must be one of k1, k2, k3"),
        ({"dtype": "float8"}, r"dtype must be one of"),
        ({"temperature": 0.0}, r"temperature must be above 0"),
        ({"kl_coeff": -0.1}, r"kl_coeff must not be negative"),
        ({"base_model": "no-such-model"}, r"no-such-model"),
        ({"lr": [[0, 1e-3], [100, 0.0]], "lr_warmup_iterations": 2}, r"needs a plain number as lr"),
        (
            {
                "evaluation_parallel_to_training": True,
                "evaluation_interval": 1,
                "evaluation_num_env_runners": 1,
            },
            r"would share the sampler",
        ),
        ({"run_seed": -2}, r"run_seed must be a whole number of at least 0"),
        ({"evaluation_duration": 0}, r"evaluation_duration"),
        ({"weight_transfer": "http"}, r"weight_transfer must be None or one of nccl, ipc"),
        ({"weight_transfer": "nccl"}, r"needs sampler='vllm' and GPUs for both"),
        (
            {
                "weight_transfer": "nccl",
                "sampler": "vllm",
                "num_gpus_per_env_runner": 1,
                "num_gpus_per_learner": 1,
            },
            r"num_env_runners and num_learners must be at least 1",
        ),
        (
            {
                "weight_transfer": "ipc",
                "sampler": "vllm",
                "num_gpus_per_env_runner": 0.5,
                "num_gpus_per_learner": 0.5,
                "num_env_runners": 2,
                "num_learners": 1,
            },
            r"one learner and one runner on one GPU: use 'nccl'",
        ),
    ],
)
def test_a_wrong_setting_fails_in_words(change: dict[str, Any], message: str) -> None:
    config = small_config("tiny")
    config.update_from_dict(change)
    with pytest.raises(ValueError, match=message):
        config.build_algo()


def test_a_misspelt_argument_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="group_sise"):
        GRPOConfig().training(group_sise=4)


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


def test_a_failing_environment_does_not_stop_the_run(
    model_folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import support

    steps = iter(range(10**6))

    def step(self: Any, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        if next(steps) % 5 == 0:
            raise RuntimeError("lost")
        return "", len(action) / 100, True, False, {}

    monkeypatch.setattr(support.NoDigitEnv, "step", step)
    config = small_config(model_folder, minibatch_size=4).environment("support:NoDigit-v0")
    algorithm = config.build_algo()
    result = algorithm.train()
    assert result["rollout"]["num_invalid"] == 4  # steps 0, 5, 10 and 15
    assert result["rollout"]["num_episodes"] == 12
    assert np.isfinite(result["learners"][DEFAULT_MODULE_ID]["total_loss"])
    algorithm.stop()


def test_advantages_that_are_not_numbers_cost_their_step_alone(
    model_folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    algorithm = small_config(model_folder).environment("support:NoDigit-v0").build_algo()
    before = flat_weights(algorithm.learner_group._learner)
    with monkeypatch.context() as patch:
        patch.setattr(algorithm, "assign_credit", lambda episodes: np.full(len(episodes), np.nan))
        result = algorithm.train()["learners"][DEFAULT_MODULE_ID]
    assert result["num_steps_skipped"] == 1
    assert torch.equal(flat_weights(algorithm.learner_group._learner), before)
    monkeypatch.setattr(algorithm, "assign_credit", lambda episodes: np.ones(len(episodes)))
    result = algorithm.train()["learners"][DEFAULT_MODULE_ID]
    assert result["num_steps_skipped"] == 0
    assert np.isfinite(result["gradient_norm"]) and np.isfinite(result["total_loss"])
    assert not torch.equal(flat_weights(algorithm.learner_group._learner), before)
    algorithm.stop()


def test_groups_are_compared_by_their_valid_samples(
    model_folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One step in ten raises, and of the last group all but one: it is dropped, and the step goes on."""
    import support

    class Failing(support.NoDigitEnv):
        steps = 0

        def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
            Failing.steps += 1
            if Failing.steps % 10 == 0 or Failing.steps in (38, 39):
                raise RuntimeError("lost")
            return "", Failing.steps / 7, True, False, {}

    monkeypatch.setattr("llmenv.rollout.MAX_STEP_THREADS", 1)  # steps in the order of the samples
    monkeypatch.setattr(support.gym.registry["NoDigit-v0"], "entry_point", Failing)
    config = small_config(model_folder, prompts_per_iteration=10).environment("support:NoDigit-v0")
    algorithm = config.build_algo()
    seen: list[tuple[list[TextEpisode], np.ndarray]] = []
    update = algorithm.update
    monkeypatch.setattr(algorithm, "update", lambda *arguments: (seen.append(arguments), update(*arguments)))
    result = algorithm.train()
    algorithm.stop()

    # Steps 1 to 40 are samples of groups 0 to 9 in fours; 10, 20, 30, 38, 39 and 40 are lost. Of group 9 (37 to 40)
    # one is left.
    kept = [n for n in range(1, 37) if n % 10]
    ((episodes, advantages),) = seen
    assert [(e.group, e.sample) for e in episodes] == [divmod(n - 1, 4) for n in kept]
    for group in range(9):
        rewards = [n / 7 for n in kept if (n - 1) // 4 == group]
        mean = sum(rewards) / len(rewards)
        deviation = (sum((r - mean) ** 2 for r in rewards) / (len(rewards) - 1)) ** 0.5
        expected = [(r - mean) / (deviation + 1e-6) for r in rewards]
        got = [a for e, a in zip(episodes, advantages, strict=True) if e.group == group]
        assert got == pytest.approx(expected)
    assert result["rollout"]["num_invalid"] == 6
    assert result["rollout"]["num_episodes"] == 34
    assert result["rollout"]["num_dropped_groups"] == 1
    assert np.isfinite(result["learners"][DEFAULT_MODULE_ID]["total_loss"])


def test_without_a_group_to_compare_in_the_iteration_says_why(
    model_folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import support

    steps = iter(range(10**6))

    def step(self: Any, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        if next(steps) % 4:
            raise RuntimeError("lost")
        return "", 1.0, True, False, {}

    monkeypatch.setattr("llmenv.rollout.MAX_STEP_THREADS", 1)
    monkeypatch.setattr(support.NoDigitEnv, "step", step)
    algorithm = small_config(model_folder).environment("support:NoDigit-v0").build_algo()
    with pytest.raises(RuntimeError, match=r"no group of the iteration has two valid samples.*lost"):
        algorithm.train()
    algorithm.stop()


def test_a_group_of_one_is_no_group_too_small() -> None:
    episodes = [TextEpisode(0, 0), TextEpisode(1, 0), TextEpisode(1, 1), TextEpisode(2, 0, error="lost")]
    assert algorithms.base.comparable(episodes, group_size=1) == episodes[:3]
    assert algorithms.base.comparable(episodes, group_size=2) == episodes[1:3]


def test_runners_that_keep_dying_fail_the_iteration(
    distributed_algorithm: GRPO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(algorithms.base, "MAX_COLLECT_ATTEMPTS", 1)
    monkeypatch.setattr(distributed_algorithm, "_ask", lambda *args: [])
    with pytest.raises(
        algorithms.base.RunnersLostError,
        match=r"4 of 4 groups could not be sampled in 1 attempts.*sample_timeout_s",
    ):
        distributed_algorithm.collect()


def test_tuner_with_two_trials(ray_cluster: None, tmp_path: Path) -> None:
    config = small_config("tiny", prompts_per_iteration=2, lr=tune.grid_search([1e-4, 1e-3]))
    results = tune.Tuner(
        GRPO,
        param_space=config,
        tune_config=tune.TuneConfig(metric="env_runners/episode_return_mean", mode="max"),
        run_config=tune.RunConfig(
            storage_path=str(tmp_path),
            stop={"training_iteration": 2},
            verbose=0,
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=True),
        ),
    ).fit()
    assert not results.errors
    assert sorted(result.config["lr"] for result in results) == [1e-4, 1e-3]
    for result in results:
        assert result.metrics["training_iteration"] == 2
        assert result.metrics["learners"][DEFAULT_MODULE_ID][
            "default_optimizer_learning_rate"
        ] == pytest.approx(result.config["lr"])
    assert 0 <= results.get_best_result().metrics["env_runners"]["episode_return_mean"] <= 1
    assert results.get_best_result().checkpoint is not None


@pytest.fixture
def rows_folder(tmp_path: Path) -> str:
    """A data set of 10 rows to train on and 5 held out, whose questions are their split and number."""
    for split, count in (("train", 10), ("test", 5)):
        rows = [
            {
                "data_source": "multiply",
                "prompt": [{"role": "user", "content": f"<answer> {split} {i}"}],
                "reward_model": {"ground_truth": i},
            }
            for i in range(count)
        ]
        (tmp_path / f"{split}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return str(tmp_path)


def rows_of(episodes: list[TextEpisode], split: str) -> list[int]:
    """The rows of the groups, in order."""
    assert all(episode.valid for episode in episodes)
    return [int(e.observation.removeprefix(f"<answer> {split} ")) for e in episodes if e.sample == 0]


def rows_config(model: str, folder: str, **kwargs: int) -> GRPOConfig:
    return small_config(model, **kwargs).environment("envs:Dataset-v0", env_config={"data": folder})


def test_training_goes_through_the_rows_epoch_by_epoch(model_folder: str, rows_folder: str) -> None:
    algorithm = rows_config(model_folder, rows_folder).build_algo()
    rows = []
    for _ in range(5):  # 5 iterations of 4 groups are two epochs; the third iteration is in both
        algorithm.train()
        assert len({(e.group, e.observation) for e in algorithm.last_episodes}) == 4  # a group is one row
        rows += rows_of(algorithm.last_episodes, "train")
    algorithm.stop()
    assert sorted(rows[:10]) == sorted(rows[10:]) == list(range(10))
    assert rows[:10] != rows[10:]
    assert rows[:10] != list(range(10))


def test_a_resumed_run_sees_the_rows_of_an_uninterrupted_one(
    model_folder: str, rows_folder: str, tmp_path: Path
) -> None:
    config = rows_config(model_folder, rows_folder)
    uninterrupted = config.copy(copy_frozen=False).build_algo()
    for _ in range(2):
        uninterrupted.train()
    checkpoint = uninterrupted.save_to_path(str(tmp_path / "checkpoint"))
    uninterrupted.train()
    resumed = GRPO.from_checkpoint(checkpoint)
    resumed.train()
    assert contents(resumed.last_episodes) == contents(uninterrupted.last_episodes)
    assert len(set(rows_of(resumed.last_episodes, "train"))) == 4
    other = config.copy(copy_frozen=False).sampling(run_seed=1).build_algo()
    other.train()
    fresh = config.copy(copy_frozen=False).build_algo()
    fresh.train()
    assert rows_of(other.last_episodes, "train") != rows_of(fresh.last_episodes, "train")
    for algorithm in (uninterrupted, resumed, other, fresh):
        algorithm.stop()


@pytest.mark.parametrize(("duration", "count"), [(3, 3), (5, 5), (16, 5)])
def test_evaluation_takes_a_held_out_row_once(
    model_folder: str, rows_folder: str, duration: int, count: int
) -> None:
    config = rows_config(model_folder, rows_folder).evaluation(evaluation_duration=duration)
    seen = []
    for seed in (0, 1):
        algorithm = config.copy(copy_frozen=False).sampling(run_seed=seed).build_algo()
        for _ in range(2):
            assert algorithm.evaluate()["env_runners"]["num_episodes"] == count
            seen += [rows_of(episodes, "test") for episodes in algorithm.last_evaluation.values()]
        algorithm.stop()
    assert len(set(seen[0])) == count
    assert seen == [seen[0]] * 8  # the same ones every time, sampled and greedy, in any run


def test_a_data_set_without_held_out_rows_says_so(model_folder: str, rows_folder: str) -> None:
    (Path(rows_folder) / "test.jsonl").unlink()
    algorithm = rows_config(model_folder, rows_folder).build_algo()
    with pytest.raises(ValueError, match=r"cannot be evaluated .*test\*.jsonl.*evaluation_config=None"):
        algorithm.evaluate()
    algorithm.stop()


def test_an_environment_without_a_test_split_says_how_to_evaluate_it(model_folder: str) -> None:
    config = small_config(model_folder).environment("support:NoDigit-v0")
    algorithm = config.copy(copy_frozen=False).build_algo()
    with pytest.raises(ValueError, match=r"split.*evaluation_config=None"):
        algorithm.evaluate()
    algorithm.stop()
    algorithm = config.evaluation(evaluation_config=None).build_algo()
    assert algorithm.evaluate()["env_runners"]["num_episodes"] == 16
    algorithm.stop()


def test_a_sampler_that_is_not_installed_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llmenv.samplers.vllm, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'llmenv\[vllm\]'"):
        small_config("tiny").sampling(sampler="vllm").build_algo()


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
