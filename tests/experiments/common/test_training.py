"""The loop of a run: what goes wrong costs no whole iteration, and what is for people costs nothing at all."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from typing import Any

import pytest
import torch
from runs import algorithm, at_iteration, learned, logged, names, raises, training

from algorithms import GRPO
from experiments.common.run_folder import CheckpointError, checkpoints
from experiments.common.wandb_run import WandbRun
from llmenv.rllib.runner_group import RunnersLostError

__all__ = ["algorithm"]  # the fixture


@pytest.mark.parametrize(
    ("method", "error"),
    [
        ("collect", RunnersLostError("4 of 4 groups could not be sampled")),
        ("collect", RuntimeError("every sample of the iteration is invalid; the first: service is down")),
        ("collect", ValueError("the prompt has 300 tokens, more than max_prompt_tokens=256")),
        ("assign_credit", KeyError("reward")),
        ("evaluate", ValueError("the environment cannot be evaluated")),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_a_failure_leaves_the_last_whole_iteration(algorithm, tmp_path, monkeypatch, method, error):
    at_iteration(algorithm, 2, method, raises(error), monkeypatch)
    before = learned(algorithm)
    with pytest.raises(type(error)) as caught:
        training(algorithm, tmp_path, evaluate_every=2).run()
    assert names(tmp_path) == ["iteration_000002"]
    assert caught.value.__notes__ == [f"Go on with --resume {tmp_path}"]
    assert logged(tmp_path) == [1, 2]
    assert not torch.equal(learned(algorithm), before), "else nothing is learned"
    resumed = GRPO.from_checkpoint(str(checkpoints(tmp_path)[-1]))
    assert resumed.iteration == 2 and torch.equal(learned(resumed), learned(algorithm))
    resumed.stop()


def test_a_resumed_run_makes_up_for_the_evaluation_that_failed(algorithm, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        at_iteration(algorithm, 2, "evaluate", raises(RuntimeError("service is down")), patched)
        with pytest.raises(RuntimeError, match="service is down"):
            training(algorithm, tmp_path, evaluate_every=2).run()
    assert logged(tmp_path, "evaluations") == [0]
    assert training(algorithm, tmp_path, evaluate_every=2).run() == 0
    assert logged(tmp_path, "evaluations") == [0, 2, 4]
    assert logged(tmp_path) == [1, 2, 3, 4]


def test_a_checkpoint_comes_before_the_evaluation(algorithm, tmp_path, monkeypatch):
    there: list[list[str]] = []
    at_iteration(algorithm, 2, "evaluate", lambda: there.append(names(tmp_path)), monkeypatch)
    assert training(algorithm, tmp_path, iterations=3, evaluate_every=2, checkpoint_every=2).run() == 0
    assert there == [["iteration_000002"]]


def test_nobody_reads_the_output_any_more(algorithm, tmp_path, monkeypatch):
    """As in `run.py | tee`: rich ends the process by SystemExit."""
    run = training(algorithm, tmp_path)
    shown: list[float] = []

    def show(row: dict[str, float], left: float) -> None:
        shown.append(row["iteration"])
        if len(shown) == 2:
            raise SystemExit(1)

    monkeypatch.setattr(run.display, "iteration", show)
    with pytest.raises(SystemExit):
        run.run()
    assert names(tmp_path) == ["iteration_000002"]
    assert logged(tmp_path) == [1, 2]


@pytest.mark.parametrize(("every", "kept"), [(1, 2), (100, 1)])
def test_learners_that_are_in_an_update_are_not_saved(algorithm, tmp_path, monkeypatch, every, kept):
    learner = algorithm.learner_group._learner

    def half() -> None:
        with torch.no_grad():
            next(learner.policy.parameters()).add_(1.0)
        raise RuntimeError("out of memory")

    update = learner.update
    monkeypatch.setattr(
        learner, "update", lambda *args, **kw: half() if algorithm.iteration == 2 else update(*args, **kw)
    )
    with pytest.raises(RuntimeError, match="out of memory") as caught:
        training(algorithm, tmp_path, checkpoint_every=every).run()
    assert names(tmp_path) == [f"iteration_{kept:06d}"]
    assert not algorithm.learners_are_whole
    remedy = f"The checkpoint of iteration {kept} is whole: go on with --resume {tmp_path}"
    assert caught.value.__notes__ == [remedy]


def test_before_the_first_iteration_there_is_nothing_to_keep(algorithm, tmp_path, monkeypatch):
    at_iteration(algorithm, 0, "evaluate", raises(ValueError("there is no test split")), monkeypatch)
    with pytest.raises(ValueError, match=r"^there is no test split$") as caught:
        training(algorithm, tmp_path).run()
    assert not hasattr(caught.value, "__notes__")


def test_first_completions_that_cannot_be_had_end_nothing(algorithm, tmp_path, monkeypatch, capsys):
    """The first tasks of a set may be too long, or raise, where the others can be evaluated."""
    monkeypatch.setattr(
        "experiments.common.ends.first_completions", lambda _: raises(ValueError("none is valid"))()
    )
    assert training(algorithm, tmp_path, iterations=1, show_every=1).run() == 0
    assert "first completions: ValueError: none is valid; the run goes on" in " ".join(
        capsys.readouterr().out.split()
    )
    assert logged(tmp_path, "evaluations") == [0, 1]


def test_a_checkpoint_that_cannot_be_written_is_told_of_beside_the_failure(algorithm, tmp_path, monkeypatch):
    run = training(algorithm, tmp_path, checkpoint_every=1)
    at_iteration(algorithm, 2, "save_to_path", raises(OSError("No space left on device")), monkeypatch)
    with pytest.raises(CheckpointError, match=rf"iteration 2 cannot be written .*--resume {tmp_path}$"):
        run.run()
    assert names(tmp_path) == ["iteration_000001"]


def test_both_failures_are_told_of(algorithm, tmp_path, monkeypatch):
    at_iteration(algorithm, 2, "collect", raises(RuntimeError("service is down")), monkeypatch)
    at_iteration(algorithm, 2, "save_to_path", raises(OSError("No space left on device")), monkeypatch)
    with pytest.raises(RuntimeError, match="service is down") as caught:
        training(algorithm, tmp_path).run()
    (note,) = caught.value.__notes__
    assert "the checkpoint of iteration 2 cannot be written (OSError: No space left on device)" in note


SIGTERM = signal.SIGTERM
SIGINT = signal.SIGINT
SIGHUP = signal.SIGHUP


@pytest.mark.parametrize(
    ("method", "sent", "status", "checkpoint"),
    [
        # Cut short: the iteration before is the last whole one.
        ("collect", [SIGTERM], 143, 2),
        ("assign_credit", [SIGTERM], 143, 2),
        ("evaluate", [SIGTERM], 143, 2),
        ("collect", [SIGHUP], 129, 2),
        # Waited for, until the iteration counts.
        ("update_rows", [SIGTERM], 143, 3),
        ("runners.sync_weights", [SIGTERM], 143, 3),
        ("update_rows", [SIGTERM, SIGTERM], 143, 3),
        ("update_rows", [SIGHUP], 129, 3),
        ("collect", [SIGINT], 130, 3),
        ("collect", [SIGINT, SIGTERM], 143, 2),
    ],
)
def test_signals_leave_a_checkpoint(
    algorithm, tmp_path, monkeypatch, capsys, request, method, sent, status, checkpoint
):
    before = signal.signal(SIGHUP, signal.SIG_DFL)  # under nohup it is ignored, and stays so
    request.addfinalizer(lambda: signal.signal(SIGHUP, before))
    handlers = [signal.getsignal(number) for number in (SIGINT, SIGTERM, SIGHUP)]
    at_iteration(algorithm, 2, method, lambda: [signal.raise_signal(number) for number in sent], monkeypatch)
    assert training(algorithm, tmp_path, evaluate_every=2).run() == status
    assert names(tmp_path) == [f"iteration_{checkpoint:06d}"]
    assert logged(tmp_path) == [1, 2, 3][:checkpoint]
    out = " ".join(capsys.readouterr().out.split())
    assert f"stopped after iteration {checkpoint}: go on with --resume" in out
    assert [signal.getsignal(number) for number in (SIGINT, SIGTERM, SIGHUP)] == handlers


def test_under_nohup_a_run_outlives_its_terminal(algorithm, tmp_path, monkeypatch):
    before = signal.signal(SIGHUP, signal.SIG_IGN)
    at_iteration(algorithm, 1, "collect", lambda: signal.raise_signal(SIGHUP), monkeypatch)
    assert training(algorithm, tmp_path, iterations=2).run() == 0
    assert signal.signal(SIGHUP, before) == signal.SIG_IGN


class Killed(BaseException):
    """What ends a run as suddenly as SIGKILL does, within a test: no handler of errors sees it."""


@pytest.mark.parametrize("at", ["log", "write_samples"])
def test_a_kill_within_an_evaluation_loses_none_of_it(algorithm, tmp_path, monkeypatch, at):
    """While its samples are written, or between them and its row: both are there when the run has gone on."""
    run = training(algorithm, tmp_path, iterations=1)
    method = getattr(run.folder, at)

    def killed(name, *args):
        if name in ("evaluations", "eval_greedy") and algorithm.iteration == 1:
            raise Killed
        return method(name, *args)

    monkeypatch.setattr(run.folder, at, killed)
    with pytest.raises(Killed):
        run.run()
    assert logged(tmp_path, "evaluations") == [0]
    (tmp_path / "curve.png").unlink()
    assert training(algorithm, tmp_path, iterations=1).run() == 0
    assert logged(tmp_path, "evaluations") == [0, 1]
    samples = {f"eval_{name}_{number:06d}.parquet" for name in ("sampled", "greedy") for number in (0, 1)}
    assert samples <= {path.name for path in (tmp_path / "samples").iterdir()}
    (tmp_path / "curve.png").unlink()
    assert (
        training(algorithm, tmp_path, iterations=1).run() == 0
    )  # killed after the row: the picture is drawn
    assert (tmp_path / "curve.png").exists() and logged(tmp_path, "evaluations") == [0, 1]


def test_a_signal_between_two_calls_starts_nothing_long(algorithm, tmp_path, monkeypatch):
    """SIGTERM while the last checkpoint is written: the last evaluation does not begin."""
    evaluated: list[int] = []
    at_iteration(algorithm, 1, "evaluate", lambda: evaluated.append(1), monkeypatch)
    at_iteration(algorithm, 1, "save_to_path", lambda: signal.raise_signal(SIGTERM), monkeypatch)
    assert training(algorithm, tmp_path, iterations=1).run() == 143
    assert names(tmp_path) == ["iteration_000001"] and not evaluated
    assert training(algorithm, tmp_path, iterations=1).run() == 0
    assert evaluated == [1] and (tmp_path / "summary.json").exists()


def test_a_second_ctrl_c_ends_a_run_at_once(algorithm, tmp_path, monkeypatch):
    at_iteration(
        algorithm, 2, "collect", lambda: [signal.raise_signal(SIGINT) for _ in range(2)], monkeypatch
    )
    with pytest.raises(KeyboardInterrupt):
        training(algorithm, tmp_path).run()
    assert names(tmp_path) == ["iteration_000001"]


class BrokenWandb:
    """Takes nothing."""

    def log(self, row: dict[str, float], step: int) -> None:
        raise ConnectionError("no route to host")


def test_what_is_for_people_never_costs_a_run(algorithm, tmp_path, monkeypatch, capsys):
    run = training(algorithm, tmp_path, WandbRun(BrokenWandb()), iterations=3, evaluate_every=1, show_every=1)
    monkeypatch.setattr("pandas.DataFrame.to_csv", raises_for_all(OSError("No space left on device")))
    for name in ("plot", "write_samples", "draw_curve"):
        monkeypatch.setattr(run.folder, name, raises_for_all(OSError("No space left on device")))
    for name in ("iteration", "sample", "evaluations"):
        monkeypatch.setattr(
            run.display, name, raises_for_all(ValueError("'yerr' must not contain negatives"))
        )
    assert run.run() == 0
    assert names(tmp_path) == ["iteration_000003"]
    assert (tmp_path / "policy" / "model.safetensors").exists()
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["before"]["iteration"], summary["after"]["iteration"]) == (0, 3)
    assert summary["samples"] == 48  # 3 iterations of 4 groups of 4
    out = " ".join(capsys.readouterr().out.split())
    for kind in (
        "progress.csv",
        "evaluations.csv",
        "TensorBoard",
        "wandb",
        "samples",
        "curve.png",
        "display",
        "report.html",  # of a folder without config.yaml
    ):
        assert out.count(f"warning: {kind}: ") == 1, kind
    assert out.count("warning: ") == 8


def raises_for_all(error: Exception) -> Callable[..., None]:
    def method(*args: Any, **kwargs: Any) -> None:
        raise error

    return method


def test_what_is_to_be_kept_comes_before_what_is_to_be_looked_at(algorithm, tmp_path, monkeypatch):
    run = training(algorithm, tmp_path, iterations=1)
    run.folder.write_config(
        {"algo": "GRPO", "environment": {"env": "NoDigit-v0"}, "policy": {"model": "random"}}
    )
    order: list[str] = []
    files = {
        "checkpoints/iteration_000001": "checkpoint",
        "policy/README.md": "policy",
        "summary.json": "summary",
    }

    def look(*args: Any) -> None:
        order.append(" ".join(name for file, name in files.items() if (tmp_path / file).exists()))

    monkeypatch.setattr(run.folder, "draw_curve", look)
    write_summary = run.folder.write_summary
    monkeypatch.setattr(run.folder, "write_summary", lambda summary: (look(), write_summary(summary)))
    assert run.run() == 0
    assert order == ["", "checkpoint policy", "checkpoint policy summary"]
    card = (tmp_path / "policy" / "README.md").read_text()
    assert "\n| 0 | " in card and "\n| 1 | " in card, "the card has both evaluations"


def test_a_last_evaluation_that_fails_leaves_policy_and_summary(algorithm, tmp_path, monkeypatch):
    at_iteration(algorithm, 2, "evaluate", raises(RuntimeError("service is down")), monkeypatch)
    with pytest.raises(RuntimeError, match="service is down") as caught:
        training(algorithm, tmp_path, iterations=2).run()
    assert names(tmp_path) == ["iteration_000002"]
    assert caught.value.__notes__ == [f"Go on with --resume {tmp_path}"]
    assert (tmp_path / "policy" / "model.safetensors").exists()
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["iterations"], summary["after"]["iteration"]) == (2, 0)
