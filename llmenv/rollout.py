"""The one loop between environments, renderer and sampler: training, evaluation and all else go through it.

Environments step in threads, each in one at a time: a verifier that waits for another process or a service keeps no
other waiting. They are reset there too, one after the other. All else, rendering included, is done in the calling
thread.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np

from llmenv.episode import TextEpisode, Turn, as_token_ids, derive_seed
from llmenv.limited_calls import Call, CallTimeoutError, LimitedCalls, TooManyStuckError
from llmenv.models.renderer import Renderer
from llmenv.samplers.sampler import Completion, Sampler, SamplingParams

PROMPT_TOO_LONG = "PromptTooLong"  # how the error of a sample begins whose prompt is over the limit
ENV_TIMEOUT = "EnvTimeout"  # ... whose environment gave no answer in time
ENV_TIMEOUT_S = 300.0
MAX_STEP_THREADS = min(8, 2 * (os.cpu_count() or 1))


@dataclass(frozen=True)
class GroupRequest:
    """A group to sample: one task, several samples of it.

    Attributes:
        group: Index of the group in its batch.
        size: How many samples.
        seed: `reset(seed=seed)` of every sample: the same seed is the same task.
        sampling_seed: The samples draw their tokens from streams derived from this.
        options: `reset(options=options)` of every sample, such as the row of a data set.
        first: The number of its first sample: a group that had some gets more that are others.
    """

    group: int
    size: int
    seed: int
    sampling_seed: int
    options: dict[str, Any] | None = None
    first: int = 0

    @classmethod
    def derive(cls, group: int, size: int, *keys: int, options: dict[str, Any] | None = None) -> GroupRequest:
        """The request whose seeds are a pure function of `keys` and the group."""
        seed = derive_seed(*keys, group)
        return cls(group, size, seed=seed % 2**31, sampling_seed=seed, options=options)


def row_at(position: int, num_rows: int, *keys: int) -> int:
    """The row at a position of an endless walk through a data set, each epoch of which visits every row once.

    A pure function: the order of an epoch is a permutation drawn from `keys` and the number of the epoch.
    """
    epoch, offset = divmod(position, num_rows)
    return int(_permutation(num_rows, *keys, epoch)[offset])


@lru_cache(maxsize=32)  # a batch may lie in two epochs, of each of several data sets
def _permutation(size: int, *keys: int) -> np.ndarray:
    return np.random.default_rng(derive_seed(*keys)).permutation(size)


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

    def take(self, slot: int) -> gym.Env:
        """What stands in a slot, for whoever asks: it is theirs from now on."""
        return self._envs.pop(slot)

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
    on_event: Callable[[str, TextEpisode, gym.Env, int], None] = lambda *event: None,
    env_timeout_s: float = ENV_TIMEOUT_S,
) -> list[TextEpisode]:
    """Samples every group, turn by turn, all episodes at once.

    An environment that raises, hangs, answers with what is no observation, reward or info, or whose first prompt is
    longer than `max_prompt_tokens`, makes its own sample invalid (`episode.error`) and nobody else's. An episode that
    outgrows that later is truncated. A sampler's `max_sequence_tokens`, with room for a token, is such a limit too.

    Args:
        envs: The environments; the `stop_strings` of each join those of `params`.
        renderer: Of the model's prompts.
        sampler: Of the model's responses.
        requests: The groups.
        params: How to sample each response.
        max_prompt_tokens: The longest sequence that is sampled from; None for no limit but the sampler's.
        on_event: Told of "on_episode_start" and "on_episode_end", with the episode, its environment and its slot.
        env_timeout_s: What a `reset` or a `step` may take, in seconds.

    Returns:
        The episodes, in the order of the requests.
    """
    limit = _limit(max_prompt_tokens, sampler.max_sequence_tokens)

    @lru_cache(maxsize=1)  # where a group has one prompt, its samples have one array, which travels once
    def encode(observation: str, system: str | None, prefix: str) -> tuple[np.ndarray, str]:
        prompt = renderer.encode(observation, system, prefix)
        return as_token_ids(prompt.token_ids), prompt.response_prefix

    slots: list[_Slot] = []
    with LimitedCalls(MAX_STEP_THREADS, env_timeout_s) as threads:
        for request in requests:
            for sample in range(request.first, request.first + request.size):
                i = len(slots)
                slots.append(_Slot.of(request, sample, sampler.weights_version))
                if sample > request.first and slots[i - 1].timed_out:
                    slots[i].time_out(slots[i - 1].episode.error)  # the same task would hang again
                    continue
                _guard(envs, i, slots, _reset, request, threads, encode, limit)
                if slots[i].active:
                    on_event("on_episode_start", slots[i].episode, envs[i].unwrapped, i)
        while active := [i for i, slot in enumerate(slots) if slot.active]:
            completions = _generate(sampler, [slots[i] for i in active], params)
            steps = [
                _submit(threads, envs[i], partial(envs[i].step, _take_down(slots[i], completion, renderer)))
                for i, completion in zip(active, completions, strict=True)
            ]
            for i, step in zip(active, steps, strict=True):
                env = envs[i].unwrapped  # one that fails leaves its slot
                _guard(envs, i, slots, _take_step, threads, step, renderer, limit)
                if not slots[i].active:
                    on_event("on_episode_end", slots[i].episode, env, i)
    return [slot.episode for slot in slots]


class _Limit(NamedTuple):
    """The longest sequence that is sampled from, and whose limit it is."""

    tokens: int
    name: str


@dataclass
class _Slot:
    episode: TextEpisode
    seed: int
    active: bool = False
    response_prefix: str = ""
    stop_strings: tuple[str, ...] = ()
    timed_out: bool = False

    @classmethod
    def of(cls, request: GroupRequest, sample: int, version: int) -> _Slot:
        index = (request.options or {}).get("index")
        episode = TextEpisode(request.group, sample, weights_version=version, seed=request.seed, index=index)
        return cls(episode, derive_seed(request.sampling_seed, sample))

    def time_out(self, error: str | None) -> None:
        self.active, self.timed_out, self.episode.error = False, True, error


def _guard(envs: EnvPool, i: int, slots: list[_Slot], act: Callable[..., None], *args: Any) -> None:
    """Runs one slot's reset or step; what the environment does wrong invalidates that sample alone."""
    slot = slots[i]
    try:
        act(envs[i], slot, *args)
    except TooManyStuckError:
        raise
    except CallTimeoutError as error:
        slot.time_out(f"{ENV_TIMEOUT}: the environment gave {error} (sampling(env_timeout_s=...) sets that)")
        envs.take(i)  # `_submit` has it closed as soon as it is back
    except (Exception, SystemExit) as error:
        slot.active = False
        slot.episode.error = f"{type(error).__name__}: {error}"
        envs.discard(i)


def _submit(threads: LimitedCalls, env: gym.Env, function: Callable[[], Any]) -> Call:
    """Has something called that may take as long as it likes; one that came back too late is then closed."""

    def close() -> None:
        with suppress(Exception):
            env.close()

    return threads.submit(function, if_late=close)


def _reset(
    env: gym.Env,
    slot: _Slot,
    request: GroupRequest,
    threads: LimitedCalls,
    encode: Callable[..., tuple[np.ndarray, str]],
    limit: _Limit | None,
) -> None:
    observation, info = threads.result(
        _submit(threads, env, partial(env.reset, seed=request.seed, options=request.options))
    )
    _check_text(observation)
    prompt_ids, slot.response_prefix = encode(
        observation, info.get("system"), info.get("assistant_prefix", "")
    )
    slot.episode.observation, slot.episode.system = observation, info.get("system")
    slot.episode.assistant_prefix = info.get("assistant_prefix", "")
    slot.episode.right_answer = getattr(env.unwrapped, "right_answer", None)
    slot.episode.part = info.get("part")
    slot.stop_strings = tuple(getattr(env.unwrapped, "stop_strings", ()))
    _ask(slot, prompt_ids, limit)


def _generate(sampler: Sampler, slots: Sequence[_Slot], params: SamplingParams) -> list[Completion]:
    """A completion each, with stop strings of its own beside those of `params`: those with the same ones together."""
    sequences = [slot.episode.token_ids.tolist() for slot in slots]
    seeds = [derive_seed(slot.seed, len(slot.episode.turns)) for slot in slots]
    completions: dict[int, Completion] = {}
    for own in dict.fromkeys(slot.stop_strings for slot in slots):
        chosen = [i for i, slot in enumerate(slots) if slot.stop_strings == own]
        generated = sampler.generate(
            [sequences[i] for i in chosen],
            replace(params, stop_strings=(*params.stop_strings, *own)),
            [seeds[i] for i in chosen],
        )
        completions |= zip(chosen, generated, strict=True)
    return [completions[i] for i in range(len(slots))]


def _take_down(slot: _Slot, completion: Completion, renderer: Renderer) -> str:
    """Enters a completion into the turn that it answers; gives the text that the environment is told."""
    turn = slot.episode.turns[-1]
    turn.response_ids, turn.logps = completion.token_ids, completion.logps
    turn.finish_reason = completion.finish_reason
    slot.episode.weights_version = completion.weights_version
    turn.text = slot.response_prefix + renderer.decode(completion.token_ids.tolist())
    return turn.text


def _take_step(
    env: gym.Env, slot: _Slot, threads: LimitedCalls, step: Call, renderer: Renderer, limit: _Limit | None
) -> None:
    turn = slot.episode.turns[-1]
    observation, reward, terminated, truncated, info = threads.result(step)
    _check_info(info)
    turn.info = info
    turn.reward = float(reward)
    if not math.isfinite(turn.reward):
        raise ValueError(f"the environment's reward is {turn.reward}")
    slot.episode.terminated, slot.episode.truncated = bool(terminated), bool(truncated)
    slot.active = False
    # A response cut at the length cap ends the episode: the model never got to say what it would have said.
    if not (terminated or truncated or turn.finish_reason == "length"):
        _check_text(observation)
        turn.observation = observation
        prefix, continues = turn.info.get("assistant_prefix", ""), bool(turn.info.get("continues"))
        prompt = renderer.next_turn(turn.response_ids.tolist(), observation, prefix, continues)
        slot.response_prefix = prompt.response_prefix
        _ask(slot, as_token_ids(prompt.token_ids), limit)


def _check_text(observation: Any) -> None:
    if not isinstance(observation, str):
        raise TypeError(f"the environment's observation is no text, but {type(observation).__name__}")


def _check_info(info: Any) -> None:
    """A verdict that is neither yes nor no, such as NaN, would count as yes."""
    if not isinstance(info, Mapping):
        raise TypeError(f"the environment's info is no mapping, but {type(info).__name__}")
    for name in ("correct", "well_formed"):
        if (verdict := info.get(name)) is not None and verdict not in (True, False):
            raise ValueError(f"the environment's info[{name!r}] is {verdict!r}")


def _limit(max_prompt_tokens: int | None, max_sequence_tokens: int | None) -> _Limit | None:
    limits = []
    if max_prompt_tokens is not None:
        limits.append(_Limit(max_prompt_tokens, f"max_prompt_tokens={max_prompt_tokens}"))
    if max_sequence_tokens is not None:
        name = f"the sampler's limit of {max_sequence_tokens} with a response"
        limits.append(_Limit(max_sequence_tokens - 1, name))
    return min(limits, default=None)


def _ask(slot: _Slot, prompt_ids: np.ndarray, limit: _Limit | None) -> None:
    """Opens a turn, unless the sequence so far and its question are over the limit."""
    length = len(slot.episode.token_ids) + len(prompt_ids)
    if limit is not None and length > limit.tokens:
        slot.active = False
        if slot.episode.turns:  # what was sampled so far was paid, and can be learned from
            slot.episode.truncated = True
        else:
            slot.episode.error = f"{PROMPT_TOO_LONG}: {length} tokens, over {limit.name}"
        return
    slot.episode.turns.append(Turn(prompt_ids=prompt_ids))
    slot.active = True
