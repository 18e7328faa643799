"""A sample that fails alone fails alone: environments that raise, prompts that are too long."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import pytest

import envs  # noqa: F401
from llmenv.models.renderer import Renderer
from llmenv.rollout import EnvPool, rollout
from scripted import PARAMS, EchoEnv, ScriptedSampler, requests


@pytest.fixture(scope="module")
def renderer(model_folder: str) -> Renderer:
    return Renderer.from_model(model_folder)


@pytest.fixture
def sampler(renderer: Renderer) -> ScriptedSampler:
    return ScriptedSampler(renderer.tokenizer)


class BrokenEnv(EchoEnv):
    """Each instance knows its number, and fails where it is told to."""

    made = 0

    def __init__(self, failures: dict[int, str]):
        super().__init__()
        if failures.get(BrokenEnv.made) == "make":
            BrokenEnv.made += 1
            raise OSError("no such service")
        self.failure = failures.get(BrokenEnv.made)
        BrokenEnv.made += 1
        self.closed = False

    def reset(self, **kwargs: Any) -> tuple[str, dict[str, Any]]:
        if self.failure == "reset":
            raise RuntimeError("reset is broken")
        return super().reset(**kwargs)

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        if self.failure == "step" or (self.failure == "second" and self.first is not None):
            raise RuntimeError("step is broken")
        return super().step(action)

    def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize("failure", ["make", "reset", "step", "second"])
def test_an_environment_that_raises_invalidates_its_own_sample_only(
    renderer: Renderer, sampler: ScriptedSampler, failure: str
) -> None:
    BrokenEnv.made = 0
    pool = EnvPool(lambda: BrokenEnv({1: failure}))
    episodes = rollout(pool, renderer, sampler, requests(2, 2), PARAMS)
    assert [episode.valid for episode in episodes] == [True, False, True, True]
    message = "OSError: no such service" if failure == "make" else "is broken"
    assert message in (episodes[1].error or "")
    assert {len(e.turns) for e in episodes if e.valid} == {2}
    assert {e.total_reward for e in episodes if e.valid} == {1.25}
    # The next call gets a sound environment in that place, and as many of them as there are samples.
    assert all(episode.valid for episode in rollout(pool, renderer, sampler, requests(2, 2), PARAMS))
    assert BrokenEnv.made == 5


def test_a_failed_environment_is_closed(renderer: Renderer, sampler: ScriptedSampler) -> None:
    BrokenEnv.made = 0
    made: list[BrokenEnv] = []

    def make() -> BrokenEnv:
        made.append(BrokenEnv({0: "step"}))
        return made[-1]

    rollout(EnvPool(make), renderer, sampler, requests(1, 2), PARAMS)
    assert [env.closed for env in made[:2]] == [True, False]


def test_a_prompt_over_the_limit_is_not_sampled(renderer: Renderer, sampler: ScriptedSampler) -> None:
    class LongEnv(EchoEnv):
        def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[str, dict[str, Any]]:
            _, info = super().reset(seed=seed)
            return "x" * (500 if seed == asked[1].seed else 5), info

    asked = requests(2, 2)
    short = renderer.encode("x" * 5, "Talk.", "So: ").token_ids
    limit = len(short) + 40  # room for the second turn of the short ones
    episodes = rollout(EnvPool(LongEnv), renderer, sampler, asked, PARAMS, max_prompt_tokens=limit)
    assert [episode.valid for episode in episodes] == [True, True, False, False]
    length = len(renderer.encode("x" * 500, "Talk.", "So: ").token_ids)
    assert episodes[2].error == f"PromptTooLong: {length} tokens, over max_prompt_tokens={limit}"
    assert [len(prompts) for prompts, _ in sampler.calls] == [2, 2]


def test_a_prompt_at_the_limit_is_sampled(renderer: Renderer, sampler: ScriptedSampler) -> None:
    env = gym.make("Countdown-v0").unwrapped
    (request,) = requests(1, 1)
    observation, info = env.reset(seed=request.seed)
    length = len(renderer.encode(observation, info["system"], info["assistant_prefix"]).token_ids)
    for limit, valid in ((length, True), (length - 1, False)):
        (episode,) = rollout(EnvPool(lambda: env), renderer, sampler, [request], PARAMS, limit)
        assert episode.valid == valid


@pytest.mark.parametrize("room", [0, 1])
def test_the_samplers_own_limit_is_one_too(renderer: Renderer, sampler: ScriptedSampler, room: int) -> None:
    """One token of a response has to fit in behind the prompt; a second turn that has no room is not asked."""
    env = EchoEnv()
    (request,) = requests(1, 1)
    observation, info = env.reset(seed=request.seed)
    length = len(renderer.encode(observation, info["system"], info["assistant_prefix"]).token_ids)
    sampler.max_sequence_tokens = length + room
    (episode,) = rollout(EnvPool(lambda: env), renderer, sampler, [request], PARAMS)
    (shorter,) = rollout(EnvPool(lambda: env), renderer, sampler, [request], PARAMS, length - 1)
    assert shorter.error == f"PromptTooLong: {length} tokens, over max_prompt_tokens={length - 1}"
    if room:
        assert (len(episode.turns), episode.valid, episode.truncated) == (1, True, True)
        assert [len(prompts) for prompts, _ in sampler.calls] == [1]
    else:
        limit = f"the sampler's limit of {length} with a response"
        assert episode.error == f"PromptTooLong: {length} tokens, over {limit}"
        assert sampler.calls == []
