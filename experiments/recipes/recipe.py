"""A recipe: stages in order, each of which says what it starts from. Read from YAML; starts nothing, knows no model.

A stage's key is the hash of all that decides what comes of it: its kind and settings, the seed, and the keys of the
stages that it starts from. So a changed setting gives that stage another key, and those after it, and no other.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from experiments.common import environments, refusals, settings
from experiments.common.named import named_file
from experiments.common.settings import Sections
from experiments.common.yaml_text import load_file
from llmenv.files import replaced
from llmenv.misspelt import nearest

RECIPES = Path(__file__).parent
ASKED = "asked.yaml"
# What stands in a stage of each kind. A stage that trains has run.py's sections, too.
KINDS = {
    "model": {"name"},
    "build": {"tokenizer_of", "hidden_size", "layers"},
    "demonstrate": {"env", "tasks", "style"},
    "rows": {"source"},
    "sample": {"model", "env", "tasks", "samples", "keep", "most", "temperature", "max_new_tokens"},
    "train": {"algo", "model", "teacher", "data", "env", "preset", "tokens_of"},
}
NEEDED = {
    "model": {"name"},
    "build": {"tokenizer_of"},
    "demonstrate": {"tasks"},
    "rows": {"source"},
    "sample": {"model", "tasks", "samples"},
    "train": {"algo", "model"},
}
INPUTS = ("model", "teacher", "data", "tokens_of", "tokenizer_of")  # they name stages
POLICIES = ("model", "build", "train")  # kinds that come to one
ROWS = ("demonstrate", "rows", "sample")
TOP = ("environments", "template", "evaluation", "settings", "stages", "seed")
TEMPLATES = ("r1", "raw")
LENGTH = {
    "run": ("iterations", "time_limit", "token_limit")
}  # may be given anew to a run; a longer stage is another
EVALUATION = {"num_tasks": 256, "samples": 8, "max_new_tokens": 512, "sampler": "transformers"}


@dataclass(frozen=True)
class Stage:
    """One stage.

    Attributes:
        name: Among the recipe's.
        kind: One of KINDS.
        settings: All that stands in it beside its kind, its inputs and its arm.
        inputs: By each of INPUTS that it has, the stages that it names.
        arm: It belongs to a comparison of this name, and is left out unless that is asked for.
    """

    name: str
    kind: str
    settings: dict[str, Any]
    inputs: dict[str, tuple[str, ...]]
    arm: str | None = None


@dataclass(frozen=True)
class Recipe:
    """Stages, and what they share.

    Attributes:
        stages: By name, each after those that it starts from.
        environments: By name, RLlib's `env` and `env_config`.
        evaluation: How each policy is evaluated in each of them.
        settings: Of every stage that trains: run.py's sections.
        template: Of all prompts, in training and in evaluation. Not "auto": it is one for all stages, whatever model
            they start from.
        seed: All is a function of it.
    """

    stages: dict[str, Stage]
    environments: dict[str, dict[str, Any]]
    evaluation: dict[str, Any]
    settings: Sections
    template: str = "r1"
    seed: int = 0

    def before(self, name: str) -> list[str]:
        """The stages that one starts from, theirs too, and so on; in order."""
        found: set[str] = set()
        todo = [name]
        while todo:
            for names in self.stages[todo.pop()].inputs.values():
                todo += [one for one in names if one not in found]
                found |= {*names}
        return [one for one in self.stages if one in found]

    def budget_of(self, name: str) -> list[str]:
        """The stages whose tokens one may spend: what `tokens_of` took beyond what it starts from itself."""
        (end,) = self.stages[name].inputs["tokens_of"]
        own = {*self.stages[name].inputs["model"]}
        own |= {other for each in own for other in self.before(each)}
        return [one for one in (*self.before(end), end) if one not in own]

    def seed_of(self, name: str) -> int:
        """Of what a stage draws: two stages of one recipe never draw the same tasks."""
        return int.from_bytes(hashlib.sha256(f"{self.seed} {name}".encode()).digest()[:4], "big") >> 1

    def environment_of(self, stage: Stage) -> dict[str, Any]:
        """The section `environment` of a stage that trains: of one environment, or of several as a mixture."""
        weights = _weights(stage, self.environments)
        if len(weights) == 1:
            (name,) = weights
            return self.environments[name]
        parts = {name: {**self.environments[name], "weight": weight} for name, weight in weights.items()}
        return {"env": environments.env_id("Mixture-v0"), "env_config": {"parts": parts}}

    def sections_of(self, stage: Stage) -> Sections:
        """What run.py would be given for a stage that trains, but for the files that its inputs come to."""
        preset = stage.settings.get("preset")
        own = {name: value for name, value in stage.settings.items() if name not in KINDS["train"]}
        return settings.merge(
            settings.load_preset(preset) if preset else {},
            self.settings,
            own,
            {
                "environment": self.environment_of(stage),
                "sampling": {"run_seed": self.seed_of(stage.name)},
                "policy": {"template": self.template},
            },
        )

    def cap_of(self, stage: Stage) -> int:
        """Of a stage that samples, tokens of a response at most."""
        return stage.settings.get("max_new_tokens", self.evaluation["max_new_tokens"])


def read_recipe(name_or_file: str, assignments: Sequence[str] = (), seed: int | None = None) -> Recipe:
    """Reads a recipe by its name or its file.

    Args:
        name_or_file: One of those beside this module, or a YAML file.
        assignments: `stage.key=value` or `stage.section.key=value`.
        seed: Instead of the recipe's own.

    Raises:
        ValueError: If there is no such recipe, or a name in it means nothing.
    """
    file = named_file(name_or_file, RECIPES, "recipe")
    content = load_file(file)
    if not isinstance(content, dict) or not isinstance(content.get("stages"), dict):
        raise ValueError(f"{file} must map stages to their settings, under `stages`")
    _refuse_form(content)
    changes = settings.from_assignments(assignments)
    for stage in changes:
        _refuse("stage", stage, content["stages"])
    content["stages"] = settings.merge(content["stages"], changes)
    if seed is not None:
        content["seed"] = seed
    return parse(content)


def parse(content: Mapping[str, Any]) -> Recipe:
    """A recipe from what its file holds."""
    _refuse_form(content)
    found = {
        name: {"env": environments.env_id(name), **({"env_config": config} if config else {})}
        for name, config in content["environments"].items()
    }
    stages: dict[str, Stage] = {}
    for name, entries in content["stages"].items():
        stages[name] = _stage(name, settings.merge({name: entries})[name], stages, found)
    template = content.get("template", "r1")
    _refuse("template for a recipe", template, TEMPLATES)
    for name in content.get("evaluation", {}):
        _refuse("setting of evaluation", name, EVALUATION)
    return Recipe(
        stages,
        found,
        {**EVALUATION, **content.get("evaluation", {}), "template": template},
        content.get("settings", {}),
        template,
        int(content.get("seed", 0)),
    )


def _refuse_form(content: Mapping[str, Any]) -> None:
    """Refuses a part that there is not or that is no mapping, and entries of a part that are none."""
    for name in content:
        _refuse("part of a recipe", name, TOP)
    for part in ("environments", "evaluation", "settings", "stages"):
        entries = content.get(part, {} if part in ("evaluation", "settings") else None)
        _refuse_other(part, entries)
        for name, entry in entries.items() if part != "evaluation" else ():
            if part != "environments" or entry is not None:  # an environment may have no arguments
                _refuse_other(f"{part}.{name}", entry)


def _refuse_other(name: str, value: Any) -> None:
    if not isinstance(value, Mapping):
        raise ValueError(f"{name} of a recipe must map names to values, got {value!r}")


def _stage(
    name: str, entries: Mapping[str, Any], before: Mapping[str, Stage], known: Mapping[str, Any]
) -> Stage:
    kind = entries.get("kind", "train")
    _refuse("kind of stage", kind, KINDS)
    own = {key: value for key, value in entries.items() if key not in ("kind", "arm", *INPUTS)}
    for key in own:
        if kind == "train" and isinstance(own[key], dict) and key != "env":
            refusals.refuse_names(key, own[key])
        else:
            _refuse(f"setting of {name} ({kind})", key, KINDS[kind] - {*INPUTS})
    inputs = {key: _names(entries[key]) for key in INPUTS if key in entries}
    for key, names in inputs.items():
        _refuse(f"setting of {name} ({kind})", key, KINDS[kind])
        wanted = ROWS if key == "data" else POLICIES
        for one in names:
            _refuse(f"stage before {name}", one, before)
            if before[one].kind not in wanted:
                raise ValueError(
                    f"{name}.{key} takes a stage of kind {' or '.join(wanted)}, and {one} is of kind {before[one].kind}"
                )
    if missing := NEEDED[kind] - entries.keys():
        raise ValueError(f"the stage {name} ({kind}) needs {', '.join(sorted(missing))}")
    stage = Stage(name, kind, own, inputs, entries.get("arm"))
    for env in _weights(stage, known):
        _refuse("environment of the recipe", env, known)
    return stage


def _weights(stage: Stage, known: Mapping[str, Any]) -> dict[str, float]:
    chosen = stage.settings.get("env") or [*known]
    return dict(chosen) if isinstance(chosen, Mapping) else dict.fromkeys(_names(chosen), 1.0)


def _names(value: Any) -> tuple[str, ...]:
    if not isinstance(value, str | list | tuple):
        raise ValueError(
            f"where a recipe names stages or environments, it has a name or a list, got {value!r}"
        )
    return (value,) if isinstance(value, str) else tuple(value)


def _refuse(what: str, name: str, known: Any) -> None:
    if name not in known:
        raise ValueError(
            f"there is no {what} {name!r}{nearest(name, known)}: one of {', '.join(sorted(known))}"
        )


def keys(recipe: Recipe, content_of: Callable[[str, str], str]) -> dict[str, str]:
    """By stage its key, 12 hexadecimal digits.

    Args:
        recipe: Its stages.
        content_of: Of a model's name ("model") or a source of rows ("rows") what tells its content from another's.
    """
    found: dict[str, str] = {}
    for name, stage in recipe.stages.items():
        decides: dict[str, Any] = {"kind": stage.kind, "seed": recipe.seed_of(name)}
        decides["inputs"] = {key: [found[one] for one in names] for key, names in stage.inputs.items()}
        if stage.kind == "train":
            decides["algo"] = stage.settings["algo"]
            decides["settings"] = _that_decide(recipe.sections_of(stage))
        elif stage.kind == "model":
            decides = {"kind": "model", "content": content_of("model", stage.settings["name"])}
        elif stage.kind == "rows":
            decides = {"kind": "rows", "content": content_of("rows", stage.settings["source"])}
        else:
            decides["settings"], decides["template"] = stage.settings, recipe.template
            decides["environments"] = [recipe.environments[env] for env in envs_of(recipe, stage)]
            if stage.kind == "sample":
                decides["settings"] = {**stage.settings, "max_new_tokens": recipe.cap_of(stage)}
        text = json.dumps(decides, sort_keys=True, default=str)
        found[name] = hashlib.sha256(text.encode()).hexdigest()[:12]
    return found


def envs_of(recipe: Recipe, stage: Stage) -> list[str]:
    """The names of a stage's environments; of a model that is there, and of rows, none."""
    return [] if stage.kind in ("model", "rows", "build") else [*_weights(stage, recipe.environments)]


def placement_of(sections: Sections) -> Sections:
    """What says where things run, and decides nothing; not how long they run."""
    from experiments.common.resuming import PLACEMENT

    found: Sections = {}
    for section, values in sections.items():
        names = {*PLACEMENT.get(section, ())} - {*LENGTH.get(section, ())}
        found[section] = {name: value for name, value in values.items() if name in names}
    return found


def _that_decide(sections: Sections) -> Sections:
    """Without what says where things run."""
    elsewhere, found = placement_of(sections), {}
    for section, values in sections.items():
        if decide := {name: value for name, value in values.items() if name not in elsewhere[section]}:
            found[section] = decide
    return found


def write_asked(output: Path, asked: Mapping[str, Any]) -> None:
    """Writes down how a road was asked for, for `read_asked`."""
    output.mkdir(parents=True, exist_ok=True)
    with replaced(output / ASKED) as file:
        file.write_text(yaml.safe_dump(dict(asked), sort_keys=False))


def read_asked(output: Path) -> dict[str, Any]:
    """How a road was asked for last.

    Raises:
        ValueError: If the folder has none.
    """
    if not (output / ASKED).is_file():
        raise ValueError(f"{output} is no road's folder (it has no {ASKED}): leave --resume out")
    return load_file(output / ASKED)
