"""Whether a long run keeps its memory: that of driver, runners, learners and verifier workers over the iterations.

    python experiments/benchmarks/bench_memory.py --picture memory.png -- --iterations 500 --num-env-runners 1 \
        --num-learners 1 --env Countdown-v0:0.5 --env GSM8K-v0:0.5 --output runs/long

What follows `--` is a command line of `experiments/run.py`, with `--output`. Every few seconds its processes are looked
at: what is theirs alone (USS), which leaves out what they share with others, Ray's object store above all.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import psutil
import typer
from rich.console import Console
from rich.table import Table

RUN = Path(__file__).parents[1] / "run.py"
# By what is in the command line of a process; anything else is Ray's own.
ROLES = {
    "ray::LLMEnvRunner": "runners",
    "ray::_WrappedExecutable": "learners",
    "envs.verify.workers": "verifier workers",
}


def role_of(command: str) -> str:
    """Which of a run's parts a descendant of the driver is, by its command line."""
    return next((role for mark, role in ROLES.items() if mark in command), "Ray's own")


def look(driver: psutil.Process) -> dict[str, float]:
    """Megabytes of each role now, all processes of it together."""
    found: dict[str, float] = {}
    for process in [driver, *driver.children(recursive=True)]:
        try:
            role = "driver" if process == driver else role_of(" ".join(process.cmdline()))
            found[role] = found.get(role, 0.0) + process.memory_full_info().uss / 1e6
        except psutil.Error:  # it has ended meanwhile
            continue
    return found


def iterations_of(folder: Path) -> int:
    """How many a run has behind it."""
    file = folder / "progress.csv"
    return max(0, len(file.read_text().splitlines()) - 1) if file.exists() else 0


def growth(iterations: pd.Series, megabytes: pd.Series) -> float:
    """MB in 100 iterations over the second half of a run: the slope of the line of least squares."""
    late = iterations >= iterations.max() / 2
    return float(np.polyfit(iterations[late], megabytes[late], 1)[0] * 100)


def watch(folder: Path, arguments: list[str], every: float) -> pd.DataFrame:
    """A row a look: the iteration, and MB by role.

    Raises:
        RuntimeError: If the run fails.
    """
    rows = []
    with subprocess.Popen([sys.executable, str(RUN), *arguments]) as run:
        driver = psutil.Process(run.pid)
        while run.poll() is None:
            rows.append({"iteration": iterations_of(folder), **look(driver)})
            time.sleep(every)
    if run.returncode:
        raise RuntimeError(f"run.py ended with status {run.returncode}")
    frame = pd.DataFrame(rows)
    return frame[frame["iteration"].between(1, frame["iteration"].max() - 1)]  # no start and no end


def draw(frame: pd.DataFrame, file: Path) -> None:
    """Memory over iterations, a line a role."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for role in frame.columns.drop("iteration"):
        axes.plot(frame["iteration"], frame[role], label=role)
    axes.set(xlabel="iteration", ylabel="memory of its own (MB)", ylim=(0, None))
    figure.legend(loc="outside upper center", ncols=5, fontsize="small")
    figure.savefig(file, dpi=110)
    plt.close(figure)


def main(
    arguments: Annotated[list[str], typer.Argument(help="Of experiments/run.py.")],
    every: Annotated[float, typer.Option(help="Seconds between looks.")] = 10.0,
    picture: Annotated[Path | None, typer.Option(help="A file to draw into.")] = None,
) -> None:
    """Runs experiments/run.py and prints what memory its parts take, early and late."""
    if "--output" not in arguments[:-1]:
        raise typer.BadParameter("say where the run goes: --output FOLDER, after --")
    folder = Path(arguments[arguments.index("--output") + 1])
    frame = watch(folder, arguments, every)
    frame.to_csv(folder / "memory.csv", index=False)
    early = frame["iteration"].max() / 10
    table = Table("MB", f"until iteration {early:.0f}", "at the end", "more in 100 iterations, second half")
    for role in frame.columns.drop("iteration"):
        values = frame[role].fillna(0.0)
        first, last = values[frame["iteration"] <= early].median(), values.tail(10).median()
        table.add_row(role, f"{first:.0f}", f"{last:.0f}", f"{growth(frame['iteration'], values):+.1f}")
    Console().print(table)
    if picture is not None:
        draw(frame, picture)


if __name__ == "__main__":
    typer.run(main)
