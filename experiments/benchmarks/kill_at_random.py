"""Kills a run at random moments, resumes it each time, and compares what it leaves with an undisturbed one, bit by bit.

    python experiments/benchmarks/kill_at_random.py --kills 40

The run saves every iteration. A kill is SIGKILL to the driver, at a moment drawn evenly over half of the time that the
undisturbed run took from its first evaluation to its end, counted from when the process stands on its feet. Each
resumed run is killed again, until the kills are used up or it comes through; then another run begins. Compared are the
columns of progress.csv and evaluations.csv that are no times, all samples, and the final weights and optimizer.
"""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer

ROOT = Path(__file__).resolve().parents[2]
RUN = [sys.executable, str(ROOT / "experiments" / "run.py")]
SETTINGS = [
    "--env=Countdown-v0",
    "--model=tiny",
    "--sampler=transformers",
    "--prompts-per-iteration=4",
    "--group-size=4",
    "--max-new-tokens=40",
    "--eval-tasks=4",
    "--evaluate-every=2",
    "--set=run.checkpoint_every=1",
    "--set=run.show_every=1",
]


def main(
    kills: Annotated[int, typer.Option(help="In all.")] = 40,
    iterations: Annotated[int, typer.Option(help="Of each run.")] = 12,
    seed: Annotated[int, typer.Option(help="Of the moments.")] = 0,
) -> None:
    """Prints each moment, each run's verdict, and at the end how many kills came to nothing."""
    rng, left, harmless = random.Random(seed), kills, 0
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder, "undisturbed")
        _complete([f"--output={whole}", *SETTINGS, f"--iterations={iterations}"])
        first, last = whole / "samples" / "eval_sampled_000000.parquet", whole / "summary.json"
        seconds = last.stat().st_mtime - first.stat().st_mtime
        typer.echo(f"undisturbed: {iterations} iterations in {seconds:.1f} s")
        while left:
            killed = Path(folder, "killed")
            shutil.rmtree(killed, ignore_errors=True)
            command, survived = [f"--output={killed}", *SETTINGS, f"--iterations={iterations}"], 0
            while left and _is_killed(command, killed, rng.uniform(0, seconds / 2)):
                left, survived = left - 1, survived + 1
                typer.echo(f"killed after {_saved(killed)[-1]}, {left} left")
                command = [f"--resume={killed}"]
            if survived and not left:
                _complete([f"--resume={killed}"])
            differences = _differences(killed, whole) if survived else []
            typer.echo(f"{survived} kills: {', '.join(differences) or 'equal to the bit'}")
            harmless += 0 if differences else survived
    typer.echo(f"{harmless} of {kills}")
    raise typer.Exit(0 if harmless == kills else 1)


def _saved(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").glob("iteration_*"))


def _complete(arguments: list[str]) -> None:
    done = subprocess.run([*RUN, *arguments], capture_output=True, text=True, check=False, cwd=ROOT)
    if done.returncode:
        raise RuntimeError(done.stdout + done.stderr)


def _is_killed(arguments: list[str], folder: Path, seconds: float) -> bool:
    """Whether the run was killed so long after it had written its settings and a checkpoint; else it came through."""
    before = time.time()
    quiet = subprocess.DEVNULL
    process = subprocess.Popen([*RUN, *arguments], stdout=quiet, stderr=quiet, cwd=ROOT)
    config = folder / "config.yaml"  # which a resumed run writes anew
    while process.poll() is None and not (_saved(folder) and config.stat().st_mtime > before):
        time.sleep(0.02)
    moment = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < moment:
        time.sleep(0.01)
    if process.poll() is not None:
        if process.returncode:
            raise RuntimeError(f"the run ended by itself with status {process.returncode}")
        return False
    process.kill()
    process.wait()
    return True


def _differences(ours: Path, theirs: Path) -> list[str]:
    """The files that are not the same."""
    import pandas as pd
    import torch

    from experiments.common.run_folder import checkpoints

    differ = []
    for name in ("progress.csv", "evaluations.csv"):
        tables = []
        for folder in (ours, theirs):
            table = pd.read_csv(folder / name)
            kept = [c for c in table if not c.startswith("seconds") and c != "tokens_per_second"]
            tables.append(table[kept])
        differ += [] if tables[0].equals(tables[1]) else [name]
    samples = [{path.name for path in (folder / "samples").iterdir()} for folder in (ours, theirs)]
    differ += sorted(samples[0] ^ samples[1])
    for name in sorted(samples[0] & samples[1]):
        frames = [pd.read_parquet(folder / "samples" / name) for folder in (ours, theirs)]
        try:
            pd.testing.assert_frame_equal(*frames, check_exact=True)
        except AssertionError:
            differ.append(name)
    policies = [(folder / "policy" / "model.safetensors").read_bytes() for folder in (ours, theirs)]
    differ += [] if policies[0] == policies[1] else ["policy"]
    states = [
        torch.load(checkpoints(folder)[-1] / "learner_group/learner/engine.pt", weights_only=True)
        for folder in (ours, theirs)
    ]
    return differ + ([] if _equal(*states) else ["engine.pt"])


def _equal(a: object, b: object) -> bool:
    import torch

    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(_equal, a, b))
    return a == b


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    typer.run(main)
