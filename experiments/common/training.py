"""A training run: evaluate, train, evaluate now and then, save, and put it all together at the end.

What a run has learned is never lost to what goes wrong beside the update. Between two updates the learners are whole:
whatever fails there, a reward service, an evaluation, all runners, leaves a checkpoint of the last whole iteration, and
its message says how to go on. SIGTERM and SIGHUP leave one at once there, since sampling changes nothing in the
learners; from the beginning of an update until its iteration counts it is waited for, and it is saved.

What is written for people (tables, curve, samples, TensorBoard, wandb, the console) costs no run at all: that it failed
is told, once for each.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.common import ends, figures, settings
from experiments.common.display import Display
from experiments.common.page.reports import write_report
from experiments.common.run_folder import CheckpointError, RunFolder, checkpoints, is_bare
from experiments.common.stopping import CutShortError, StopSignals
from experiments.common.wandb_run import WandbRun
from experiments.export import export

if TYPE_CHECKING:
    from algorithms.base import LLMAlgorithm
    from llmenv.episode import TextEpisode


def _due(iteration: int, every: int) -> bool:
    """Whether an iteration is one of every so many; 0 is never."""
    return every > 0 and iteration % every == 0


class Training:
    """One run, from wherever its algorithm stands.

    Args:
        algorithm: Fresh, or restored from a checkpoint.
        run: How long, and what to leave behind.
        folder: Where to.
        display: What is shown meanwhile.
        logger: A run at Weights & Biases; None for none.
    """

    def __init__(
        self,
        algorithm: LLMAlgorithm,
        run: settings.RunSettings,
        folder: RunFolder,
        display: Display,
        logger: WandbRun | None,
    ):
        self.algorithm = algorithm
        self.settings = run
        self.folder = folder
        self.display = display
        self.logger = logger
        self._stop = StopSignals()
        self._told: set[str] = set()
        self._saved_at = time.monotonic()

    def run(self) -> int:
        """Trains, and puts it all together.

        Returns:
            The exit status: 0, or 130 or 143 where the run was stopped (see `StopSignals`), with a checkpoint.
        """
        started = time.monotonic()
        with self._stop:
            try:
                self._train()
                checkpoint = self._save()
                if self._stop.received is None:
                    self._finish(checkpoint, time.monotonic() - started)
                    return 0
            except CutShortError:
                self._save()
            except (Exception, SystemExit) as error:  # the latter is rich's, where nobody reads what it shows
                self._rescue(error)
                raise
        with contextlib.suppress(OSError, SystemExit):  # SIGHUP says that nobody reads it
            self.display.say(
                f"stopped after iteration {self.algorithm.iteration}: go on with --resume {self.folder.place.name}"
            )
        return self._stop.exit_status

    def _train(self) -> None:
        algorithm, run = self.algorithm, self.settings
        self._save()  # before anything is spent: what can fail at saving fails here
        due = not algorithm.iteration or _due(algorithm.iteration, run.evaluate_every)
        if due and not self._is_evaluated():
            if run.show_every and not algorithm.iteration:
                with self._cutting_short(), self._harmless("first completions"):
                    episodes = ends.first_completions(algorithm)
                    with self._harmless("display"):
                        ends.show(episodes, self.display)
            self._show_evaluation(self._evaluate())
        if self._is_over():
            return
        self.display.header()
        first, started = algorithm.iteration, time.monotonic()
        with self.display:
            while not self._is_over() and self._stop.received is None:
                with self._cutting_short():
                    result = algorithm.train()
                row = figures.progress_row(result)
                tokens = self._tokens() + row["num_response_tokens"]
                left = run.seconds_left(time.monotonic() - started, algorithm.iteration, first, tokens)
                ended = left <= 0 or self._stop.received is not None
                self._show_iteration(row, max(0.0, left), ended)
                if self._checkpoint_is_due(first):
                    self._save()
                if self._is_over() or left <= 0:
                    break  # the last evaluation comes after the last checkpoint
                if _due(algorithm.iteration, run.evaluate_every) and self._stop.received is None:
                    self._show_evaluation(self._evaluate())

    def _finish(self, checkpoint: Path, seconds: float) -> None:
        """The last evaluation; policy and summary, even where it fails; then what is to be looked at."""
        fresh = None
        try:
            if not self._is_evaluated():
                fresh = self._evaluate()
        except Exception:
            self._write_results(checkpoint, seconds)
            raise
        self._write_results(checkpoint, seconds)
        if fresh is not None:
            self._show_evaluation(fresh, on_screen=False)
        else:  # a kill may have come between the last evaluation and its picture
            self._draw_curve()
        rows = self.folder.table("evaluations")
        with self._harmless("display"):
            if self.algorithm.iteration:
                self.display.evaluations({"before": rows.iloc[0].to_dict(), "after": rows.iloc[-1].to_dict()})
        with self._harmless("report.html"):
            write_report(self.folder.path)
        ends.say_what_is_there(self.display, self.folder.place.name, self.algorithm, seconds)

    def _write_results(self, checkpoint: Path, seconds: float) -> None:
        """Policy and summary."""
        policy = self.folder.path / "policy"
        shutil.rmtree(policy, ignore_errors=True)  # that of a shorter run, which has been resumed
        export(checkpoint, policy)
        tables = self.folder.table("progress"), self.folder.table("evaluations")
        self.folder.write_summary(figures.summary(self.algorithm, *tables, seconds))

    def _checkpoint_is_due(self, first: int) -> bool:
        """After the first iteration of a process too: a kill is to cost minutes, whenever it comes."""
        iteration, run = self.algorithm.iteration, self.settings
        minutes = (time.monotonic() - self._saved_at) / 60
        return (
            iteration == first + 1
            or _due(iteration, run.checkpoint_every)
            or 0 < run.checkpoint_minutes <= minutes
        )

    def _save(self) -> Path:
        saved = self.folder.save_checkpoint(
            self.algorithm.iteration, self.algorithm.save_to_path, self.settings.keep_checkpoints
        )
        with self._harmless(self.folder.place.name):  # the next one brings it there, or the end does
            self.folder.place.bring()
        self._saved_at = time.monotonic()
        return saved

    def _rescue(self, error: BaseException) -> None:
        """Saves the last whole iteration, if there is one, and says beside the error how to go on."""
        if isinstance(error, CheckpointError) or is_bare(self.folder.path):
            return  # it says so itself, or nothing is lost
        name, algorithm = self.folder.place.name, self.algorithm
        if algorithm.learners_are_whole and algorithm.iteration:
            try:
                self._save()
            except CheckpointError as unsaved:
                error.add_note(str(unsaved))
            else:
                error.add_note(f"Go on with --resume {name}")
        elif kept := checkpoints(self.folder.path):
            iteration = int(kept[-1].name.removeprefix("iteration_"))
            error.add_note(f"The checkpoint of iteration {iteration} is whole: go on with --resume {name}")

    @contextlib.contextmanager
    def _cutting_short(self) -> Iterator[None]:
        """SIGTERM and SIGHUP may end what happens within, if that has neither begun an update nor is through."""
        algorithm, iteration = self.algorithm, self.algorithm.iteration
        with self._stop.cutting_short(
            lambda: algorithm.learners_are_whole and algorithm.iteration == iteration
        ):
            yield

    def _tokens(self) -> float:
        progress = self.folder.table("progress")
        return float(progress["num_response_tokens"].sum()) if len(progress) else 0.0

    def _is_over(self) -> bool:
        return self.settings.is_over(self.algorithm.iteration, self.folder.table("progress"))

    def _is_evaluated(self) -> bool:
        rows = self.folder.table("evaluations")
        return len(rows) > 0 and rows["iteration"].max() >= self.algorithm.iteration

    def _evaluate(self) -> dict[str, float]:
        """Evaluates on the held-out tasks, and logs what came out."""
        about = f"{self.algorithm.config.evaluation_duration} held-out tasks, sampled and greedy"
        with self._cutting_short(), self.display.waiting(f"evaluating on {about}"):
            results = self.algorithm.evaluate()
        for name, episodes in self.algorithm.last_evaluation.items():
            self._write_samples(f"eval_{name}", episodes)
        # Last of what is kept: where the row is, nothing is missing.
        row = figures.evaluation_row(self.algorithm.iteration, results)
        with self._harmless("evaluations.csv"):
            self.folder.log("evaluations", row)
        return row

    def _show_evaluation(self, row: dict[str, float], on_screen: bool = True) -> None:
        iteration = self.algorithm.iteration
        self._plot("evaluations", row)
        self._draw_curve()
        if on_screen:
            with self._harmless("display"):
                self.display.evaluations({f"after {iteration}" if iteration else "before": row})

    def _draw_curve(self) -> None:
        config = self.algorithm.config
        with self._harmless("curve.png"):
            file = self.folder.draw_curve(f"{config.method} on {config.env}, {config.base_model}")
            if self.logger:
                with self._harmless("wandb"):
                    self.logger.curve(file, self.algorithm.iteration)

    def _show_iteration(self, row: dict[str, float], seconds_left: float, ended: bool) -> None:
        iteration = self.algorithm.iteration
        with self._harmless("progress.csv"):
            self.folder.log("progress", row)
        last = ended or self._is_over()
        self._plot("progress", row)
        with self._harmless("display"):
            self.display.iteration(row, seconds_left)
        episodes, run = self.algorithm.last_episodes, self.settings
        if not episodes:  # it imitates
            return
        shown = _due(iteration, run.show_every)
        if shown or last or _due(iteration, run.evaluate_every):
            self._write_samples("train", episodes)
        else:
            with self._harmless("samples"):
                self.folder.write_some_samples(iteration, episodes)
        if shown:
            valid = [episode for episode in episodes if episode.valid]
            with self._harmless("display"):
                self.display.sample(valid[iteration % len(valid)])

    def _plot(self, table: str, row: dict[str, float]) -> None:
        with self._harmless("TensorBoard"):
            self.folder.plot(table, row)
        if self.logger:
            with self._harmless("wandb"):
                self.logger.plot(table, row)

    def _write_samples(self, name: str, episodes: Sequence[TextEpisode]) -> None:
        iteration = self.algorithm.iteration
        with self._harmless("samples"):
            frame = self.folder.write_samples(name, iteration, episodes)
            if self.logger:
                with self._harmless("wandb"):
                    self.logger.samples(name, iteration, frame)

    @contextlib.contextmanager
    def _harmless(self, kind: str) -> Iterator[None]:
        """What is for people may fail in any way that there is: that is told, once a kind, and the run goes on."""
        try:
            yield
        except Exception as error:
            if kind not in self._told:
                self._told.add(kind)
                reason = " ".join(str(error).split())
                self.display.warn(f"{kind}: {type(error).__name__}: {reason}; the run goes on")
