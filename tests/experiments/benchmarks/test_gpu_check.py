"""The GPU check runs where neither ray nor vLLM nor DeepSpeed is, and a section that fails does not end it."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from experiments.benchmarks.gpu.bench import Bench, make_model, make_rows
from experiments.benchmarks.gpu_check import RESULT, check

ROOT = Path(__file__).parents[3]
# An import of a module that is None raises ImportError.
WITHOUT = """
import runpy, sys
sys.modules.update(ray=None, vllm=None, deepspeed=None)
runpy.run_module("experiments.benchmarks.gpu_check", run_name="__main__", alter_sys=True)
"""


def test_it_runs_small_on_a_cpu_without_ray(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", WITHOUT, "--smoke", "--out", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert (tmp_path / RESULT).exists(), run.stderr
    sections = json.loads((tmp_path / RESULT).read_text())["sections"]
    assert list(sections) == [
        "correctness", "variants", "optimizer", "head", "masks", "update", "sampler", "weight_sync"
    ]  # fmt: skip
    assert not [section["error"] for section in sections.values() if "error" in section], run.stdout
    assert not [want for section in sections.values() for want in section["wants"] if not want["passed"]]
    assert {name for name, section in sections.items() if section["wants"]} == sections.keys() - {
        "weight_sync"
    }
    assert "pass  error of log-probabilities" in run.stdout
    assert (tmp_path / "profile.txt").stat().st_size > 1000
    assert run.returncode == 0


@pytest.fixture
def bench() -> Bench:
    return Bench(torch.device("cpu"), smoke=True, deadline=time.monotonic() + 60)


def test_a_section_that_fails_is_written_down_and_the_next_one_runs(bench: Bench, tmp_path: Path) -> None:
    def broken(bench: Bench) -> None:
        bench.want("before", 1.0, at_most=2.0)
        raise RuntimeError("no kernel")

    def strict(bench: Bench) -> None:
        bench.want("not a number", math.nan, at_most=1.0)
        bench.want("too little", 0.5, at_least=0.6)

    assert check({"broken": broken, "strict": strict}, bench, tmp_path) == 3
    sections = json.loads((tmp_path / RESULT).read_text())["sections"]
    assert "no kernel" in sections["broken"]["error"]
    assert [want["passed"] for want in sections["broken"]["wants"]] == [True]
    assert [want["passed"] for want in sections["strict"]["wants"]] == [False, False]


def test_models_and_rows_are_the_same_again(bench: Bench) -> None:
    first, second = (make_model(bench).get_input_embeddings().weight for _ in range(2))
    assert torch.equal(first, second)
    rows = make_rows(300, groups=2, size=3, prompt=10, shortest=2, longest=5)
    assert [row.group for row in rows] == [0, 0, 0, 1, 1, 1]
    assert all(
        2 <= row.num_response_tokens <= 5 and 8 <= len(row) - row.num_response_tokens <= 12 for row in rows
    )
