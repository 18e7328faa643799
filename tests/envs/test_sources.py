"""Named data sets: rows of each one's schema, by a local copy and by the hub, become tasks with the right answer."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from envs.dataset import DatasetEnv
from envs.math_word import GSM8KEnv, MATHEnv
from envs.sources import SOURCES

DAPO_TEXT = (
    'Solve it. The last line is Answer: $Answer.\n\n2 + 2?\n\nPut it on a line of its own after "Answer:".'
)
DAPO = [{"role": "user", "content": DAPO_TEXT}]
# A row of each data set's columns, with what its question must hold, a right answer and a wrong one.
ROWS: dict[str, tuple[dict[str, Any], str, str, str]] = {
    "gsm8k": ({"question": "Half of 2,400?", "answer": "It is <<2400/2=1200>>1200.\n#### 1,200"}, "2,400", "1200", "1"),
    "math": (
        {"problem": "Halve $1$.", "level": "Level 1", "type": "Algebra", "solution": r"It is $\boxed{\frac{1}{2}}$."},
        "Halve", "0.5", "1",
    ),
    "math500": (
        {"problem": "Halve 6.", "solution": r"\boxed{3}", "answer": "3", "level": 1, "unique_id": "a"},
        "Halve", "3", "6",
    ),
    "aime": ({"id": 0, "problem": "P?", "solution": r"\boxed{033}", "answer": "33", "url": "u"}, "P?", "33", "3"),
    "aime2024": ({"id": 60, "problem": "P?", "solution": "s", "answer": "025", "year": "2024"}, "P?", "25", "2"),
    "amc": ({"id": 0, "problem": "P?", "answer": 142.0, "url": "u"}, "P?", "142", "1420"),
    "olympiadbench": (
        {
            "id": 1, "question": "Find $f(2)$.", "solution": ["$4$", "Also $4$"], "final_answer": ["$4$"],
            "context": "Let $f(x)=x^2$.", "modality": "Text-only", "is_multiple_answer": False, "unit": None,
            "answer_type": "Numerical", "subfield": "Algebra", "language": "English",
        },
        "Let $f(x)=x^2$. Find", "4", "2",
    ),
    "minerva": ({"question": "How fast?", "answer": "1.6"}, "How fast?", "1.6", "16"),
    "deepscaler": ({"problem": "P?", "answer": "-\\frac{2}{3}", "solution": "..."}, "P?", "-2/3", "2/3"),
    "big-math": (
        {"problem": "P?", "answer": "25\\%", "source": "math", "domain": ["Algebra"], "llama8b_solve_rate": 0.5},
        "P?", "25%", "24",
    ),
    "numinamath": (
        {
            "problem": "P?", "solution": "So $x=3$.", "answer": "3", "problem_type": "Algebra", "synthetic": False,
            "question_type": "math-word-problem", "problem_is_valid": "Yes", "solution_is_valid": "Yes", "source": "o",
        },
        "P?", "3", "4",
    ),
    "numinamath-cot": (
        {"source": "aops", "problem": "P?", "solution": r"$\boxed{1}$ and $\boxed{2}$.", "messages": []},
        "P?", "1, 2", "2",
    ),
    "openr1-math": (
        {"problem": "P?", "solution": "s", "answer": "7", "problem_type": "Algebra", "uuid": "a", "generations": ["g"]},
        "P?", "7", "8",
    ),
    "dapo-math-17k": (
        {
            "data_source": "math_dapo", "prompt": DAPO, "ability": "MATH", "extra_info": {"index": "a"},
            "reward_model": {"ground_truth": "4", "style": "rule-lighteval/MATH_v2"},
        },
        "2 + 2?", "4", "5",
    ),
    "asdiv": (
        {
            "body": "Two red and 7 green apples.", "question": "How many?", "solution_type": "Addition",
            "answer": "9 (apples)", "formula": "7+2=9",
        },
        "Two red and 7 green apples. How many?", "9", "7",
    ),
    "svamp": (
        {
            "ID": "chal-1", "Body": "Dan had $3 left of $4.", "Question": "What did the bar cost?", "Answer": "1",
            "Equation": "( 4.0 - 3.0 )", "Type": "Subtraction",
            "question_concat": "Dan had $3 left of $4. What did the bar cost?",
        },
        "Dan had $3 left of $4. What did the bar cost?", "1", "7",
    ),
    "countdown-3to4": ({"target": 98, "nums": [44, 19, 35]}, "[44, 19, 35]", "44 + 19 + 35", "44 + 19 - 35"),
}  # fmt: skip
OF_DATASET = {"dapo-math-17k", "countdown-3to4"}


def test_every_source_is_here() -> None:
    assert ROWS.keys() == SOURCES.keys()
    for name, source in SOURCES.items():
        assert source.train or source.test
        assert source.cite
        columns = {column.lower() for column in ROWS[name][0]}
        assert set(source.columns) <= columns, name


def judge(name: str, env: Any) -> None:
    _, asked, right, wrong = ROWS[name]
    assert env.num_tasks == 1
    for answer, verdict in ((right, True), (wrong, False)):
        assert asked in env.reset(seed=0)[0]
        assert env.step(f"<think>a</think><answer>{answer}</answer>")[4]["correct"] is verdict


@pytest.mark.parametrize("name", ROWS)
def test_a_local_copy(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    split = "train" if SOURCES[name].train else "test"
    folder = tmp_path / name
    folder.mkdir()
    (folder / f"{split}.jsonl").write_text(json.dumps(ROWS[name][0]))
    monkeypatch.setenv("LLMENV_DATA", str(tmp_path))
    monkeypatch.chdir(tmp_path.parent)
    classes = [DatasetEnv] if name in OF_DATASET else [GSM8KEnv, MATHEnv]
    for env_class in classes:
        for data in (name, str(folder)):
            judge(name, env_class(data=data, split=split))


@pytest.mark.parametrize("name", ROWS)
def test_the_hub(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    row = ROWS[name][0]

    class Dataset(list):
        column_names = tuple(row)

        def select_columns(self, names: list[str]) -> Dataset:
            return Dataset({name: row[name] for name in names} for row in self)

    def load_dataset(*args: Any, split: str) -> Dataset:
        asked.append((*args, split))
        return Dataset([row])

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    monkeypatch.delenv("LLMENV_DATA", raising=False)
    source = SOURCES[name]
    split = "train" if source.train else "test"
    judge(name, (DatasetEnv if name in OF_DATASET else MATHEnv)(data=name, split=split))
    hub, _, of_hub = (source.hub(split) or "").partition("@")
    owner_and_name, _, config = hub.partition(":")
    assert asked == [(owner_and_name, config or None, of_hub or split)]


def test_what_a_source_has_not(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("LLMENV_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ValueError, match=r"aime has no split 'train', only 'test': put train rows into \$LLMENV_DATA/aime"
    ):
        MATHEnv(data="aime")
    with pytest.raises(
        ValueError, match=r"svamp has the columns body, question, answer, which are for GSM8K-v0 or MATH-v0"
    ):
        DatasetEnv(data="svamp")
    with pytest.raises(
        ValueError, match=r"countdown-3to4 has the columns nums, target, which are for Dataset-v0"
    ):
        MATHEnv(data="countdown-3to4")
