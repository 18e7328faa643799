"""What a run shows on the console."""

from __future__ import annotations

import logging
import math
import os
import warnings
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.panel import Panel
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table
from rich.text import Text

from algorithms.names import IMITATE
from experiments.common import figures
from experiments.common.plain import printable
from llmenv.episode import TextEpisode

if TYPE_CHECKING:
    from algorithms.config import LLMConfig

# Mean absolute difference of a token's log-probability between sampler and learner that a run goes on without a word
# about. In float32 it is about 1e-6; how coarse a dtype may be without harm has not been measured.
LARGEST_SAMPLER_GAP = 0.05

# What tells of a policy that is about to collapse, or has: it hardly varies (nats a token), one iteration's steps took
# it far, or it has gone far from where it began (nats a token both).
LOWEST_ENTROPY = 0.01
LARGEST_STEP_KL = 0.1
LARGEST_REFERENCE_KL = 1.0

COLUMNS = (
    "  iteration",
    "    loss",
    "  reward",
    "accuracy",
    "length",
    "     KL",
    "entropy",
    "tokens/s",
    "   left",
)


def quieten() -> None:
    """Ray's and transformers' chatter would drown the run's own lines; errors still come through."""
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    # DeepSpeed says so wherever it is imported, in use or not; a level would be set anew when it is.
    logging.getLogger("DeepSpeed").addFilter(
        lambda record: "Setting accelerator to" not in record.getMessage()
    )
    import ray.rllib  # noqa: F401 (sets up its logger when imported)

    for name in ("ray", "ray.rllib", "ray.tune"):
        logging.getLogger(name).setLevel(logging.ERROR)
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()


class Display:
    """A line an iteration above a progress bar.

    What it is given to say may hold anything, also what looks like rich's markup or a terminal's commands: it is shown
    as text.

    Args:
        iterations: Of the whole run.
        hidden: Columns that a run has nothing for, such as "KL" where none is measured.
    """

    def __init__(self, iterations: int, hidden: Collection[str] = ("loss",)):
        self.console = Console(highlight=False)
        self._iterations = iterations
        self._hidden = hidden
        self._progress = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left {task.fields[left]}"),
            console=self.console,
            # Without a terminal (a log file, CI) the lines alone are what one wants to read.
            disable=not self.console.is_terminal,
        )
        self._task = self._progress.add_task("training", total=iterations, left="?")

    def __enter__(self) -> Display:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def header(self) -> None:
        self.say(self._line(COLUMNS), style="bold")

    def say(self, message: str | Text, style: str = "") -> None:
        """Shows a message; a terminal breaks long lines, and not this, so that a path can be copied."""
        text = Text(printable(message), style) if isinstance(message, str) else message
        self.console.print(text, soft_wrap=True)

    def warn(self, message: str) -> None:
        self.say(Text.assemble(("warning", "bold red"), f": {printable(message)}"))

    def _line(self, cells: Sequence[str]) -> str:
        return "  ".join(
            cell for name, cell in zip(COLUMNS, cells, strict=True) if name.strip() not in self._hidden
        )

    @contextmanager
    def hearing(self) -> Iterator[None]:
        """Shows what our own packages warn of meanwhile as warnings of the run."""
        handler = _Warnings(self)
        loggers = [logging.getLogger(name) for name in ("llmenv", "algorithms", "envs")]
        for logger in loggers:
            logger.addHandler(handler)
            logger.propagate = False
        try:
            yield
        finally:
            for logger in loggers:
                logger.removeHandler(handler)
                logger.propagate = True

    @contextmanager
    def waiting(self, message: str) -> Iterator[None]:
        """Says what is going on, and shows on a terminal for how long it has."""
        self.say(message)
        columns = (SpinnerColumn(), BarColumn(), TimeElapsedColumn())
        with Progress(
            *columns, console=self.console, transient=True, disable=not self.console.is_terminal
        ) as clock:
            clock.add_task("waiting", total=None)
            yield

    def iteration(self, row: dict[str, float], seconds_left: float) -> None:
        """Shows one line of `progress.csv`; the KL is that to a teacher or a reference, where there is one."""
        left = duration(seconds_left)
        cells = (
            f"{int(row['iteration']):>5}/{self._iterations:<5}",
            _measured(row.get("total_loss"), "8.4f"),
            _measured(row.get("episode_return_mean"), "8.3f"),
            _measured(row.get("accuracy"), "8.3f"),
            f"{row['response_length']:6.1f}",
            _measured(row.get("kl_teacher", row.get("kl_reference", row.get("kl_behaviour"))), "7.4f"),
            _measured(row.get("entropy"), "7.3f"),
            f"{row['tokens_per_second']:8.0f}",
            f"{left:>7}",
        )
        self.say(self._line(cells))
        self._progress.update(self._task, completed=row["iteration"], left=left)
        for warning in _warnings(row):
            self.warn(warning)

    def sample(self, episode: TextEpisode) -> None:
        """Shows one episode with its verdict."""
        info = episode.turns[-1].info
        verdict = "correct" if info.get("correct") else (info.get("failure") or "wrong")
        self.console.print(
            Panel(
                Text.assemble((printable(episode.observation), "dim"), f"\n{printable(episode.transcript)}"),
                title=Text(printable(f"a sample: reward {episode.total_reward:.2f}, {verdict}")),
                title_align="left",
            )
        )

    def evaluations(self, rows: dict[str, dict[str, float]]) -> None:
        """Shows evaluations side by side, such as before and after."""
        title = f"{int(next(iter(rows.values()))['num_tasks'])} held-out tasks"
        table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        loss = ["loss"] * ("validation_loss" in next(iter(rows.values())))  # on rows that are held out
        for column in ("", "sampled", "95 %", "greedy", "95 %", "format", "length", *loss):
            table.add_column(column, justify="right")
        for name, row in rows.items():
            for part in ("", *figures.parts_of(row)):
                table.add_row(
                    part.removesuffix("/") or name,
                    *_accuracy(row, f"{part}sampled"),
                    *_accuracy(row, f"{part}greedy"),
                    f"{row[f'{part}sampled_format_rate']:.0%}",
                    f"{row[f'{part}sampled_response_length']:.1f}",
                    *(f"{row['validation_loss']:.4f}" for _ in loss if not part),
                )
        self.console.print(table)


class _Warnings(logging.Handler):
    def __init__(self, display: Display):
        super().__init__(logging.WARNING)
        self._display = display

    def emit(self, record: logging.LogRecord) -> None:
        self._display.warn(record.getMessage())


def hidden_columns(config: LLMConfig) -> set[str]:
    """What a run has nothing for: SFT has no rewards, the others no loss on rows, and one step a batch no KL."""
    hidden = {"SFT": {"accuracy", "reward"}, "RFT": set()}.get(config.method, {"loss"})
    steps = (
        config.num_epochs
        * config.samples_per_iteration
        // (config.minibatch_size or config.samples_per_iteration)
    )
    measured = config.method not in IMITATE and (config.kl_coeff > 0 or steps > 1)
    return hidden if measured else hidden | {"KL"}


def duration(seconds: float) -> str:
    """Such as 0:07, 12:30 or 1:02:03."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _measured(value: float | None, form: str) -> str:
    """A number, or a dash as wide where nothing was measured, as where nothing was learned."""
    width = int(form.split(".")[0])
    return f"{'-':>{width}}" if value is None or math.isnan(value) else f"{value:{form}}"


def _accuracy(row: dict[str, Any], name: str) -> tuple[str, str]:
    value, low, high = (row[f"{name}_accuracy{end}"] for end in ("", "_low", "_high"))
    return f"{value:.1%}", f"{100 * low:.1f} to {high:.1%}"


def _warnings(row: dict[str, float]) -> Iterator[str]:
    if (gap := row.get("sampler_logp_gap_mean", 0.0)) > LARGEST_SAMPLER_GAP:
        yield (
            "sampler and learner disagree about the sampled tokens: their log-probabilities differ by "
            f"{gap:.3f} in the mean, more than {LARGEST_SAMPLER_GAP}. The sampler's weights are not the learner's, or "
            "its dtype is too coarse (--dtype float32 tells)"
        )
    if (entropy := row.get("entropy", math.inf)) < LOWEST_ENTROPY:
        yield (
            f"the policy hardly varies any more: its entropy is {entropy:.4f} nats a token, below {LOWEST_ENTROPY}. "
            "Lower the learning rate, or set training.entropy_coeff or clip_param_high"
        )
    if (kl := row.get("kl_behaviour", 0.0)) > LARGEST_STEP_KL:
        yield (
            f"the iteration's steps took the policy {kl:.3f} nats a token from where they began, more than "
            f"{LARGEST_STEP_KL}. Lower the learning rate, take fewer epochs, or set training.kl_stop"
        )
    if (kl := row.get("kl_reference", 0.0)) > LARGEST_REFERENCE_KL:
        yield (
            f"the policy is {kl:.3f} nats a token from where it began, more than {LARGEST_REFERENCE_KL}. Raise "
            "kl_coeff, or set training.kl_target"
        )
