"""A trial of Ray Tune's: rounds of training, each of so many tokens or seconds, and after each an evaluation.

A round's result has what the trial has cost so far, and how each held-out task came out: the same tasks with the same
random streams in all trials. Knows nothing of schedulers, nor of where results go.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray.tune import PlacementGroupFactory, Trainable

from experiments.common import settings
from experiments.common.display import quieten
from experiments.sweeps.space import with_settings
from llmenv.statistics import accuracy, verdict_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from algorithms.base import LLMAlgorithm
    from algorithms.config import LLMConfig
    from llmenv.episode import TextEpisode

SPENT = "spent.json"
RIGHT, WRONG, MISSING = "1", "0", "-"


class Trial(Trainable):
    """One set of settings.

    Tune's config has one key, "trial", and there: "number" and "seed"; "algo"; "base", the settings of all trials, and
    "settings", the trial's own by path; "exchanged", whether a checkpoint of another's comes with them; "unit",
    "tokens" or "seconds", and "round" and "budget" in it; "path", the directory that the sweep was started in; "of",
    None.
    """

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> PlacementGroupFactory:
        found = config_of(config["trial"])
        return found.algo_class.default_resource_request(found)

    def setup(self, config: dict[str, Any]) -> None:
        self._trial = config["trial"]
        if (folder := self._trial["path"]) not in sys.path:
            sys.path.append(folder)  # environments of one's own
        os.chdir(folder)  # what settings name is named from there
        quieten()
        self._spent = {"tokens": 0, "seconds": 0.0}
        self._algorithm: LLMAlgorithm | None = None
        self._asked = time.monotonic()
        self._exchange = 0.0

    @property
    def algorithm(self) -> LLMAlgorithm:
        """Of the trial's settings, with its first weights unless a checkpoint has been loaded."""
        if self._algorithm is None:
            self._algorithm = config_of(self._trial).build_algo()
        return self._algorithm

    def step(self) -> dict[str, Any]:
        """A round."""
        config, unit, before = self._trial, self._trial["unit"], dict(self._spent)
        end = min((before[unit] // config["round"] + 1) * config["round"], config["budget"])
        while self._spent[unit] < end:
            result = self.algorithm.train()
            self._spent["tokens"] += int(result["rollout"]["num_response_tokens"])
            self._spent["seconds"] += float(result["time_this_iter_s"])
        started = time.monotonic()
        found = evaluated(self.algorithm, first=0)
        seconds = time.monotonic() - started
        exchange, self._exchange = self._exchange, 0.0
        return {
            **self._spent,
            "round_tokens": self._spent["tokens"] - before["tokens"],
            "round_seconds": self._spent["seconds"] - before["seconds"],
            "evaluation_seconds": seconds,
            "exchange_seconds": exchange,
            "iterations": self.algorithm.iteration,
            **found,
            "done": self._spent[unit] >= config["budget"],
        }

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        self.algorithm.save_to_path(checkpoint_dir)
        (Path(checkpoint_dir) / SPENT).write_text(json.dumps(self._spent))

    def load_checkpoint(self, checkpoint: Any) -> None:
        self.algorithm.restore_from_path(str(Path(checkpoint).absolute()))
        self._spent = json.loads((Path(checkpoint) / SPENT).read_text())
        self._exchange = time.monotonic() - self._asked

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Becomes another trial: in place where the settings allow it and it is at an exchange, else built anew."""
        from algorithms.reuse import lasting

        self._asked = time.monotonic()
        self._spent = {"tokens": 0, "seconds": 0.0}
        self._trial = new_config["trial"]
        algorithm = self._algorithm
        if algorithm is not None:
            config = config_of(self._trial)
            in_place = self._trial["exchanged"] and not lasting(algorithm.config, config)
            if not (in_place and algorithm.reset_config(config)):
                algorithm.stop()
                self._algorithm = None
        return True

    def cleanup(self) -> None:
        if self._algorithm is not None:
            self._algorithm.stop()


class Fresh(Trial):
    """A policy on tasks that no trial was selected on.

    Beside a trial's there is "checkpoint", its policy, or None for the one that training starts from; "of" says whose
    it is.
    """

    def step(self) -> dict[str, Any]:
        if (checkpoint := self._trial["checkpoint"]) is not None:
            self.load_checkpoint(checkpoint)
        algorithm = self.algorithm
        found = evaluated(algorithm, first=algorithm.config.evaluation_duration)
        return {**self._spent, "iterations": algorithm.iteration, **found, "done": True}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: the policy has one."""
        (Path(checkpoint_dir) / SPENT).write_text(json.dumps(self._spent))


def sections_of(trial: dict[str, Any]) -> settings.Sections:
    """All settings of a trial, as a preset has them."""
    sections = with_settings(trial["base"], trial["settings"])
    sections.setdefault("sampling", {})["run_seed"] = trial["seed"]
    return sections


def config_of(trial: dict[str, Any]) -> LLMConfig:
    """The algorithm's config.

    Raises:
        ValueError: If its own checks refuse it.
    """
    config, _ = settings.build(trial["algo"], sections_of(trial))
    if (
        config.num_cpus_per_learner != "auto" and not config.num_learners
    ):  # learner and driver are one process
        config.resources(num_cpus_for_main_process=config.num_cpus_per_learner)
    return config


def evaluated(algorithm: LLMAlgorithm, first: int) -> dict[str, Any]:
    """The accuracy of samples on the held-out tasks from a number on, and each task's verdict."""
    temperature = algorithm.evaluation_config.temperature
    return scores(algorithm.evaluation_episodes(temperature, first=first))


def scores(episodes: Sequence[TextEpisode]) -> dict[str, Any]:
    """What a scheduler and a person compare."""
    right = [bool(e.turns[-1].info.get("correct")) if e.valid else None for e in episodes]
    _, table = verdict_table([episode.group for episode in episodes], right)
    found = accuracy(table)
    return {
        "score": found.value,
        "score_low": found.low,
        "score_high": found.high,
        "verdicts": "".join(MISSING if r is None else RIGHT if r else WRONG for r in right),
    }
