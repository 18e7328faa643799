"""How long weights take from a learner to runners through Ray's object store, against one copy of the same bytes.

    python experiments/benchmarks/bench_weights.py --runners 1,2,4,8 --megabytes 1,10,100,500

As a sync does it (`llmenv/weights/format.py`, `Outbox.pack`, `RunnerGroup`): packed, put into the object store once,
and a reference sent to every runner, which copies them over the weights that it has, and answers with the version.
Runners are processes on this machine that hold weights alone; between machines the store sends each node one copy,
which is not measured here. "memcpy" is one copy of the same bytes in this process. Medians of the rounds, in seconds.

"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Annotated

import ray
import torch
import typer
from rich.console import Console
from rich.table import Table

from llmenv.weights import format as weights

TENSORS = 50  # of which weights consist


class Runner:
    """Holds weights of a size, and takes over others."""

    def __init__(self, megabytes: float):
        self._state = state(megabytes)

    def set_weights(self, packed: weights.Packed, version: int) -> int:
        with torch.no_grad():
            for name, tensor in weights.unpack(packed).items():
                self._state[name].copy_(tensor)
        return version


def state(megabytes: float) -> dict[str, torch.Tensor]:
    """Float32 weights of so many 10^6 bytes."""
    return {str(i): torch.ones(int(megabytes * 1e6 / 4 / TENSORS)) for i in range(TENSORS)}


def timed(act: Callable[[], object], rounds: int) -> float:
    """Median seconds, after one round that does not count."""
    seconds = []
    for _ in range(rounds + 1):
        started = time.perf_counter()
        act()
        seconds.append(time.perf_counter() - started)
    return median(seconds[1:])


def measure(megabytes: float, runners: int, rounds: int) -> tuple[float, float, float]:
    """Seconds of a copy in this process, of the put alone, and of the whole sync."""
    own, other = state(megabytes), state(megabytes)
    actors = [ray.remote(num_cpus=0)(Runner).remote(megabytes) for _ in range(runners)]

    def copy() -> None:
        for name, tensor in own.items():
            other[name].copy_(tensor)

    def sync() -> None:
        packed = ray.put(weights.pack(own))
        versions = ray.get([actor.set_weights.remote(packed, 7) for actor in actors])
        assert versions == [7] * runners

    sync()  # starts the processes
    found = (
        timed(copy, rounds),
        timed(lambda: ray.put(weights.pack(own)), rounds),
        timed(sync, rounds),
    )
    for actor in actors:
        ray.kill(actor)
    return found


def draw(rows: list[tuple[float, int, float, float, float]], file: Path) -> None:
    """Seconds of a sync over the size of the weights, a line for each number of runners."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for runners in sorted({row[1] for row in rows}):
        own = [row for row in rows if row[1] == runners]
        axes.plot([row[0] for row in own], [row[4] for row in own], "o-", label=f"{runners} runners")
    axes.plot([row[0] for row in rows], [row[2] for row in rows], "kx", label="one memcpy")
    axes.set(xscale="log", yscale="log", xlabel="weights (MB)", ylabel="seconds")
    axes.legend()
    figure.savefig(file, dpi=110)
    plt.close(figure)


def main(
    megabytes: Annotated[str, typer.Option(help="Sizes of the weights.")] = "1,10,100,500",
    runners: Annotated[str, typer.Option(help="Numbers of runners.")] = "1,2,4,8",
    rounds: Annotated[int, typer.Option(min=1, help="That count.")] = 5,
    picture: Annotated[Path | None, typer.Option(help="A file to draw into.")] = None,
) -> None:
    """Prints seconds by size and number of runners."""
    ray.init(address="local", include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    table = Table("MB", "runners", "memcpy (s)", "put (s)", "sync (s)", "sync / memcpy")
    rows = []
    for size in map(float, megabytes.split(",")):
        for number in map(int, runners.split(",")):
            copy, put, sync = measure(size, number, rounds)
            rows.append((size, number, copy, put, sync))
            table.add_row(
                f"{size:g}", str(number), f"{copy:.4f}", f"{put:.4f}", f"{sync:.4f}", f"{sync / copy:.1f}"
            )
    Console().print(table)
    if picture is not None:
        draw(rows, picture)
    ray.shutdown()


if __name__ == "__main__":
    typer.run(main)
