"""Where a run's settings come from: a preset, then `--set section.key=value`, then the command line's own options.

A preset's sections are the names of `LLMConfig` methods and its keys their arguments, so that it has no schema of
its own. One section more, `run`, holds the arguments of `RunSettings`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from algorithms.config import LLMConfig

PRESETS = Path(__file__).parents[1] / "presets"
Sections = dict[str, dict[str, Any]]


@dataclass
class RunSettings:
    """How long a run lasts and what it leaves behind.

    Attributes:
        iterations: How many to train for.
        time_limit: Minutes of training after which the run ends early; None for no limit.
        evaluate_every: Iterations between two evaluations (there is always one before and one after).
        checkpoint_every: Iterations between two checkpoints.
        keep_checkpoints: How many of the newest are kept.
        show_every: Iterations between two sampled completions on the screen.
    """

    iterations: int = 100
    time_limit: float | None = None
    evaluate_every: int = 50
    checkpoint_every: int = 25
    keep_checkpoints: int = 2
    show_every: int = 10


def load_preset(name_or_file: str) -> Sections:
    """Reads a preset by name or path.

    Raises:
        ValueError: If there is no such preset, or its file is not a mapping of sections.
    """
    path = Path(name_or_file)
    if path.suffix not in (".yaml", ".yml"):
        path = PRESETS / f"{name_or_file}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in PRESETS.glob("*.yaml")))
        raise ValueError(
            f"there is no preset {name_or_file!r}: give the path of a YAML file, or one of {known}"
        )
    sections = yaml.safe_load(path.read_text()) or {}
    if not isinstance(sections, dict) or not all(isinstance(value, dict) for value in sections.values()):
        raise ValueError(f"{path} must map sections (training, sampling, ...) to settings")
    return {section: {key: _number(v) for key, v in values.items()} for section, values in sections.items()}


def parse_assignment(text: str) -> Sections:
    """Reads `section.key=value`, or `section.key.name=value` for one entry of a mapping, with the value in YAML.

    Raises:
        ValueError: If the text has another form.
    """
    path, equals, value = text.partition("=")
    names = path.strip().split(".")
    if not equals or len(names) not in (2, 3) or not all(names):
        raise ValueError(
            f"--set {text!r} must have the form section.key=value, such as training.lr=1e-6, or "
            "section.key.name=value, such as environment.env_config.digits=2"
        )
    section, key, *entry = names
    setting = _number(yaml.safe_load(value))
    return {section: {key: {entry[0]: setting} if entry else setting}}


def _number(value: Any) -> Any:
    """YAML takes `1e-6` for text, since it has no decimal point."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            pass
    return value


def merge(*layers: Sections) -> Sections:
    """The later layer wins, setting by setting; `environment.env_config` is merged too."""
    merged: Sections = {}
    for layer in layers:
        for section, values in layer.items():
            target = merged.setdefault(section, {})
            for key, value in values.items():
                both = isinstance(value, dict) and isinstance(target.get(key), dict)
                target[key] = {**target[key], **value} if both else value
    return merged


def from_assignments(assignments: Iterable[str]) -> Sections:
    return merge(*map(parse_assignment, assignments))


def build(algo: str, sections: Sections) -> tuple[LLMConfig, RunSettings]:
    """Applies sections to the algorithm's config, and validates it.

    Raises:
        ValueError: For an unknown algorithm, section or key, or a value that the config refuses.
    """
    from algorithms import make_config

    config = make_config(algo)
    for section, values in sections.items():
        if section == "run":
            continue
        method = getattr(config, section, None)
        if not callable(method):
            raise ValueError(
                f"unknown section {section!r}; sections are methods of the config, such as training"
            )
        try:
            method(**values)
        except TypeError as error:
            raise ValueError(f"section {section!r}: {error}") from error
    known = [field.name for field in fields(RunSettings)]
    if unknown := sorted(set(sections.get("run", {})) - set(known)):
        raise ValueError(f"section 'run': unknown {unknown}; it has {', '.join(known)}")
    settings = RunSettings(**sections.get("run", {}))
    if settings.keep_checkpoints < 1:
        raise ValueError(f"run.keep_checkpoints must be at least 1, got {settings.keep_checkpoints}")
    share_cores(config, sections)
    config.validate()
    return config, settings


def share_cores(config: LLMConfig, sections: Sections) -> None:
    """Lets any number of runners and learners start on this machine's cores: a fraction of a core each.

    Where a section says how many each of them gets, it gets those.
    """
    actors = config.num_env_runners + config.num_learners
    if actors and "RAY_ADDRESS" not in os.environ:
        cores = os.cpu_count() or 1
        fraction = min(1.0, int(100 * cores / (actors + 1)) / 100)
        if "num_cpus_per_env_runner" not in sections.get("env_runners", {}):
            config.env_runners(num_cpus_per_env_runner=fraction)
        if "num_cpus_per_learner" not in sections.get("learners", {}):
            config.learners(num_cpus_per_learner=0 if config.num_gpus_per_learner else fraction)


def resolved(algo: str, sections: Sections, settings: RunSettings) -> dict[str, Any]:
    """What `config.yaml` of a run folder holds, and what `--resume` starts from."""
    return {"algo": algo, **merge(sections, {"run": asdict(settings)})}
