"""Suites: evaluations by name in one YAML file, with the hash of their tasks. Knows no model.

seed: 0
evaluations:
  NAME:
    env: Countdown-v0
    env_config: {num_numbers: [3, 4]}  # optional
    num_tasks: 256
    sha256: ...  # optional: of all that the environment says to these tasks; others are refused
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experiments.common.environments import env_id
from experiments.common.named import named_file
from experiments.common.yaml_text import load_file

SUITES = Path(__file__).parents[1] / "suites"


@dataclass(frozen=True)
class Part:
    """One evaluation of a suite.

    Attributes:
        name: Its folder's.
        env: "module:Id-v0".
        num_tasks: Held-out tasks.
        seed: Of tasks and samples.
        env_config: The environment's arguments.
        sha256: See `llmenv.evaluation.tasks.tasks_hash`; None where nobody minds.
    """

    name: str
    env: str
    num_tasks: int
    seed: int
    env_config: dict[str, Any] = field(default_factory=dict)
    sha256: str | None = None


def read_suite(name_or_file: str) -> list[Part]:
    """Reads a suite, one of `experiments/suites/` by its name.

    Raises:
        ValueError: If there is none, or it has another form.
    """
    path = named_file(name_or_file, SUITES, "suite")
    content = load_file(path)
    try:
        seed = content["seed"]
        parts = [
            Part(name, **{**entry, "env": env_id(entry["env"])}, seed=seed)
            for name, entry in content["evaluations"].items()
        ]
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(
            f"{path} is no suite ({error!r}): it has `seed`, and `evaluations`, by name, of `env`, `num_tasks` and "
            "perhaps `env_config` and `sha256`"
        ) from error
    return parts


def check_tasks(part: Part) -> None:
    """Refuses tasks that are not those that the suite was made of.

    Raises:
        ValueError: If the environment says something else to one of them.
    """
    from llmenv.evaluation.run import held_out
    from llmenv.evaluation.tasks import count_tasks, evaluation_requests, tasks_hash

    options = held_out(part.env, part.env_config)
    requests = evaluation_requests(part.num_tasks, count_tasks(part.env, options), seed=part.seed)
    found = tasks_hash(part.env, options, requests)
    if part.sha256 not in (None, found):
        raise ValueError(
            f"the tasks of {part.name} are not those of the suite: they have the hash {found}, and the suite says "
            f"{part.sha256}. The environment has changed, and results cannot be compared with earlier ones: take the "
            "version of the environment that the suite was made with, or make a new suite"
        )
