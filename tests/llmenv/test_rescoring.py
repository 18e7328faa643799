"""Completions that are scored without a model: records, whose verdicts may have changed, and other tools' files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import pandas as pd
import pytest

from envs.countdown import CountdownEnv, CountdownTask
from llmenv.evaluation import evaluate
from llmenv.evaluation.rescoring import read_rows, score_completions
from llmenv.evaluation.text_models import Reply, TextSampler, text_subject
from scripted import EchoEnv

RIGHT, WRONG = "<think>x</think><answer>1 + 2 + 3</answer>", "<think>x</think><answer>1</answer>"


class Changing(CountdownEnv):
    """A verifier that may turn strict, and a question that may change."""

    accepts = True
    words = ""

    def draw(self) -> CountdownTask:
        return CountdownTask((1, 2, 3), int(self.np_random.integers(100)), "1 + 2 + 3")

    def question(self, task: CountdownTask) -> str:
        return super().question(task) + self.words

    def verify(self, task: CountdownTask, answer: str) -> str | None:
        return None if self.accepts or answer == "1" else "wrong value"


gym.register("Changing-v0", entry_point=Changing)
gym.register("Echoing-v0", entry_point=EchoEnv)
CHANGING, ECHO = "test_rescoring:Changing-v0", "test_rescoring:Echoing-v0"


def alternating() -> Any:
    """Every second sample of a task has another answer."""
    said = iter([RIGHT, WRONG] * 100)
    ask = TextSampler(lambda conversations, *_: [Reply(next(said)) for _ in conversations])
    return text_subject("alternating", "1", ask, {})


def test_a_changed_verifier_shows_whose_verdicts_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate(alternating(), CHANGING, tmp_path / "then", num_tasks=3, samples=2)
    same = score_completions(tmp_path / "then", CHANGING, tmp_path / "same")
    assert (same["changed"], same["environments"][CHANGING]["accuracy"]) == ([], 1.0)
    monkeypatch.setattr(Changing, "accepts", False)
    now = score_completions(tmp_path / "then", CHANGING, tmp_path / "now")
    assert now["environments"][CHANGING]["accuracy"] == 0.5
    then, after = (pd.read_parquet(tmp_path / name / "records") for name in ("then", "now"))
    assert [(row["task"], row["sample"], row["then"], row["now"]) for row in now["changed"]] == [
        (task, 0, "right", "wrong") for task in dict.fromkeys(then["task"])
    ]
    judged = ["correct", "failure", "reward", "versions"]
    assert then.drop(columns=judged).astype(str).equals(after.drop(columns=judged).astype(str))
    assert after["reward"].tolist() == [0.1, 1.0] * 3
    monkeypatch.setattr(Changing, "words", " Hurry.")
    with pytest.raises(ValueError, match="asks another question now"):
        score_completions(tmp_path / "then", CHANGING, tmp_path / "other")


def test_turns_are_said_again(tmp_path: Path) -> None:
    evaluate(alternating(), ECHO, tmp_path / "then", num_tasks=2, samples=1)
    again = score_completions(tmp_path / "then", ECHO, tmp_path / "now")
    frame = pd.read_parquet(tmp_path / "now" / "records")
    assert (again["changed"], frame["reward"].tolist()) == ([], [1.25, 1.25])


def write(tmp_path: Path, rows: list[dict[str, Any]]) -> Path:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_lines_end_at_line_feeds_alone(tmp_path: Path) -> None:
    """JSON has U+2028 and its like as they are; Python's lines end there."""
    row = {"task": 0, "completion": "<think>a\u2028b\x85</think><answer>0</answer>"}
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(row, ensure_ascii=False) + "\r\n" + json.dumps(row) + "\n")
    assert read_rows(file) == [row, row]


def test_rows_of_other_tools(tmp_path: Path) -> None:
    env = "envs:Countdown-v0"
    evaluate(alternating(), env, tmp_path / "ours", num_tasks=2, samples=1)
    ours = pd.read_parquet(tmp_path / "ours" / "records")
    six = {"options": {"numbers": [1, 2, 3], "target": 6}}
    rows = [
        {"task": 1, "completion": f"<think></think><answer>{ours['right_answer'][1]}</answer>"},
        {"task": 0, "completion": "<answer>0</answer>", "finish_reason": "length"},
        {"seed": int(ours["seed"][0]), "completion": f"x</think><answer>{ours['right_answer'][0]}</answer>"},
        {**six, "completion": RIGHT},
        {"options": json.dumps(six["options"]), "completion": "\x1b[2J<answer>(((" + "9" * 9999},
    ]
    summary = score_completions(write(tmp_path, rows), env, tmp_path / "e")
    frame = pd.read_parquet(tmp_path / "e" / "records").sort_values(["seed", "sample"])
    by_task = frame.groupby("task")["correct"].apply(lambda verdicts: [*map(bool, verdicts)]).to_dict()
    assert by_task[ours["task"][0]] == [False, True]  # `task` 0 and its seed are one task
    assert by_task[ours["task"][1]] == [True]
    assert [True, False] in by_task.values() and len(by_task) == 3
    figures = summary["environments"][env]
    assert (figures["expected"], figures["scored"], figures["truncated"]) == (5, 5, 1)
    assert figures["accuracy"] == pytest.approx((0.5 + 1 + 0.5) / 3)
    rows = pd.DataFrame([{"task": 0, "completion": RIGHT}])  # type: ignore[assignment]
    rows.to_parquet(tmp_path / "rows.parquet")  # type: ignore[attr-defined]
    assert (
        score_completions(tmp_path / "rows.parquet", env, tmp_path / "p")["environments"][env]["scored"] == 1
    )


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"completion": "x"}, "row 0: it names no task: give it one of `task`"),
        ({"task": 0, "text": "x"}, "row 0 has no text in `completion`: it has task, text"),
        ({"task": -1, "completion": "x"}, "there is no held-out task -1"),
        ({"task": 10**12, "completion": "x"}, "there is no held-out task 10"),
        ({"seed": "1", "completion": "x"}, "row 0: 'str' object"),
    ],
)
def test_a_row_that_lacks_something_is_named(tmp_path: Path, row: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        score_completions(write(tmp_path, [row]), "envs:Countdown-v0", tmp_path / "e")
    assert not (tmp_path / "e").exists()
