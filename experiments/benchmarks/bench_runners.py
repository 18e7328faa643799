"""What a sample costs the driver, with any number of runners: they sleep where real ones would compute.

    python experiments/benchmarks/bench_runners.py --runners 1,4,16,64 --picture runners.png

The driver's part is the real one (`llmenv/rllib/runner_group.py`): groups are dealt out, answers awaited, episodes
taken out of the object store and put in order. Each runner is given as many groups whatever their number, sleeps, and
returns episodes of the usual kind, with so many response tokens each. Reported is the processor time of the driver's
process a sample, and the seconds of an iteration over those that the runners slept.

A runner is a process of about 80 MB, without PyTorch; they all start before anything is measured.
"""

from __future__ import annotations

import time
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Annotated, Any

import numpy as np
import ray
import typer
from ray.rllib.utils.actor_manager import FaultTolerantActorManager
from rich.console import Console
from rich.table import Table

from llmenv.episode import TextEpisode, Turn
from llmenv.rllib.runner_group import RunnerGroup

GROUP_SIZE, PROMPT_TOKENS = 8, 100


def sleeper() -> type:
    """A runner that sleeps. Made here, so that it travels by value: its process then imports no PyTorch."""

    class Sleeper:
        def ping(self) -> str:
            return "pong"

        def sample_with_metrics(self, *, requests: Any, seconds: float, tokens: int) -> tuple[list[Any], Any]:
            time.sleep(seconds)
            return [
                TextEpisode(
                    request.group, i, [Turn(prompt, ids, logps, finish_reason="stop")], terminated=True
                )
                for request in requests
                for prompt, ids, logps in [(np.zeros(PROMPT_TOKENS), np.zeros(tokens), np.zeros(tokens))]
                for i in range(GROUP_SIZE)
            ], {}

    return Sleeper


def group_of(actors: list[Any]) -> RunnerGroup:
    """The driver's side, over actors of any kind."""
    manager = FaultTolerantActorManager(actors, init_id=1)
    group: Any = SimpleNamespace(_worker_manager=manager, num_remote_env_runners=lambda: len(actors))
    config = SimpleNamespace(sample_timeout_s=600.0, env_runner_restore_timeout_s=60.0, weight_transfer=None)
    learners: Any = None
    return RunnerGroup(group, learners, config)


def measure(actors: list[Any], groups: int, seconds: float, tokens: int, rounds: int) -> tuple[float, float]:
    """Microseconds of the driver's processor a sample, and an iteration's seconds over those slept."""
    runners = group_of(actors)
    requests: Any = [
        SimpleNamespace(group=i) for i in range(groups * len(actors))
    ]  # GroupRequest's module is heavy
    spent, lasted = [], []
    for _ in range(rounds + 1):
        used, started = time.process_time(), time.perf_counter()
        episodes, _ = runners.collect(runners.submit(requests, seconds=seconds, tokens=tokens))
        spent.append((time.process_time() - used) / len(episodes))
        lasted.append(time.perf_counter() - started)
        assert len(episodes) == len(requests) * GROUP_SIZE
    return 1e6 * median(spent[1:]), median(lasted[1:]) / seconds


def draw(rows: list[tuple[int, float, float]], file: Path) -> None:
    """The driver's cost of a sample over the number of runners."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    axes.plot([row[0] for row in rows], [row[1] for row in rows], "o-")
    axes.set(xscale="log", xlabel="runners", ylabel="driver's processor time (µs a sample)", ylim=(0, None))
    figure.savefig(file, dpi=110)
    plt.close(figure)


def main(
    runners: Annotated[str, typer.Option(help="Numbers of them, ascending.")] = "1,4,16,64",
    groups: Annotated[int, typer.Option(min=1, help="Of each runner, of 8 samples each.")] = 4,
    seconds: Annotated[float, typer.Option(help="That a runner sleeps.")] = 1.0,
    tokens: Annotated[int, typer.Option(help="Of a response.")] = 500,
    rounds: Annotated[int, typer.Option(min=1, help="That count.")] = 5,
    picture: Annotated[Path | None, typer.Option(help="A file to draw into.")] = None,
) -> None:
    """Prints the driver's cost by number of runners."""
    ray.init(address="local", include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    made = ray.remote(num_cpus=0)(sleeper())
    actors: list[Any] = []
    table = Table("runners", "samples", "driver (µs a sample)", "iteration / sleep")
    rows = []
    for number in map(int, runners.split(",")):
        actors += [made.remote() for _ in range(number - len(actors))]
        ray.get([actor.ping.remote() for actor in actors])
        cost, share = measure(actors, groups, seconds, tokens, rounds)
        rows.append((number, cost, share))
        table.add_row(str(number), str(number * groups * GROUP_SIZE), f"{cost:.0f}", f"{share:.2f}")
    Console().print(table)
    if picture is not None:
        draw(rows, picture)
    ray.shutdown()


if __name__ == "__main__":
    typer.run(main)
