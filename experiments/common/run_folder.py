"""The files that a run leaves behind: figures to read, curves to look at, completions, checkpoints, the policy.

config.yaml        all settings, resolved; each checkpoint holds them too, as they were when it was written
starts.jsonl       a line a start: command, commit, host, devices, versions
progress.csv       a line an iteration
evaluations.csv    a line an evaluation
events.out.*       the same for TensorBoard
curve.png          accuracy, response length and entropy over iterations
samples/           episodes with their verdicts, as parquet; `completion` is all that followed the prompt, `seed` and
                   `index` make the task again; evaluations', and training's of the same iterations and of the last;
                   `train_some_*` have the first groups of the newest other iterations
report.html        all of that in one page
checkpoints/       the newest ones, to resume from, each with its SHA256SUMS
policy/            the final policy in Hugging Face format, with a model card
summary.json       before and after, in one place
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.summary import scalar

from experiments.common.checksums import damage, write_sums
from experiments.common.places import Place
from experiments.common.yaml_text import load_file
from llmenv.episode import TextEpisode
from llmenv.evaluation.records import as_text
from llmenv.files import replaced, sync

TABLES = ("progress", "evaluations")
# Of the iterations whose samples are not all kept: a few megabytes, however long the run.
SOME_GROUPS, KEPT_ITERATIONS = 4, 200


def read_config(path: Path) -> dict[str, Any]:
    """The settings that a run was started with.

    Raises:
        ValueError: If the folder holds no run.
    """
    if not (path / "config.yaml").is_file():
        raise ValueError(f"{path} is no run folder (it has no config.yaml): start a new run")
    return load_file(path / "config.yaml") or {}


def read_table(path: Path, name: str) -> pd.DataFrame:
    """A run folder's `progress` or `evaluations`; empty where there is none yet."""
    file = path / f"{name}.csv"
    return pd.read_csv(file) if file.exists() else pd.DataFrame()


def last_question(path: Path) -> str | None:
    """What the environment asked first in the newest evaluation of a run folder; None before there is one."""
    files = sorted((path / "samples").glob("eval_sampled_*.parquet"))
    return str(pd.read_parquet(files[-1], columns=["prompt"])["prompt"].iloc[0]) if files else None


def is_bare(path: Path) -> bool:
    """Whether a run has got no further than its start: nothing has been evaluated or trained."""
    return all(read_table(path, name).empty for name in TABLES)


def checkpoints(path: Path) -> list[Path]:
    """A run folder's checkpoints, oldest first."""
    return sorted((path / "checkpoints").glob("iteration_*"))


def newest_whole(path: Path, tell: Callable[[str], None]) -> Path:
    """The newest checkpoint of a run folder that is as it was written.

    Newer ones are set aside, as `checkpoints/damaged_*`: the run that goes on will write them again.

    Args:
        path: The run folder.
        tell: Told of each of those.

    Raises:
        ValueError: If there is none.
    """
    damaged: list[tuple[Path, str]] = []
    for checkpoint in reversed(checkpoints(path)):
        if (wrong := damage(checkpoint)) is None:
            break
        damaged.append((checkpoint, wrong))
    else:
        found = "; ".join(f"{checkpoint.name} is damaged ({wrong})" for checkpoint, wrong in damaged)
        raise ValueError(
            f"{path} holds no checkpoint to resume from{': ' if found else ''}{found}: start a new run"
        )
    for each, wrong in damaged:
        aside = each.with_name(f"damaged_{each.name.removeprefix('iteration_')}")
        shutil.rmtree(aside, ignore_errors=True)  # of a time before
        each.rename(aside)
        tell(
            f"checkpoint {each.name} is damaged ({wrong}): the one before is taken, and it is left as {aside.name}"
        )
    return checkpoint


class CheckpointError(RuntimeError):
    """A checkpoint could not be written."""


class RunFolder:
    """Writes a run's files; every one of them is whole at any moment, or not there.

    The tables are kept in memory: where one cannot be written, the next row takes the missing ones along.

    Args:
        path: The folder; made if needed.
        place: What the folder is to be brought to; None where it stays.
    """

    def __init__(self, path: Path, place: Place | None = None):
        self.path = path
        self.place = place or Place(str(path), path)
        path.mkdir(parents=True, exist_ok=True)
        self._config: str | None = None
        self._tables = {name: read_table(path, name) for name in TABLES}
        # Not tensorboardX's SummaryWriter: on a full disk its thread dies, and whoever hands it more waits for ever.
        self._board = EventsWriter(str(path / "events"))

    def write_config(self, config: dict[str, Any], *, anew: bool = False) -> None:
        """Records the settings, here and from now on in each checkpoint.

        Args:
            config: All of them.
            anew: Whether the folder has them already, from the run that is gone on with.
        """
        self._config = yaml.safe_dump(config, sort_keys=False)
        if anew:
            with replaced(self.path / "config.yaml") as file:
                file.write_text(self._config)
        else:
            with (self.path / "config.yaml").open("x") as new:
                new.write(self._config)

    def log(self, table: str, row: dict[str, float]) -> None:
        """Appends a row (with its "iteration") to `progress` or `evaluations`."""
        self._write_table(table, pd.concat([self.table(table), pd.DataFrame([row])], ignore_index=True))

    def plot(self, table: str, row: dict[str, float]) -> None:
        """Shows a row to TensorBoard."""
        for key, value in row.items():
            if key != "iteration" and math.isfinite(value):  # TensorBoard warns of each that is not
                summary = scalar(f"{table}/{key}", value)
                step = int(row["iteration"])
                self._board.write_event(Event(summary=summary, step=step, wall_time=time.time()))
        self._board.flush()

    def table(self, table: str) -> pd.DataFrame:
        """A table as it was logged, written or not."""
        return self._tables[table]

    def rewind(self, iteration: int) -> None:
        """Drops what was logged after a checkpoint's iteration: a resumed run logs it again.

        TensorBoard, which reads all files of a folder, drops what it has read of these steps where a session starts.
        """
        start = SessionLog(status=SessionLog.START)
        self._board.write_event(Event(step=iteration + 1, session_log=start, wall_time=time.time()))
        for name in TABLES:
            table = self.table(name)
            if len(table):
                self._write_table(name, table[table["iteration"] <= iteration])

    def _write_table(self, name: str, table: pd.DataFrame) -> None:
        self._tables[name] = table
        with replaced(self.path / f"{name}.csv") as file:
            table.to_csv(file, index=False)

    def write_samples(self, name: str, iteration: int, episodes: Sequence[TextEpisode]) -> pd.DataFrame:
        """Writes episodes as a table, a row each, and returns it."""
        folder = self.path / "samples"
        folder.mkdir(exist_ok=True)
        frame = pd.DataFrame([_record(episode) for episode in episodes])
        with replaced(folder / f"{name}_{iteration:06d}.parquet") as file:
            frame.to_parquet(file, index=False)
        return frame

    def write_some_samples(self, iteration: int, episodes: Sequence[TextEpisode]) -> None:
        """Writes training's first groups alone, and keeps such files of the newest iterations."""
        some = [*dict.fromkeys(episode.group for episode in episodes)][:SOME_GROUPS]
        self.write_samples("train_some", iteration, [e for e in episodes if e.group in some])
        for old in sorted((self.path / "samples").glob("train_some_*.parquet"))[:-KEPT_ITERATIONS]:
            old.unlink()

    def save_checkpoint(self, iteration: int, save: Callable[[str], Any], keep: int) -> Path:
        """Writes a checkpoint, unless there is one of this iteration, and keeps the newest `keep`.

        A folder named `iteration_*` is whole, whatever is killed, and when: what is being written or deleted bears
        another name. (What a kill leaves under that name, the next call deletes.)

        Raises:
            CheckpointError: If it cannot be written, as when the disk is full. Nothing of it stays behind.
        """
        folder = self.path / "checkpoints"
        final, partial = folder / f"iteration_{iteration:06d}", folder / f".partial_{iteration:06d}"
        if final.exists():
            return final
        for left_behind in folder.glob(".partial_*"):
            shutil.rmtree(left_behind)
        try:
            save(str(partial.absolute()))
            if self._config is not None:
                (partial / "config.yaml").write_text(self._config)
            write_sums(partial)
            _flush(partial)
        except Exception as error:
            free = shutil.disk_usage(self.path).free
            shutil.rmtree(partial, ignore_errors=True)
            before = checkpoints(self.path)
            remedy = (
                f"the one before is whole: go on with --resume {self.place.name}"
                if before
                else "there is none before"
            )
            room = f"{free / 1e6:.0f} MB were free on its disk. Make room; " if _is_about_room(error) else ""
            raise CheckpointError(
                f"the checkpoint of iteration {iteration} cannot be written ({type(error).__name__}: {error}); "
                f"{room}{remedy}"
            ) from error
        os.replace(partial, final)
        sync(folder)
        for old in checkpoints(self.path)[:-keep]:
            shutil.rmtree(old.rename(partial))
        return final

    def write_summary(self, summary: dict[str, Any]) -> None:
        with replaced(self.path / "summary.json") as file:
            file.write_text(json.dumps(summary, indent=2) + "\n")

    def draw_curve(self, title: str) -> Path:
        """Draws `curve.png` from the tables, and returns where it is."""
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot as plt

        progress, evaluations = self.table("progress"), self.table("evaluations")
        figure, (accuracy, length) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
        figure.suptitle(title)
        if "accuracy" in progress:
            accuracy.plot(
                progress["iteration"], progress["accuracy"], lw=0.8, alpha=0.4, label="training batch"
            )
        elif len(progress):  # what is imitated is judged by nobody
            accuracy.plot([], [], color="tab:gray", label="loss (nats a token), right axis")
            loss = accuracy.twinx()
            loss.plot(progress["iteration"], progress["total_loss"], color="tab:gray", lw=0.8)
            if "validation_loss" in evaluations:
                loss.plot(evaluations["iteration"], evaluations["validation_loss"], "x", color="tab:gray")
            loss.set_ylim(bottom=0)
        if len(progress):
            length.plot(progress["iteration"], progress["response_length"], label="response length (tokens)")
            if "entropy" in progress:  # not there while no group has had any signal
                length.plot([], [], color="tab:red", label="entropy (nats), right axis")
                entropy = length.twinx()
                entropy.plot(progress["iteration"], progress["entropy"], color="tab:red", lw=0.8)
                entropy.set_ylim(bottom=0)
            length.legend(loc="lower right")
        for name, marker in (("sampled", "o-"), ("greedy", "s-")):
            value, low, high = (evaluations[f"{name}_accuracy{end}"] for end in ("", "_low", "_high"))
            errors = [value - low, high - value]
            label = f"held out, {name}"
            accuracy.errorbar(
                evaluations["iteration"], value, yerr=errors, fmt=marker, ms=4, capsize=2, label=label
            )
        accuracy.set(xlabel="iteration", ylabel="accuracy", ylim=(0, 1))
        length.set(xlabel="iteration")
        accuracy.legend(loc="lower right")
        file = self.path / "curve.png"
        figure.savefig(file, dpi=110)
        plt.close(figure)
        return file

    def close(self) -> None:
        with contextlib.suppress(OSError):  # a row that TensorBoard does not get has been told of by `plot`
            self._board.close()


def _flush(folder: Path) -> None:
    """Puts all that is in a folder onto the disk: renaming it must not come first."""
    for path in (*folder.rglob("*"), folder):
        sync(path)


NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# What PyTorch says instead of the reason where a file cannot grow.
NO_ROOM_WORDS = (*map(os.strerror, NO_ROOM), "PytorchStreamWriter failed writing", "unexpected pos")


def _is_about_room(error: Exception) -> bool:
    return getattr(error, "errno", None) in NO_ROOM or any(words in str(error) for words in NO_ROOM_WORDS)


def _record(episode: TextEpisode) -> dict[str, Any]:
    """One episode as a flat row."""
    last = episode.turns[-1] if episode.turns else None
    info = last.info if last else {}
    row = {
        "group": episode.group,
        **({} if episode.part is None else {"part": episode.part}),
        "sample": episode.sample,
        "seed": episode.seed,
        "index": episode.index,
        "prompt": episode.observation,
        "completion": episode.transcript,
        "reward": episode.total_reward,
        "correct": info.get("correct"),
        "well_formed": info.get("well_formed"),
        "answer": info.get("answer"),
        "right_answer": episode.right_answer,
        "failure": info.get("failure"),
        "finish_reason": last.finish_reason if last else "",
        "truncated": episode.truncated or episode.hit_length_cap,
        "rewards": [turn.reward for turn in episode.turns],
        "reward_parts": None if episode.reward_parts is None else json.dumps(episode.reward_parts),
        "prompt_tokens": len(episode.token_ids) - episode.response_length,
        "response_tokens": episode.response_length,
        "weights_version": episode.weights_version,
        "error": episode.error,
    }
    return {name: as_text(value) if isinstance(value, str) else value for name, value in row.items()}
