"""Walks a recipe: each stage in its folder, named by its key; what is done is not done again.

asked.yaml         how it was asked for last
NAME-KEY/          a stage (see `stages`), with an evaluation of its policy
summary.json       the table, by stage
table.md           the same to read
report.html        the same with the curve, samples and the stages' own pages
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from experiments.recipes.page import write_page
from experiments.recipes.recipe import Recipe, keys
from experiments.recipes.scores import evaluate_policy, folder_of
from experiments.recipes.stages import Work, carry_out, is_done
from experiments.recipes.table import markdown, rows_of, totals
from llmenv.files import replaced

SUMMARY, TABLE = "summary.json", "table.md"


class Road:
    """A recipe in a folder.

    Args:
        recipe: What is to be done.
        output: Where; other recipes' stages may be there, too.
        arms: The comparisons that are wanted.
    """

    def __init__(self, recipe: Recipe, output: Path, arms: Sequence[str] = ()):
        known = sorted({stage.arm for stage in recipe.stages.values() if stage.arm})
        for arm in arms:
            if arm not in known:
                raise ValueError(f"there is no comparison {arm!r} in the recipe: one of {', '.join(known)}")
        self.recipe, self.output, self.arms = recipe, output, tuple(arms)
        self.folders = {name: output / f"{name}-{key}" for name, key in keys(recipe, content_of).items()}

    def chosen(self, only: str | None, until: str | None) -> list[str]:
        """The stages that are to be done, in order.

        Args:
            only: This one alone; what it starts from must be done.
            until: This one and what it starts from.
        """
        stages = self.recipe.stages
        for name in filter(None, (only, until)):
            if name not in stages:
                raise ValueError(f"there is no stage {name!r} in the recipe: one of {', '.join(stages)}")
        if only is not None:
            missing = [one for one in self.recipe.before(only) if not is_done(self.folders[one])]
            if missing:
                raise ValueError(
                    f"{only} starts from what is not done: {', '.join(missing)}; --until {only} does it"
                )
            return [only]
        if until is not None:
            return [*self.recipe.before(until), until]
        return [name for name, stage in stages.items() if stage.arm is None or stage.arm in self.arms]

    def walk(self, names: Sequence[str], say: Callable[[str], None]) -> int:
        """Does the stages that are not done, and evaluates each policy.

        Returns:
            0, or the exit status of a run that was stopped.
        """
        for name in names:
            work = Work(self.recipe, self.recipe.stages[name], self.folders)
            if not is_done(work.folder):
                say(f"{name}: {work.folder}")
                if status := carry_out(work):
                    return status
            if work.stage.kind in ("model", "train"):  # random weights are worth nothing
                say(f"{name}: evaluated in {', '.join(self.recipe.environments)}")
                evaluation, environments = self.recipe.evaluation, self.recipe.environments
                folder = folder_of(work.folder, evaluation, environments)
                evaluate_policy(work.policy(name), name, folder, evaluation, environments)
            self.write()
        return 0

    def rows(self) -> list[dict[str, Any]]:
        return rows_of(self.recipe, self.folders, self.arms)

    def write(self) -> None:
        """What there is to read, as far as the road has come."""
        rows, environments = self.rows(), [*self.recipe.environments]
        summary = {"seed": self.recipe.seed, "stages": rows, "totals": totals(rows)}
        for name, text in (
            (SUMMARY, json.dumps(summary, indent=2) + "\n"),
            (TABLE, markdown(rows, environments)),
        ):
            with replaced(self.output / name) as file:
                file.write_text(text)
        write_page(self.output, rows, environments)


def content_of(kind: str, name: str) -> str:
    """What tells a model, or a source of rows, from another of the same name."""
    from llmenv.evaluation.subject import fingerprint
    from llmenv.models.names import resolve_model

    if kind == "model":
        return fingerprint(resolve_model(name))
    path = Path(name).expanduser()
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    digest = hashlib.sha256(name.encode() if not path.exists() else b"")
    for file in files:
        if file.is_file():
            with file.open("rb") as content:
                digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()
