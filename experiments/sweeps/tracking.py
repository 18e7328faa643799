"""A sweep at Weights & Biases: a run a trial, together a group. What fails there costs no trial."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from ray import tune

from experiments.common.wandb_run import WandbRun, start_wandb
from experiments.sweeps.results import FIGURES

log = logging.getLogger(__name__)


class Tracking(tune.Callback):
    """Logs each look at a trial as `trial/figure`, under the names of results.jsonl.

    Args:
        output: The sweep's folder, whose name the group has.
        arm: The arm's name, which is the runs' job type.
    """

    def __init__(self, output: Path, arm: str):
        self._output = output
        self._arm = arm
        self._runs: dict[int, WandbRun] = {}

    def on_trial_result(self, iteration: int, trials: list, trial: Any, result: dict, **info: Any) -> None:
        number = trial.config["trial"]["number"]
        try:
            if number not in self._runs:
                self._runs[number] = self._begun(trial)
            figures = {name: result[name] for name in FIGURES if isinstance(result.get(name), int | float)}
            # Settings change at an exchange, which the curves would not show.
            settings = result["config"]["trial"]["settings"]
            numbers = {path: value for path, value in settings.items() if isinstance(value, int | float)}
            self._runs[number].look("trial", {**figures, **numbers})
        except Exception as error:
            log.warning("Weights & Biases has not got a look at trial %d: %s", number, error)

    def on_trial_complete(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        self._end(trial, 0)

    def on_trial_error(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        self._end(trial, 1)

    def _begun(self, trial: Any) -> WandbRun:
        folder = self._output / "wandb" / f"{self._arm}_{trial.config['trial']['number']:03d}"
        folder.mkdir(parents=True, exist_ok=True)
        return start_wandb(trial.config["trial"], folder, group=self._output.name, job_type=self._arm)

    def _end(self, trial: Any, status: int) -> None:
        if (run := self._runs.pop(trial.config["trial"]["number"], None)) is not None:
            run.end(status)
