"""What a run's processes are told apart by, and how growth is reckoned; the run itself takes an hour."""

from __future__ import annotations

import os
import subprocess
import sys

import pandas as pd
import psutil
import pytest

from experiments.benchmarks.bench_memory import growth, look, role_of


@pytest.mark.parametrize(
    ("command", "role"),
    [
        ("ray::LLMEnvRunner.sample_with_metrics", "runners"),
        ("ray::_WrappedExecutable.update", "learners"),
        ("python -m envs.verify.workers envs.verify.math_answer.equivalence:judge", "verifier workers"),
        ("/ray/core/src/ray/raylet/raylet --raylet_socket_name=raylet", "Ray's own"),
    ],
)
def test_roles(command: str, role: str) -> None:
    assert role_of(command) == role


def test_a_child_s_memory_is_told_from_the_driver_s() -> None:
    code = "held = b'x' * 200_000_000; print(1, flush=True); input()  # envs.verify.workers"
    here = psutil.Process(os.getpid())
    before = look(here)  # of other tests
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        child.stdout.readline()
        found = look(here)
        child.communicate(b"\n")
    assert 200 <= found["verifier workers"] - before.get("verifier workers", 0.0) < 260
    assert found["driver"] > 20


def test_growth_is_that_of_the_second_half() -> None:
    iterations = pd.Series(range(1, 101))
    megabytes = pd.Series([500.0 + 10 * min(i, 40) + 0.25 * i for i in iterations])
    assert growth(iterations, megabytes) == pytest.approx(25.0)
