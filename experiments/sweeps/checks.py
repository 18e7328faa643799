"""What is refused of a sweep before anything starts: names, ranges, and combinations that a config's checks refuse."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from itertools import islice
from typing import Any

from algorithms import bounds, checks
from experiments.common import refusals
from experiments.sweeps.space import Settings, Space
from llmenv.misspelt import nearest

SCHEDULERS = ("none", "asha", "pbt")
SEARCHES = ("random", "optuna")
ARMS = ("random", "default")
# Trials differ in what they learn with; where they run and what they are scored on is the same for all.
COMMON = ("env_runners", "learners", "resources", "evaluation", "run", "deepspeed")


def check_names(space: Space) -> None:
    """Names, and each end of each range by itself. Imports nothing heavy.

    Raises:
        ValueError: For the first that is wrong.
    """
    refusals.refuse(space.base, {})
    for axis in space.axes:
        section, name, *entry = axis.path.split(".")
        refusals.refuse_names(section, [name])
        if section in COMMON or (section, name) == ("sampling", "run_seed"):
            raise ValueError(f"{axis.path} is the same in all trials, which are compared: give it one value")
        for value in axis.values if not entry else ():
            bounds.check(section, {name: value}, lambda name, path=axis.path: path)  # type: ignore[misc]


def check_configs(space: Space, trial: Mapping[str, Any], draws: list[Settings]) -> None:
    """Combinations: the space's corners and what has been drawn from it.

    Args:
        space: What is searched.
        trial: A trial's config but for its settings.
        draws: Settings of trials.

    Raises:
        ValueError: For the first combination that the config refuses.
    """
    from experiments.sweeps.trial import config_of

    for what, many in (("a corner of the space", space.corners()), ("a trial", draws)):
        for settings in many:
            try:
                config_of({**trial, "settings": settings})
            except ValueError as error:
                shown = ", ".join(f"{path}={value!r}" for path, value in settings.items())
                raise ValueError(f"{what} is impossible ({shown}): {error}") from error


def check_exchange(space: Space) -> None:
    """A population exchanges weights: what is a part of the model or of the sampler cannot differ.

    Raises:
        ValueError: If it does.
    """
    from algorithms.reuse import IN_PLACE

    lasting = [axis.path for axis in space.axes if axis.path.removeprefix("training.") not in IN_PLACE]
    if lasting:
        raise ValueError(
            f"{', '.join(lasting)} cannot change while a trial runs, and --scheduler pbt does nothing else: take asha "
            "or none"
        )


def check_tasks(config: Any) -> None:
    """There must be held-out tasks that no trial is selected on.

    Raises:
        ValueError: If a data set has too few rows.
    """
    from llmenv.evaluation.tasks import count_tasks

    held_out = config.get_evaluation_config_object()
    rows, asked = count_tasks(held_out.env, dict(held_out.env_config)), config.evaluation_duration
    if rows is not None and rows <= asked:
        raise ValueError(
            f"{config.env} has {rows} held-out tasks, and trials are selected on {asked} of them: none is left for the "
            f"winner. Set evaluation.evaluation_duration to {max(1, rows // 2)} or less"
        )


def draw(space: Space, number: int, seed: int) -> list[Settings]:
    """The settings of so many trials."""
    return list(islice(space.draws(seed), number))


def check_options(section: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """A space's section `sweep`.

    Raises:
        ValueError: For an option that there is not.
    """
    for name in section:
        if name not in known:
            raise ValueError(
                f"there is no option sweep.{name}{nearest(name, known)}: sweep has {', '.join(known)}"
            )
    return dict(section)


def check_choices(options: Mapping[str, Any]) -> None:
    """Raises `ValueError` for a scheduler, a search or an arm that there is not."""
    checks.choice("--scheduler", options["scheduler"], SCHEDULERS)
    checks.choice("--search", options["search"], SEARCHES)
    if options["search"] == "optuna":
        if options["scheduler"] == "pbt":
            raise ValueError(
                "--search optuna proposes a trial after others, and a population begins at once: take asha"
            )
        if find_spec("optuna") is None:
            raise ValueError("--search optuna needs Optuna: pip install 'llmenv[optuna]'")
    for arm in options["compare_with"]:
        checks.choice("--compare-with", arm, ARMS)


def budget(tokens: int | None, minutes: float | None) -> dict[str, Any]:
    """What a trial may take, in "tokens" or "seconds".

    Raises:
        ValueError: Unless it is said in exactly one of the two.
    """
    if (tokens is None) == (minutes is None):
        raise ValueError("say what a trial may take, in one of --budget-tokens and --budget-minutes")
    if tokens is not None:
        checks.whole("--budget-tokens", tokens)
        return {"unit": "tokens", "budget": tokens}
    checks.positive("--budget-minutes", minutes)
    return {"unit": "seconds", "budget": 60 * float(minutes or 0)}
