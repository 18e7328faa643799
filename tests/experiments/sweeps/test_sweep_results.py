"""What the lines of a sweep come to: costs that a kill or an exchange does not hide, and who came from whom."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from experiments.sweeps.results import best, read_lines, schedules, trials_of, write_line
from experiments.sweeps.shown import Lines
from experiments.sweeps.sweeping import Sweep
from experiments.sweeps.tracking import Tracking


def line(number: int, state: str = "running", **figures: Any) -> dict[str, Any]:
    return {
        "arm": "search",
        "number": number,
        "seed": number,
        "settings": {"lr": number},
        "of": None,
        "state": state,
    } | figures


def round_(number: int, tokens: int, score: float, spent: int = 100, **more: Any) -> dict[str, Any]:
    figures = {
        "iterations": tokens // 10,
        "tokens": tokens,
        "score": score,
        "round_tokens": spent,
        "verdicts": "1",
    }
    return line(
        number,
        **{"round_seconds": 2.0, "evaluation_seconds": 1.0, "exchange_seconds": 0.5, **figures, **more},
    )


def test_what_was_done_twice_or_given_up_is_paid_for() -> None:
    """Trial 0 does its second round twice; trial 1 takes over a policy of 200 tokens after one of its own."""
    lines = [
        round_(0, 100, 0.1),
        round_(1, 100, 0.0),
        round_(0, 200, 0.2),
        round_(0, 200, 0.3),  # after a kill
        line(0, "finished"),
        round_(1, 300, 0.5),
        line(1, "stopped"),
        line(2, "failed", cause="ValueError: no"),
        round_(3, 100, 0.9),  # killed in its second round
        {**round_(0, 100, 1.0), "arm": "random"},
    ]
    first, second, third, fourth = trials_of(lines, "search")
    assert (first["tokens"], first["spent_tokens"], first["score"], first["state"]) == (
        200,
        300,
        0.3,
        "finished",
    )
    assert (first["spent_seconds"], first["busy_seconds"]) == (6.0, 3 * 3.5)
    assert (second["tokens"], second["spent_tokens"], second["state"]) == (300, 200, "stopped")
    assert [point["spent_tokens"] for point in second["curve"]] == [100, 200]
    assert (third["state"], third["cause"], third["score"]) == ("failed", "ValueError: no", None)
    assert fourth["state"] == "unfinished"
    winner = best([first, second, third, fourth])
    assert winner is second  # who has not come to an end is none
    assert best([third]) is None


def test_half_a_line_is_left_out(tmp_path: Path) -> None:
    file = tmp_path / "results.jsonl"
    write_line(file, {"a": 1})
    with file.open("a") as text:
        text.write('{"a": 2')
    assert read_lines(file) == [{"a": 1}]
    assert read_lines(tmp_path / "none") == []


def test_a_schedule_goes_through_donors_and_theirs() -> None:
    lines = [round_(number, 100, 0.0) for number in (0, 1, 2)]
    exchange = {"donor_tokens": 100, "donor_iterations": 10}
    lineage = [
        {**exchange, "trial": 1, "donor": 0, "settings": {"lr": 5}},
        {"trial": 2, "donor": 1, "donor_tokens": 200, "donor_iterations": 20, "settings": {"lr": 6}},
        {**exchange, "trial": 1, "donor": 0, "settings": {"lr": 7}},
    ]
    found = schedules(lines, lineage, "search")
    assert [(step["iterations"], step["settings"]["lr"]) for step in found[2]] == [(0, 0), (10, 5), (20, 6)]
    assert [(step["tokens"], step["settings"]["lr"]) for step in found[1]] == [(0, 0), (100, 7)]
    assert len(found[0]) == 1


def test_why_a_trial_failed_is_shown_as_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A cause may hold what an environment or a model wrote: nothing in it is the terminal's."""
    (tmp_path / "error.txt").write_text("Traceback\nValueError: \x1b]0;x\x07[bold]")
    trial = SimpleNamespace(pickled_error_file=None, error_file=str(tmp_path / "error.txt"))
    trial.config = {"trial": {"number": 3}}
    Lines("search").on_trial_error(1, [], trial)
    assert capsys.readouterr().out == f"{'search':>8} {3:>5} failed: ValueError: \\x1b]0;x\\x07[bold]\n"
    Sweep._say(SimpleNamespace(_console=Console()), "trial 3 failed: \x1b[2J")  # type: ignore[arg-type]
    assert capsys.readouterr().out == "trial 3 failed: \\x1b[2J\n"


def test_trials_are_runs_of_a_group_at_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two at a time; what fails there ends nothing."""
    runs: list[Any] = []

    def init(**asked: Any) -> Any:
        if len(runs) == 2:
            raise ConnectionError("no network")
        runs.append(SimpleNamespace(asked=asked, logged=[], ended=None))
        run = runs[-1]
        run.log, run.finish = run.logged.append, lambda exit_code: setattr(run, "ended", exit_code)
        return run

    monkeypatch.setattr("wandb.init", init)
    tracking = Tracking(tmp_path / "sweep-1", "search")
    trials = [
        SimpleNamespace(config={"trial": {"number": i, "settings": {"training.lr": 0.1, "a.b": "c"}}})
        for i in range(3)
    ]
    for tokens in (10, 20):
        for trial in trials:
            result = {"tokens": tokens, "score": 0.5, "verdicts": "1", "config": trial.config}
            tracking.on_trial_result(1, [], trial, result)
    tracking.on_trial_complete(1, [], trials[0])
    tracking.on_trial_error(1, [], trials[1])
    tracking.on_trial_complete(1, [], trials[2])
    first, second = runs
    assert (first.asked["group"], first.asked["job_type"]) == ("sweep-1", "search")
    assert first.asked["id"] != second.asked["id"] and first.asked["reinit"] == "create_new"
    assert first.logged == second.logged == [
        {"trial/tokens": tokens, "trial/score": 0.5, "trial/training.lr": 0.1} for tokens in (10, 20)
    ]  # fmt: skip
    assert (first.ended, second.ended) == (0, 1)
