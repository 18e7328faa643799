"""A whole sweep: its arms one after the other, their winners on fresh tasks, and what stays.

Every step looks at what is there already, so that one that was killed goes on from where it stands.
"""

from __future__ import annotations

import logging
import math
import os
import signal
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from ray.tune import Callback
from ray.tune.schedulers import FIFOScheduler
from rich.console import Console
from rich.text import Text

from experiments.common.cluster import ADDRESS, start_alone
from experiments.common.commands import called
from experiments.common.display import quieten
from experiments.common.ownership import claim
from experiments.common.plain import printable
from experiments.common.plan import found_gpus, host_memory
from experiments.common.starts import record_start
from experiments.common.yaml_text import load_file
from experiments.sweeps import checks, report, shown
from experiments.sweeps.fitting import Machine, fitting
from experiments.sweeps.proposals import Proposals
from experiments.sweeps.results import FRESH, RESULTS, SEARCH, START, best, read_lines, trials_of
from experiments.sweeps.schedulers import make_scheduler
from experiments.sweeps.search import run_arm
from experiments.sweeps.space import Settings, Space, parse
from experiments.sweeps.tracking import Tracking
from experiments.sweeps.trial import Fresh, Trial, config_of
from llmenv.files import replaced

if TYPE_CHECKING:
    from algorithms.config import LLMConfig

ASKED = "sweep.yaml"
ROUNDS = 8  # looks at a trial within its budget
LEAST_CHECKED = 32  # draws of each arm
SEEDS = 1000  # trials of a sweep that have a seed of their own; those of the next one go on from there
# Beside those of the search: other trials, and so other seeds.
FIRST_OF = {SEARCH: 0, "random": 400, "default": 800}


def read_asked(output: Path) -> dict[str, Any]:
    """What a sweep was started with.

    Raises:
        ValueError: If the folder holds none.
    """
    if not (output / ASKED).is_file():
        raise ValueError(f"{output} is no sweep's folder (it has no {ASKED}): start a new one")
    sections = load_file(output / ASKED)
    options = sections.pop("sweep")
    limits = {name: options.pop(name, None) for name in ("budget_tokens", "budget_minutes")}
    options.pop("env")
    return {"search": "random", **options, **checks.budget(*limits.values()), "sections": sections}


def write_asked(asked: dict[str, Any], output: Path) -> None:
    """As a space that starts the same sweep again."""
    env = asked["sections"]["environment"]["env"].removeprefix("envs:")
    seconds = asked["unit"] == "seconds"
    budget = {"budget_minutes": asked["budget"] / 60} if seconds else {"budget_tokens": asked["budget"]}
    kept = {
        name: asked[name]
        for name in ("algo", "scheduler", "search", "num_samples", "seed", "compare_with", "wandb", "path")
    }
    with replaced(output / ASKED) as file:
        sections = {**asked["sections"], "sweep": {"env": env, **kept, **budget}}
        file.write_text(yaml.safe_dump(sections, sort_keys=False))


def start(asked: dict[str, Any], output: Path, *, resuming: bool) -> int:
    """Checks all that can be, then runs the sweep.

    Args:
        asked: "sections" (a preset with ranges), "algo", "scheduler", "search", "num_samples" (None for as many as
            usual), "unit" and "budget" of a trial, "seed", "compare_with", "wandb", "path" (the directory that names
            are from).
        output: The folder.
        resuming: Whether it holds the sweep that is gone on with.

    Returns:
        The exit status: 1 where no trial came to a result, or a policy to none on the fresh tasks; 130 where the sweep
        was stopped.
    """
    quieten()
    sweep = Sweep(asked, output)
    sweep.check()
    claimed = claim(output, resuming=resuming)
    try:
        record_start(output)
        if not resuming:
            write_asked(asked, output)
        import ray

        if ADDRESS in os.environ:
            ray.init(logging_level=logging.ERROR, log_to_driver=False)
        else:
            start_alone(logging_level=logging.ERROR, log_to_driver=False)
        signal.signal(signal.SIGTERM, _stop)
        try:
            return sweep.run()
        finally:
            ray.shutdown()
    finally:
        claimed.release()


class Sweep:
    """See the module.

    Args:
        asked: See `start`.
        output: The folder.
    """

    def __init__(self, asked: dict[str, Any], output: Path):
        self.asked = asked
        self.output = output.absolute()
        self.space: Space = parse(asked["sections"])
        self._console = Console(highlight=False)
        self._checkpoints: dict[str, dict[int, Path]] = {}

    @property
    def _proposes(self) -> bool:
        return self.asked["search"] == "optuna"

    @property
    def trial(self) -> dict[str, Any]:
        """A trial's config but for what is its own."""
        asked = self.asked
        common = {name: asked[name] for name in ("algo", "unit", "budget", "path")}
        own = {"number": 0, "seed": 0, "exchanged": False, "of": None}
        return {**common, "base": self.space.base, "round": asked["budget"] / ROUNDS, **own}

    def check(self) -> None:
        """Raises `ValueError` for what cannot be run."""
        if self.asked["scheduler"] == "pbt":
            checks.check_exchange(self.space)
        number = max(LEAST_CHECKED, (self.asked["num_samples"] or 0) * self.space.grid_points)
        seeds = (self.asked["seed"], self.asked["seed"] + SEEDS)
        draws = [settings for seed in seeds for settings in checks.draw(self.space, number, seed)]
        checks.check_configs(self.space, self.trial, draws)
        if "default" in self.asked["compare_with"]:
            self.space.defaults()
        checks.check_tasks(self._config(draws[0]))

    def run(self) -> int:
        """All arms; then the winners afresh, and what stays."""
        self._fit(self._config(self._first()))
        self._say(shown.HEADER, "bold")
        if not self._arm(SEARCH, None if self._proposes else self._searched()):
            return self._stopped()
        for arm in self.asked["compare_with"]:
            if not self._arm(arm, self._compared(arm)):
                return self._stopped()
        winner = self._winner(SEARCH)
        if not self._run_fresh():
            return self._stopped()
        summary = self.summary()
        checkpoint = winner and self._checkpoints[SEARCH].get(winner["number"])
        report.write(self.output, summary, self._config_of_winner(winner), checkpoint or None)
        self._show(summary)
        return 0 if winner and not self._failed_afresh() else 1

    def _fit(self, config: LLMConfig) -> None:
        """How many trials run at once; says so, and why not more."""
        import ray

        there = ray.cluster_resources()
        elsewhere = "RAY_ADDRESS" in os.environ
        machine = Machine(
            cpus=there.get("CPU", 0),
            gpus=int(there.get("GPU", 0)),
            gpu_memory=() if elsewhere else found_gpus(),
            memory=None if elsewhere else host_memory(),
        )
        bundles = Trial.default_resource_request({"trial": {**self.trial, "settings": self._first()}}).bundles
        self._fits, why = fitting(config, bundles, machine)
        if self._fits < 1:
            raise ValueError(f"no trial fits: {why}")
        asked = self.asked["num_samples"]
        if self.asked["scheduler"] == "pbt":
            if (asked or 2) > self._fits or self._fits < 2:
                raise ValueError(
                    f"a population runs all at once, and {self._fits} trials fit ({why}): lower --num-samples, or what "
                    "a trial takes (learners.num_cpus_per_learner=0.5 is half a core)"
                )
            self._number = asked or self._fits
            self.asked["num_samples"] = self._number  # --resume may be where more would fit
            write_asked(self.asked, self.output)
        else:
            points = 1 if self._proposes else self.space.grid_points
            self._number = (asked or (1 if points > 1 and self.space.only_grids else 8)) * points
        at_once = min(self._fits, self._number)
        more = "" if self._number <= self._fits else f", {at_once} at a time, since {why}"
        self._say(f"{self._number} trials of {self.asked['budget']:g} {self.asked['unit']}{more}")
        self._say(f"sweep folder: {self.output}")

    def _first(self) -> Settings:
        return checks.draw(self.space, 1, self.asked["seed"])[0]

    def _searched(self) -> list[Settings]:
        return checks.draw(self.space, self._number, self.asked["seed"])

    def _compared(self, arm: str) -> list[Settings]:
        """Of the arm beside the search; random search has the budget that the search came to, to the nearest trial."""
        if arm == "default":
            return [self.space.defaults()]
        trials = trials_of(read_lines(self.output / RESULTS), SEARCH)
        spent = sum(trial[f"spent_{self.asked['unit']}"] for trial in trials)
        number = max(1, math.ceil(spent / self.asked["budget"] - 0.5))
        return checks.draw(self.space, number, self.asked["seed"] + SEEDS)

    def _arm(self, arm: str, many: list[Settings] | None) -> bool:
        """Runs an arm's trials; whether all of them came to an end. Without settings they are proposed."""
        first = self.asked["seed"] * SEEDS + FIRST_OF[arm]
        trials: list[dict[str, Any]] | Proposals = [
            {**self.trial, "number": i, "seed": first + i, "settings": settings}
            for i, settings in enumerate(many if many is not None else [{}] * self._number)
        ]
        if many is None:
            trials = Proposals(self.space, trials, self.asked["seed"])
        scheduler = make_scheduler(
            self.asked["scheduler"] if arm == SEARCH else "none",
            self.space,
            unit=self.asked["unit"],
            round_=self.trial["round"],
            budget=self.asked["budget"],
            check=partial(_check, self.trial),
            output=self.output,
            seed=self.asked["seed"],
        )
        callbacks: list[Callback] = [shown.Lines(arm)]
        if self.asked.get("wandb"):
            callbacks.append(Tracking(self.output, arm))
        self._checkpoints[arm] = run_arm(
            Trial,
            trials,
            self.output,
            arm,
            at_once=self._fits,
            scheduler=scheduler,
            callbacks=callbacks,
        )
        return self._are_through(arm, len(trials))

    def _are_through(self, arm: str, number: int) -> bool:
        """Whether so many trials came to an end, whatever it was."""
        found = trials_of(read_lines(self.output / RESULTS), arm)
        return len(found) == number and all(trial["state"] != "unfinished" for trial in found)

    def _run_fresh(self) -> bool:
        """The winners of all arms, and the policy that they started from, on tasks that nobody was selected on.

        Returns:
            Whether that came to an end.
        """
        policies: list[dict[str, Any]] = [{"of": START, "checkpoint": None, "settings": self._first()}]
        for arm, checkpoints in self._checkpoints.items():
            winner = self._winner(arm)
            if winner and winner["number"] in checkpoints:
                checkpoint = str(checkpoints[winner["number"]])
                policies.append({"of": arm, "checkpoint": checkpoint, "settings": winner["settings"]})
        trials = [{**self.trial, "budget": 0, "number": i, **policy} for i, policy in enumerate(policies)]
        self._say(
            "evaluating the winner of each arm, and the policy before training, on tasks that selected none"
        )
        run_arm(
            Fresh, trials, self.output, FRESH, at_once=self._fits, scheduler=FIFOScheduler(), callbacks=[]
        )
        return self._are_through(FRESH, len(trials))

    def _failed_afresh(self) -> list[dict[str, Any]]:
        """The policies that could not be evaluated once more."""
        return [t for t in trials_of(read_lines(self.output / RESULTS), FRESH) if t["state"] == "failed"]

    def _winner(self, arm: str) -> dict[str, Any] | None:
        return best(trials_of(read_lines(self.output / RESULTS), arm))

    def _config_of_winner(self, winner: dict[str, Any] | None) -> dict[str, Any] | None:
        return winner and {**self.trial, "seed": winner["seed"], "settings": winner["settings"]}

    def _config(self, settings: Settings) -> LLMConfig:
        return config_of({**self.trial, "settings": settings})

    def summary(self) -> dict[str, Any]:
        """What there is to say of it by now."""
        space = {axis.path: {axis.kind: list(axis.values)} for axis in self.space.axes}
        command = f"{called('sweep')} {self.output / ASKED}"
        return report.summarize(self.output, {**self.asked, "space": space}, command)

    def _stopped(self) -> int:
        self._say(f"stopped: go on with --resume {self.output}")
        return 130

    def _show(self, summary: dict[str, Any]) -> None:
        self._console.print(shown.table(summary))
        for name, arm in summary["arms"].items():
            for trial in arm["trials"]:
                if trial["cause"] is not None:
                    self._say(f"trial {trial['number']} of {name!r} failed: {trial['cause']}")
        for trial in self._failed_afresh():
            whose = "the policy before training" if trial["of"] == START else f"the winner of {trial['of']!r}"
            self._say(f"{whose} could not be evaluated on fresh tasks: {trial['cause']}")
        if (before := summary["before"]) is not None:
            self._say(f"the policy that training started from, on the fresh tasks: {shown.interval(before)}")
        for other, comparison in summary["comparisons"].items():
            what = "the policy before training" if other == START else f"the winner of {other!r}"
            self._say(shown.verdict(f"winner against {what}", comparison))
        self._say(f"summary, trials, preset and the winner's policy are in\n{self.output}")

    def _say(self, line: str, style: str = "") -> None:
        self._console.print(Text(printable(line), style), soft_wrap=True)


def _stop(*received: Any) -> None:
    """A machine that is taken away says SIGTERM, perhaps twice; Tune ends well at the first Ctrl-C, and not at two."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.raise_signal(signal.SIGINT)


def _check(trial: dict[str, Any], settings: Settings) -> None:
    """Raises `ValueError` for settings that the config refuses."""
    config_of({**trial, "settings": settings})
