"""Judges every gold answer of GSM8K's and MATH-500's test sets, and each against another problem's, and takes the time.

    python experiments/benchmarks/bench_math.py $LLMENV_DATA

The folder holds `gsm8k/test.jsonl` and `math500/test.jsonl`. Responses go through the environments' own `step`. Pairs
that are judged otherwise than expected are listed: now and then another problem's answer is right.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import gymnasium as gym
import numpy as np
import typer
from rich.console import Console
from rich.table import Table

import envs  # noqa: F401 (registers)
from envs.verify.verifiers import verify_math

DATA_SETS = {"GSM8K": ("GSM8K-v0", "gsm8k"), "MATH-500": ("MATH-v0", "math500")}
NUM_MIXED = 2000


class Case(NamedTuple):
    """One response to judge.

    Attributes:
        row: of the data set.
        kind: "gold", "gold respelt" or "another's".
        answer: what stands in the answer block.
        right: what it should be judged.
    """

    row: int
    kind: str
    answer: str
    right: bool


def cases(golds: list[str]) -> Iterable[Case]:
    """Each gold answer as it is, in another dress, and the next different one in its place."""
    for row, gold in enumerate(golds):
        yield Case(row, "gold", gold, True)
        yield Case(row, "gold respelt", f"The answer is $\\boxed{{{gold}}}$.", True)
        others = (golds[(row + i) % len(golds)] for i in range(1, len(golds)))
        yield Case(row, "another's", next(other for other in others if other != gold), False)


def judge_all(name: str, data: Path) -> Iterable[tuple[Case, str, bool, float]]:
    """Steps the environment with every case: the case, its gold answer, whether judged correct, milliseconds."""
    env_id, folder = DATA_SETS[name]
    env: Any = gym.make(env_id, data=str(data / folder), split="test").unwrapped
    tasks = [env.from_options({"index": i}) for i in range(env.num_tasks)]
    for case in cases([task.answer for task in tasks]):
        env.reset(options={"index": case.row})
        row = env.rows[case.row]
        solution = row.get("solution") or row["answer"]
        response = f"<think>{solution}</think>\n<answer>{case.answer}</answer>"
        started = time.perf_counter()
        *_, info = env.step(response)
        yield case, tasks[case.row].answer, info["correct"], 1e3 * (time.perf_counter() - started)


def form(gold: str) -> str:
    """A category of answers, by how they look."""
    looks = (
        ("matrix", "matrix"), ("\\text{", "text or unit"), ("\\mbox", "text or unit"), ("\\cup", "interval"),
        ("[", "tuple or interval"), ("]", "tuple or interval"), ("=", "equation"), ("^\\circ", "degrees"),
        ("\\pm", "list"), ("\\sqrt", "radical"), ("\\pi", "with pi"), ("\\frac", "fraction"), ("\\dfrac", "fraction"),
    )  # fmt: skip
    if gold.lstrip("-").replace(",", "").replace("\\!", "").replace(".", "").isdigit():
        return "number"
    if gold.startswith(("(", "\\left(")) and "," in gold:
        return "tuple or interval"
    return next((name for look, name in looks if look in gold), "list" if "," in gold else "other expression")


def mixed(data: Path) -> list[tuple[str, str]]:
    """2,000 pairs of an answer and a gold answer of MATH-500: its own, in a box, and two others'."""
    env: Any = gym.make("MATH-v0", data=str(data / "math500"), split="test").unwrapped
    golds = [env.from_options({"index": i}).answer for i in range(env.num_tasks)]
    pairs = [
        (answer, gold)
        for i, gold in enumerate(golds)
        for answer in (f" {gold}", f"\\boxed{{{gold}}}", golds[i - 1], golds[i - 7])
    ]
    return pairs[:NUM_MIXED]


def verdicts(pairs: list[tuple[str, str]]) -> list[str | None]:
    return [verify_math(answer, gold) for answer, gold in pairs]


def everywhere(pairs: list[tuple[str, str]]) -> dict[str, list[str | None]]:
    """The verdicts of the main thread, of another one, of eight at once, and of a Ray actor."""
    import ray

    def in_threads(count: int) -> list[str | None]:
        with ThreadPoolExecutor(count) as executor:
            return list(executor.map(lambda pair: verify_math(*pair), pairs))

    class Judge:
        def verdicts(self, pairs: list[tuple[str, str]]) -> list[str | None]:
            return verdicts(pairs)

    actor: Callable[..., Any] = ray.remote(num_cpus=0)(Judge).remote
    return {
        "main thread": verdicts(pairs),
        "a thread": in_threads(1),
        "eight threads": in_threads(8),
        "a Ray actor": ray.get(actor().verdicts.remote(pairs)),
    }


def main(data: Annotated[Path, typer.Argument(help="Folder with gsm8k/ and math500/.")]) -> None:
    """Judges gold answers and wrong ones, and takes the time."""
    import ray

    console = Console()
    verify_math("1/2", "0.5")  # starts a worker
    table = Table("data set", "answer", "form", "cases", "median ms", "p99", "max", title="Time of a step")
    for name in DATA_SETS:
        times: dict[tuple[str, str], list[float]] = {}
        right: dict[str, list[bool]] = {}
        for case, gold, correct, milliseconds in judge_all(name, data):
            right.setdefault(case.kind, []).append(correct == case.right)
            for key in ((case.kind, "all"), (case.kind, form(gold))):
                times.setdefault(key, []).append(milliseconds)
            if correct != case.right:
                verdict = "right" if correct else "wrong"
                console.print(
                    f"{name} {case.row}: {case.answer!r} for {gold!r} is judged {verdict}", markup=False
                )
        for kind, as_expected in right.items():
            console.print(f"{name}, {kind}: {sum(as_expected)} of {len(as_expected)} judged as expected")
        for (kind, what), values in sorted(times.items()):
            figures = [f"{q:.2f}" for q in (np.median(values), np.quantile(values, 0.99), max(values))]
            table.add_row(name, kind, what, str(len(values)), *figures)
    console.print(table)
    ray.init(address="local", include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    results = everywhere(mixed(data))
    ray.shutdown()
    expected = results["main thread"]
    for where, given in results.items():
        same = sum(a == b for a, b in zip(given, expected, strict=True))
        console.print(f"{where}: {same} of {len(expected)} verdicts as in the main thread")


if __name__ == "__main__":
    typer.run(main)
