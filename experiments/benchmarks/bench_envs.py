"""How many tasks and verifications a second on one core: `python experiments/benchmarks/bench_envs.py`.

Expect, on one idle core: 20,000 drawn tasks and 10,000 verifications a second or more. Rates are of processor
time, the best of several rounds, so that other work on the machine does not count.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np

from envs.countdown import CountdownEnv, draw_task
from envs.verify.verifiers import verify_arithmetic


def rate(function: Callable[[], object], calls: int, rounds: int = 5) -> float:
    """Calls a second of processor time, the best of some rounds."""
    best = float("inf")
    for _ in range(rounds):
        start = time.process_time()
        for _ in range(calls):
            function()
        best = min(best, time.process_time() - start)
    return calls / best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--calls", type=int, default=5000, help="calls in a round")
    calls = parser.parse_args().calls

    rng = np.random.default_rng(0)
    env = CountdownEnv()
    env.reset(seed=0)
    task = draw_task(rng, num_numbers=(4,))
    response = (
        f"{env.assistant_prefix}{' 12 + 34 = 46 no,' * 30} </think>\n<answer> {task.solution} </answer>"
    )

    def step() -> None:
        env.task = task
        env.step(response)

    rows: dict[str, Callable[[], object]] = {
        "draw a task (train)": lambda: draw_task(rng, split="train"),
        "draw a task (test)": lambda: draw_task(rng, split="test"),
        "verify an answer": lambda: verify_arithmetic(task.solution, task.numbers, task.target),
        "step (500-character response)": step,
        "reset()": env.reset,
        "reset(seed=...)": lambda: env.reset(seed=0),
    }
    for name, function in rows.items():
        print(f"{name:32}{rate(function, calls):12,.0f} /s")


if __name__ == "__main__":
    main()
