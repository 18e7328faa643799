"""Writes `report.html` beside what a run or an evaluation left."""

from __future__ import annotations

from pathlib import Path

from experiments.common.page.assemble import write_page
from experiments.common.page.contents import of_evaluation, of_run

NAME = "report.html"


def write_report(path: Path) -> Path:
    """Writes the page of a folder, for what exists, and returns where it is.

    Args:
        path: A run folder or an evaluation folder.

    Raises:
        ValueError: If it is neither.
    """
    if (path / "config.yaml").is_file():
        content = of_run(path)
    elif (path / "evaluation.json").is_file():
        content = of_evaluation(path)
    else:
        raise ValueError(
            f"{path} is neither a run folder (it has no config.yaml) nor an evaluation's (no evaluation.json): "
            "name one that run.py, evaluate.py or sweep.py wrote"
        )
    write_page(path / NAME, content)
    return path / NAME
