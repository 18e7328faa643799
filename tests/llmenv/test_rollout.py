"""The one loop: groups, turns, failures, limits. A scripted sampler where the model does not matter."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import pytest
import torch

import envs  # noqa: F401
from llmenv.env import TextEnv
from llmenv.episode import TextEpisode
from llmenv.models.renderer import Renderer
from llmenv.rollout import EnvPool, GroupRequest, rollout, row_at
from llmenv.samplers.sampler import Completion, SamplingParams
from llmenv.samplers.transformers import TransformersSampler
from support import plain_logps

PARAMS = SamplingParams(max_new_tokens=12, stop_token_ids=frozenset())


class EchoEnv(TextEnv):
    """Two turns; the second question quotes the first answer. Pays 0.25, then 1."""

    def __init__(self, prefix: str = "So: ", log: list[str] | None = None):
        super().__init__()
        self.prefix, self.log = prefix, [] if log is None else log

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        self.first: str | None = None
        return f"task {self.np_random.integers(1000)}", {"system": "Talk.", "assistant_prefix": self.prefix}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        self.log.append(action)
        if self.first is None:
            self.first = action
            return f"you said {action!r}", 0.25, False, False, {"turn": 1}
        return "", 1.0, True, False, {"turn": 2}


class ScriptedSampler:
    """Says what it is told, in order of the calls; a text ends with the stop token unless it hits the cap."""

    def __init__(self, tokenizer: Any, say: Callable[[int, int], str] = lambda call, row: f"{call}.{row}"):
        self.tokenizer, self.say = tokenizer, say
        self.weights_version = 5
        self.calls: list[tuple[list[list[int]], list[int]]] = []
        self.finish_reason = "stop"

    def generate(
        self, prompts: Sequence[Sequence[int]], params: SamplingParams, seeds: Sequence[int]
    ) -> list[Completion]:
        self.calls.append(([list(prompt) for prompt in prompts], list(seeds)))
        completions = []
        for row in range(len(prompts)):
            ids = self.tokenizer.encode(self.say(len(self.calls), row))
            ids = [*ids, self.tokenizer.eos_token_id] if self.finish_reason == "stop" else ids
            completions.append(Completion(ids, [-1.0] * len(ids), self.finish_reason, self.weights_version))
        return completions


@pytest.fixture(scope="module")
def renderer(model_folder: str) -> Renderer:
    return Renderer.from_model(model_folder)


@pytest.fixture
def sampler(renderer: Renderer) -> ScriptedSampler:
    return ScriptedSampler(renderer.tokenizer)


def requests(groups: int = 3, size: int = 2, *keys: int) -> list[GroupRequest]:
    return [GroupRequest.derive(group, size, *(keys or (1, 2))) for group in range(groups)]


def test_a_group_shares_one_task_and_not_its_samples(renderer: Renderer, sampler: ScriptedSampler) -> None:
    episodes = rollout(
        EnvPool(lambda: gym.make("Countdown-v0").unwrapped), renderer, sampler, requests(), PARAMS
    )
    assert [(e.group, e.sample) for e in episodes] == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)]
    observations = [e.observation for e in episodes]
    assert observations[0::2] == observations[1::2]
    assert len(set(observations)) == 3
    (_, seeds), *_ = sampler.calls
    assert len(set(seeds)) == 6
    assert {e.weights_version for e in episodes} == {5}


def test_requests_are_a_function_of_the_keys() -> None:
    assert requests() == requests()
    seeds = {request.seed for keys in ((1, 2), (1, 3), (2, 2)) for request in requests(3, 2, *keys)}
    assert len(seeds) == 9


def test_options_reach_every_sample_of_their_group(renderer: Renderer, sampler: ScriptedSampler) -> None:
    options = [{"numbers": [1, 2], "target": target} for target in (3, 12)]
    asked = [GroupRequest.derive(group, 2, 1, options=options[group]) for group in range(2)]
    episodes = rollout(EnvPool(lambda: gym.make("Countdown-v0").unwrapped), renderer, sampler, asked, PARAMS)
    assert ["equals 3." in e.observation for e in episodes] == [True, True, False, False]
    assert ["equals 12." in e.observation for e in episodes] == [False, False, True, True]


def test_a_walk_through_rows_is_epochs_of_permutations() -> None:
    walk = [row_at(position, 7, 1, 2) for position in range(70)]
    epochs = [tuple(walk[start : start + 7]) for start in range(0, 70, 7)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len(set(epochs)) == 10  # chance would repeat one of 5040 orders in 0.9 % of cases
    assert walk == [row_at(position, 7, 1, 2) for position in reversed(range(70))][::-1]
    assert walk[:7] != [row_at(position, 7, 1, 3) for position in range(7)]
    assert [row_at(position, 1, 1) for position in range(3)] == [0, 0, 0]


def test_the_environment_hears_what_the_template_had_opened(
    renderer: Renderer, sampler: ScriptedSampler
) -> None:
    log: list[str] = []
    rollout(EnvPool(lambda: EchoEnv(log=log)), renderer, sampler, requests(1, 1), PARAMS)
    assert log == ["So: 1.0", "2.0"]  # the prefix opens the first turn only; the stop token is not text


def test_two_turns(renderer: Renderer, sampler: ScriptedSampler) -> None:
    episodes = rollout(EnvPool(EchoEnv), renderer, sampler, requests(2, 2), PARAMS)
    tokenizer = renderer.tokenizer
    for row, episode in enumerate(episodes):
        first, second = episode.turns
        assert tokenizer.decode(first.prompt_ids).endswith(f"User: {episode.observation}\nAssistant: So: ")
        assert (first.text, first.reward, first.info) == (f"So: 1.{row}", 0.25, {"turn": 1})
        assert tokenizer.decode(second.prompt_ids) == f"\nUser: you said 'So: 1.{row}'\nAssistant: "
        assert (second.text, second.reward, second.info) == (f"2.{row}", 1.0, {"turn": 2})
        assert (episode.total_reward, episode.terminated, episode.truncated) == (1.25, True, False)
        assert first.response_ids[-1] == second.response_ids[-1] == tokenizer.eos_token_id
        # What was sampled from at the second turn is the first turn's tokens and more, never tokenised again.
        prompts, _ = sampler.calls[1]
        assert prompts[row] == first.prompt_ids + first.response_ids + second.prompt_ids
        assert episode.token_ids == prompts[row] + second.response_ids
    (_, first_seeds), (_, second_seeds) = sampler.calls
    assert len({*first_seeds, *second_seeds}) == 8  # a stream of its own for every turn of every sample


def test_odd_tokens_are_kept_as_they_were_sampled(renderer: Renderer, sampler: ScriptedSampler) -> None:
    """'12' said as two tokens would come back from the tokenizer as one."""
    one, two, end = *renderer.tokenizer.encode("1"), *renderer.tokenizer.encode("2"), *renderer.stop_token_ids
    assert renderer.tokenizer.encode("12") != [one, two]
    sampler.generate = lambda prompts, params, seeds: [  # type: ignore[method-assign]
        Completion([one, two, end], [-1.0] * 3, "stop", 0) for _ in prompts
    ]
    (episode,) = rollout(EnvPool(EchoEnv), renderer, sampler, requests(1, 1), PARAMS)
    assert [turn.response_ids for turn in episode.turns] == [[one, two, end]] * 2
    assert episode.turns[1].text == "12"


def test_hitting_the_cap_ends_the_episode(renderer: Renderer, sampler: ScriptedSampler) -> None:
    sampler.finish_reason = "length"
    (episode,) = rollout(EnvPool(EchoEnv), renderer, sampler, requests(1, 1), PARAMS)
    assert len(episode.turns) == 1
    assert episode.hit_length_cap
    assert episode.valid
    assert (episode.total_reward, episode.terminated, episode.truncated) == (0.25, False, False)


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


class SlowEnv(EchoEnv):
    """A step is done when another one is under way too, the earlier environments' last."""

    barrier = threading.Barrier(2)
    made: list[SlowEnv] = []  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__()
        self.maker = threading.get_ident()
        SlowEnv.made.append(self)
        self.number = len(SlowEnv.made)

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        SlowEnv.barrier.wait(timeout=20)  # raises when nobody comes
        time.sleep(0.1 / self.number)
        return super().step(action)


def test_steps_wait_for_each_other_together(renderer: Renderer, sampler: ScriptedSampler) -> None:
    episodes = rollout(EnvPool(SlowEnv), renderer, sampler, requests(2, 2), PARAMS)
    assert [episode.error for episode in episodes] == [None] * 4
    assert [episode.turns[0].text for episode in episodes] == [f"So: 1.{row}" for row in range(4)]
    assert [episode.turns[1].prompt_ids for episode in episodes] == [
        renderer.next_turn([], f"you said 'So: 1.{row}'") for row in range(4)
    ]
    assert {env.maker for env in SlowEnv.made} == {threading.get_ident()}


def test_environments_are_used_again(renderer: Renderer, sampler: ScriptedSampler) -> None:
    made: list[EchoEnv] = []

    def make() -> EchoEnv:
        made.append(EchoEnv())
        return made[-1]

    pool = EnvPool(make)
    for _ in range(3):
        rollout(pool, renderer, sampler, requests(2, 2), PARAMS)
    assert len(made) == 4
    pool.close()


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


def test_nothing_asked_nothing_given(renderer: Renderer, sampler: ScriptedSampler) -> None:
    assert rollout(EnvPool(EchoEnv), renderer, sampler, [], PARAMS) == []
    assert sampler.calls == []


def key(episode: TextEpisode) -> tuple[Any, ...]:
    return episode.group, episode.sample, episode.observation, episode.token_ids, episode.total_reward


def test_results_do_not_depend_on_how_groups_are_dealt_to_calls(renderer: Renderer, model: Any) -> None:
    params = SamplingParams(max_new_tokens=12, stop_token_ids=frozenset(range(300)))
    sampler, asked = TransformersSampler(model), requests(4, 3)
    together = rollout(EnvPool(EchoEnv), renderer, sampler, asked, params)
    assert {len(episode.turns) for episode in together} == {1, 2}
    pool = EnvPool(EchoEnv)
    dealt = [
        e for share in (asked[1::2], asked[::2]) for e in rollout(pool, renderer, sampler, share, params)
    ]
    assert sorted(map(key, dealt)) == sorted(map(key, together))


def test_every_turn_carries_the_logps_it_was_sampled_with(renderer: Renderer, model: Any) -> None:
    params = SamplingParams(max_new_tokens=12, stop_token_ids=frozenset(range(200)), temperature=0.7)
    for episode in rollout(EnvPool(EchoEnv), renderer, TransformersSampler(model), requests(2, 2), params):
        with torch.no_grad():
            plain, _ = plain_logps(model, episode.token_ids, 0.7)
        start = 0
        for turn in episode.turns:
            start += len(turn.prompt_ids)
            stop = start + len(turn.response_ids)
            assert turn.logps == pytest.approx(plain[start - 1 : stop - 1].tolist(), abs=2e-5)
            start = stop
