"""The table of a road: a row a stage, what its policy is worth and what the stage took. From files alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.recipes.recipe import POLICIES, Recipe
from experiments.recipes.scores import folder_of, read_scores
from experiments.recipes.stages import funnels, is_done, spent

PRICES = ("sampled", "imitated", "seconds")


def rows_of(recipe: Recipe, folders: Mapping[str, Path], arms: Sequence[str] = ()) -> list[dict[str, Any]]:
    """A row each stage that is asked for, with what is known of it so far.

    Returns:
        "stage", "kind", "arm", "folder", "starts_from", "done"; of done ones "sampled" and "imitated" (response
        tokens) and "seconds"; of policies that have been evaluated "scores", by environment; of samples "funnel".
    """
    rows: list[dict[str, Any]] = []
    for name, stage in recipe.stages.items():
        if stage.arm is not None and stage.arm not in arms:
            continue
        folder = folders[name]
        row: dict[str, Any] = {
            "stage": name,
            "kind": stage.kind,
            "arm": stage.arm,
            "folder": folder.name,
            "starts_from": [
                one for key, names in stage.inputs.items() if key != "tokens_of" for one in names
            ],
            "done": is_done(folder),
        }
        if row["done"]:
            row |= {key: spent(folder)[key] for key in PRICES}
        if stage.kind in POLICIES:
            row["scores"] = read_scores(folder_of(folder, recipe.evaluation, recipe.environments))
        if stage.kind == "sample":
            row["funnel"] = funnels(folder)
        rows.append(row)
    return rows


def totals(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """What each arm took together; the road's own is "road"."""
    found: dict[str, dict[str, float]] = {}
    for row in rows:
        if row["done"]:
            total = found.setdefault(row["arm"] or "road", dict.fromkeys(PRICES, 0))
            for key in PRICES:
                total[key] += row[key]
    return found


def header(environments: Sequence[str]) -> list[str]:
    return ["stage", *environments, "format", "readable", "entropy", "sampled", "imitated", "seconds"]


def cells(row: Mapping[str, Any], environments: Sequence[str]) -> list[str]:
    """A row as texts; format, readability and entropy are means over the environments."""
    scores = row.get("scores") or {}
    found = [row["stage"] if row["arm"] is None else f"{row['arm']}: {row['stage']}"]
    found += [accuracy_cell(scores.get(env)) for env in environments]
    for key, as_text in (("format_rate", percent), ("readable", percent), ("entropy", "{:.2f}".format)):
        values = [one[key] for one in scores.values() if one[key] is not None]
        found.append(as_text(sum(values) / len(values)) if values else "-")
    if not row["done"]:
        return [*found, "not done", "", ""]
    return [
        *found,
        *(f"{row[key]:,}" if row[key] else "-" for key in PRICES[:2]),
        f"{row['seconds']:.0f}" if row["seconds"] else "-",
    ]


def accuracy_cell(score: Mapping[str, Any] | None) -> str:
    """Accuracy, its 95 % interval, tasks, and how many of them any of the samples solves."""
    if score is None or score["accuracy"] is None:
        return "-"
    low, high = (score[f"accuracy_{end}"] for end in ("low", "high"))
    most = max(score["pass_at_k"], key=int)
    text = f"{percent(score['accuracy'])} ({100 * low:.1f} to {100 * high:.1f}; n {score['tasks']})"
    return text if most == "1" else f"{text}, pass@{most} {percent(score['pass_at_k'][most])}"


def percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def markdown(rows: Sequence[Mapping[str, Any]], environments: Sequence[str]) -> str:
    """The whole table, arms below the road."""
    lines = [header(environments), ["---"] * len(header(environments))]
    lines += [cells(row, environments) for row in in_order(rows)]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def in_order(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The road's own stages, then those of each comparison."""
    return sorted(rows, key=lambda row: (row["arm"] is not None, row["arm"] or ""))
