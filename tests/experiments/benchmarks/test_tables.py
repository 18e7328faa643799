"""Tables of docs/ are what the kept figures say, and figures are what a sweep's summary has."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from experiments.benchmarks import tables


def test_the_pages_are_what_the_figures_say() -> None:
    pages = [text for page in tables.DOCS.glob("*.md") if "<!-- table" in (text := page.read_text())]
    assert pages
    for text in pages:
        assert tables.written(text) == text
        emptied = tables.TABLE.sub(r"\1\3", text)
        assert emptied != text and tables.written(emptied) == text


def test_a_row_an_arm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand: two trials of the search, one of them stopped, and nothing of single tasks or of the machine is kept."""
    score = {"score": 0.5, "score_low": 0.4, "score_high": 0.625, "verdicts": "10"}
    settings = {"training.lr": 3e-5, "training.group_size": 8}
    trials = [
        {**score, "number": 0, "state": "finished", "spent_tokens": 900, "settings": settings, "curve": [1]},
        {**score, "number": 1, "state": "stopped", "spent_tokens": 200, "settings": settings, "curve": [1]},
    ]
    arm = {"winner": 0, "fresh": score, "trials": trials, "tokens": 1100, "failed": 0}
    summary = {
        "asked": {
            "seed": 7,
            "scheduler": "asha",
            "budget": 900,
            "unit": "tokens",
            "num_samples": 2,
            "path": "/home/me",
        },
        "arms": {"search": {**arm, "training_seconds": 3.0, "busy_seconds": 4.0}},
        "before": score,
        "comparisons": {"start": {"difference": 0.1, "low": -0.05, "high": 0.25, "tasks": 2, "p_value": 0.1}},
    }
    kept = tables.figures_of(summary)
    assert not any(word in json.dumps(kept) for word in ("verdicts", "curve", "/home/me", "p_value"))
    monkeypatch.setattr(tables, "FIGURES", tmp_path)
    (tmp_path / "small_seed7.json").write_text(json.dumps(kept))
    _, _, before, search = tables.table("small").splitlines()
    assert before == "| 7 | before |  | 0 |  |  | 50.0% (40.0 to 62.5%) | +10.0 (-5.0 to +25.0) |"
    expected = "|  | asha | 2, 1 stopped early | 1,100 | lr=3e-05 group_size=8 |"
    assert search == f"{expected} 50.0% (40.0 to 62.5%) | 50.0% (40.0 to 62.5%) |  |"
    with pytest.raises(FileNotFoundError, match="docs/figures has no other_seed"):
        tables.table("other")
