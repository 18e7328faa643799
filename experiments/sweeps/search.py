"""One arm of a sweep on Ray Tune: from settings to results, gone on with where it was killed.

Knows what a trial is (`experiments.sweeps.trial`) and where to write; neither which arms there are, nor what is made of
their results.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ray import cloudpickle, tune
from ray.exceptions import RayError
from ray.tune.schedulers import TrialScheduler

from experiments.sweeps.proposals import Proposals
from experiments.sweeps.results import FIGURES, RESULTS, write_line

TUNE = {
    "TUNE_FORCE_TRIAL_CLEANUP_S": "20",  # a stopped trial's processes, if they do not end by themselves; 600 by default
    "TUNE_GLOBAL_CHECKPOINT_S": "2",  # what is lost of the table of trials to a kill
    "RAY_AIR_NEW_OUTPUT": "0",  # the new one speaks however it is asked not to
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a trial that fails has no score
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}
# A population's donor may be loaded a round later.
CHECKPOINTS = {"num_to_keep": 3, "checkpoint_frequency": 1, "checkpoint_at_end": True}


class Recorder(tune.Callback):
    """Writes each round to results.jsonl and tells of it.

    Args:
        output: The sweep's folder.
        arm: The arm's name.
    """

    def __init__(self, output: Path, arm: str):
        self._output = output
        self._arm = arm

    def on_trial_result(self, iteration: int, trials: list, trial: Any, result: dict, **info: Any) -> None:
        # The scheduler has seen the result already: the trial may have other settings by now.
        figures = {name: result[name] for name in FIGURES if name in result}
        self._write(trial, "running", {"settings": result["config"]["trial"]["settings"], **figures})

    def on_trial_complete(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        given = trial.config["trial"]
        early = trial.last_result[given["unit"]] < given["budget"]
        self._write(trial, "stopped" if early else "finished", {})

    def on_trial_error(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        self._write(trial, "failed", {"cause": cause_of(trial)})

    def _write(self, trial: Any, state: str, figures: dict[str, Any]) -> None:
        given = trial.config["trial"]
        line = {
            "arm": self._arm,
            **{name: given[name] for name in ("number", "seed", "settings", "of")},
            "state": state,
        }
        write_line(self._output / RESULTS, {**line, **figures})


def cause_of(trial: Any) -> str:
    """What a trial has failed of, in one line, out of the tracebacks that Ray puts around it."""
    if trial.pickled_error_file is None:  # an error of Tune's own
        return Path(trial.error_file).read_text().strip().splitlines()[-1]
    error = cloudpickle.loads(Path(trial.pickled_error_file).read_bytes())
    while isinstance(inner := getattr(error, "cause", None), BaseException):
        error = inner
    lines = str(error).strip().splitlines() or ["no message"]
    # What was raised says all; what Ray says of a process that is gone begins with what matters.
    text = lines[0] if isinstance(error, RayError) else " ".join(" ".join(lines).split())
    return f"{type(error).__name__}: {text}"


def run_arm(
    trainable: type[tune.Trainable],
    trials: Sequence[dict[str, Any]] | Proposals,
    output: Path,
    arm: str,
    *,
    at_once: int,
    scheduler: TrialScheduler,
    callbacks: Sequence[tune.Callback],
    reuse_actors: bool = True,
) -> dict[int, Path]:
    """Runs trials until all have finished, were stopped or have failed.

    Args:
        trainable: `Trial` or `Fresh`.
        trials: Their configs (see `Trial`), or who proposes them.
        output: The sweep's folder. What of this arm is there already is not run again.
        arm: The arm's name.
        at_once: How many run side by side.
        scheduler: Who decides which go on.
        callbacks: Told of every round.
        reuse_actors: Whether a trial may be run by the processes of one that has ended.

    Returns:
        The newest checkpoint of each trial, by number.
    """
    for name, value in TUNE.items():
        os.environ.setdefault(name, value)
    storage = output.absolute() / "tune"
    if tune.Tuner.can_restore(str(storage / arm)):
        tuner = tune.Tuner.restore(str(storage / arm), trainable=trainable, param_space=_space(trials))
    else:
        tuner = tune.Tuner(
            trainable,
            param_space=_space(trials),
            tune_config=tune.TuneConfig(
                metric="score",
                mode="max",
                scheduler=scheduler,
                **_proposing(trials),
                max_concurrent_trials=at_once,
                reuse_actors=reuse_actors,
                trial_name_creator=_name,
                trial_dirname_creator=_name,
            ),
            run_config=tune.RunConfig(
                name=arm,
                storage_path=str(storage),
                verbose=0,
                callbacks=[Recorder(output.absolute(), arm), *callbacks],
                checkpoint_config=tune.CheckpointConfig(**CHECKPOINTS),
            ),
        )
    results = tuner.fit()
    return {
        result.config["trial"]["number"]: Path(result.checkpoint.path)
        for result in results
        if result.checkpoint is not None
    }


def _space(trials: Sequence[dict[str, Any]] | Proposals) -> dict[str, Any]:
    return {} if isinstance(trials, Proposals) else {"trial": tune.grid_search(list(trials))}


def _proposing(trials: Sequence[dict[str, Any]] | Proposals) -> dict[str, Any]:
    return {"search_alg": trials, "num_samples": len(trials)} if isinstance(trials, Proposals) else {}


def _name(trial: Any) -> str:
    return f"trial_{trial.config['trial']['number']:03d}"
