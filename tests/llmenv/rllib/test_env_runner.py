"""An env runner's environments: made once for what they are for, whatever their arguments go through on the way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cloudpickle
import gymnasium as gym
import pytest

import llmenv.rllib.env_runner
from llmenv.env import TextEnv
from llmenv.rllib.env_runner import LLMEnvRunner
from llmenv.rollout import GroupRequest
from support import small_config

OPEN: dict[str, int] = {}  # environments that are made and not closed, by their split


class JudgedEnv(TextEnv):
    """One turn, which is paid what a function of its arguments says."""

    def __init__(self, judge: Callable[[str], float], split: str = "train"):
        super().__init__()
        self.judge = judge
        self.split = split
        OPEN[split] = OPEN.get(split, 0) + 1

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        return f"Say something ({self.split}).", {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        return "", self.judge(action), True, False, {"correct": False}

    def close(self) -> None:
        OPEN[self.split] -= 1


gym.register("Judged-v0", entry_point=JudgedEnv)


@pytest.fixture
def runner(model_folder: str) -> LLMEnvRunner:
    config = small_config(model_folder).sampling(max_new_tokens=1)
    config.environment("Judged-v0", env_config={"judge": lambda action: 0.5})
    OPEN.clear()
    # As Ray brings it to another process, where a function is no longer equal to what it was.
    return LLMEnvRunner(config=cloudpickle.loads(cloudpickle.dumps(config)), worker_index=0, num_workers=0)


def ask(runner: LLMEnvRunner, num_groups: int, **kwargs: Any) -> list[str]:
    """What the environments of groups of 1 asked, when the call's arguments came from another process."""
    requests = [GroupRequest.derive(i, 1, 0) for i in range(num_groups)]
    kwargs = cloudpickle.loads(cloudpickle.dumps({"requests": requests, **kwargs}))
    episodes = runner.sample(**kwargs)
    assert [episode.total_reward for episode in episodes] == [0.5] * num_groups
    return [episode.observation for episode in episodes]


def test_arguments_that_hold_a_function_leak_no_environments(runner: LLMEnvRunner) -> None:
    for _ in range(3):
        assert ask(runner, 2) == ["Say something (train)."] * 2
        assert ask(runner, 3, role="evaluation") == ["Say something (test)."] * 3
    # A pool each for training and evaluation, with an environment for each sample of a call: 2 and 3, not 3 x 5.
    assert OPEN == {"train": 2, "test": 3}
    runner.stop()
    assert OPEN == {"train": 0, "test": 0}


@pytest.mark.parametrize(("share", "asleep"), [(0.5, True), (1, False)])
def test_a_sampler_beside_a_learner_makes_room_for_it(
    share: float, asleep: bool, model_folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is started first, and sleeps until it is brought weights. vLLM's place is taken by what it is told."""
    told: dict[str, Any] = {}

    class FakeSampler:
        changes_transformers = False

        def __init__(self, model: str, **settings: Any):
            told.update(settings, asleep=False)

        def sleep(self) -> None:
            told["asleep"] = True

    monkeypatch.setattr(llmenv.rllib.env_runner, "VLLMSampler", FakeSampler)
    config = small_config(model_folder, num_env_runners=1, num_learners=1).sampling(sampler="vllm")
    config.env_runners(num_gpus_per_env_runner=share).learners(num_gpus_per_learner=share)
    LLMEnvRunner(config=config, worker_index=1, num_workers=1)
    assert told["asleep"] == asleep
    assert told["sampler_kwargs"] == ({"enable_sleep_mode": True} if asleep else {})
    assert told["learner_bytes"] == (config.learner_bytes if asleep else None)
