"""Comparing evaluations: what is paired, what is printed, what is written, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from typer.testing import CliRunner

from experiments.common.records import read_records, verdicts
from experiments.common.run_folder import RunFolder
from experiments.compare import app, page_of
from llmenv.episode import TextEpisode, Turn
from pages import unpacked


def record(task: str, sample: int, correct: bool | None, **others: Any) -> dict[str, Any]:
    failed = correct is None
    return {
        "task": task,
        "env": "envs:Countdown-v0",
        "seed": 7,
        "index": None,
        "sample": sample,
        "completion": f"{task} {correct}",
        "reward": 0.0 if failed else float(correct or 0),
        "correct": correct,
        "failure": None,
        "truncated": False,
        "error": "lost" if failed else None,
        "right_answer": "98",
        "answer": "right" if correct else "wrong",
        **others,
    }


def evaluation(folder: Path, *parts: list[dict[str, Any]]) -> Path:
    (folder / "records").mkdir(parents=True)
    for i, part in enumerate(parts):
        pd.DataFrame(part).to_parquet(folder / "records" / f"records-{i:05d}.parquet")
    return folder


def tasks_of(folder: Path, right: range, tasks: int = 20, **others: Any) -> Path:
    return evaluation(folder, [record(f"t{i}", 0, i in right, **others) for i in range(tasks)])


def run_of(folder: Path, right: range, iteration: int = 0, **config: Any) -> Path:
    run = RunFolder(folder)
    if not (folder / "config.yaml").exists():
        settings = {"environment": {"env": "envs:Countdown-v0", "env_config": {"num_numbers": 3}}} | config
        (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    episodes = [
        TextEpisode(i, 0, [Turn([1], [2], text="said", info={"correct": i in right})], seed=2**62 + i)
        for i in range(20)
    ]
    run.write_samples("eval_sampled", iteration, episodes)
    run.close()
    return folder


def compare(*arguments: object) -> Any:
    report = Path(str(arguments[0])).parent / "pages" / "report.html"
    return CliRunner().invoke(app, [f"--report={report}", *(str(argument) for argument in arguments)])


def test_parts_are_read_and_what_was_drawn_again_counts_once(tmp_path: Path) -> None:
    """An error does not outlive the sample that was drawn in its place, wherever that stands."""
    first = [record("a", 0, True), record("a", 1, None), record("b", 0, None)]
    second = [record("a", 1, False), record("b", 0, True), record("b", 1, None), record("a", 0, None)]
    folder = evaluation(tmp_path, first, second)
    (folder / "records" / ".partial.parquet").write_text("torn")
    frame = read_records(folder)
    assert len(frame) == 4
    tasks, table = verdicts(frame)
    found = {
        task: [None if v != v else v for v in row] for task, row in zip(tasks, table.tolist(), strict=True)
    }
    assert {task: sorted(map(str, row)) for task, row in found.items()} == {
        "a": ["0.0", "1.0"],
        "b": ["1.0", "None"],
    }


def test_two_evaluations(tmp_path: Path) -> None:
    """A is right in t0 to t9, B in t4 to t17: B wins t10 to t17, loses t0 to t3, ties 8."""
    a, b = tasks_of(tmp_path / "a", range(10)), tasks_of(tmp_path / "b", range(4, 18))
    done = compare(a, b, "--output", tmp_path / "flips.csv")
    assert done.exit_code == 0, done.output
    lines = done.output.splitlines()
    assert max(len(line) for line in lines if str(tmp_path) not in line) <= 80
    # Wilson of 10 and of 14 in 20.
    assert "A 20 50.0% 29.9-70.1% 20 20 0" in [" ".join(line.split()) for line in lines]
    assert "B 20 70.0% 48.1-85.5% 20 20 0" in [" ".join(line.split()) for line in lines]
    # McNemar, mid-p: 8 against 4 of 12: 2 (1 + 12 + 66 + 220 + 495 / 2) / 4096 = 0.2668.
    row = next(" ".join(line.split()) for line in lines if "A to B" in line and "+20.0" in line)
    assert row.startswith("A to B 20 +20.0") and " 0.2668 8 8 4 " in row
    assert "12 flips, A to B, envs:Countdown-v0" in done.output
    facts, completions = unpacked((tmp_path / "pages" / "report.html").read_text())
    assert facts["sets"] == ["A", "B"] and facts["together"] and len(completions) == 2 * 12
    assert {*facts["tasks"]["key"]} == {f"t{i}" for i in (*range(4), *range(10, 18))}
    assert completions[:2] == ["t0 True", "t0 False"], "both of a task stand together"
    accuracies, differences = facts["tables"]
    assert accuracies["rows"][1][5:7] == ["70.0 %", "48.1 to 85.5 %"]
    assert differences["rows"][0][3] == "+20.0" and differences["rows"][0][5:9] == ["0.2668", "8", "8", "4"]
    flips = pd.read_csv(tmp_path / "flips.csv")
    assert set(flips["task"]) == {f"t{i}" for i in (*range(4), *range(10, 18))}
    won = flips[flips["task"] == "t12"].iloc[0]
    assert (won["first_answer"], won["second_answer"], won["right_answer"]) == ("wrong", "right", 98)
    assert won["second_completion"] == "t12 True" and (won["first_accuracy"], won["second_accuracy"]) == (
        0,
        1,
    )


def test_three_are_adjusted_for(tmp_path: Path) -> None:
    """B and C win eight tasks of A: p = 1 / 2^8 = 0.0039, times 3 by Holm 0.0117; between them there is nothing."""
    a = tasks_of(tmp_path / "a", range(0))
    b, c = (tasks_of(tmp_path / name, range(8)) for name in "bc")
    assert " 0.0039 8 12 0 " in " ".join(compare(a, b).output.split())
    shown = " ".join(compare(a, b, c).output.split())
    assert shown.count(" 0.0117 8 12 0 ") == 2 and "B to C 20 +0.0" in shown and " 1.0000 0 20 0 " in shown


def test_missing_samples_have_bounds(tmp_path: Path) -> None:
    # Two tasks of two samples. A: right and lost; right and right: scored 100 %, with the lost one wrong 75 %.
    a = evaluation(
        tmp_path / "a",
        [record("a", 0, True), record("a", 1, None), record("b", 0, True), record("b", 1, True)],
    )
    b = evaluation(tmp_path / "b", [record(task, i, False) for task in "ab" for i in range(2)])
    shown = [" ".join(line.split()) for line in compare(a, b).output.splitlines()]
    row = next(line for line in shown if line.startswith("A 2 100.0%"))
    assert row.endswith("75.0-100.0% 4 3 1")
    assert "B pass@1 0.0% pass@2 0.0%" in shown
    assert not [line for line in shown if line.startswith("A pass@2")]


def test_runs_and_a_file_of_one(tmp_path: Path) -> None:
    """Seeds beyond 2^53 are told apart; the newest evaluation of a folder counts."""
    a = run_of(tmp_path / "a", range(5))
    run_of(a, range(11), iteration=40)
    b = run_of(tmp_path / "b", range(7), environment={
        "env": "envs:Countdown-v0", "env_config": {"num_numbers": 3, "reward": "tinyzero"}
    })  # fmt: skip
    shown = " ".join(compare(a / "samples" / "eval_sampled_000000.parquet", a, b).output.split())
    assert "A 20 25.0%" in shown and "B 20 55.0%" in shown and "C 20 35.0%" in shown
    assert "A to B 20 +30.0" in shown and "B to C 20 -20.0" in shown
    assert read_records(a)["task"].nunique() == 20


def test_tasks_of_a_cluster_are_not_independent(tmp_path: Path) -> None:
    """Twenty tasks of four templates, all of one of which B wins: that is one thing won, not five."""
    parts = [
        [record(f"t{i}", 0, right and i < 5, index=i // 5) for i in range(20)] for right in (False, True)
    ]
    a, b = (evaluation(tmp_path / name, part) for name, part in zip("ab", parts, strict=True))
    assert " 0.0312 5 15 0 " in " ".join(compare(a, b).output.split())  # 1 / 2^5
    clustered = " ".join(compare(a, b, "--cluster", "index").output.split())
    assert " 0.5000 5 15 0 " in clustered  # one cluster differs: one coin
    assert "B 20 25.0%" in clustered and "B 20 25.0% 11.2-46.9%" not in clustered
    refused = compare(a, b, "--cluster", "topic")
    assert (
        refused.exit_code == 2 and "A has no column 'topic' to cluster by: it has task, env" in refused.output
    )


def test_hostile_answers_are_text(tmp_path: Path) -> None:
    hostile = "[bold red]x[/] \x1b]52;c;aGk=\x07\x1b[2J\n" + "9" * 100_000
    a = tasks_of(tmp_path / "a", range(0), answer=hostile)
    b = tasks_of(tmp_path / "b", range(3), answer="[/nothing]")
    done = compare(a, b)
    assert done.exit_code == 0, done.output
    assert "\x1b" not in done.output and "\x07" not in done.output
    assert "[bold red]" in done.output and len(done.output) < 5000


def test_no_cell_of_the_file_is_a_formula(tmp_path: Path) -> None:
    """Also after a tab, or as spreadsheets of old had them (@, +); a number is no formula."""
    said = ["=1+1", "+A1", "-x", "@SUM(A1)", "\t=1", "-5", "+0.5", "a=1"]
    for name, right in (("a", True), ("b", False)):
        evaluation(
            tmp_path / name,
            [record(f"t{i}", 0, right, answer=text, completion=text) for i, text in enumerate(said)],
        )
    file = tmp_path / "flips.csv"
    done = compare(tmp_path / "a", tmp_path / "b", "--output", file)
    assert done.exit_code == 0, done.output
    flips = pd.read_csv(file, dtype=str).set_index("task")
    expected = ["'=1+1", "'+A1", "'-x", "'@SUM(A1)", "'\t=1", "-5", "+0.5", "a=1"]
    for column in ("first_answer", "second_completion"):
        assert flips[column].loc[[f"t{i}" for i in range(8)]].tolist() == expected
    assert [path.name for path in tmp_path.glob("*flips*")] == ["flips.csv"]


def test_comparisons_of_others_have_other_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    first, second = Path("runs/Qwen2.5-0.5B-2026"), Path("runs/Qwen2.5-1.5B-2026")
    assert page_of([first, second]) == Path("comparisons/Qwen2.5-0.5B-2026-Qwen2.5-1.5B-2026/report.html")
    file = tmp_path / "runs/A/samples/eval_000000.parquet"
    file.parent.mkdir(parents=True)
    file.touch()
    assert page_of([file, Path("B")]) == Path("comparisons/eval_000000-B/report.html")
    assert page_of([Path("x/evals/a"), Path("y/evals/a")]) == Path(
        "comparisons/x-evals-a-y-evals-a/report.html"
    )
    assert page_of([Path("a"), Path("a/")]) == Path("comparisons/a-a/report.html")
    many = [Path(f"{i:02}-{'n' * 60}") for i in range(5)]
    pages = {page_of(many), page_of([*many[:4], Path("other")])}
    assert len(pages) == 2 and all(len(page.parent.name) <= 255 for page in pages)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("a",), "give 2 to 26 evaluations, not 1"),
        (("a", "nothing"), "nothing has neither records/*.parquet nor samples/"),
        (("a", "gsm8k"), "A and B have no task in common (their environments are envs:Countdown-v0 and envs:GSM8K-v0)"),
        (("run", "other"), "their tasks are not the same (num_numbers: 3 and 4; split: None and 'test')"),
        (("a", "lost"), "A and B, envs:Countdown-v0: no task has samples of both"),
        (("a", "old"), "have no right_answer: evaluate again"),
    ],
)  # fmt: skip
def test_what_is_refused(tmp_path: Path, given: tuple[str, ...], message: str) -> None:
    tasks_of(tmp_path / "a", range(10))
    evaluation(tmp_path / "gsm8k", [record("other", 0, True, env="envs:GSM8K-v0")])
    evaluation(tmp_path / "lost", [record("t1", 0, None)])
    old = record("t1", 0, True)
    del old["right_answer"]
    evaluation(tmp_path / "old", [old])
    run_of(tmp_path / "run", range(10))
    run_of(
        tmp_path / "other",
        range(10),
        evaluation={"evaluation_config": {"env_config": {"split": "test", "num_numbers": 4}}},
    )
    done = compare(*(tmp_path / name for name in given))
    assert done.exit_code == 2 and message in done.output, done.output
