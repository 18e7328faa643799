"""Carries out one stage in a folder of its own; of a kind that ends early it takes up what is there.

rows.parquet      of a stage that makes rows, those; of one that trains, what it imitates
samples/          of a stage that samples, an evaluation's folder an environment
run/              of a stage that trains, run.py's
policy/           of a model that is built
done.json         what it took; there once all else is whole
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.recipes.recipe import Recipe, Stage, envs_of, placement_of
from llmenv.files import replaced

if TYPE_CHECKING:
    import pandas as pd

DONE, ROWS, SAMPLES, RUN, POLICY = "done.json", "rows.parquet", "samples", "run", "policy"
UNBOUNDED = 1_000_000  # iterations of a run that ends with its tokens


@dataclass(frozen=True)
class Work:
    """A stage, and where it and those before it are.

    Attributes:
        recipe: That it is of.
        stage: It.
        folders: Of each stage of the recipe.
    """

    recipe: Recipe
    stage: Stage
    folders: Mapping[str, Path]

    @property
    def folder(self) -> Path:
        return self.folders[self.stage.name]

    def policy(self, name: str) -> str:
        """The model that a stage came to, as `--model` takes it."""
        stage = self.recipe.stages[name]
        if stage.kind == "model":
            return stage.settings["name"]
        folder = self.folders[name]
        return str((folder / POLICY if stage.kind == "build" else folder / RUN / POLICY).absolute())

    def input(self, key: str) -> str:
        (name,) = self.stage.inputs[key]
        return name


def is_done(folder: Path) -> bool:
    return (folder / DONE).is_file()


def spent(folder: Path) -> dict[str, float]:
    """What a stage took: sampled and imitated response tokens, and seconds."""
    return json.loads((folder / DONE).read_text())


def carry_out(work: Work) -> int:
    """Does what is left of a stage, and writes down what it took.

    Returns:
        0, or the exit status of a run that was stopped.
    """
    work.folder.mkdir(parents=True, exist_ok=True)
    kind = work.stage.kind
    status = 0
    price: dict[str, float] = {"sampled": 0, "imitated": 0, "seconds": 0.0}
    if kind == "build":
        _build(work)
    elif kind == "demonstrate":
        _write_rows(work.folder / ROWS, _demonstrations(work))
    elif kind == "sample":
        price |= _sample(work)
    elif kind == "train":
        status = _train(work)
        price |= {} if status else _price_of_run(work)
    if not status:
        with replaced(work.folder / DONE) as file:
            file.write_text(json.dumps(price) + "\n")
    return status


def _build(work: Work) -> None:
    """A model with random weights and the tokenizer of another."""
    from llmenv.models import tiny
    from llmenv.models.names import load_tokenizer

    tokenizer = load_tokenizer(work.policy(work.input("tokenizer_of")))
    sizes = {name: value for name, value in work.stage.settings.items() if name in ("hidden_size", "layers")}
    seed = work.recipe.seed_of(work.stage.name)
    tiny.save(tiny.build_model(tokenizer, seed, **sizes), tokenizer, work.folder / POLICY)


def _demonstrations(work: Work) -> Iterator[dict[str, Any]]:
    """As records: right is what the environment says of them."""
    from experiments.demonstrations import DEMONSTRATIONS, STYLES
    from llmenv.env import make_env
    from llmenv.episode import derive_seed

    settings, seed = work.stage.settings, work.recipe.seed_of(work.stage.name)
    style = settings.get("style", "patient")
    if style not in STYLES:
        raise ValueError(f"{work.stage.name}.style must be one of {', '.join(STYLES)}, got {style!r}")
    for name in envs_of(work.recipe, work.stage):
        if name not in DEMONSTRATIONS:
            raise ValueError(f"nobody demonstrates {name}: there are {', '.join(DEMONSTRATIONS)}")
        section = work.recipe.environments[name]
        env = make_env(section["env"], {**section.get("env_config", {}), "split": "train"})
        for task in range(settings["tasks"]):
            rng = random.Random(f"{seed} {name} {task}")
            observation, info = env.reset(seed=derive_seed(seed, task))
            prefix = info["assistant_prefix"]
            for written in DEMONSTRATIONS[name].write(rng, env.unwrapped.task, style):  # type: ignore[attr-defined]
                _, _, over, _, verdict = env.step(prefix + written)
                if not over:
                    raise ValueError(f"{name} has several turns: rows are made of one")
                yield {
                    "messages": json.dumps(_messages(observation, info)),
                    "completion": prefix + written,
                    "correct": bool(verdict["correct"]),
                    "env": section["env"],
                }
        env.close()


def _messages(observation: str, info: Mapping[str, Any]) -> list[dict[str, str]]:
    parts = (
        ("system", info.get("system")),
        ("user", observation),
        ("assistant", info.get("assistant_prefix")),
    )
    return [{"role": role, "content": content} for role, content in parts if content]


def _write_rows(file: Path, rows: Iterator[dict[str, Any]]) -> None:
    import pandas as pd

    with replaced(file) as partial:
        pd.DataFrame([*rows]).to_parquet(partial, index=False)


def _sample(work: Work) -> dict[str, float]:
    """Rejection sampling on training tasks of each environment; what is kept becomes the stage's rows."""
    import pandas as pd

    from experiments.common.keeping import KEPT, Wanted, keep_records
    from llmenv.evaluation import evaluate
    from llmenv.evaluation.subject import load_subject

    settings, recipe = work.stage.settings, work.recipe
    name = work.input("model")
    subject = load_subject(
        work.policy(name), recipe.evaluation["sampler"], name=name, template=recipe.template
    )
    wanted = Wanted(**{key: settings[key] for key in ("keep", "most") if key in settings})
    asked = {key: settings[key] for key in ("samples", "temperature") if key in settings}
    kept, price = [], {"sampled": 0, "seconds": 0.0}
    for env in envs_of(recipe, work.stage):
        section, folder = recipe.environments[env], work.folder / SAMPLES / env
        summary = evaluate(
            subject,
            section["env"],
            folder,
            env_options={**section.get("env_config", {}), "split": "train"},
            num_tasks=settings["tasks"],
            seed=recipe.seed_of(work.stage.name),
            max_new_tokens=recipe.cap_of(work.stage),
            **asked,
        )
        (found,) = summary["environments"].values()
        price["sampled"] += round((found["response_tokens"] or 0.0) * found["scored"])
        price["seconds"] += found["seconds"]
        (folder / KEPT).unlink(missing_ok=True)
        with suppress(ValueError):  # nothing kept of this one; the funnel says so
            keep_records(folder, wanted)
        if (folder / KEPT).is_file() and len(rows := pd.read_parquet(folder / KEPT)):
            kept.append(rows)
    if not kept:
        raise ValueError(
            f"nothing that {name} wrote is kept: the funnels in {work.folder / SAMPLES} say where all was lost. "
            f"Sample more ({work.stage.name}.samples, {work.stage.name}.tasks), or train {name} longer"
        )
    with replaced(work.folder / ROWS) as file:
        joined(kept).to_parquet(file, index=False)
    return price


def funnels(folder: Path) -> dict[str, dict[str, int]]:
    """Of a stage that sampled: by environment, how many samples came how far."""
    found: dict[str, dict[str, int]] = {}
    for file in sorted((folder / SAMPLES).glob("*/summary.json")):
        (found[file.parent.name],) = json.loads(file.read_text()).get("funnel", {"": {}}).values()
    return found


def joined(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Rows of several sources as one table, with the columns that tell what is to be imitated (`conversations`)."""
    import pandas as pd

    columns = ["messages", "prompt", "completion", "turns", "correct", "truncated", "error", "env"]
    whole = {"correct": True, "truncated": False}
    parts = []
    for frame in frames:
        part = frame[[name for name in columns if name in frame]].copy()
        for name in {"messages", "prompt", "completion"} & {*part}:
            part[name] = [text if isinstance(text, str) else _json(text) for text in part[name]]
        for name, value in whole.items():
            part[name] = part[name].fillna(value).astype(bool) if name in part else value
        parts.append(part)
    table = pd.concat(parts, ignore_index=True)
    return table.astype(object).where(table.notna(), None).infer_objects()


def _json(messages: Any) -> str:
    return json.dumps([dict(message) for message in messages])


def _rows_of(work: Work, name: str) -> pd.DataFrame:
    import pandas as pd

    stage = work.recipe.stages[name]
    if stage.kind != "rows":
        return pd.read_parquet(work.folders[name] / ROWS)
    from llmenv.conversations import load_demonstrations

    rows, wanted = load_demonstrations(stage.settings["source"])
    return pd.DataFrame([rows[i] for i in wanted])


def _train(work: Work) -> int:
    """A run of run.py's, or what is left of it; returns its exit status."""
    from algorithms.names import method_name
    from experiments.common import launch, resuming, run_folder

    run = work.folder / RUN
    if run_folder.checkpoints(run):
        if (run / "summary.json").is_file():
            return 0
        # Its key leaves out where things run, which may have been given anew.
        algo, sections = resuming.resumed(run, placement_of(work.recipe.sections_of(work.stage)), {})
        return launch.start(algo, sections, run, resuming=True, wandb=False)
    shutil.rmtree(run, ignore_errors=True)  # a kill before its first checkpoint
    return launch.start(
        method_name(work.stage.settings["algo"]), _sections(work), run, resuming=False, wandb=False
    )


def _sections(work: Work) -> dict[str, dict[str, Any]]:
    from experiments.common import settings

    stage, inputs = work.stage, work.stage.inputs
    given: dict[str, dict[str, Any]] = {"policy": {"model": work.policy(work.input("model"))}}
    if "teacher" in inputs:
        given["policy"]["reference_model"] = work.policy(work.input("teacher"))
    if "data" in inputs:
        with replaced(work.folder / ROWS) as file:
            joined([_rows_of(work, name) for name in inputs["data"]]).to_parquet(file, index=False)
        given["demonstrations"] = {"data": str(work.folder / ROWS)}
    if "tokens_of" in inputs:
        prices = [spent(work.folders[name]) for name in work.recipe.budget_of(stage.name)]
        tokens = int(sum(price["sampled"] + price["imitated"] for price in prices))
        given["run"] = {"token_limit": max(1, tokens), "iterations": UNBOUNDED}
    return settings.merge(work.recipe.sections_of(stage), given)


def _price_of_run(work: Work) -> dict[str, float]:
    from algorithms.names import method_name
    from experiments.common.run_folder import read_table

    progress = read_table(work.folder / RUN, "progress")
    tokens = int(progress["num_response_tokens"].sum())
    imitated = method_name(work.stage.settings["algo"]) == "SFT"
    return {"imitated" if imitated else "sampled": tokens, "seconds": float(progress["seconds"].sum())}
