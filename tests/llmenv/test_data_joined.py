"""Several files of one split: which belong to it, and what may not be read as one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llmenv.data import load_rows, split_files

QA = ("question", "answer")


def write(file: Path, rows: list[dict[str, Any]]) -> None:
    file.parent.mkdir(exist_ok=True, parents=True)
    if file.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), file)
    else:
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def rows(start: int, stop: int) -> list[dict[str, Any]]:
    return [{"question": f"{n}?", "answer": str(n)} for n in range(start, stop)]


@pytest.mark.parametrize(
    ("files", "taken"),
    [
        (["test.jsonl", "test_socratic.jsonl"], ["test.jsonl"]),
        (["test.jsonl", "test_hard.jsonl", "test_backup.jsonl"], ["test.jsonl"]),
        (["test.parquet", "test_socratic.parquet"], ["test.parquet"]),
        (["test.jsonl", "test_socratic.parquet"], ["test.jsonl"]),
        (["test.jsonl", "test-00000-of-00001.jsonl"], ["test.jsonl"]),
        (
            [
                "test-00000-of-00002.parquet",
                "test-00001-of-00002.parquet",
                "test_socratic-00000-of-00001.parquet",
            ],
            ["test-00000-of-00002.parquet", "test-00001-of-00002.parquet"],
        ),
        (["test-00000-of-00001-0a1b2c.parquet", "test_old.parquet"], ["test-00000-of-00001-0a1b2c.parquet"]),
        (["test_0.jsonl", "test_1.jsonl", "test_all.jsonl"], ["test_0.jsonl", "test_1.jsonl"]),
        (["test_easy.jsonl", "test_hard.jsonl"], ["test_easy.jsonl", "test_hard.jsonl"]),
        (["train.jsonl"], []),
    ],
)
def test_the_files_of_a_split(tmp_path: Path, files: list[str], taken: list[str]) -> None:
    for i, name in enumerate(files):
        write(tmp_path / name, rows(10 * i, 10 * i + 3))
    assert [file.name for file in split_files(tmp_path, "test")] == taken
    if taken:
        assert len(load_rows(tmp_path, "test", QA)) == 3 * len(taken)


@pytest.mark.parametrize(
    "names",
    [
        ("train_main.jsonl", "train_socratic.jsonl"),
        ("train_v1.parquet", "train_v2.parquet"),
        ("train-easy.jsonl", "train-hard.jsonl"),
        ("train_100.jsonl", "train_1000.jsonl"),
        ("train-00000-of-00001.parquet", "train-00000-of-00002.parquet"),
    ],
)
def test_variants_of_the_same_rows_are_refused(tmp_path: Path, names: tuple[str, str]) -> None:
    write(tmp_path / names[0], rows(0, 5))
    write(tmp_path / names[1], [row | {"answer": "other"} for row in rows(3, 9)])
    with pytest.raises(ValueError, match=rf"{names[0]} and {names[1]} have 2 of the same questions.* data="):
        load_rows(tmp_path, "train", QA)


def test_numbered_parts_of_one_whole_may_repeat_themselves(tmp_path: Path) -> None:
    for i in range(2):
        write(tmp_path / f"train-0000{i}-of-00002.parquet", rows(0, 5))
    data = load_rows(tmp_path, "train", QA)
    assert len(data) == 10
    assert data.where(7).endswith(f"row 7 of {tmp_path}, row 2 of train-00001-of-00002.parquet")


def test_other_columns_are_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path / "train_a.jsonl", [{"question": "1?", "answer": "1"}])
    write(tmp_path / "train_b.jsonl", [{"question": "2?"}])
    assert list(load_rows(tmp_path, "train", QA)) == [{"question": "1?", "answer": "1"}, {"question": "2?"}]
    assert "train_b.jsonl are read as one, and have other columns (question, answer; question)" in caplog.text


TINYZERO = {"target": 3, "numbers": [1, 2]}


@pytest.mark.parametrize(
    ("first", "second", "types"),
    [
        (
            {"answer": "1"},
            {"answer": 2},
            r"answer is string in .*train-0.parquet and int64 in train-1.parquet",
        ),
        ({"answer": 2.5}, {"answer": "2"}, "answer is double in .* and string in train-1.parquet"),
        ({"answer": ["1"]}, {"answer": "1"}, "answer is list<.*> in .* and string in train-1.parquet"),
        ({"answer": [1]}, {"answer": ["1"]}, "answer is list<.*> in .* and list<.*> in train-1.parquet"),
        (
            {"reward_model": {"ground_truth": TINYZERO}},
            {"reward_model": {"ground_truth": "3"}},
            "reward_model is struct",
        ),
        ({"prompt": "a"}, {"prompt": [{"role": "user", "content": "a"}]}, "prompt is string in .* and list"),
    ],
)
def test_shards_of_other_types_are_named(tmp_path: Path, first: Any, second: Any, types: str) -> None:
    for i, row in enumerate((first, second)):
        write(tmp_path / f"train-{i}.parquet", [{"question": f"{i}?"} | row])
    with pytest.raises(
        ValueError, match=rf"the column {types}.*: write it with one type, or put the files into"
    ):
        load_rows(tmp_path, "train", (*QA, "reward_model", "prompt"))


def test_shards_of_like_types_are_read(tmp_path: Path) -> None:
    for i, kind in enumerate((pa.int32(), pa.int64(), pa.float64(), pa.null())):
        answers = pa.array([None if kind == pa.null() else i], kind)
        pq.write_table(pa.table({"question": [f"{i}?"], "answer": answers}), tmp_path / f"train-{i}.parquet")
    assert [row["answer"] for row in load_rows(tmp_path, "train", QA)] == [0, 1, 2.0, None]


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
def test_columns_in_another_case(tmp_path: Path, suffix: str) -> None:
    write(tmp_path / f"x{suffix}", [{"Question": "1?", "ANSWER": "1", "Body": "b"}])
    data = load_rows(tmp_path / f"x{suffix}", "train", (*QA, "body", "Body"))
    assert list(data) == [{"question": "1?", "answer": "1", "body": "b", "Body": "b"}]
    write(tmp_path / f"z{suffix}", [{"question": "1?", "a": 1}])
    assert list(load_rows(tmp_path / f"z{suffix}", "train", (*QA, "A"))) == [{"question": "1?"}]
    write(tmp_path / f"y{suffix}", [{"Question": "no", "question": "1?"}])
    assert list(load_rows(tmp_path / f"y{suffix}", "train", QA)) == [{"question": "1?"}]


def test_a_folder_that_is_not_there_is_named_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import sys

    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "datasets", None)  # as if it were not installed
    for name in ("data/countdown", "data/x.v2", "runs/rows:main"):
        with pytest.raises(
            ValueError, match=rf"^there is no file or folder {name.partition(':')[0]}, .*{tmp_path}"
        ):
            load_rows(name, "train", QA)
    for name in ("data/sets/countdown", "./data/countdown", "/data/countdown"):
        with pytest.raises(ValueError, match=r"there is no file .*data/.*countdown: give"):
            load_rows(name, "train", QA)
