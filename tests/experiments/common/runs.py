"""A run's loop over a small algorithm, and what it is made to go through. Shared by tests of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from algorithms.base import LLMAlgorithm
from experiments.common.display import Display
from experiments.common.run_folder import RunFolder, checkpoints, read_table
from experiments.common.settings import RunSettings
from experiments.common.training import Training
from support import flat_weights, small_config


@pytest.fixture
def algorithm(ray_cluster: None, model_folder: str) -> Iterator[LLMAlgorithm]:
    config = small_config(model_folder).environment("support:NoDigit-v0").sampling(max_new_tokens=2)
    algorithm = config.evaluation(evaluation_config=None, evaluation_duration=4).build_algo()
    yield algorithm
    algorithm.stop()


def training(algorithm: LLMAlgorithm, path: Path, wandb: Any = None, **settings: int) -> Training:
    """Four iterations, unless it is said otherwise; evaluations at both ends alone, and of checkpoints one is kept."""
    sparse = {"iterations": 4, "evaluate_every": 100, "checkpoint_every": 100, "keep_checkpoints": 1}
    run = RunSettings(**{**sparse, **settings})
    return Training(algorithm, run, RunFolder(path), Display(run.iterations), wandb)


def names(path: Path) -> list[str]:
    return [folder.name for folder in checkpoints(path)]


def logged(path: Path, table: str = "progress") -> list[int]:
    return read_table(path, table)["iteration"].tolist()


def learned(algorithm: LLMAlgorithm) -> torch.Tensor:
    return flat_weights(algorithm.learner_group._learner)


def at_iteration(
    algorithm: LLMAlgorithm,
    number: int,
    name: str,
    happens: Callable[[], Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """From now on a method of the algorithm, or of its runners, does something else first, after so many iterations."""
    owner = algorithm.runners if name.startswith("runners.") else algorithm
    name = name.removeprefix("runners.")
    method = getattr(owner, name)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if algorithm.iteration == number:
            happens()
        return method(*args, **kwargs)

    monkeypatch.setattr(owner, name, wrapped)


def raises(error: BaseException) -> Callable[[], None]:
    def happens() -> None:
        raise error

    return happens
