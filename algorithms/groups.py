"""What an iteration's episodes come to: which of them can be compared, and the figures about them."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ray.rllib.utils.metrics import ENV_RUNNER_RESULTS

from algorithms.config import LLMConfig
from llmenv.episode import TextEpisode
from llmenv.evaluation import summarize
from llmenv.rollout import ENV_TIMEOUT, PROMPT_TOO_LONG

logger = logging.getLogger(__name__)
MOST_ERRORS = 20  # that a run tells of, each once


def comparable(episodes: Sequence[TextEpisode], compared: int) -> list[TextEpisode]:
    """The valid episodes, but for those that are alone in their group, where it was to have more.

    They have nothing to be compared with: with an advantage of 0 they would only dilute the others' gradient.
    """
    valid = [episode for episode in episodes if episode.valid]
    sizes = Counter(episode.group for episode in valid)
    return [episode for episode in valid if sizes[episode.group] >= min(2, compared)]


def refuse_unusable(episodes: Sequence[TextEpisode], config: LLMConfig, compared: int) -> None:
    """Fails in words on episodes that nothing can be learned from.

    Args:
        episodes: Of an iteration.
        config: The run's.
        compared: How many samples are compared with one another.

    Raises:
        ValueError: If a prompt is too long, and `overlong_prompts` says that this is an error.
        RuntimeError: If no group can be compared.
    """
    overlong = [episode for episode in episodes if _is_overlong(episode)]
    if overlong and config.overlong_prompts == "error":
        raise ValueError(f"{overlong[0].error}; raise it, or drop such prompts with overlong_prompts='drop'")
    if not comparable(episodes, compared):
        first = next(episode.error for episode in episodes if not episode.valid)
        every = "no group of the iteration has two valid samples"
        if not any(episode.valid for episode in episodes):
            every = "every sample of the iteration is invalid"
        raise RuntimeError(f"{every}; the first: {first}")


class SampleErrors:
    """Tells of what made samples invalid, such as a bad row of a data set: of each error once, when it first comes."""

    def __init__(self) -> None:
        self._told: set[str] = set()

    def tell(self, episodes: Sequence[TextEpisode]) -> None:
        for episode in episodes:
            # Lengths differ, and num_overlong counts them.
            error = PROMPT_TOO_LONG if _is_overlong(episode) else episode.error
            if error is None or error in self._told or len(self._told) == MOST_ERRORS:
                continue
            self._told.add(error)
            more = "; further ones are only counted" if len(self._told) == MOST_ERRORS else ""
            logger.warning("a sample is invalid, and left out: %s%s", episode.error, more)


def of_part(episodes: Sequence[TextEpisode], part: str) -> list[TextEpisode]:
    """Those of one part of the environment."""
    return [episode for episode in episodes if episode.part == part]


def evaluation_results(
    evaluation: Mapping[str, Sequence[TextEpisode]], parts: Sequence[str]
) -> dict[str, Any]:
    """What `LLMAlgorithm.evaluate` returns.

    Args:
        evaluation: Its episodes, "sampled" and "greedy".
        parts: Of the environment.
    """
    return {
        ENV_RUNNER_RESULTS: summarize(evaluation["sampled"]),
        "greedy": summarize(evaluation["greedy"]),
        "parts": {
            part: {name: summarize(of_part(episodes, part)) for name, episodes in evaluation.items()}
            for part in parts
        },
    }


def rollout_metrics(
    episodes: Sequence[TextEpisode], compared: int, weights_version: int, parts: Sequence[str] = ()
) -> dict[str, float]:
    """The figures of `rollout/` (docs/metrics.md lists them) about the episodes of an iteration.

    Args:
        episodes: All of them.
        compared: How many samples are compared with one another.
        weights_version: Of the weights that are about to learn from them.
        parts: Of the environment: some figures are of each, too, as "part/accuracy".
    """
    rewards = _rewards(episodes, compared)
    lag = [weights_version - episode.weights_version for episode in episodes]
    return {
        **summarize(episodes),
        "num_dropped_groups": len({episode.group for episode in episodes} - rewards.keys()),
        "num_overlong": sum(_is_overlong(episode) for episode in episodes),
        "num_env_timeouts": sum((episode.error or "").startswith(ENV_TIMEOUT) for episode in episodes),
        "num_tokens": sum(len(episode.token_ids) for episode in episodes),
        "num_response_tokens": sum(episode.response_length for episode in episodes),
        "groups_without_signal": _flat(rewards),
        "staleness": float(np.mean(lag)),
        **{
            f"{part}/{key}": value
            for part in parts
            for key, value in _part_metrics(of_part(episodes, part), compared).items()
        },
    }


def _part_metrics(episodes: Sequence[TextEpisode], compared: int) -> dict[str, float]:
    summary = summarize(episodes)
    names = ("accuracy", "format_rate", "episode_return_mean", "response_length", "num_episodes")
    flat = _flat(_rewards(episodes, compared))
    return {**{name: summary[name] for name in names}, "groups_without_signal": flat}


def _rewards(episodes: Sequence[TextEpisode], compared: int) -> dict[int, list[float]]:
    """By group those of its comparable samples."""
    rewards: dict[int, list[float]] = {}
    for episode in comparable(episodes, compared):
        rewards.setdefault(episode.group, []).append(episode.total_reward)
    return rewards


def _flat(rewards: dict[int, list[float]]) -> float:
    """The share of groups in which no sample is better than another."""
    return float(np.mean([len(set(values)) < 2 for values in rewards.values()])) if rewards else 1.0


def _is_overlong(episode: TextEpisode) -> bool:
    return (episode.error or "").startswith(PROMPT_TOO_LONG)


def warn_without_signal(iteration: int) -> None:
    """Tells that an iteration teaches nothing, and what can be done about it."""
    logger.warning(
        "iteration %d has no signal: no sample is better than another of its task, and rewards teach nothing. If that "
        "goes on: easier tasks (harder ones, where all are right), another reward, more samples a group (group_size), "
        "or supervised fine-tuning first",
        iteration,
    )
