"""A plan on the console: a table of what is where and when, what to change, and what overlapping would bring."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from algorithms import footprint
from algorithms.footprint import GB
from experiments.common import settings
from experiments.common.display import quieten
from experiments.common.plan import Plan, alike, found_gpus, given_gpus, host_memory, make_plan, names, when
from experiments.common.remedies import remedies

if TYPE_CHECKING:
    from algorithms.config import LLMConfig

SMALLEST_SHOWN = GB // 100


def plan_run(
    algo: str, sections: settings.Sections, gpus: int | None, gpu_memory: float | None, run: Path | None
) -> int:
    """What `run.py --plan` does.

    Args:
        algo: One of `algorithms.METHODS`.
        sections: All settings.
        gpus: How many there are; None: those of this machine.
        gpu_memory: GB of each of them.
        run: As for `show_plan`.

    Returns:
        The exit status.
    """
    quieten()
    config, _ = settings.build(algo, sections)
    return show_plan(config, given_gpus(gpus, gpu_memory), run)


def show_plan(config: LLMConfig, gpus: Sequence[int] | None, run: Path | None) -> int:
    """Prints whether a run fits, and where it does not, what to change.

    Args:
        config: The run's.
        gpus: Bytes of each GPU; None: those of this machine, whose host is looked at too.
        run: A folder of a run with these settings, for the times that it took; None for none.

    Returns:
        The exit status: 0 if it fits, else 1.
    """
    devices, memory = (found_gpus(), host_memory()) if gpus is None else (gpus, None)
    plan = make_plan(config, devices, memory)
    console = Console(highlight=False, width=None if Console().is_terminal else 110)
    console.print(Text(_placement(config)))
    console.print(_table(plan))
    for note in [*plan.notes, overlap(run)]:
        console.print(Text(note))
    for problem in plan.problems:
        console.print(Text.assemble(("does not fit", "bold red"), f": {problem}"), soft_wrap=True)
    if plan.fits:
        console.print("[bold green]fits[/bold green], by arithmetic (docs/memory.md); not measured on a GPU")
        return 0
    found = remedies(config, lambda changed: make_plan(changed, devices, memory))
    for changes in found:
        options = " ".join(f"--set {change}" for change in changes)
        console.print(Text(f"it would fit with {options}"), soft_wrap=True)
    if not found:
        console.print("no setting alone mends it: more or larger GPUs, or a smaller model")
    return 1


def _placement(config: LLMConfig) -> str:
    def who(number: int, role: str, amount: float) -> str:
        where = f"{amount:g} GPUs each" if amount else "on the CPU"
        return (
            f"{number} {role}{'s' if number > 1 else ''}, {where}"
            if number
            else f"{role} in the driver, {where}"
        )

    parts = [
        f"{config.base_model} in {config.dtype}",
        who(config.num_env_runners, "runner", config.num_gpus_per_env_runner) + f" ({config.sampler})",
        who(config.num_learners, "learner", config.num_gpus_per_learner),
    ]
    if config.zero_stage is not None:
        parts.append(f"ZeRO {config.zero_stage}")
    return "; ".join(parts)


def _table(plan: Plan) -> Table:
    """A line for what is held, a column for each GPU that differs from the others, and one for the host."""
    columns = [(names(places), places[0]) for places in alike(plan.gpus)] + [("host", plan.host)]
    table = Table(caption="GB (10^9 bytes)", caption_justify="left")
    for column in ("", "when", *(name for name, _ in columns)):
        table.add_column(column, justify="left" if column in ("", "when") else "right")
    lines = dict.fromkeys((item.what, when(item)) for _, place in columns for item in place.items)
    for line in lines:
        held = [
            sum(item.bytes for item in place.items if (item.what, when(item)) == line) for _, place in columns
        ]
        if max(map(abs, held)) >= SMALLEST_SHOWN:
            table.add_row(*line, *(f"{size / GB:.2f}" if size else "" for size in held))
    table.add_section()
    peaks = [footprint.peak(place.items) for _, place in columns]
    table.add_row("most at a time", "", *(f"{most / GB:.2f} {phase}" for most, phase in peaks))
    there = ["" if place.memory is None else f"{place.memory / GB:.1f}" for _, place in columns]
    table.add_row("there is", "", *there)
    return table


def overlap(run: Path | None) -> str:
    """What sampling and learning at the same time could bring at most, from the times of a run.

    An iteration of S seconds of sampling, L of learning and R of the rest takes S + L + R, and would take
    max(S, L) + R.
    Nothing is estimated: times depend on what no arithmetic of sizes knows.
    """
    from experiments.common.run_folder import read_table

    times = read_table(run, "progress") if run is not None else None
    if times is None or times.empty:
        return (
            "overlapping sampling and learning: at most (sampling + learning) / max of both times as fast; "
            "--plan --resume FOLDER takes the times of a run"
        )
    row = times.median(numeric_only=True)
    sampling, learning, seconds = (row[name] for name in ("seconds_sampling", "seconds_learning", "seconds"))
    factor = seconds / (seconds - min(sampling, learning))
    return (
        f"overlapping sampling ({sampling:.2f} s) and learning ({learning:.2f} s): an iteration of {seconds:.2f} s "
        f"(medians of the run) would be at most {factor:.2f} times as fast"
    )
