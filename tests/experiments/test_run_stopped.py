"""The command line, stopped in the middle: what a run has learned stays, and goes on elsewhere."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import pandas as pd
import pytest
import yaml
from typer.testing import CliRunner, Result

from experiments.common.run_folder import checkpoints, read_table
from experiments.common.training import Training
from experiments.run import app
from llmenv.models.names import POLICY_IN_CHECKPOINT
from support import NoDigitEnv


@pytest.fixture
def invoke(ray_cluster, monkeypatch) -> Callable[..., Result]:
    """Runs the command in this process, on the Ray that is there."""
    monkeypatch.setattr("ray.init", lambda **kwargs: None)
    monkeypatch.setattr("ray.shutdown", lambda: None)
    return lambda *arguments: CliRunner().invoke(app, arguments)


@pytest.fixture
def tiny_run(model_folder, tmp_path) -> list[str]:
    """The options of a run of a second or two, without its environment."""
    return [
        f"--output={tmp_path / 'run'}",
        f"--model={model_folder}",
        "--sampler=transformers",
        "--iterations=3",
        "--prompts-per-iteration=2",
        "--group-size=4",
        "--max-new-tokens=2",
        "--eval-tasks=2",
        "--set=evaluation.evaluation_config=null",
        "--set=run.checkpoint_every=100",
    ]


class ServiceEnv(NoDigitEnv):
    """Asks a service for the reward, which is not there any more.

    Args:
        down: The service is down as soon as there is this file.
    """

    def __init__(self, down: str):
        super().__init__()
        self.down = Path(down)

    def step(self, action: str) -> Any:
        if self.down.exists():
            raise ConnectionError("the reward service is down")
        return super().step(action)


gym.register("Service-v0", entry_point=ServiceEnv)


def test_a_service_that_is_down_costs_no_whole_iteration(invoke, tiny_run, tmp_path):
    folder = tmp_path / "run"
    down = folder / "progress.csv"  # which is there after the first iteration
    done = invoke(*tiny_run, "--env=support:Service-v0", f"--set=environment.env_config.down={down}")
    assert done.exit_code == 2
    first, hint = done.stderr.splitlines()[-2:]
    assert first.startswith("error: every sample of the iteration is invalid; the first: ")
    assert first.endswith(f"the reward service is down. Go on with --resume {folder}")
    assert hint == "(LLMENV_TRACEBACK=1 shows where it came from)"
    assert [path.name for path in checkpoints(folder)] == ["iteration_000000", "iteration_000001"]


def test_a_terminated_run_goes_on_on_another_machine(invoke, tiny_run, tmp_path, monkeypatch):
    folder, order = tmp_path / "run", tmp_path / "order"
    order.write_text(str(int(signal.SIGTERM)))  # taken by the first evaluation
    done = invoke(*tiny_run, "--env=support:Fatal-v0", f"--set=environment.env_config.order={order}")
    assert done.exit_code == 143, done.stderr
    assert f"stopped after iteration 0: go on with --resume {folder}" in " ".join(done.stdout.split())
    assert [path.name for path in checkpoints(folder)] == ["iteration_000000"]
    again = invoke(*tiny_run, "--env=support:Fatal-v0", f"--set=environment.env_config.order={order}")
    assert again.exit_code == 2 and "holds a run already" in again.stderr

    ran_with = []
    monkeypatch.setattr(
        Training, "run", lambda self, run=Training.run: (ran_with.append(self.algorithm.config), run(self))[1]
    )
    smaller = ["--set=training.micro_batch_tokens=64", "--set=sampling.max_rows_per_sampler=3"]
    done = invoke(f"--resume={folder}", "--iterations=2", *smaller)
    assert done.exit_code == 0, done.stderr
    (config,) = ran_with
    assert (config.micro_batch_tokens, config.max_rows_per_sampler, config.max_new_tokens) == (64, 3, 2)
    recorded = yaml.safe_load((folder / "config.yaml").read_text())
    assert recorded["training"]["micro_batch_tokens"] == 64
    assert recorded["sampling"]["max_rows_per_sampler"] == 3
    assert recorded["run"]["iterations"] == 2
    assert pd.read_csv(folder / "progress.csv")["iteration"].tolist() == [1, 2]


def test_a_damaged_checkpoint_costs_its_iterations_alone(invoke, tiny_run, tmp_path):
    folder = tmp_path / "run"
    more = ["--iterations=2", "--prompts-per-iteration=8", "--lr=1e-3", "--set=run.checkpoint_every=1"]
    done = invoke(*tiny_run, "--env=support:NoDigit-v0", *more)
    assert done.exit_code == 0, done.stderr
    before = read_table(folder, "progress")
    state = checkpoints(folder)[-1] / "learner_group" / "learner" / "engine.pt"
    data = bytearray(state.read_bytes())
    data[len(data) // 2] ^= 1
    state.write_bytes(data)
    done = invoke(f"--resume={folder}", "--iterations=3")
    assert done.exit_code == 0, done.stderr
    told = " ".join(done.stdout.split())
    assert "checkpoint iteration_000002 is damaged (learner_group/learner/engine.pt is not what was" in told
    assert "resumed after iteration 1" in told
    after = read_table(folder, "progress")
    assert after["iteration"].tolist() == [1, 2, 3]
    for name in ("episode_return_mean", "num_tokens", "total_loss"):
        assert after[name].head(2).equals(before[name])
    names = {path.name for path in (folder / "checkpoints").iterdir()}
    assert names == {"damaged_000002", "iteration_000002", "iteration_000003"}
    policies = [
        (folder / "checkpoints" / name / POLICY_IN_CHECKPOINT / "model.safetensors").read_bytes()
        for name in ("damaged_000002", "iteration_000002", "iteration_000003")
    ]
    assert policies[0] == policies[1] != policies[2]
