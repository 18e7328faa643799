"""Rewards to compose: wrappers that add to what a text environment pays. Know text alone, no tokens and no model.

Any Gymnasium program can wrap an environment in them, one around the other. A run names them in its `env_config`
(`llmenv.env.make_env`), the innermost first:

    environment:
      env_config:
        wrappers:
          - envs.rewards:RewardFunctions: {functions: {"my_rewards:brevity": 0.5}, env_weight: 1.0}
          - envs.rewards:LengthPenalty: {max_length: 2000, buffer: 500}

Each scores an assistant's whole message, once, when it is complete. In a dialogue that is every message; a message that
tools have continued is scored as one, with their results in it, at its last step.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pkgutil import resolve_name
from typing import Any

import gymnasium as gym
from gymnasium.utils import RecordConstructorArgs

from envs.readability import foreign_letters, repetition, tags_are_sound, target_words
from llmenv.text import parse_response

RewardFunction = Callable[
    [str, str, dict[str, Any]], float | None
]  # of prompt, completion and the info of the step


class AddedReward(gym.Wrapper[str, str, str, str], RecordConstructorArgs, ABC):
    """Pays env_weight * (the environment's reward) + weight * score(prompt, completion, info).

    What the reward is made of is in the step's info as "reward_parts", as paid: "environment", and what each wrapper
    added, by its class or its functions. Their sum is the reward.

    A subclass records its arguments, as Gymnasium's own wrappers do, so that `env.spec` makes the same again.

    Args:
        env: a text environment.
        weight: of the score.
        env_weight: of the environment's own reward; 0 leaves the score as the only one.
    """

    def __init__(self, env: gym.Env[str, str], weight: float = 1.0, env_weight: float = 1.0) -> None:
        gym.Wrapper.__init__(self, env)
        self.weight = weight
        self.env_weight = env_weight

    @abstractmethod
    def score(self, prompt: str, completion: str, info: dict[str, Any]) -> float:
        """Score a complete message.

        Args:
            prompt: the observation that it answers.
            completion: the assistant's whole message.
            info: that of the step which completed it.
        """

    def scores(self, prompt: str, completion: str, info: dict[str, Any]) -> dict[str, float]:
        """The score by the names of its parts: its class alone, where it has none."""
        return {type(self).__name__: float(self.score(prompt, completion, info))}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        self._prompt, info = self.env.reset(seed=seed, options=options)
        self._completion = ""
        return self._prompt, info

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        parts = info.get("reward_parts", {"environment": float(reward)})
        parts = {name: self.env_weight * paid for name, paid in parts.items()}
        reward = self.env_weight * float(reward)
        self._completion += action
        if info.get("continues") and not (terminated or truncated):
            self._completion += observation
        else:
            found = self.scores(self._prompt, self._completion, info)
            for name, score in found.items():
                parts[name] = parts.get(name, 0.0) + self.weight * score
            reward += self.weight * sum(found.values())
            self._prompt, self._completion = observation, ""
        return observation, reward, terminated, truncated, {**info, "reward_parts": parts}


class RewardFunctions(AddedReward):
    """The weighted sum of reward functions of (prompt, completion, info).

    Args:
        env: a text environment.
        functions: the weight of each function, named "module:function" or given itself. They run in the threads and
            processes that step the environments, on text of any kind: bound their work. One that returns None has
            nothing to say of the sample, and adds nothing.
        env_weight: of the environment's own reward.
    """

    def __init__(
        self,
        env: gym.Env[str, str],
        functions: Mapping[str | RewardFunction, float],
        env_weight: float = 1.0,
    ) -> None:
        RecordConstructorArgs.__init__(self, functions=functions, env_weight=env_weight)
        super().__init__(env, env_weight=env_weight)
        self.functions = [
            (resolve_name(function) if isinstance(function, str) else function, weight)
            for function, weight in functions.items()
        ]

    def scores(self, prompt: str, completion: str, info: dict[str, Any]) -> dict[str, float]:
        found: dict[str, float] = {}
        for function, weight in self.functions:
            score = function(prompt, completion, info)
            if score is not None:  # as in TRL: the function has nothing to say of this sample
                name = _name(function)
                found[name] = found.get(name, 0.0) + weight * finite(score, function)
        return found

    def score(self, prompt: str, completion: str, info: dict[str, Any]) -> float:
        return sum(self.scores(prompt, completion, info).values())


def _name(function: Callable[..., Any]) -> str:
    name = getattr(function, "__qualname__", None) or type(function).__qualname__
    module = getattr(function, "__module__", None) or type(function).__module__
    return f"{module}:{name}"


def finite(score: Any, function: Callable[..., Any]) -> float:
    """A score as a number; `ValueError` names the function whose score is none, or no finite one."""
    try:
        number = math.nan if isinstance(score, str | bytes) else float(score)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(
            f"the reward function {_name(function)} gave {score!r}, and no finite number: let it return a number, or "
            "None where it has nothing to say"
        )
    return number


class LengthPenalty(AddedReward):
    """DAPO's soft over-long punishment (Yu et al. 2025, https://arxiv.org/abs/2503.14476, equation 13).

    Of a completion of n characters it adds

        0                                   up to max_length - buffer,
        (max_length - buffer - n) / buffer  up to max_length,
        -1                                  beyond,

    times `weight`. DAPO counts tokens, which an environment does not know. Characters are counted, and not words:
    a text without spaces would be a single one.

    Args:
        env: a text environment.
        max_length: characters from which the whole penalty is due.
        buffer: the last characters before that, over which it rises.
        weight: the whole penalty.
    """

    def __init__(self, env: gym.Env[str, str], max_length: int, buffer: int, weight: float = 1.0) -> None:
        RecordConstructorArgs.__init__(self, max_length=max_length, buffer=buffer, weight=weight)
        super().__init__(env, weight)
        if not 0 < buffer <= max_length:
            raise ValueError(f"buffer must be above 0 and at most max_length={max_length}, not {buffer}")
        self.max_length = max_length
        self.buffer = buffer

    def score(self, prompt: str, completion: str, info: dict[str, Any]) -> float:
        over = len(completion) - (self.max_length - self.buffer)
        return -min(max(over / self.buffer, 0.0), 1.0)


class FormatBonus(AddedReward):
    """Adds `weight` for a well-formed completion (`llmenv.text`), right or wrong.

    Args:
        env: a text environment.
        weight: the bonus.
    """

    def __init__(self, env: gym.Env[str, str], weight: float = 0.1) -> None:
        RecordConstructorArgs.__init__(self, weight=weight)
        super().__init__(env, weight)

    def score(self, prompt: str, completion: str, info: dict[str, Any]) -> float:
        return float(parse_response(completion).well_formed)


class RepetitionPenalty(AddedReward):
    """Takes away `weight` times the share of n-grams that stood in the completion before.

    1 - (distinct n-grams) / (all n-grams), of words and punctuation marks in lower case, as open-r1
    (https://github.com/huggingface/open-r1) does after Yeo et al. 2025, "Demystifying Long Chain-of-Thought Reasoning
    in LLMs" (https://arxiv.org/abs/2502.03373). 0 for a text of fewer than n words; linear time.

    Args:
        env: a text environment.
        n: words of an n-gram.
        weight: the penalty of a text that only repeats itself, in the limit.
    """

    def __init__(self, env: gym.Env[str, str], n: int = 4, weight: float = 1.0) -> None:
        RecordConstructorArgs.__init__(self, n=n, weight=weight)
        super().__init__(env, weight)
        if n < 1:
            raise ValueError(f"n must be 1 or more, not {n}")
        self.n = n

    def score(self, prompt: str, completion: str, info: dict[str, Any]) -> float:
        return -repetition(completion, self.n)


class ScriptBonus(AddedReward):
    """Adds `weight` times the share of words of the target language's script, as R1 has it of its language.

    See `envs.readability.target_words`; Nature 645, 633, 2025. It is told there to cost a little accuracy.

    Args:
        env: a text environment.
        script: as Unicode names its letters.
        weight: the bonus of a text with no other words.
    """

    def __init__(self, env: gym.Env[str, str], script: str = "LATIN", weight: float = 1.0) -> None:
        RecordConstructorArgs.__init__(self, script=script, weight=weight)
        super().__init__(env, weight)
        self.script = script

    def score(self, prompt: str, completion: str, info: dict[str, Any]) -> float:
        return target_words(completion, self.script)


class ForeignLettersPenalty(ScriptBonus):
    """Takes away `weight` times the share of letters of other scripts (see `envs.readability.foreign_letters`)."""

    def score(self, prompt: str, completion: str, info: dict[str, Any]) -> float:
        return -foreign_letters(completion, self.script)


class TagsPenalty(FormatBonus):
    """Takes away `weight` for tags that are nested or not closed (see `envs.readability.tags_are_sound`)."""

    def score(self, prompt: str, completion: str, info: dict[str, Any]) -> float:
        return float(tags_are_sound(completion)) - 1
