"""The one loop: groups, turns, threads. A scripted sampler where the model does not matter."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

import envs  # noqa: F401
from llmenv.episode import TextEpisode
from llmenv.models.renderer import Renderer
from llmenv.rollout import EnvPool, GroupRequest, rollout, row_at
from llmenv.samplers.sampler import Completion, SamplingParams
from llmenv.samplers.transformers import TransformersSampler
from scripted import PARAMS, EchoEnv, ScriptedSampler, requests
from support import plain_logps


@pytest.fixture(scope="module")
def renderer(model_folder: str) -> Renderer:
    return Renderer.from_model(model_folder)


@pytest.fixture
def sampler(renderer: Renderer) -> ScriptedSampler:
    return ScriptedSampler(renderer.tokenizer)


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


def test_stop_strings_are_those_of_each_samples_own_environment(renderer: Renderer) -> None:
    """Two parts, one of which stops at a tool: each is generated with its own, and answers stay in their places."""
    asked: list[tuple[tuple[str, ...], int]] = []

    class Recording(ScriptedSampler):
        def generate(self, prompts, params, seeds):  # type: ignore[no-untyped-def]
            asked.append((params.stop_strings, len(prompts)))
            return super().generate(prompts, params, seeds)

    sampler = Recording(
        renderer.tokenizer, say=lambda call, row: f"{'no tool' if call == 1 else 'tool'} {row}"
    )
    parts: dict[str, Any] = {"Countdown-v0": {}, "CountdownTool-v0": {}}
    order = ["Countdown-v0", "CountdownTool-v0", "Countdown-v0"]
    groups = [GroupRequest.derive(i, 1, 1, options={"part": part}) for i, part in enumerate(order)]
    params = replace(PARAMS, stop_strings=("END",))
    episodes = rollout(
        EnvPool(lambda: gym.make("Mixture-v0", parts=parts)), renderer, sampler, groups, params
    )
    tool = gym.make("CountdownTool-v0").unwrapped.stop_strings  # type: ignore[attr-defined]
    assert asked[:2] == [(("END",), 2), (("END", *tool), 1)]
    assert [e.part for e in episodes] == order
    assert [e.turns[0].text.split("<think>")[-1] for e in episodes] == ["no tool 0", "tool 0", "no tool 1"]


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
        assert prompts[row] == [*first.prompt_ids, *first.response_ids, *second.prompt_ids]
        assert episode.token_ids.tolist() == [*prompts[row], *second.response_ids]
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
    assert [turn.response_ids.tolist() for turn in episode.turns] == [[one, two, end]] * 2
    assert episode.turns[1].text == "12"


def test_hitting_the_cap_ends_the_episode(renderer: Renderer, sampler: ScriptedSampler) -> None:
    sampler.finish_reason = "length"
    (episode,) = rollout(EnvPool(EchoEnv), renderer, sampler, requests(1, 1), PARAMS)
    assert len(episode.turns) == 1
    assert episode.hit_length_cap
    assert episode.valid
    assert (episode.total_reward, episode.terminated, episode.truncated) == (0.25, False, False)


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
    assert [episode.turns[1].prompt_ids.tolist() for episode in episodes] == [
        renderer.next_turn([], f"you said 'So: 1.{row}'").token_ids for row in range(4)
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


def test_the_record_is_arrays_and_a_group_shares_one_prompt(
    renderer: Renderer, sampler: ScriptedSampler, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded, encode = [], renderer.encode
    monkeypatch.setattr(renderer, "encode", lambda *message: encoded.append(message) or encode(*message))
    episodes = rollout(EnvPool(EchoEnv), renderer, sampler, requests(2, 3), PARAMS)
    for episode in episodes:
        for turn in episode.turns:
            assert (turn.prompt_ids.dtype, turn.response_ids.dtype) == (np.int32, np.int32)
            assert turn.logps.dtype == np.float32
    first = [episode.turns[0].prompt_ids for episode in episodes]
    assert [ids is first[3 * (i // 3)] for i, ids in enumerate(first)] == [True] * 6
    assert first[0] is not first[3]
    assert len(encoded) == 2  # once a group


def test_samples_that_are_asked_differently_have_prompts_of_their_own(
    renderer: Renderer, sampler: ScriptedSampler
) -> None:
    made: list[EchoEnv] = []

    def make() -> EchoEnv:
        made.append(EchoEnv(prefix=f"{len(made)}: "))
        return made[-1]

    episodes = rollout(EnvPool(make), renderer, sampler, requests(1, 2), PARAMS)
    texts = [renderer.tokenizer.decode(episode.turns[0].prompt_ids) for episode in episodes]
    assert [text[-3:] for text in texts] == ["0: ", "1: "]
    assert [episode.turns[0].text[:3] for episode in episodes] == ["0: ", "1: "]


def test_nothing_asked_nothing_given(renderer: Renderer, sampler: ScriptedSampler) -> None:
    assert rollout(EnvPool(EchoEnv), renderer, sampler, [], PARAMS) == []
    assert sampler.calls == []


def key(episode: TextEpisode) -> tuple[Any, ...]:
    ids = episode.token_ids.tolist()
    return episode.group, episode.sample, episode.observation, ids, episode.total_reward


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
            plain, _ = plain_logps(model, episode.token_ids.tolist(), 0.7)
        start = 0
        for turn in episode.turns:
            start += len(turn.prompt_ids)
            stop = start + len(turn.response_ids)
            assert turn.logps == pytest.approx(plain[start - 1 : stop - 1].tolist(), abs=2e-5)
            start = stop
