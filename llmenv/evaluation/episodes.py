"""What a set of episodes says about a policy: accuracy with its interval, format rate, lengths."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import numpy as np

from llmenv.episode import TextEpisode
from llmenv.statistics import accuracy, verdict_table

logger = logging.getLogger(__name__)

NEARLY_ALL = 0.95  # of responses


def summarize(episodes: Sequence[TextEpisode]) -> dict[str, float]:
    """Means over the valid episodes; invalid ones are counted apart.

    Returns:
        accuracy (share whose last `info["correct"]` is true, of each group, then the mean over groups), accuracy_low
        and accuracy_high (95 %, see `llmenv.statistics.accuracy`: a group's samples are of one task), format_rate
        (`info["well_formed"]`), episode_return_mean, response_length (tokens), length_cap_rate, over_limit_rate
        (`info["failure"]` is "time limit" or "memory limit": the verifier's), truncated_rate, num_episodes,
        num_invalid.
    """
    valid = [episode for episode in episodes if episode.valid]
    last = [episode.turns[-1].info for episode in valid]
    _, verdicts = verdict_table(
        [episode.group for episode in valid], [bool(info.get("correct")) for info in last]
    )
    right = accuracy(verdicts)

    def mean(values: Sequence[float]) -> float:
        return float(np.mean(values)) if values else float("nan")

    return {
        "accuracy": right.value,
        "accuracy_low": right.low,
        "accuracy_high": right.high,
        "format_rate": mean([bool(info.get("well_formed")) for info in last]),
        "episode_return_mean": mean([episode.total_reward for episode in valid]),
        "response_length": mean([episode.response_length for episode in valid]),
        "length_cap_rate": mean([episode.hit_length_cap for episode in valid]),
        "over_limit_rate": mean([info.get("failure") in ("time limit", "memory limit") for info in last]),
        "truncated_rate": mean([episode.truncated for episode in valid]),
        "num_episodes": len(valid),
        "num_invalid": len(episodes) - len(valid),
    }


def warn_if_cut(summary: Mapping[str, float], max_new_tokens: int) -> None:
    """Of a model that has not learned yet: says so where it hardly ever comes to an end.

    Args:
        summary: See `summarize`.
        max_new_tokens: Where responses are cut.
    """
    if summary["length_cap_rate"] >= NEARLY_ALL:
        logger.warning(
            "%.0f %% of the first evaluation's responses were cut at max_new_tokens=%d. If that is not too few, the "
            "model does not write the token that ends a response: choose a template that it knows (template='chat', "
            "'r1' or 'raw'), or train it on demonstrations first",
            100 * summary["length_cap_rate"],
            max_new_tokens,
        )
