"""What happened between an environment and a policy, in token ids.

Knows nothing about models, templates or rewards' meaning: a `TextEpisode` is the record that travels from a
runner to the driver. RLlib asks only `env_steps()` and `agent_steps()` of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np


def as_token_ids(ids: Sequence[int] | np.ndarray) -> np.ndarray:
    """Token ids as they travel: int32 [n]."""
    return np.asarray(ids, dtype=np.int32)


def as_logps(logps: Sequence[float] | np.ndarray) -> np.ndarray:
    """Log-probabilities as they travel: float32 [n]."""
    return np.asarray(logps, dtype=np.float32)


@dataclass(eq=False)  # arrays give no single answer to ==: a turn equals itself alone
class Turn:
    """One question put to the model and the model's answer.

    Sequences given to the constructor become arrays.

    Attributes:
        prompt_ids: int32 [n], the tokens that the template and the environment appended before this response (for
            the first turn: the whole prompt). Samples of a group may share this array.
        response_ids: int32 [n], the tokens that the model sampled, the stop token included.
        logps: float32 [n], log-probability of each response token under the distribution it was sampled from.
        finish_reason: "stop" (the model ended its turn) or "length" (it hit the cap).
        text: The action given to the environment: what the template had opened, then the decoded response.
        reward: What `step()` paid.
        info: The `info` of that `step()`.
        observation: The environment's next message; nothing where there is none.
    """

    prompt_ids: np.ndarray
    response_ids: np.ndarray = field(default_factory=lambda: as_token_ids([]))
    logps: np.ndarray = field(default_factory=lambda: as_logps([]))
    finish_reason: str = ""
    text: str = ""
    reward: float = 0.0
    info: dict[str, Any] = field(default_factory=dict)
    observation: str = ""

    def __post_init__(self) -> None:
        self.prompt_ids, self.response_ids = as_token_ids(self.prompt_ids), as_token_ids(self.response_ids)
        self.logps = as_logps(self.logps)


@dataclass(eq=False)
class TextEpisode:
    """One sample of a group: the turns of one environment episode.

    Attributes:
        group: Index of the group (samples of the same task) within its batch.
        sample: Index within the group.
        turns: In order; token ids only ever grow by appending.
        terminated: The environment ended the episode.
        truncated: The environment cut the episode, or its next question would have gone over `max_prompt_tokens` or
            the sampler's own limit. Hitting the length cap is not this: see `hit_length_cap`.
        weights_version: Version of the weights that sampled it.
        error: Why the sample is invalid (the environment raised, the prompt was too long), else None. An
            invalid sample takes no part in its group's statistics nor in the update.
        observation: The first user message, for the records.
        system: The system message, for the records.
        assistant_prefix: How the environment begins the first answer, for the records.
        seed: What the environment was reset with; it and `index` make the task again.
        index: The row of the data set; None where tasks are drawn.
        right_answer: The environment's own, for the records; None where it tells none.
        part: Of the environment, that it is an episode of; None where there are no parts.
    """

    group: int
    sample: int
    turns: list[Turn] = field(default_factory=list)
    terminated: bool = False
    truncated: bool = False
    weights_version: int = 0
    error: str | None = None
    observation: str = ""
    system: str | None = None
    assistant_prefix: str = ""
    seed: int | None = None
    index: int | None = None
    right_answer: str | None = None
    part: str | None = None

    @property
    def valid(self) -> bool:
        return self.error is None

    @property
    def total_reward(self) -> float:
        """Undiscounted sum of the turns' rewards."""
        return float(sum(turn.reward for turn in self.turns))

    @property
    def reward_parts(self) -> dict[str, float] | None:
        """What the total is made of, by name; None where no turn's info says so (`envs.rewards`)."""
        if not any("reward_parts" in turn.info for turn in self.turns):
            return None
        total: dict[str, float] = {}
        for turn in self.turns:
            for name, paid in turn.info.get("reward_parts", {"environment": turn.reward}).items():
                total[name] = total.get(name, 0.0) + paid
        return total

    @property
    def transcript(self) -> str:
        """All that was said after the first user message: a message a line, but for one that goes on with another."""
        parts = []
        for turn in self.turns:
            gap = "" if turn.info.get("continues") else "\n"
            parts += [turn.text, gap, turn.observation, gap] if turn.observation else [turn.text]
        return "".join(parts)

    @property
    def response_length(self) -> int:
        """Tokens sampled by the model, over all turns."""
        return sum(len(turn.response_ids) for turn in self.turns)

    @property
    def hit_length_cap(self) -> bool:
        return bool(self.turns) and self.turns[-1].finish_reason == "length"

    @property
    def token_ids(self) -> np.ndarray:
        """The whole sequence as the model saw and sampled it, never re-tokenised: int32 [T]."""
        parts = [part for turn in self.turns for part in (turn.prompt_ids, turn.response_ids)]
        return np.concatenate([as_token_ids([]), *parts])

    def env_steps(self) -> int:
        return len(self.turns)

    def agent_steps(self) -> int:
        return len(self.turns)


def derive_seed(*keys: int) -> int:
    """A 63-bit seed that depends on every key and on their order.

    All that is drawn for a batch is a pure function of (run seed, iteration, group, sample), so that a resumed
    run draws the same batch, however many runners share the work.
    """
    high, low = np.random.SeedSequence(keys).generate_state(2, np.uint32)
    return (int(high) << 31) | (int(low) >> 1)
