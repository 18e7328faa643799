"""What a run says beside its figures."""

from __future__ import annotations

import pytest

from experiments.common.display import (
    LARGEST_REFERENCE_KL,
    LARGEST_SAMPLER_GAP,
    LARGEST_STEP_KL,
    LOWEST_ENTROPY,
    Display,
)
from llmenv.episode import TextEpisode, Turn

ROW = {
    "iteration": 1,
    "episode_return_mean": 0.5,
    "accuracy": 0.5,
    "response_length": 9.0,
    "tokens_per_second": 1.0,
}


@pytest.mark.parametrize(
    ("figures", "warned"),
    [
        ({"sampler_logp_gap_mean": 1.01 * LARGEST_SAMPLER_GAP}, True),
        ({"sampler_logp_gap_mean": 0.99 * LARGEST_SAMPLER_GAP}, False),
        ({}, False),  # an iteration in which nothing was learned
    ],
)
def test_a_sampler_that_drifts_from_the_learner_is_told_of(
    figures: dict[str, float], warned: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    Display(10).iteration({**ROW, **figures}, 60.0)
    assert ("sampler and learner disagree" in capsys.readouterr().out) == warned


@pytest.mark.parametrize(
    ("figures", "warning"),
    [
        ({"entropy": 0.99 * LOWEST_ENTROPY}, "the policy hardly varies any more"),
        ({"entropy": 1.01 * LOWEST_ENTROPY}, None),
        ({"kl_behaviour": 1.01 * LARGEST_STEP_KL}, "the iteration's steps took the policy"),
        ({"kl_behaviour": 0.99 * LARGEST_STEP_KL}, None),
        ({"kl_reference": 1.01 * LARGEST_REFERENCE_KL}, "from where it began"),
        ({"kl_reference": 0.99 * LARGEST_REFERENCE_KL}, None),
    ],
)
def test_a_policy_that_collapses_is_told_of(
    figures: dict[str, float], warning: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    Display(10).iteration({**ROW, **figures}, 60.0)
    out = " ".join(capsys.readouterr().out.split())
    assert ("warning" in out) == (warning is not None)
    assert warning is None or warning in out


def test_a_sample_shows_what_both_sides_said(capsys: pytest.CaptureFixture[str]) -> None:
    turns = [Turn([1], text="Is it [bold]8?", observation="lower"), Turn([2], text="Then 5.", reward=1.0)]
    turns[-1].info = {"correct": False, "failure": "wrong value"}
    Display(10).sample(TextEpisode(0, 0, turns, observation="Guess."))
    out = capsys.readouterr().out
    parts = ("reward 1.00, wrong value", "Guess.", "Is it [bold]8?", "lower", "Then 5.")
    assert sorted(parts, key=out.index) == list(parts)
