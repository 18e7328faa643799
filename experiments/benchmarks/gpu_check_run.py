"""The whole program on a GPU: `run.py` with its learner and its sampler there, then resumed, then exported.

    python -m experiments.benchmarks.gpu_check_run --out runs/gpu_run

Each is the command that a user types, in a process of its own, and the first that fails ends the check with what it
said. It needs what `run.py` needs, Ray among it; `gpu_check.py` looks at what computes. `--cpu` takes no GPU: it says
that the commands run.
"""

from __future__ import annotations

import argparse
import csv
import math
import subprocess
import sys
from pathlib import Path

ITERATIONS = 3


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="tiny", help="name or path of the model (default: %(default)s)")
    parser.add_argument("--sampler", default="transformers", help="or vllm (default: %(default)s)")
    parser.add_argument("--cpu", action="store_true", help="without a GPU")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu_check_run"), help="a new folder")
    arguments = parser.parse_args()
    for command in commands(arguments):
        print("$", *command, flush=True)
        subprocess.run([sys.executable, *command], check=True)
    look_at(arguments.out / "run")


def commands(arguments: argparse.Namespace) -> list[list[str]]:
    """The run, the same one gone on with, and its export."""
    run, exported = str(arguments.out / "run"), str(arguments.out / "exported")
    # On one GPU learner and runner have half of it each.
    where = [] if arguments.cpu else ["--num-gpus-per-learner", "0.5", "--num-gpus-per-env-runner", "0.5"]
    settings = ["--model", arguments.model, "--sampler", arguments.sampler, "--dtype", "bfloat16"]
    sizes = ["--prompts-per-iteration", "4", "--group-size", "4", "--max-new-tokens", "64"]
    actors = ["--num-learners", "1", "--num-env-runners", "1"]
    times = ["--eval-tasks", "8", "--iterations"]
    return [
        [
            *("experiments/run.py", "--output", run, *settings, *sizes, *where, *actors, *times),
            str(ITERATIONS),
        ],
        ["experiments/run.py", "--resume", run, "--iterations", str(2 * ITERATIONS)],
        ["experiments/export.py", run, exported],
    ]


def look_at(folder: Path) -> None:
    """Prints what the iterations were, and raises where one is missing or computed nothing."""
    with (folder / "progress.csv").open() as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        figures = ("gradient_norm", "sampler_logp_gap_mean", "seconds_sampling", "seconds_learning")
        print({name: row[name] for name in figures})
        if not math.isfinite(float(row["gradient_norm"])):
            raise SystemExit("a gradient is not finite")
    if len(rows) != 2 * ITERATIONS:
        raise SystemExit(f"{len(rows)} iterations instead of {2 * ITERATIONS}")
    print("run, resumed and exported")


if __name__ == "__main__":
    main()
