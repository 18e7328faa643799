"""What a set of episodes says about a policy: accuracy with its interval, format rate, lengths."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence

import numpy as np

from llmenv.episode import TextEpisode

logger = logging.getLogger(__name__)

NEARLY_ALL = 0.95  # of responses


def wilson_interval(successes: int, trials: int, z: float = 1.959964) -> tuple[float, float]:
    """95 % confidence interval of a proportion; the proportion itself always lies in it.

    (p + z^2/2n +- z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n), Wilson (1927), JASA 22:209-212.
    """
    if trials == 0:
        return 0.0, 1.0
    p, correction = successes / trials, z * z / trials
    centre = (p + correction / 2) / (1 + correction)
    spread = z * math.sqrt(p * (1 - p) / trials + correction / (4 * trials)) / (1 + correction)
    # At p = 0 and p = 1 a bound is p itself, but for rounding, which may put it on either side.
    return max(0.0, min(p, centre - spread)), min(1.0, max(p, centre + spread))


def summarize(episodes: Sequence[TextEpisode]) -> dict[str, float]:
    """Means over the valid episodes; invalid ones are counted apart.

    Returns:
        accuracy (share whose last `info["correct"]` is true), accuracy_low and accuracy_high (95 %), format_rate
        (`info["well_formed"]`), episode_return_mean, response_length (tokens), length_cap_rate, over_limit_rate
        (`info["failure"]` is "time limit" or "memory limit": the verifier's), truncated_rate, num_episodes,
        num_invalid.
    """
    valid = [episode for episode in episodes if episode.valid]
    last = [episode.turns[-1].info for episode in valid]
    correct = sum(bool(info.get("correct")) for info in last)
    low, high = wilson_interval(correct, len(valid))

    def mean(values: Sequence[float]) -> float:
        return float(np.mean(values)) if values else float("nan")

    return {
        "accuracy": mean([bool(info.get("correct")) for info in last]),
        "accuracy_low": low,
        "accuracy_high": high,
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
