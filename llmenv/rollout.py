"""The one loop between environments, renderer and sampler: training, evaluation and all else go through it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import gymnasium as gym

from llmenv.episode import TextEpisode, Turn, derive_seed
from llmenv.renderer import Renderer
from llmenv.sampler import Sampler, SamplingParams

PROMPT_TOO_LONG = "PromptTooLong"  # how the error of a sample begins whose prompt is over the limit


@dataclass(frozen=True)
class GroupRequest:
    """A group to sample: one task, several samples of it.

    Attributes:
        group: Index of the group in its batch.
        size: How many samples.
        seed: `reset(seed=seed)` of every sample: the same seed is the same task.
        sampling_seed: The samples draw their tokens from streams derived from this.
    """

    group: int
    size: int
    seed: int
    sampling_seed: int

    @classmethod
    def derive(cls, group: int, size: int, *keys: int) -> GroupRequest:
        """The request whose seeds are a pure function of `keys` and the group."""
        seed = derive_seed(*keys, group)
        return cls(group, size, seed=seed % 2**31, sampling_seed=seed)


class EnvPool:
    """Environments by slot, made when first needed; one that failed is made anew.

    Args:
        make: Makes one environment.
    """

    def __init__(self, make: Callable[[], gym.Env]):
        self._make = make
        self._envs: dict[int, gym.Env] = {}

    def __getitem__(self, slot: int) -> gym.Env:
        if slot not in self._envs:
            self._envs[slot] = self._make()
        return self._envs[slot]

    def discard(self, slot: int) -> None:
        """Closes what stands in a slot, if anything does; the slot's next use makes a new one."""
        if env := self._envs.pop(slot, None):
            with suppress(Exception):  # it is broken already
                env.close()

    def close(self) -> None:
        for slot in list(self._envs):
            self.discard(slot)


def rollout(
    envs: EnvPool,
    renderer: Renderer,
    sampler: Sampler,
    requests: Sequence[GroupRequest],
    params: SamplingParams,
    max_prompt_tokens: int | None = None,
) -> list[TextEpisode]:
    """Samples every group, turn by turn, all episodes at once.

    An environment that raises, or a prompt longer than `max_prompt_tokens`, makes its own sample invalid
    (`episode.error` says why) and nobody else's.

    Returns:
        The episodes, group by group, in the order of the requests.
    """
    slots = []
    for request in requests:
        for sample in range(request.size):
            episode = TextEpisode(request.group, sample, weights_version=sampler.weights_version)
            slots.append(_Slot(episode, derive_seed(request.sampling_seed, sample)))
            _guard(envs, len(slots) - 1, slots, _reset, request.seed, renderer, max_prompt_tokens)

    while active := [i for i, slot in enumerate(slots) if slot.active]:
        completions = sampler.generate(
            [slots[i].episode.token_ids for i in active],
            params,
            [derive_seed(slots[i].seed, len(slots[i].episode.turns)) for i in active],
        )
        for i, completion in zip(active, completions, strict=True):
            turn = slots[i].episode.turns[-1]
            turn.response_ids, turn.logps = completion.token_ids, completion.logps
            turn.finish_reason = completion.finish_reason
            slots[i].episode.weights_version = completion.weights_version
            turn.text = slots[i].response_prefix + renderer.decode(completion.token_ids)
            _guard(envs, i, slots, _step, renderer, max_prompt_tokens)
    return [slot.episode for slot in slots]


@dataclass
class _Slot:
    episode: TextEpisode
    seed: int
    active: bool = False
    response_prefix: str = ""


def _guard(envs: EnvPool, i: int, slots: list[_Slot], act: Callable[..., None], *args: Any) -> None:
    """Runs one slot's reset or step; what the environment raises invalidates that sample alone."""
    slot = slots[i]
    try:
        act(envs[i], slot, *args)
    except Exception as error:
        slot.active = False
        slot.episode.error = f"{type(error).__name__}: {error}"
        envs.discard(i)


def _reset(env: gym.Env, slot: _Slot, seed: int, renderer: Renderer, max_prompt_tokens: int | None) -> None:
    observation, info = env.reset(seed=seed)
    prompt = renderer.encode(observation, info.get("system"), info.get("assistant_prefix", ""))
    slot.episode.observation = observation
    slot.response_prefix = prompt.response_prefix
    _ask(slot, prompt.token_ids, max_prompt_tokens)


def _step(env: gym.Env, slot: _Slot, renderer: Renderer, max_prompt_tokens: int | None) -> None:
    turn = slot.episode.turns[-1]
    observation, reward, terminated, truncated, turn.info = env.step(turn.text)
    turn.reward = float(reward)
    slot.episode.terminated, slot.episode.truncated = bool(terminated), bool(truncated)
    slot.active = False
    # A response cut at the length cap ends the episode: the model never got to say what it would have said.
    if not (terminated or truncated or turn.finish_reason == "length"):
        slot.response_prefix = ""
        _ask(slot, renderer.next_turn(observation), max_prompt_tokens)


def _ask(slot: _Slot, prompt_ids: list[int], max_prompt_tokens: int | None) -> None:
    """Opens a turn, unless the sequence so far and its question are over the limit."""
    length = len(slot.episode.token_ids) + len(prompt_ids)
    if max_prompt_tokens is not None and length > max_prompt_tokens:
        slot.episode.error = f"{PROMPT_TOO_LONG}: {length} tokens, over max_prompt_tokens={max_prompt_tokens}"
        slot.active = False
        return
    slot.episode.turns.append(Turn(prompt_ids=prompt_ids))
    slot.active = True
