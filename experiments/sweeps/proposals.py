"""Settings that depend upon what earlier trials came to: Optuna's search, by Tune's own class for it.

Tune asks for a trial's settings when there is room for it, and tells what became of each; here they are put into a
trial's config and taken out of it.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ray.tune.search import Searcher

from experiments.sweeps.space import LISTS, Axis, Space


class Proposals(Searcher):
    """Tree-structured Parzen estimators (Bergstra et al., 2011), which are Optuna's default.

    Args:
        space: What is searched.
        trials: Their configs but for the settings.
        seed: Of the proposals. They depend as well on which of the trials side by side has ended first.
    """

    def __init__(self, space: Space, trials: Sequence[Mapping[str, Any]], seed: int):
        from ray.tune.search.optuna import OptunaSearch

        super().__init__(metric="score", mode="max")
        self._paths = [axis.path for axis in space.axes]
        self._trials = trials
        self._proposed = 0
        self._optuna = OptunaSearch(
            {axis.path: distribution(axis) for axis in space.axes}, metric="score", mode="max", seed=seed
        )

    def __len__(self) -> int:
        return len(self._trials)

    def suggest(self, trial_id: str) -> Any:
        if self._proposed == len(self):
            return Searcher.FINISHED
        found = self._optuna.suggest(trial_id) or {}
        trial = self._trials[self._proposed]
        self._proposed += 1
        return {"trial": {**trial, "settings": {path: found[path] for path in self._paths}}}

    def on_trial_complete(self, trial_id: str, result: dict | None = None, error: bool = False) -> None:
        self._optuna.on_trial_complete(trial_id, result, error)

    def save(self, checkpoint_path: str) -> None:
        Path(checkpoint_path).write_bytes(pickle.dumps((self._proposed, vars(self._optuna))))

    def restore(self, checkpoint_path: str) -> None:
        self._proposed, optuna = pickle.loads(Path(checkpoint_path).read_bytes())
        vars(self._optuna).update(optuna)


def distribution(axis: Axis) -> Any:
    """An axis in Optuna's terms; a grid's points are values like a choice's."""
    from optuna import distributions as optuna

    if axis.kind in LISTS:
        return optuna.CategoricalDistribution(axis.values)
    low, high = axis.values
    if axis.kind == "randint":
        return optuna.IntDistribution(low, high)
    return optuna.FloatDistribution(float(low), float(high), log=axis.kind == "loguniform")
