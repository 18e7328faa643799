"""The command `generate.py`: what it keeps of samples that a function wrote, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from envs.multiplication import MultiplicationEnv
from experiments.common.keeping import Wanted, keep_records
from experiments.generate import app
from llmenv.conversations import load_demonstrations, question_of

# Of each question the first answer is right, the second unreadable, the third the first one again, the fourth wrong.
MODEL = """
import re, threading
seen, lock = {}, threading.Lock()

def say(question):
    with lock:
        seen[question] = seen.get(question, 0) + 1
        number = seen[question] - 1
    a, b = map(int, re.findall(r"[0-9]+", question)[:2])
    words = ("so it is", "so 我们 it is", "SO  it is", "so it is not")[number]
    return f"<think>{words}</think><answer>{a * b + (number == 3)}</answer>"
"""
COMMAND = ["--model=solver:say", "--env=Multiplication-v0", "--num-tasks=5", "--samples=4", "--output=kept"]


def test_right_readable_unique_and_not_held_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "solver.py").write_text(MODEL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    done = CliRunner().invoke(app, COMMAND)
    assert done.exit_code == 0, done.output
    funnel = {"sampled": 20, "right": 15, "readable": 10, "unique": 5, "not held out": 5, "kept": 5}
    funnel["verified anew"] = 5
    assert json.loads(Path("kept/summary.json").read_text())["funnel"] == {"envs:Multiplication-v0": funnel}
    kept = pd.read_parquet("kept/kept.parquet")
    assert kept["env_options"].tolist() == ['{"split": "train"}'] * 5
    assert kept["pass_rate"].tolist() == [0.75] * 5 and kept["num_samples"].tolist() == [4] * 5
    assert kept["task"].nunique() == 5
    for name in ("model", "fingerprint", "sampler", "versions", "why"):
        assert kept[name].str.len().min() > 0
    rows, numbers = load_demonstrations("kept")  # what is kept, not all records
    assert numbers == [0, 1, 2, 3, 4]
    answers = kept["answer"].tolist()
    with monkeypatch.context() as patched:  # a verdict of today, which is another one
        right = MultiplicationEnv.verify
        patched.setattr(
            MultiplicationEnv,
            "verify",
            lambda env, task, answer: "wrong value" if answer == answers[0] else right(env, task, answer),
        )
        wanted = keep_records(Path("kept"), Wanted())["envs:Multiplication-v0"]
    assert (wanted["kept"], wanted["verified anew"]) == (5, 5 - answers.count(answers[0]))
    assert answers[0] not in pd.read_parquet("kept/kept.parquet")["answer"].tolist()
    question = question_of(rows[0])
    Path("held_out.jsonl").write_text(json.dumps({"prompt": question.upper()}) + "\n")
    again = CliRunner().invoke(app, [*COMMAND, "--held-out=held_out.jsonl"])  # nothing is sampled anew
    assert again.exit_code == 0, again.output
    left = pd.read_parquet("kept/kept.parquet")
    assert (
        len(left) == 4
        and question not in left["messages"].map(lambda text: question_of({"prompt": text})).tolist()
    )

    with pytest.raises(ValueError, match="nothing of kept is kept"):  # no letter is Greek
        keep_records(Path("kept"), Wanted(script="GREEK"))
    # Neither what was kept before nor all records are learned from.
    with pytest.raises(ValueError, match=r"kept\.parquet holds no rows"):
        load_demonstrations("kept")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--keep=most"], "--keep must be one of all, best, shortest, got 'most'"),
        (["--env-set=split=test"], "split=test is what is held out"),
        (["--env-set", "split=test"], "split=test is what is held out"),
        (["--suite=arithmetic"], "--suite is of evaluate.py alone"),
        (["--parity", "4"], "--parity is of evaluate.py alone"),
        (["--sample=4"], "No such option: --sample"),
        (["--model=nope"], "There is no model 'nope'"),
    ],
)
def test_what_is_wrong_is_told(arguments: list[str], says: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, [*arguments, f"--output={tmp_path / 'e'}"])
    assert result.exit_code == 2
    assert says in " ".join(result.output.split())
    assert not (tmp_path / "e").exists()
