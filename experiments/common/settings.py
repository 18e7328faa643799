"""Where a run's settings come from: a preset, then `--set section.key=value`, then the command line's own options.

A preset's sections are the names of `LLMConfig` methods and its keys their arguments, so that it has no schema of
its own. One section more, `run`, holds the arguments of `RunSettings`.
"""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from algorithms import bounds
from experiments.common.named import named_file
from experiments.common.refusals import refuse_names
from experiments.common.yaml_text import load_file, load_text

if TYPE_CHECKING:
    import pandas as pd

    from algorithms.config import LLMConfig

PRESETS = Path(__file__).parents[1] / "presets"
Sections = dict[str, dict[str, Any]]
SHORT = {"data": "demonstrations.data"}


@dataclass
class RunSettings:
    """How long a run lasts and what it leaves behind.

    Attributes:
        iterations: How many to train for.
        time_limit: Minutes of training after which the run ends early; None for no limit.
        token_limit: So is the number of tokens that have been sampled, or imitated, over all resumptions.
        evaluate_every: Iterations between two evaluations; 0: none but the one before and the one after.
        checkpoint_every: Iterations between two checkpoints, beside those before the first iteration, after it and at
            the end; 0: never.
        checkpoint_minutes: After so many minutes without one there is a checkpoint too; 0: never.
        keep_checkpoints: How many of the newest are kept.
        show_every: Iterations between two sampled completions on the screen, of which two come first; 0: none.
    """

    iterations: int = 100
    time_limit: float | None = None
    token_limit: int | None = None
    evaluate_every: int = 50
    checkpoint_every: int = 25
    checkpoint_minutes: float = 15
    keep_checkpoints: int = 2
    show_every: int = 10

    def is_over(self, iteration: int, progress: pd.DataFrame) -> bool:
        """Whether a run has come to its last iteration, or had all its tokens, at an iteration with these figures."""
        if self.token_limit is not None and len(progress):
            return iteration >= self.iterations or progress["num_response_tokens"].sum() >= self.token_limit
        return iteration >= self.iterations

    def seconds_left(self, elapsed: float, iteration: int, first: int, tokens: float) -> float:
        """How long training will go on, after `elapsed` seconds from iteration `first`; 0 or less: the time is up.

        `tokens` are those of all iterations so far.
        """
        iterations: float = self.iterations - iteration
        if self.token_limit is not None:
            iterations = min(iterations, max(0.0, self.token_limit - tokens) / max(1.0, tokens / iteration))
        left = elapsed / (iteration - first) * iterations
        return left if self.time_limit is None else min(left, 60 * self.time_limit - elapsed)


def load_preset(name_or_file: str) -> Sections:
    """Reads a preset by name or path.

    Raises:
        ValueError: If there is no such preset, or its file is no YAML or not a mapping of sections.
    """
    path = named_file(name_or_file, PRESETS, "preset")
    sections = load_file(path) or {}
    if not isinstance(sections, dict) or not all(isinstance(value, dict) for value in sections.values()):
        raise ValueError(f"{path} must map sections (training, sampling, ...) to settings")
    return {section: {key: number(v) for key, v in values.items()} for section, values in sections.items()}


def parse_assignment(text: str) -> Sections:
    """Reads `section.key=value`, with the value in YAML; further names are of entries of a mapping, at any depth.

    `data=FILE` is short for `demonstrations.data=FILE`.

    Raises:
        ValueError: If the text has another form, or the value is no YAML.
    """
    path, equals, value = text.partition("=")
    names = SHORT.get(path.strip(), path.strip()).split(".")
    if not equals or len(names) < 2 or not all(names):
        raise ValueError(
            f"--set {text!r} must have the form section.key=value, such as training.lr=1e-6, or "
            "section.key.name=value, such as environment.env_config.digits=2"
        )
    section, key, *entries = names
    setting = number(load_text(value, f"the value of --set {path.strip()}"))
    for entry in reversed(entries):
        setting = {entry: setting}
    return {section: {key: setting}}


def number(value: Any) -> Any:
    """YAML takes `1e-6` for text, since it has no decimal point."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            pass
    return value


def merge(*layers: Sections) -> Sections:
    """The later layer wins, setting by setting; mappings such as `environment.env_config` are merged too."""
    merged: Sections = {}
    for layer in layers:
        for section, values in layer.items():
            merged[section] = _merged(merged.get(section, {}), values)
    return merged


def _merged(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    both = {
        key: _merged(before[key], value)
        for key, value in after.items()
        if isinstance(value, dict) and isinstance(before.get(key), dict)
    }
    return {**before, **after, **both}


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
        refuse_names(section, values)
        if section == "run":
            continue
        if not hasattr(config, section):
            raise ValueError(f"{algo} has no section {section}: that is of SFT, --algo SFT")
        try:
            getattr(config, section)(**values)
        except TypeError as error:
            name = re.search(r"unexpected keyword argument '(\w+)'", str(error))
            what = f"has no setting {section}.{name[1]}" if name else f"refuses {section}: {error}"
            raise ValueError(f"{algo} {what}") from error
    settings = RunSettings(**sections.get("run", {}))
    bounds.check("run", asdict(settings), shown=lambda name: f"run.{name}")
    share_cores(config, sections)
    config.validate()
    epochs = getattr(config, "epochs", None)
    if epochs and "iterations" not in sections.get("run", {}):
        settings.iterations = config.iterations_of(epochs)
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


def crowding(config: LLMConfig) -> str | None:
    """What to say where more processes were asked for than this machine has cores; None where not."""
    actors, cores = config.num_env_runners + config.num_learners, os.cpu_count() or 1
    if actors <= cores or "RAY_ADDRESS" in os.environ:
        return None
    return (
        f"asked for {config.num_env_runners} sampling and {config.num_learners} learning processes, and this machine "
        f"has {cores} CPUs: each process loads the model, and they wait for each other. Fewer of them start sooner "
        "(--num-env-runners, --num-learners; 0: in this process)"
    )


# Arguments that have another name as an attribute of the config.
ATTRIBUTES = {"model": "base_model", "config": "deepspeed_extra"}
RECORDED = {
    "environment": ("env",),
    "training": ("lr", "grad_clip", "num_epochs"),
    "env_runners": ("num_env_runners", "num_gpus_per_env_runner", "sample_timeout_s"),
    "learners": ("num_learners", "num_gpus_per_learner"),
    "evaluation": ("evaluation_duration",),
}  # of RLlib's own arguments, those that a run may depend on


def resolved(algo: str, sections: Sections, run: RunSettings, config: LLMConfig) -> dict[str, Any]:
    """What `config.yaml` of a run folder holds, and what `--resume` starts from: all settings, the defaults too.

    What is left to the machine (cores of each process) is not among them, unless it was given.
    """
    found: Sections = {}
    for section in dict.fromkeys((*RECORDED, "policy", "sampling", "deepspeed", "demonstrations")):
        names = (*RECORDED.get(section, ()), *_own_arguments(config, section))
        if not names:
            continue
        values = {name: getattr(config, ATTRIBUTES.get(name, name), None) for name in names}
        found[section] = {name: _plain(value) for name, value in values.items()}
    found["sampling"]["run_seed"] = config.root_seed
    given = {section: {k: _plain(v) for k, v in values.items()} for section, values in sections.items()}
    given.get("deepspeed", {}).pop("config", None)  # a file's name, perhaps: its contents are in the config
    given.get("policy", {}).pop("model", None)  # a relative path, perhaps: the config's is absolute
    return {"algo": algo, **merge(given, found, {"run": asdict(run)})}


def _own_arguments(config: LLMConfig, section: str) -> list[str]:
    """The arguments that our own configs have for a section, without those that are only there to be refused."""
    from ray.rllib.algorithms.algorithm_config import NotProvided

    found: dict[str, None] = {}
    for owner in type(config).__mro__:
        method = vars(owner).get(section)
        if method is not None and owner.__module__.startswith("algorithms."):
            parameters = inspect.signature(method).parameters.values()
            found |= dict.fromkeys(p.name for p in parameters if p.default is NotProvided)
    if "lambda_" in found:
        found["gamma"] = None  # RLlib's own argument, which goes with it
    return list(found)


def _plain(value: Any) -> Any:
    """As YAML has it, which knows lists but no tuples."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value
