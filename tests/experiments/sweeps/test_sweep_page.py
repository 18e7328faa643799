"""What the page of a sweep says: trials, how settings go with results, curves and lineage, in right numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from scipy.stats import spearmanr
from typer.testing import CliRunner

from experiments import report as command
from experiments.sweeps import page, report
from experiments.sweeps.results import LINEAGE, RESULTS, lives, write_line
from experiments.sweeps.sweeping import write_asked
from pages import HOSTILE, unpacked

SECTIONS = {
    "environment": {"env": "envs:Countdown-v0"},
    "training": {"lr": {"loguniform": [1e-6, 1e-2]}, "group_size": {"choice": [4, 8, 16]}},
}
RATES = [1e-6, 1e-5, 1e-4, 1e-2, 1e-3]
# Of trials 0 to 4, right ones of 8: after the first look, which all came to, and at the end.
FIRST, LAST = [0, 2, 1, 3, 4], [None, 6, 1, 3, 8]


def line(number: int, state: str = "running", **more: Any) -> dict[str, Any]:
    settings = {"training.lr": RATES[number], "training.group_size": 8 if number else 4}
    common = {"arm": "search", "number": number, "seed": number, "of": None, "settings": settings}
    return {**common, "state": state, **more}


def look(number: int, tokens: int, right: int) -> dict[str, Any]:
    share = right / 8
    scores = {"score": share, "score_low": share / 2, "score_high": share, "verdicts": "1" * right}
    return line(number, tokens=tokens, iterations=1, seconds=1.0, round_tokens=100, **scores)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sweep that was stopped: a trial ended after its first look, one failed, one took over another's policy."""
    asked = {
        "sections": SECTIONS, "algo": "GRPO", "scheduler": "pbt", "search": "random", "num_samples": 5, "seed": 0,
        "compare_with": [], "wandb": False, "path": ".", "unit": "tokens", "budget": 200,
    }  # fmt: skip
    write_asked(asked, tmp_path)
    for number, (first, last) in enumerate(zip(FIRST, LAST, strict=True)):
        write_line(tmp_path / RESULTS, look(number, 100, first))
        if last is None:
            write_line(tmp_path / RESULTS, line(number, "stopped"))
        else:
            write_line(tmp_path / RESULTS, look(number, 200, last))
            write_line(tmp_path / RESULTS, line(number, "finished"))
    failed = line(0, "failed", cause=HOSTILE) | {"number": 5}
    write_line(tmp_path / RESULTS, failed)
    exchange = {
        "trial": 4, "donor": 1, "tokens": 100, "donor_tokens": 100, "donor_iterations": 1, "score": 0.125,
        "donor_score": 0.5, "difference": 0.375, "low": 0.1, "high": 0.6,
        "settings_before": {"training.lr": 0.5}, "donor_settings": {}, "settings": {"training.lr": 0.25},
    }  # fmt: skip
    write_line(tmp_path / LINEAGE, exchange)
    return tmp_path


def test_the_page_of_a_stopped_sweep(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "FEWEST", 5)
    done = CliRunner().invoke(command.app, [str(folder)])
    assert done.exit_code == 0, done.output
    facts, completions = unpacked((folder / "report.html").read_text(encoding="utf-8"))
    assert completions == [] and facts["title"] == f"Sweep {folder.name}"
    winners, trials, correlations, exchanges = facts["tables"]
    assert winners["rows"][0][:4] == ["search", "4", "100.0 %", "-"]  # no fresh tasks yet
    assert [row[0] for row in trials["rows"]] == [f"search {number}" for number in (4, 1, 3, 2, 0, 5)]
    assert trials["rows"][0][1:6] == ["0.001", "8", "200", "0", "100.0 %"]
    assert trials["rows"][-1][-1] == "failed: " + HOSTILE and trials["rows"][-2][-1] == "stopped"
    assert exchanges["rows"] == [["4", "1", "100", "12.5 %", "50.0 %", "+10.0 to +60.0", "lr=0.5", "lr=0.25"]]
    # At the first look, which all five came to.
    lr, size = correlations["rows"]
    assert lr[:2] == ["training.lr", f"{spearmanr(RATES, FIRST).statistic:+.2f}"]
    assert size[1] == f"{spearmanr([4, 8, 8, 8, 8], FIRST).statistic:+.2f}"
    assert "over 5 trials" in correlations["note"] and "at look 1" in correlations["note"]
    parallel, curves, lineage = facts["curves"]
    # The best trial is the last line: lr 1e-3 is three of four decades up, 8 the middle of three, its result the best.
    assert parallel["lines"][-1]["places"] == pytest.approx([0.75, 0.5, 1.0]) and len(parallel["lines"]) == 5
    assert parallel["axes"][0]["ticks"] == [[0.0, "1e-06"], [1.0, "0.01"]]
    assert curves["series"][0] == {"name": "trial 4", "x": [100, 200], "y": [0.5, 1.0]}
    assert [life["trial"] for life in lineage["lives"] if life["forebear"]] == [1, 4]


def test_a_lineage_is_a_tree_of_policies() -> None:
    """Trial 2 takes over 1's policy, which 1 then gives up for 0's; the winner, 0, takes over 2's."""
    trials = [{"number": number, "tokens": 400} for number in range(3)]
    exchanges = [(2, 1, 100, 110), (1, 0, 200, 190), (0, 2, 300, 310)]
    names = ("trial", "donor", "tokens", "donor_tokens")
    found = lives(
        {"winner": 0, "trials": trials}, [dict(zip(names, each, strict=True)) for each in exchanges]
    )
    assert [(life["trial"], life["start"], life["end"], life["parent"]) for life in found] == [
        (0, 0, 300, None), (1, 0, 200, None), (2, 0, 100, None), (2, 110, 400, 1), (1, 190, 400, 0), (0, 310, 400, 3)
    ]  # fmt: skip
    assert [life["forebear"] for life in found] == [False, True, False, True, False, True]


def test_rank_correlation() -> None:
    first, second = [1, 2, 3, 4, 5, 6, 7, 8], [1, 1, 2, 5, 3, 8, 13, 9]
    value, low, high = page.rank_correlation(first, second)  # type: ignore[misc]
    assert value == pytest.approx(spearmanr(first, second).statistic) and low < value < high <= 1
    assert page.rank_correlation(first, [-(2.0**x) for x in first]) == pytest.approx((-1, -1, -1))
    assert (
        page.rank_correlation(first, [1] * 8) is None and page.rank_correlation(first[1:], second[1:]) is None
    )


def test_a_score_that_is_none_is_no_number_in_json(tmp_path: Path) -> None:
    write_line(tmp_path / RESULTS, look(1, 100, 0) | {"score": float("nan")})
    write_line(tmp_path / RESULTS, line(1, "finished"))
    asked = {"space": {"training.lr": {"choice": [RATES[1]]}, "training.group_size": {"choice": [8]}}}
    summary = report.summarize(tmp_path, asked, "")
    assert summary["arms"]["search"]["trials"][0]["score"] is None
    assert page.write(tmp_path, summary).is_file()
