"""When a run saves and evaluates, and what it does where it trains nothing."""

from __future__ import annotations

import json

import pytest
import torch
from runs import algorithm, at_iteration, learned, logged, names, raises, training

from experiments.common.run_folder import CheckpointError

__all__ = ["algorithm"]  # the fixture


def test_what_cannot_be_saved_is_told_before_anything_is_spent(algorithm, tmp_path, monkeypatch):
    spent: list[str] = []
    for name in ("evaluate", "collect"):
        at_iteration(algorithm, 0, name, lambda: spent.append("tokens"), monkeypatch)
    refusal = ValueError("GenerationConfig is invalid: top_k without do_sample")
    at_iteration(algorithm, 0, "save_to_path", raises(refusal), monkeypatch)
    with pytest.raises(CheckpointError, match="top_k without do_sample") as caught:
        training(algorithm, tmp_path).run()
    assert "Make room" not in str(caught.value), "the disk is not to blame"
    assert not spent


@pytest.mark.parametrize(
    ("settings", "seconds", "saved"),
    [
        ({}, 1, [0, 1, 5]),  # before, after the first iteration and at the end
        ({"checkpoint_every": 2}, 1, [0, 1, 2, 4, 5]),
        ({"checkpoint_every": 0}, 1, [0, 1, 5]),
        # 40 s an iteration, so that a minute since the one before is over after every second.
        ({"checkpoint_minutes": 1}, 40, [0, 1, 3, 5]),
        ({"checkpoint_minutes": 0}, 40, [0, 1, 5]),
    ],
)
def test_checkpoints_come_by_iterations_and_by_time(
    algorithm, tmp_path, monkeypatch, settings, seconds, saved
):
    run = training(algorithm, tmp_path, iterations=5, keep_checkpoints=9, **settings)
    monkeypatch.setattr("experiments.common.training.time.monotonic", lambda: seconds * algorithm.iteration)
    assert run.run() == 0
    assert names(tmp_path) == [f"iteration_{number:06d}" for number in saved]


def test_a_resumed_process_saves_after_its_first_iteration(algorithm, tmp_path):
    assert training(algorithm, tmp_path, iterations=2, keep_checkpoints=9).run() == 0
    assert training(algorithm, tmp_path, iterations=4, keep_checkpoints=9).run() == 0
    assert names(tmp_path) == [f"iteration_{number:06d}" for number in (0, 1, 2, 3, 4)]


def test_no_iterations_are_an_evaluation(algorithm, tmp_path, capsys):
    run = training(algorithm, tmp_path, iterations=0, evaluate_every=0, show_every=0)
    before = learned(algorithm)
    assert run.run() == 0
    assert torch.equal(learned(algorithm), before)
    assert logged(tmp_path, "evaluations") == [0]
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["iterations"], summary["samples"], summary["tokens"]) == (0, 0, 0)
    assert summary["accuracy_before"] == summary["accuracy_after"]
    assert summary["seconds_an_iteration"] == {}
    assert "after" not in capsys.readouterr().out, "there is one evaluation, and one is shown"


def test_intervals_of_0_are_never(algorithm, tmp_path, capsys):
    run = training(algorithm, tmp_path, evaluate_every=0, checkpoint_every=0, show_every=0)
    assert run.run() == 0
    assert logged(tmp_path, "evaluations") == [0, 4]
    assert "a sample" not in capsys.readouterr().out
