"""A sample that fails alone fails alone: environments that raise, hang or lie, prompts that are too long."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
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


class HangingEnv(EchoEnv):
    """The samples of one task hang in `reset`, or the second of all instances in `step`, until the test is over."""

    where, task, over = "", 0, threading.Event()
    made: ClassVar[list[HangingEnv]] = []

    def __init__(self) -> None:
        super().__init__()
        self.number, self.closed = len(HangingEnv.made), False
        HangingEnv.made.append(self)

    def hang(self) -> None:
        HangingEnv.over.wait()

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[str, dict[str, Any]]:
        if self.where == "reset" and seed == self.task:
            self.hang()
        return super().reset(seed=seed)

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        if self.where == "step" and self.number == 1:
            self.hang()
        return super().step(action)

    def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize(
    ("where", "valid"), [("step", [True, False, True, True]), ("reset", [True, True, False, False])]
)
def test_an_environment_that_hangs_costs_its_own_sample(
    renderer: Renderer,
    sampler: ScriptedSampler,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
    valid: list[bool],
) -> None:
    asked = requests(2, 2)
    monkeypatch.setattr(HangingEnv, "made", [])
    monkeypatch.setattr(HangingEnv, "where", where)
    monkeypatch.setattr(HangingEnv, "task", asked[1].seed)
    monkeypatch.setattr(HangingEnv, "over", threading.Event())
    pool, start = EnvPool(HangingEnv), time.monotonic()
    episodes = rollout(pool, renderer, sampler, asked, PARAMS, env_timeout_s=1.0)
    # Of the task that hangs in reset its first sample is waited for, and not the second.
    assert 1.0 <= time.monotonic() - start < 2.0
    assert [episode.valid for episode in episodes] == valid
    assert {episode.total_reward for episode in episodes if episode.valid} == {1.25}
    words = "EnvTimeout: the environment gave no answer in 1 s (sampling(env_timeout_s=...) sets that)"
    assert {episode.error for episode in episodes if not episode.valid} == {words}
    stuck = HangingEnv.made[1 if where == "step" else 2]
    assert not stuck.closed, "its step is under way"
    HangingEnv.over.set()
    monkeypatch.setattr(HangingEnv, "where", "")
    again = rollout(pool, renderer, sampler, asked, PARAMS, env_timeout_s=1.0)
    assert [episode.valid for episode in again] == [True] * 4
    assert [env.closed for env in HangingEnv.made] == [env is stuck for env in HangingEnv.made]


class LyingEnv(EchoEnv):
    """The second of all instances answers with what `lie` makes of the right answer to a last step."""

    made = 0

    def __init__(self, lie: Callable[..., Any]):
        super().__init__()
        self.lies, self.lie = LyingEnv.made == 1, lie
        LyingEnv.made += 1

    def step(self, action: str) -> Any:
        answer = super().step(action)
        return self.lie(*answer) if self.lies else answer


def exits(*answer: Any) -> None:
    raise SystemExit(3)  # as `sys.exit` in a reward function


@pytest.mark.parametrize(
    ("lie", "told"),
    [
        (lambda o, r, *rest: (o, float("nan"), *rest), "ValueError: the environment's reward is nan"),
        (lambda o, r, *rest: (o, np.float32("-inf"), *rest), "ValueError: the environment's reward is -inf"),
        (lambda o, r, *rest: (o, "much", *rest), "ValueError: could not convert string to float: 'much'"),
        (lambda o, r, *rest: (o, None, *rest), "TypeError: float() argument must be"),
        (lambda o, *rest: (b"bytes", *rest), "TypeError: the environment's observation is no text, but bytes"),
        (lambda o, r, e, t, info: (o, r, e, t, None), "TypeError: the environment's info is no mapping, but NoneType"),
        (lambda o, r, e, t, info: (o, r, e, t, {"correct": float("nan")}), "info['correct'] is nan"),
        (lambda o, r, e, t, info: (o, r, e, t, {"well_formed": "no"}), "info['well_formed'] is 'no'"),
        (lambda *answer: answer[:4], "ValueError: not enough values to unpack"),
        (lambda *answer: None, "TypeError: cannot unpack non-iterable NoneType"),
        (exits, "RuntimeError: SystemExit: 3"),
    ],
)  # fmt: skip
def test_a_wrong_answer_of_an_environment_costs_its_own_sample(
    renderer: Renderer, sampler: ScriptedSampler, lie: Callable[..., Any], told: str
) -> None:
    LyingEnv.made = 0
    episodes = rollout(EnvPool(lambda: LyingEnv(lie)), renderer, sampler, requests(2, 2), PARAMS)
    assert [episode.valid for episode in episodes] == [True, False, True, True]
    assert told in (episodes[1].error or "")


@pytest.mark.parametrize("observation", [None, 5, b"bytes", ["text"]])
def test_a_question_that_is_no_text_costs_its_own_sample(
    renderer: Renderer, sampler: ScriptedSampler, observation: Any
) -> None:
    class NoTextEnv(EchoEnv):
        def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
            text, info = super().reset(seed=seed)
            return (observation if seed == asked[1].seed else text), info

    asked = requests(2, 2)
    episodes = rollout(EnvPool(NoTextEnv), renderer, sampler, asked, PARAMS)
    assert [episode.valid for episode in episodes] == [True, True, False, False]
    assert f"observation is no text, but {type(observation).__name__}" in (episodes[2].error or "")
