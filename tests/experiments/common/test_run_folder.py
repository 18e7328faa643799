"""What a run leaves behind: whole at any moment, whatever kills it."""

from __future__ import annotations

import json
import os
import resource
import signal
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import wandb
from PIL import Image
from tensorboardX.proto.event_pb2 import Event, SessionLog

from algorithms import GRPO
from experiments.common.checksums import SUMS, damage
from experiments.common.places import Place
from experiments.common.run_folder import CheckpointError, RunFolder, checkpoints, read_table
from experiments.common.wandb_run import SHOWN, start_wandb
from llmenv.episode import TextEpisode, Turn
from llmenv.statistics import wilson_interval
from support import flat_weights, small_config


def save(text: str):
    """A checkpoint of two files, one of them in a folder of its own."""

    def write(path: str) -> None:
        (Path(path) / "inner").mkdir(parents=True)
        (Path(path) / "first").write_text(text)
        (Path(path) / "inner" / "second").write_text(text)

    return write


def contents(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != SUMS)
    return {str(path.relative_to(folder)): path.read_text() for path in files}


def test_the_newest_are_kept(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    for iteration in range(1, 5):
        saved = folder.save_checkpoint(iteration, save(f"{iteration}"), keep=2)
        assert saved == tmp_path / "checkpoints" / f"iteration_{iteration:06d}"
    assert sorted(os.listdir(tmp_path / "checkpoints")) == ["iteration_000003", "iteration_000004"]
    folder.save_checkpoint(5, save("5"), keep=1)
    assert os.listdir(tmp_path / "checkpoints") == ["iteration_000005"]
    assert contents(checkpoints(tmp_path)[0]) == {"first": "5", "inner/second": "5"}


def test_what_is_saved_already_is_not_touched(tmp_path: Path) -> None:
    """As at Ctrl-C just after a checkpoint: there is no moment without it."""
    folder = RunFolder(tmp_path)
    folder.save_checkpoint(1, save("1"), keep=2)
    folder.save_checkpoint(1, save("again"), keep=2)
    assert contents(checkpoints(tmp_path)[0])["first"] == "1"


# Each line that it reads is one save, in a process of its own: it says how that ended.
KILLED = """
import json, os, shutil, signal, sys
from pathlib import Path
from experiments.common import run_folder

def die(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)

def save(path):
    (Path(path) / "inner").mkdir(parents=True)
    (Path(path) / "first").write_text("2")
    if moment == "saving":
        die()
    (Path(path) / "inner" / "second").write_text("2")

for line in sys.stdin:
    folder, moment = json.loads(line)
    if child := os.fork():
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
        continue
    if moment == "flushing":
        run_folder.sync = die
    elif moment == "renaming":
        os.replace = die
    elif moment == "deleting":
        shutil.rmtree = lambda path: ((path / 'first').unlink(), die())
    run_folder.RunFolder(Path(folder)).save_checkpoint(2, save, keep=1)
    sys.exit()
"""


@pytest.fixture(scope="module")
def kill_at() -> Iterator[Callable[[Path, str], None]]:
    """Saves the checkpoint of iteration 2, and is killed at a moment of it."""
    with subprocess.Popen(
        [sys.executable, "-c", KILLED], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:

        def kill_at(folder: Path, moment: str) -> None:
            print(json.dumps([str(folder), moment]), file=process.stdin, flush=True)
            assert process.stdout.readline() == f"{-signal.SIGKILL}\n"

        yield kill_at


@pytest.mark.parametrize(
    ("moment", "newest"), [("saving", "1"), ("flushing", "1"), ("renaming", "1"), ("deleting", "2")]
)
def test_a_kill_while_saving_leaves_a_whole_checkpoint(
    tmp_path: Path, kill_at: Callable[[Path, str], None], moment: str, newest: str
) -> None:
    folder = RunFolder(tmp_path)
    folder.save_checkpoint(1, save("1"), keep=1)
    kill_at(tmp_path, moment)
    (kept,) = checkpoints(tmp_path)
    assert contents(kept) == {"first": newest, "inner/second": newest}
    assert len(os.listdir(tmp_path / "checkpoints")) == 2  # what was cut short is there, under another name
    folder.save_checkpoint(3, save("3"), keep=1)
    assert os.listdir(tmp_path / "checkpoints") == ["iteration_000003"]


def test_a_second_kill_while_saving_changes_nothing(
    tmp_path: Path, kill_at: Callable[[Path, str], None]
) -> None:
    """The first one at the files, the second, whose process deletes what the first left, at the new name."""
    RunFolder(tmp_path).save_checkpoint(1, save("1"), keep=1)
    for moment in ("saving", "renaming"):
        kill_at(tmp_path, moment)
        (kept,) = checkpoints(tmp_path)
        assert contents(kept) == {"first": "1", "inner/second": "1"} and damage(kept) is None
    RunFolder(tmp_path).save_checkpoint(2, save("2"), keep=1)
    (kept,) = checkpoints(tmp_path)
    assert contents(kept) == {"first": "2", "inner/second": "2"} and damage(kept) is None


@pytest.fixture
def no_large_files() -> Iterator[None]:
    """No file of this process may grow beyond 100 kB: writing on fails as it does on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_keeps_the_checkpoint_before(
    ray_cluster: None, model_folder: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    config = small_config(model_folder).environment("support:NoDigit-v0")
    algorithm = config.sampling(max_new_tokens=2).build_algo()
    # Of a run that is elsewhere this is but a copy: whoever goes on with that loses it.
    folder = RunFolder(tmp_path, Place("s3://bucket/run", tmp_path))
    before = flat_weights(algorithm.learner_group._learner)
    folder.save_checkpoint(0, algorithm.save_to_path, keep=1)
    files = contents_in_bytes(tmp_path / "checkpoints")
    assert max(map(len, files.values())) > 100_000
    for _ in range(2):
        algorithm.train()
    assert not torch.equal(flat_weights(algorithm.learner_group._learner), before)
    request.getfixturevalue("no_large_files")
    with pytest.raises(
        CheckpointError,
        match=r"iteration 2 cannot be written.* MB were free .*Make room; .*--resume s3://bucket/run$",
    ):
        folder.save_checkpoint(2, algorithm.save_to_path, keep=1)
    assert contents_in_bytes(tmp_path / "checkpoints") == files
    algorithm.stop()
    resumed = GRPO.from_checkpoint(str(checkpoints(tmp_path)[-1]))
    assert torch.equal(flat_weights(resumed.learner_group._learner), before)
    resumed.stop()


def contents_in_bytes(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_table_that_cannot_be_written_stays_as_it_was(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    folder = RunFolder(tmp_path)
    folder.log("progress", {"iteration": 1, "accuracy": 0.5})
    request.getfixturevalue("no_large_files")
    with pytest.raises(OSError, match="File too large"):
        folder.log("progress", {"iteration": 2, **{f"column{i}": 0.5 for i in range(10_000)}})
    assert read_table(tmp_path, "progress").to_dict("records") == [{"iteration": 1, "accuracy": 0.5}]
    assert not list(tmp_path.glob(".partial_*"))


def test_samples_that_cannot_be_written_leave_nothing(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    rng = np.random.default_rng(0)
    episodes = [TextEpisode(0, i, observation=rng.bytes(1000).hex()) for i in range(500)]  # half a megabyte
    folder = RunFolder(tmp_path)
    folder.write_samples("train", 1, episodes[:2])
    request.getfixturevalue("no_large_files")
    with pytest.raises(OSError, match="File too large"):
        folder.write_samples("train", 2, episodes)
    assert os.listdir(tmp_path / "samples") == ["train_000001.parquet"]


def test_a_row_that_could_not_be_written_is_written_with_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder(tmp_path)
    folder.log("progress", {"iteration": 1, "accuracy": 0.5})
    with monkeypatch.context() as full:
        full.setattr("pandas.DataFrame.to_csv", no_space)
        with pytest.raises(OSError, match="No space left"):
            folder.log("progress", {"iteration": 2, "accuracy": 0.25})
    folder.log("progress", {"iteration": 3, "accuracy": 0.75})
    assert read_table(tmp_path, "progress").to_dict("list") == {
        "iteration": [1, 2, 3],
        "accuracy": [0.5, 0.25, 0.75],
    }


def no_space(*args: object, **kwargs: object) -> None:
    raise OSError(28, "No space left on device")


def test_a_board_that_cannot_be_written_raises_and_does_not_wait(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """So many values are more than any queue takes."""
    folder = RunFolder(tmp_path)
    folder.plot("progress", {"iteration": 1, "accuracy": 0.5})
    request.getfixturevalue("no_large_files")
    for _ in range(2):
        with pytest.raises(OSError, match="File too large"):
            folder.plot("progress", {"iteration": 2, **{f"column{i}": 0.5 for i in range(10_000)}})
    folder.close()


@pytest.mark.parametrize(("correct", "trials"), [(4, 4), (512, 512), (0, 125), (3, 8)])
def test_any_accuracy_can_be_drawn(tmp_path: Path, correct: int, trials: int) -> None:
    folder = RunFolder(tmp_path)
    low, high = wilson_interval(correct, trials)
    figures = {"accuracy": correct / trials, "accuracy_low": low, "accuracy_high": high}
    row = {f"{name}_{key}": value for name in ("sampled", "greedy") for key, value in figures.items()}
    folder.log("evaluations", {"iteration": 0, **row})
    folder.draw_curve("all right")
    assert (tmp_path / "curve.png").stat().st_size > 0


def test_a_resumed_run_forgets_what_came_after_its_checkpoint(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    for iteration in range(1, 4):
        folder.log("progress", {"iteration": iteration, "accuracy": iteration / 10})
    folder.rewind(2)
    assert folder.table("progress")["iteration"].tolist() == [1, 2]


def test_tensorboard_has_no_step_twice(tmp_path: Path) -> None:
    """What a reader of all files does: at the start of a session it drops the steps from there on."""
    folder = RunFolder(tmp_path)
    for iteration in (1, 2, 3):
        folder.plot("progress", {"iteration": iteration, "accuracy": 0.25})
    folder.close()
    (first,) = tmp_path.glob(
        "events.out.*"
    )  # its name has the second of its beginning, and this one is not over
    first.rename(tmp_path / "events.out.before")
    resumed = RunFolder(tmp_path)
    resumed.rewind(2)
    resumed.plot("progress", {"iteration": 3, "accuracy": 0.75})
    resumed.close()
    kept: list[tuple[int, float]] = []
    for event in events(tmp_path):
        if event.HasField("session_log"):
            assert event.session_log.status == SessionLog.START
            kept = [(step, value) for step, value in kept if step < event.step]
        kept += [(event.step, value.simple_value) for value in event.summary.value]
    assert kept == [(1, 0.25), (2, 0.25), (3, 0.75)]


def events(folder: Path) -> Iterator[Event]:
    """TFRecords: the length (8 bytes), its checksum (4), the event, its checksum (4)."""
    for file in sorted(folder.glob("events.out.*"), key=lambda path: path.stat().st_mtime_ns):
        data = file.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            yield Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]


def test_samples_say_which_task_they_are_of(tmp_path: Path) -> None:
    turn = Turn([1], [2], text="12", info={"answer": "12", "correct": False})
    episode = TextEpisode(0, 1, [turn], observation="3 x 5?", seed=77, index=4, right_answer="15")
    RunFolder(tmp_path).write_samples("train", 3, [episode])
    (row,) = pd.read_parquet(tmp_path / "samples" / "train_000003.parquet").to_dict("records")
    assert (row["seed"], row["index"], row["answer"], row["right_answer"]) == (77, 4, "12", "15")


def test_a_resumed_run_is_the_same_one_at_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[dict[str, Any]] = []
    monkeypatch.setattr("wandb.init", lambda **kwargs: calls.append(kwargs))
    for folder in (tmp_path / "a", tmp_path / "b", tmp_path / "a"):
        folder.mkdir(exist_ok=True)
        start_wandb({"algo": "GRPO", "sampling": {"run_seed": 3}}, folder)
    first, other, again = (call["id"] for call in calls)
    assert first == again != other
    assert calls[2]["resume"] == "allow" and calls[2]["config"]["sampling"]["run_seed"] == 3


def test_wandb_without_a_key_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**kwargs: Any) -> None:
        raise wandb.errors.UsageError("No API key configured.")

    monkeypatch.setattr("wandb.init", init)
    with pytest.raises(
        RuntimeError, match=r"\(No API key configured\.\): run `wandb login`, set WANDB_MODE="
    ):
        start_wandb({"algo": "GRPO"}, tmp_path)


def test_wandb_gets_the_figures_samples_and_curve_of_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    folder, run = RunFolder(tmp_path), start_wandb({"algo": "GRPO"}, tmp_path)
    run.plot("progress", {"iteration": 2, "accuracy": 0.25})
    episodes = [TextEpisode(0, i, [], observation=f"{i} x 5?", seed=i) for i in range(SHOWN + 1)]
    run.samples("train", 2, folder.write_samples("train", 2, episodes))
    (table,) = tmp_path.glob("wandb/**/train*.table.json")
    rows = json.loads(table.read_text())
    assert rows["data"][3][rows["columns"].index("prompt")] == "3 x 5?"
    Image.new("RGB", (3, 2)).save(tmp_path / "curve.png")
    run.curve(tmp_path / "curve.png", 2)
    run.plot("evaluations", {"iteration": 3, "sampled_accuracy": 0.5})  # a step is whole when the next begins
    logged = dict(wandb.run.summary)
    assert logged["progress/accuracy"] == 0.25 and "progress/iteration" not in logged
    assert (logged["samples/train"]["nrows"], logged["samples/train"]["ncols"]) == (SHOWN, 20)
    assert (logged["curve"]["width"], logged["curve"]["height"]) == (3, 2)
    wandb.finish()
