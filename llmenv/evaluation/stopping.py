"""An evaluation that ends once it is exact enough, by a rule fixed beforehand. Knows no model.

It looks after 64 tasks of each environment, then 128, 256 and so on, and at the end; nowhere else. It stops at the
first look where every environment's 95 % interval of accuracy is no wider than was asked for. Stopping because an
interval is narrow favours verdicts that are more alike than usual, and an interval that was looked at often may hold
the truth less often. With looks as few as these it does not show: in simulations (`tests/llmenv/test_stopping.py`,
with widths at which chance decides where it stops) the interval held the truth in 95 to 97 of 100 evaluations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llmenv.evaluation.records import Records
from llmenv.evaluation.run import evaluate
from llmenv.evaluation.subject import Subject

FIRST_LOOK = 64  # tasks


def looks(num_tasks: int) -> list[int]:
    """After how many tasks it looks."""
    counts = [FIRST_LOOK]
    while counts[-1] < num_tasks:
        counts.append(2 * counts[-1])
    return [*counts[:-1], num_tasks]


def is_narrow(summary: Mapping[str, Any], width: float) -> bool:
    """Whether every environment's interval is, in a summary of `evaluate`."""
    rows = summary["environments"].values()
    return all(row["tasks"] and row["accuracy_high"] - row["accuracy_low"] <= width for row in rows)


def evaluate_until(
    width: float,
    model: str | Subject,
    env: str | Sequence[str],
    output: str | Path,
    *,
    num_tasks: int = 512,
    **settings: Any,
) -> dict[str, Any]:
    """Evaluates until every interval is as narrow.

    Args:
        width: Of the 95 % interval, from its low end to its high one; 0.02 is two points.
        model: As of `llmenv.evaluation.evaluate`, as the rest is.
        env: The environments.
        output: The folder.
        num_tasks: At most.
        **settings: The others.

    Returns:
        The content of summary.json, with "until_width": the width, the task counts at which it looked, and whether it
        was reached.
    """
    looked = []
    for count in looks(num_tasks):
        summary = evaluate(model, env, output, num_tasks=count, **settings)
        looked.append(count)
        if reached := is_narrow(summary, width):
            break
    summary["until_width"] = {"width": width, "looks": looked, "reached": reached}
    Records(Path(output), summary["settings"]).write_summary(summary)
    return summary
