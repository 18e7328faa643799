"""Several environments as one: each episode is one of theirs. Knows no trainer and no curriculum."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym

from llmenv.env import TextEnv, make_env


@dataclass(frozen=True)
class Part:
    """One of a mixture's environments.

    Attributes:
        env: Its id, "module:Id-v0".
        weight: Its share of the episodes is this over the sum of all.
        env_config: Its arguments, `wrappers` among them.
    """

    env: str
    weight: float = 1.0
    env_config: Mapping[str, Any] = field(default_factory=dict)


class MixtureEnv(TextEnv):
    """A mixture of text environments.

    ## Description
    Every episode is one of a part's, as that part alone would have it: prompt, turns, reward, verdict. Which part is
    drawn by weight from the seed; a trainer that wants exact shares asks with `reset(options={"part": name})`, and
    what else stands in the options (such as the row of a data set) is the part's own.

    ## Observations and Actions
    Texts, as of the part. The info of `reset` and of `step` has its name too, under `part`.

    ## Rewards
    The part's.

    ## Arguments
    - `parts`: by name a mapping with `env` (default: the name itself), `weight` (default: 1) and `env_config` (default:
      none). Two parts may be the same environment with other arguments.
    - `split`: that of every part, whatever its `env_config` says; None leaves it to each.

    ```python
    gymnasium.make("envs:Mixture-v0", parts={
        "Countdown-v0": {"weight": 2},
        "products": {"env": "envs:Multiplication-v0", "env_config": {"digits": 2}}})
    ```

    ## Version History
    - v0: first version.
    """

    def __init__(self, parts: Mapping[str, Mapping[str, Any]], split: str | None = None) -> None:
        super().__init__()
        self.parts = read_parts(parts)
        self._envs = {name: _make(name, part, split) for name, part in self.parts.items()}
        self._part: str | None = None

    @property
    def part_weights(self) -> dict[str, float]:  # type: ignore[override]
        return {name: part.weight for name, part in self.parts.items()}

    @property
    def part_tasks(self) -> dict[str, int | None]:  # type: ignore[override]
        return {name: getattr(env.unwrapped, "num_tasks", None) for name, env in self._envs.items()}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        own = dict(options or {})
        self._part = None  # bad options leave no half-reset part behind
        part = own.pop("part", None)
        drawn = part is None
        if drawn:
            part = self._draw()
        if part not in self._envs:
            raise ValueError(f"there is no part {part!r}: one of {', '.join(self._envs)}")
        env = self._envs[part]
        # What the part was drawn by must not decide its task too; and one that was not asked before has no seed yet.
        if drawn or seed is None:
            seed = int(self.np_random.integers(2**31))
        observation, info = env.reset(seed=seed, options=own or None)
        self._part = part
        self.right_answer = getattr(env.unwrapped, "right_answer", None)
        self.stop_strings = tuple(getattr(env.unwrapped, "stop_strings", ()))
        return observation, {**info, "part": part}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        if self._part is None:
            raise ValueError("call reset() before step()")
        observation, reward, terminated, truncated, info = self._envs[self._part].step(action)
        return observation, float(reward), terminated, truncated, {**info, "part": self._part}

    def close(self) -> None:
        for env in self._envs.values():
            env.close()

    def _draw(self) -> str:
        weights = self.part_weights
        chances = [weight / sum(weights.values()) for weight in weights.values()]
        return str(self.np_random.choice([*weights], p=chances))


def _make(name: str, part: Part, split: str | None) -> gym.Env[str, str]:
    """A part's environment, of the mixture's split.

    Raises:
        ValueError: If it has no splits: its held-out tasks would be those that are learned from.
    """
    if split is None:
        return make_env(part.env, dict(part.env_config))
    try:
        return make_env(part.env, {**part.env_config, "split": split})
    except TypeError as error:
        if "argument 'split'" not in str(error):
            raise
        raise ValueError(
            f"part {name!r} of the mixture has no splits, and {split!r} is asked of every part: leave it out, or give "
            "split=None, which leaves each part its own"
        ) from error


def read_parts(parts: Mapping[str, Mapping[str, Any]]) -> dict[str, Part]:
    """The parts of a mixture.

    Raises:
        ValueError: If there are none, one has other keys, or a weight is no positive number.
    """
    if not isinstance(parts, Mapping) or not parts:
        raise ValueError(f'parts must map names to settings, such as {{"Countdown-v0": {{}}}}, not {parts!r}')
    return {name: _read_part(name, settings) for name, settings in parts.items()}


def _read_part(name: str, settings: Any) -> Part:
    if not isinstance(settings, Mapping) or not settings.keys() <= Part.__dataclass_fields__.keys():
        raise ValueError(
            f"part {name!r} must have env, weight, env_config, or some of them, not {settings!r}"
        )
    part = Part(**{"env": name, **settings})
    if isinstance(part.weight, bool) or not isinstance(part.weight, int | float):
        raise ValueError(f"the weight of part {name!r} must be a number, not {part.weight!r}")
    if not (math.isfinite(part.weight) and part.weight > 0):
        raise ValueError(f"the weight of part {name!r} must be above 0, not {part.weight!r}")
    return part
