"""Who stops, and who takes over whose policy. Time is sampled tokens, or seconds of training: never iterations."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from ray.tune.schedulers import (
    AsyncHyperBandScheduler,
    FIFOScheduler,
    PopulationBasedTraining,
    TrialScheduler,
)

from experiments.sweeps.results import LINEAGE, RESULTS, SEARCH, read_lines, write_line
from experiments.sweeps.space import Settings, Space
from experiments.sweeps.trial import MISSING, RIGHT
from llmenv.comparison import Comparison, compare

TRIES = 100  # to explore to settings that the config's own checks take


def verdicts(text: str) -> np.ndarray:
    """Float [tasks, 1] of a trial's verdicts; NaN is missing."""
    return np.array([[math.nan if c == MISSING else float(c == RIGHT)] for c in text])


def better(donor: dict[str, Any], trial: dict[str, Any]) -> Comparison | None:
    """How much better one result is than another, on the same tasks; None where that may be chance.

    Returns:
        The comparison where its 95 % interval lies above 0.
    """
    try:
        found = compare(verdicts(trial["verdicts"]), verdicts(donor["verdicts"]))
    except ValueError:  # no task that both have
        return None
    return found if found.low > 0 else None


class PairedPopulation(PopulationBasedTraining):
    """Population based training whose exchanges are not noise: the donor must be better beyond the paired interval.

    Tune's own takes any trial of the lower part for one of the upper, by the last score. All of the population runs at
    the same time: nobody is paused for another.

    Args:
        space: What may be explored.
        unit: "tokens" or "seconds".
        every: So much lies between two looks at a trial.
        check: Raises `ValueError` for settings that the config's checks refuse.
        lineage: Where exchanges are written to, a line of JSON each.
        seed: Of what is explored.
    """

    def __init__(
        self,
        space: Space,
        unit: str,
        every: float,
        check: Callable[[Settings], None],
        lineage: Path,
        seed: int,
    ):
        self._seed = seed
        self._space = space
        self._check = check
        self._lineage = lineage
        super().__init__(
            time_attr=unit,
            perturbation_interval=every,
            quantile_fraction=0.5,  # the interval decides
            custom_explore_fn=dict,  # Tune asks for one; `_get_new_config` explores
        )

    # Of a sweep that is gone on with, Tune brings the scheduler back as it was at first: the lineage is its memory.
    @cached_property
    def _taken(self) -> set[tuple[int, int, int]]:
        """By whom, from whom, after how many tokens."""
        return {(line["trial"], line["donor"], line["donor_tokens"]) for line in read_lines(self._lineage)}

    @cached_property
    def _rng(self) -> np.random.Generator:
        return np.random.default_rng((self._seed, len(read_lines(self._lineage))))

    def _get_new_config(self, trial: Any, trial_to_clone: Any) -> tuple[dict, dict]:
        """The trial's own, random streams too, but for settings near the donor's."""
        theirs = trial_to_clone.config["trial"]["settings"]
        explored = (self._space.explore(theirs, self._rng) for _ in range(TRIES))
        settings = next(filter(self._is_allowed, explored), theirs)
        return {"trial": {**trial.config["trial"], "settings": settings, "exchanged": True}}, {}

    def _is_allowed(self, settings: Settings) -> bool:
        try:
            self._check(settings)
        except ValueError:
            return False
        return True

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict) -> str:
        decision = super().on_trial_result(tune_controller, trial, result)
        return TrialScheduler.CONTINUE if decision == TrialScheduler.PAUSE else decision

    def _checkpoint_or_exploit(
        self, trial: Any, tune_controller: Any, upper_quantile: list, lower_quantile: list
    ) -> None:
        """Every round leaves a checkpoint: a donor's newest is what it gives, and what it is judged by.

        A trial takes none twice, and none that is more than a round behind: what it spends is bounded.
        """
        if trial not in lower_quantile:
            return
        result, donors = self._trial_state[trial].last_result, []
        for donor in upper_quantile:
            saved = donor.run_metadata.checkpoint_manager.latest_checkpoint_result
            if saved is None or _exchange(trial, donor, saved.metrics) in self._taken:
                continue
            behind = result[self._time_attr] - saved.metrics[self._time_attr]
            if behind <= self._perturbation_interval and better(saved.metrics, result):
                state = self._trial_state[donor]
                state.last_checkpoint, state.last_result = saved.checkpoint, saved.metrics
                donors.append(donor)
        if donors:
            donor = donors[int(self._rng.integers(len(donors)))]
            self._taken.add(_exchange(trial, donor, self._trial_state[donor].last_result))
            self._exploit(tune_controller, trial, donor)

    def _log_config_on_step(
        self, trial_state: Any, new_state: Any, trial: Any, trial_to_clone: Any, new_config: dict
    ) -> None:
        found = better(new_state.last_result, trial_state.last_result)
        line = {
            "trial": trial.config["trial"]["number"],
            "donor": trial_to_clone.config["trial"]["number"],
            "tokens": trial_state.last_result["tokens"],
            "donor_tokens": new_state.last_result["tokens"],
            "donor_iterations": new_state.last_result["iterations"],
            "score": trial_state.last_result["score"],
            "donor_score": new_state.last_result["score"],
            **(
                {}
                if found is None
                else {"difference": found.difference, "low": found.low, "high": found.high}
            ),
            "settings_before": trial.config["trial"]["settings"],
            "donor_settings": trial_to_clone.config["trial"]["settings"],
            "settings": new_config["trial"]["settings"],
        }
        write_line(self._lineage, line)


def _exchange(trial: Any, donor: Any, given: dict[str, Any]) -> tuple[int, int, int]:
    return trial.config["trial"]["number"], donor.config["trial"]["number"], given["tokens"]


class Halving(AsyncHyperBandScheduler):
    """Tune's ASHA, whose rungs a sweep that is gone on with finds in its folder: Tune brings them back empty.

    Args:
        results: Where each look at each trial is written to.
        arguments: Tune's.
    """

    def __init__(self, results: Path, **arguments: Any):
        super().__init__(**arguments)
        self._results = results

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        super().on_trial_add(tune_controller, trial)
        which = (SEARCH, trial.config["trial"]["number"])
        for line in read_lines(self._results):
            if (line["arm"], line["number"]) == which and "score" in line:
                self._trial_info[trial.trial_id].on_result(trial, line[self._time_attr], line["score"])


def make_scheduler(
    name: str,
    space: Space,
    *,
    unit: str,
    round_: float,
    budget: float,
    check: Callable[[Settings], None],
    output: Path,
    seed: int,
) -> TrialScheduler:
    """Tune's "asha" over rungs of `round_` times powers of 2, our own "pbt", or "none", for the sweep of a folder."""
    if name == "pbt":
        return PairedPopulation(space, unit, round_, check, output / LINEAGE, seed)
    if name == "asha":
        return Halving(
            output / RESULTS,
            time_attr=unit,
            grace_period=round_,
            max_t=budget,
            reduction_factor=2,
            stop_last_trials=False,
        )
    return FIFOScheduler()
