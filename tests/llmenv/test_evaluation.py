"""The summary of episodes against numbers derived by hand."""

from __future__ import annotations

import logging
import math

import pytest

from llmenv.episode import TextEpisode, Turn
from llmenv.evaluation import summarize, warn_if_cut
from llmenv.statistics import wilson_interval


def make_episode(
    reward: float, response: int, error: str | None = None, group: int = 0, **info: bool | str | None
) -> TextEpisode:
    turn = Turn(
        prompt_ids=[1, 2],
        response_ids=[3] * response,
        reward=reward,
        info=dict(info),
        finish_reason="length" if response == 8 else "stop",
    )
    return TextEpisode(group, 0, [turn], error=error)


def test_summary_is_over_valid_episodes() -> None:
    episodes = [
        make_episode(1.0, 4, correct=True, well_formed=True),
        make_episode(0.1, 8, correct=False, well_formed=True, failure="time limit"),
        make_episode(0.1, 6, correct=True, well_formed=False),
        make_episode(0.0, 2),  # an environment that says nothing of the kind: neither
        make_episode(9.0, 100, error="lost", correct=True, failure="memory limit"),
        TextEpisode(0, 0, error="PromptTooLong"),
    ]
    for group, episode in enumerate(episodes):
        episode.group = group
    episodes[1].truncated = episodes[4].truncated = True
    summary = summarize(episodes)
    low, high = wilson_interval(2, 4)
    assert summary == {
        "accuracy": 0.5,
        "accuracy_low": low,
        "accuracy_high": high,
        "format_rate": 0.5,
        "episode_return_mean": pytest.approx(0.3),
        "response_length": 5.0,
        "length_cap_rate": 0.25,
        "over_limit_rate": 0.25,
        "truncated_rate": 0.25,
        "num_episodes": 4,
        "num_invalid": 2,
    }


def test_samples_of_a_task_are_no_tasks() -> None:
    """Four tasks of which one is right in all of its eight samples tell no more than one sample of each would."""
    alone = summarize([make_episode(0.0, 2, group=g, correct=g == 0) for g in range(4)])
    eight = summarize([make_episode(0.0, 2, group=g, correct=g == 0) for g in range(4) for _ in range(8)])
    low, high = wilson_interval(1, 4)
    assert (alone["accuracy"], alone["accuracy_low"], alone["accuracy_high"]) == (0.25, low, high)
    assert eight["accuracy"] == 0.25 and eight["num_episodes"] == 32
    assert eight["accuracy_low"] <= low and eight["accuracy_high"] >= high


def test_a_task_counts_once_however_many_of_its_samples_are_valid() -> None:
    # Task 0 is right in its only sample, task 1 wrong in all three: (1 + 0) / 2.
    episodes = [make_episode(1.0, 2, group=0, correct=True)]
    episodes += [make_episode(0.0, 2, group=1, correct=False) for _ in range(3)]
    assert summarize(episodes)["accuracy"] == 0.5


@pytest.mark.parametrize(
    ("failure", "rate"), [("time limit", 1.0), ("memory limit", 1.0), ("wrong value", 0.0), (None, 0.0)]
)
def test_limits_of_verifiers(failure: str | None, rate: float) -> None:
    assert summarize([make_episode(0.0, 2, failure=failure)])["over_limit_rate"] == rate


def test_the_last_turn_decides() -> None:
    episode = make_episode(0.25, 2, correct=True)
    episode.turns.append(make_episode(0.5, 3, correct=False).turns[0])
    summary = summarize([episode])
    assert (summary["accuracy"], summary["episode_return_mean"], summary["response_length"]) == (
        0.0,
        0.75,
        5.0,
    )


def test_no_valid_episode_is_no_number() -> None:
    summary = summarize([TextEpisode(0, 0, error="lost")])
    assert math.isnan(summary["accuracy"])
    assert (summary["accuracy_low"], summary["accuracy_high"]) == (0.0, 1.0)
    assert (summary["num_episodes"], summary["num_invalid"]) == (0, 1)


def test_a_model_that_hardly_ever_ends_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        warn_if_cut({"length_cap_rate": 0.9}, 64)
        assert not caplog.records
        warn_if_cut({"length_cap_rate": 0.97}, 64)
    assert "97 % of the first evaluation's responses were cut at max_new_tokens=64" in caplog.text
