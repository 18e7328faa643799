"""GSM8K and MATH: where rows come from, what is read of them, and what is paid."""

from __future__ import annotations

import json
import pickle
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import envs  # noqa: F401
from envs.math_word import GSM8KEnv, MATHEnv, right_answer
from support import REAL_DATA

needs_real_data = pytest.mark.skipif(not REAL_DATA.exists(), reason="needs the data sets in $LLMENV_DATA")


def write(file: Path, rows: Sequence[dict[str, Any]]) -> str:
    file.parent.mkdir(exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


@pytest.fixture(autouse=True)
def no_hub(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """A hub that says what it was asked for, and that it cannot be reached."""
    asked = []

    def load_dataset(name: str, config: str | None, split: str) -> None:
        asked.append((name, config, split))
        raise ConnectionError("no network")

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    monkeypatch.delenv("LLMENV_DATA", raising=False)
    return asked


@pytest.mark.parametrize(
    ("row", "answer"),
    [
        ({"answer": "She has 3 * 4 = <<3*4=12>>12.\n#### 12"}, "12"),
        ({"answer": "#### 5\nor rather\n#### 1,234,567 "}, "1234567"),
        ({"answer": "####-3"}, "-3"),
        ({"answer": "65"}, "65"),  # ASDiv
        ({"answer": 65}, "65"),
        ({"answer": "(1,2)", "solution": r"\boxed{3}"}, "(1,2)"),  # a comma is part of it
        ({"solution": r"First \boxed{1}, then $\boxed{\frac{3}{4}}$."}, r"\frac{3}{4}"),
        ({"answer": None, "solution": r"$\boxed 7$"}, "7"),
    ],
)
def test_right_answer(row: dict[str, Any], answer: str) -> None:
    assert right_answer(row) == answer


@pytest.mark.parametrize(
    "row", [{}, {"answer": ""}, {"answer": "so\n####"}, {"solution": "7"}, {"solution": None}]
)
def test_a_row_without_an_answer(row: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="no right answer"):
        right_answer(row)


def test_wording() -> None:
    env = GSM8KEnv(data="sample")
    question, _ = env.reset(options={"question": "What is {question}?", "answer": "1"})
    assert question == (
        "What is {question}?\n"
        "Show your work in <think> </think> tags. And return the final answer in <answer> </answer> tags."
    )
    env = MATHEnv(data="sample")
    question, _ = env.reset(options={"question": r"Halve $\frac{1}{2}$.", "answer": "1"})
    assert question.startswith("Halve $\\frac{1}{2}$.\nShow your work")
    assert question.endswith(r"It may be LaTeX, for example <answer> \frac{1}{2} </answer>.")
    env = MATHEnv(data="sample", question="Q: {question} A:")
    assert env.reset(options={"question": "1?", "answer": "1"})[0] == "Q: 1? A:"
    with pytest.raises(ValueError, match="question"):
        GSM8KEnv(data="sample", question="no field")


@pytest.mark.parametrize("env_class", [GSM8KEnv, MATHEnv])
def test_options(env_class: type[GSM8KEnv] | type[MATHEnv]) -> None:
    env = env_class(data="sample")
    assert len({env.reset(options={"index": i})[0] for i in range(env.num_tasks)}) == env.num_tasks
    env.reset(options={"index": np.int64(2)})
    assert env.task.row == 2
    env.reset(options={"question": "What is 6 times 7?", "answer": "42"})
    assert (env.task.answer, env.task.row) == ("42", None)
    for options in (
        {"index": env.num_tasks},
        {"index": -1},
        {"index": 1.0},
        {"index": "1"},
        {"index": 1, "answer": "a"},
        {"question": "a"},
        {"question": "a", "answer": 42},
        {"row": 1},
    ):
        with pytest.raises(ValueError, match=r"options=\{\"index\": "):
            env.reset(options=options)


def test_rewards() -> None:
    env = MATHEnv(data="sample")
    for answer, reward, failure in (
        ("0.5", 1.0, None),
        (r"$\frac{2}{4}$", 1.0, None),
        ("1/3", 0.1, "wrong value"),
        ("__import__('os').abort()", 0.1, None),
        ("1" * 100_000, 0.1, None),
    ):
        env.reset(options={"question": "Halve 1.", "answer": r"\frac{1}{2}"})
        _, got, terminated, _, info = env.step(f"<think> a </think><answer>{answer}</answer>")
        assert (got, terminated, info["correct"]) == (reward, True, reward == 1.0)
        assert failure is None or info["failure"] == failure


def test_the_samples_can_be_solved() -> None:
    for env_class in (GSM8KEnv, MATHEnv):
        for split in ("train", "test"):
            env = env_class(data="sample", split=split)
            for i in range(env.num_tasks):
                env.reset(options={"index": i})
                assert env.verify(env.task, f"${env.task.answer}$") is None


def test_the_folders_of_llmenv_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMENV_DATA", str(tmp_path))
    write(tmp_path / "gsm8k" / "train.jsonl", [{"question": "g", "answer": "#### 1"}])
    write(tmp_path / "math" / "train.jsonl", [{"problem": "m", "solution": r"\boxed{2}"}])
    write(tmp_path / "math500" / "test.jsonl", [{"problem": "t", "answer": "3"}])
    for env_class, split, task in (
        (GSM8KEnv, "train", ("g", "1", 0)),
        (MATHEnv, "train", ("m", "2", 0)),
        (MATHEnv, "test", ("t", "3", 0)),  # math has no such split
    ):
        env = env_class(split=split)
        env.reset(seed=0)
        assert env.task == task
    write(tmp_path / "math" / "test.jsonl", [{"problem": "own", "answer": "4"}])
    env = MATHEnv(split="test")
    env.reset(seed=0)
    assert env.task.question == "own"


def test_data_goes_before_the_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMENV_DATA", str(tmp_path))
    write(tmp_path / "gsm8k" / "train.jsonl", [{"question": "g", "answer": "1"}])
    env = GSM8KEnv(data=write(tmp_path / "other.jsonl", [{"question": "o", "answer": "2"}]))
    env.reset(seed=0)
    assert env.task.question == "o"


@pytest.mark.parametrize(
    ("env_class", "split", "asked"),
    [
        (GSM8KEnv, "train", ("openai/gsm8k", "main", "train")),
        (GSM8KEnv, "test", ("openai/gsm8k", "main", "test")),
        (MATHEnv, "train", ("DigitalLearningGmbH/MATH-lighteval", None, "train")),
        (MATHEnv, "test", ("HuggingFaceH4/MATH-500", None, "test")),
    ],
)
def test_the_hub_is_asked_last(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    no_hub: list[Any],
    env_class: type[GSM8KEnv] | type[MATHEnv],
    split: str,
    asked: tuple[Any, ...],
) -> None:
    monkeypatch.setenv("LLMENV_DATA", str(tmp_path))
    with pytest.raises(ValueError, match="found no data") as error:
        env_class(split=split)
    assert no_hub == [asked]
    for way in (
        "data=",
        f"{split}.jsonl",
        f"$LLMENV_DATA/{env_class.folders[0]}",
        'data="sample"',
        "no network",
    ):
        assert way in str(error.value)


def test_rows_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    class Dataset(list):
        column_names = ["problem", "solution", "level"]  # noqa: RUF012

        def select_columns(self, names: list[str]) -> Dataset:
            assert names == ["problem", "solution"]
            return self

    rows = Dataset({"problem": f"{n}?", "solution": rf"\boxed{{{n}}}"} for n in range(5))
    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=lambda *args, **kwargs: rows))
    env = MATHEnv(data="some/problems")
    env.reset(options={"index": 3})
    assert env.task == ("3?", "3", 3)
    assert pickle.loads(pickle.dumps(env)).step("<think></think><answer>3</answer>")[1] == 1.0


def test_data_of_another_kind_is_refused_at_once(tmp_path: Path) -> None:
    file = write(tmp_path / "x.jsonl", [{"text": "a"}])
    with pytest.raises(
        ValueError, match=r"x.jsonl has none of the columns question, problem, answer, solution"
    ):
        GSM8KEnv(data=file)
    file = write(tmp_path / "y.jsonl", [{"question": "a", "label": "b"}])
    with pytest.raises(ValueError, match=r"row 0 of .*y.jsonl: it has no right answer"):
        GSM8KEnv(data=file)
    file = write(tmp_path / "z.jsonl", [{"answer": "b"}])
    with pytest.raises(ValueError, match=r"row 0 of .*z.jsonl: it has neither `question` nor `problem`"):
        GSM8KEnv(data=file)


def test_a_bad_row_is_named(tmp_path: Path) -> None:
    file = write(tmp_path / "x.jsonl", [{"question": "a", "answer": "1"}, {"question": "b", "answer": ""}])
    env = GSM8KEnv(data=file)
    with pytest.raises(ValueError, match=r"row 1 of .*x.jsonl: it has no right answer"):
        env.reset(options={"index": 1})


def test_draws_cover_the_rows_evenly(tmp_path: Path) -> None:
    rows = [{"question": str(n), "answer": str(n)} for n in range(4)]
    env = GSM8KEnv(data=write(tmp_path / "x.jsonl", rows))
    env.reset(seed=0)
    counts = np.bincount([env.draw().row for _ in range(4000)])
    # 1000 each, standard deviation sqrt(4000 * 1/4 * 3/4) = 27.4; five of them are 137.
    assert len(counts) == 4 and abs(counts - 1000).max() < 137


@needs_real_data
@pytest.mark.parametrize(
    ("env_id", "folder", "split", "count"),
    [
        ("GSM8K-v0", "gsm8k", "train", 7473),
        ("GSM8K-v0", "gsm8k", "test", 1319),
        ("MATH-v0", "math500", "test", 500),
        ("MATH-v0", "asdiv", "train", 1788),
        ("GSM8K-v0", "asdiv", "train", 1788),
    ],
)
def test_every_row_of_the_real_data_is_a_task(env_id: str, folder: str, split: str, count: int) -> None:
    env = gym.make(env_id, data=str(REAL_DATA / folder), split=split).unwrapped
    assert env.num_tasks == count
    for i in range(count):
        env.reset(options={"index": i})
        assert env.task.question and env.task.answer
        if env_id == "GSM8K-v0" and folder == "gsm8k":
            assert float(env.task.answer) == int(
                float(env.task.answer)
            )  # the data set's answers are whole numbers
