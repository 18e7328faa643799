"""The summary of episodes against numbers derived by hand."""

from __future__ import annotations

import logging
import math

import pytest

from llmenv.episode import TextEpisode, Turn
from llmenv.evaluation import summarize, warn_if_cut, wilson_interval


def test_wilson_interval() -> None:
    # 8 of 10, z^2 = 3.841459: centre (0.8 + 0.192073) / 1.384146 = 0.716740;
    # spread 1.959964 sqrt(0.8 * 0.2 / 10 + 0.0384146 / 4) / 1.384146 = 1.959964 * 0.160012 / 1.384146 = 0.226577.
    assert wilson_interval(8, 10) == pytest.approx((0.490162, 0.943318), abs=1e-5)


def test_wilson_interval_at_the_ends() -> None:
    # 0 of 10: centre = spread = 0.192073 / 1.384146 = 0.138767, so that the interval is (0, 0.277533).
    low, high = wilson_interval(0, 10)
    assert (low, high) == (pytest.approx(0.0, abs=1e-12), pytest.approx(0.277533, abs=1e-5))
    assert wilson_interval(10, 10) == pytest.approx((1 - high, 1.0), abs=1e-9)
    assert wilson_interval(0, 0) == (0.0, 1.0)


def test_the_proportion_lies_in_its_interval() -> None:
    """Wherever rounding puts the bounds: at 0 and 1 they are the proportion itself."""
    for n in range(1, 1101):
        for k in {0, 1, n // 3, n // 2, n - 1, n}:
            low, high = wilson_interval(k, n)
            assert 0.0 <= low <= k / n <= high <= 1.0, (k, n)
        assert wilson_interval(n, n)[1] == 1.0 and wilson_interval(0, n)[0] == 0.0


def test_interval_narrows_with_the_square_root_of_the_trials() -> None:
    widths = [high - low for low, high in (wilson_interval(n // 2, n) for n in (400, 1600))]
    assert widths[0] / widths[1] == pytest.approx(2.0, rel=0.01)


def make_episode(
    reward: float, response: int, error: str | None = None, **info: bool | str | None
) -> TextEpisode:
    turn = Turn(
        prompt_ids=[1, 2],
        response_ids=[3] * response,
        reward=reward,
        info=dict(info),
        finish_reason="length" if response == 8 else "stop",
    )
    return TextEpisode(0, 0, [turn], error=error)


def test_summary_is_over_valid_episodes() -> None:
    episodes = [
        make_episode(1.0, 4, correct=True, well_formed=True),
        make_episode(0.1, 8, correct=False, well_formed=True, failure="time limit"),
        make_episode(0.1, 6, correct=True, well_formed=False),
        make_episode(0.0, 2),  # an environment that says nothing of the kind: neither
        make_episode(9.0, 100, error="lost", correct=True, failure="memory limit"),
        TextEpisode(0, 0, error="PromptTooLong"),
    ]
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
