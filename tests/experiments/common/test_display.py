"""What a run says beside its figures."""

from __future__ import annotations

import logging

import pytest
import typer

from experiments.common.display import (
    LARGEST_REFERENCE_KL,
    LARGEST_SAMPLER_GAP,
    LARGEST_STEP_KL,
    LOWEST_ENTROPY,
    Display,
)
from experiments.common.errors import told
from experiments.common.plain import printable
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


def test_what_is_said_is_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    """A path may hold brackets, which rich would take for its own, and so may an error."""
    display = Display(10)
    display.say("run folder: runs/[red]a[/b]")
    display.warn("curve.png: OSError: [/bold]; the run goes on")
    assert capsys.readouterr().out == (
        "run folder: runs/[red]a[/b]\nwarning: curve.png: OSError: [/bold]; the run goes on\n"
    )


def test_warnings_of_our_own_packages_are_the_runs(capsys: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("algorithms.base")
    with Display(10).hearing():
        logger.warning("iteration %d has no signal", 3)
        logger.info("not this")
    logger.warning("nor this")
    assert capsys.readouterr().out == "warning: iteration 3 has no signal\n"


ENDS = {
    "accuracy": 1.0,
    "accuracy_low": 0.9,
    "accuracy_high": 1.0,
    "format_rate": 1.0,
    "response_length": 1000.0,
}


@pytest.mark.parametrize("shows_kl", [True, False])
def test_all_fits_into_80_columns(
    shows_kl: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    display = Display(19200, ("loss",) if shows_kl else ("loss", "KL"))
    display.header()
    display.iteration(
        {**ROW, "iteration": 10000, "response_length": 9999.5, "tokens_per_second": 123456}, 99 * 3600
    )
    row = {f"{name}_{key}": value for name in ("sampled", "greedy") for key, value in ENDS.items()}
    display.evaluations({"before": {**row, "num_tasks": 1024}, "after 19200": row})
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert ("KL" in lines[0]) == shows_kl
    # Nothing was learned, and so nothing measured: no number is made up, and none is "nan".
    assert lines[1].split()[4:-2] == ["-"] * (1 + shows_kl)
    assert sum("90.0 to 100.0%" in line for line in lines) == 2, "each row is one line"


def test_a_sample_shows_what_both_sides_said(capsys: pytest.CaptureFixture[str]) -> None:
    turns = [Turn([1], text="Is it [bold]8?", observation="lower"), Turn([2], text="Then 5.", reward=1.0)]
    turns[-1].info = {"correct": False, "failure": "wrong value"}
    Display(10).sample(TextEpisode(0, 0, turns, observation="Guess."))
    out = capsys.readouterr().out
    parts = ("reward 1.00, wrong value", "Guess.", "Is it [bold]8?", "lower", "Then 5.")
    assert sorted(parts, key=out.index) == list(parts)


def test_nothing_that_a_model_wrote_commands_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """ANSI colours, OSC 52 (writes the clipboard), a bidi override, NUL, half a surrogate pair; lines stay lines."""
    hostile = "a\x1b[31mb\x1b]52;c;aGk=\x07\u202e\x00\ud800\r\n[red]é 🙂\u200d"
    written = r"a\x1b[31mb\x1b]52;c;aGk=\x07\u202e\x00\ud800\r" + "\n[red]é 🙂\u200d"
    assert printable(hostile) == written
    turn = Turn([1], text=hostile, info={"failure": hostile})
    display = Display(10)
    display.sample(TextEpisode(0, 0, [turn], observation=hostile))
    display.say(hostile)
    display.warn(hostile)
    with pytest.raises(typer.Exit), told():
        raise ValueError(hostile)
    out = "".join(capsys.readouterr())
    assert not set(out) & {"\x1b", "\x07", "\r", "\x00", "\u202e", "\ud800"}
    assert out.count(r"\x1b]52;c;") >= 5 and "[red]é" in out
