"""Rows that are read: files, splits, the hub."""

from __future__ import annotations

import json
import os
import pickle
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llmenv.data import load_rows

QA = ("question", "answer")


def jsonl(file: Path, rows: Sequence[dict[str, Any]]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def parquet(file: Path, rows: list[dict[str, Any]]) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), file)
    return file


def numbered(start: int, stop: int) -> list[dict[str, Any]]:
    return [{"question": f"{n} + 1", "answer": n + 1} for n in range(start, stop)]


@pytest.mark.parametrize(("write", "suffix"), [(jsonl, ".jsonl"), (parquet, ".parquet")])
class TestFiles:
    """Both formats, by every way to name a split."""

    def test_rows(self, tmp_path: Path, write: Any, suffix: str) -> None:
        rows = load_rows(write(tmp_path / f"x{suffix}", numbered(0, 5)), "train", QA)
        assert len(rows) == 5
        assert rows[3] == {"question": "3 + 1", "answer": 4}
        assert list(rows) == numbered(0, 5)
        assert rows.columns == QA
        assert rows.origin == str(tmp_path / f"x{suffix}")

    def test_only_the_columns_asked_for(self, tmp_path: Path, write: Any, suffix: str) -> None:
        file = write(tmp_path / f"x{suffix}", [{"a": 1, "b": 2, "c": 3}])
        assert list(load_rows(file, "train", ("c", "a", "z"))) == [{"c": 3, "a": 1}]

    def test_a_folder_joins_the_files_of_a_split_in_order(
        self, tmp_path: Path, write: Any, suffix: str
    ) -> None:
        write(tmp_path / f"train-00001-of-00002{suffix}", numbered(3, 5))
        write(tmp_path / f"train-00000-of-00002{suffix}", numbered(0, 3))
        write(tmp_path / f"test{suffix}", numbered(7, 9))
        (tmp_path / "README.md").write_text("no rows")
        assert list(load_rows(tmp_path, "train", QA)) == numbered(0, 5)
        assert list(load_rows(tmp_path, "test", QA)) == numbered(7, 9)

    def test_a_file_and_its_sibling(self, tmp_path: Path, write: Any, suffix: str) -> None:
        train = write(tmp_path / f"latest_train_v2{suffix}", numbered(0, 3))  # "latest" names no split
        test = write(tmp_path / f"latest_test_v2{suffix}", numbered(3, 5))
        for file in (train, test):
            assert list(load_rows(file, "train", QA)) == numbered(0, 3)
            assert list(load_rows(file, "test", QA)) == numbered(3, 5)

    def test_a_missing_sibling(self, tmp_path: Path, write: Any, suffix: str) -> None:
        train = write(tmp_path / f"train{suffix}", numbered(0, 3))
        with pytest.raises(
            ValueError, match=rf"no file .*test{suffix}, to be the test split of train{suffix}"
        ):
            load_rows(train, "test", QA)

    def test_a_column_that_says_the_split(self, tmp_path: Path, write: Any, suffix: str) -> None:
        rows = [{"question": str(n), "split": "test" if n % 3 == 0 else "train"} for n in range(7)]
        file = write(tmp_path / f"x{suffix}", rows)
        assert [row["question"] for row in load_rows(file, "train", QA)] == ["1", "2", "4", "5"]
        assert [row["question"] for row in load_rows(file, "test", QA)] == ["0", "3", "6"]
        assert len(load_rows(file, None, QA)) == 7

    def test_a_file_that_says_nothing_is_training_data(self, tmp_path: Path, write: Any, suffix: str) -> None:
        file = write(tmp_path / f"x{suffix}", numbered(0, 3))
        assert len(load_rows(file, "train", QA)) == 3
        with pytest.raises(ValueError, match=r"holds no rows of the split 'test': a row says its split by"):
            load_rows(file, "test", QA)
        assert len(load_rows(file, "test", QA, unnamed_split="test")) == 3

    def test_a_row_that_says_nothing_is_training_data(self, tmp_path: Path, write: Any, suffix: str) -> None:
        rows = [{"question": str(n), "split": "test" if n == 1 else None} for n in range(3)]
        file = write(tmp_path / f"x{suffix}", rows)
        assert [row["question"] for row in load_rows(file, "train", QA)] == ["0", "2"]
        assert [row["question"] for row in load_rows(file, "test", QA)] == ["1"]

    def test_no_such_column(self, tmp_path: Path, write: Any, suffix: str) -> None:
        file = write(tmp_path / f"x{suffix}", [{"a": 1}])
        with pytest.raises(ValueError, match=rf"x{suffix} has none of the columns question, answer"):
            load_rows(file, "train", QA)

    def test_no_rows_of_the_split(self, tmp_path: Path, write: Any, suffix: str) -> None:
        file = write(tmp_path / f"x{suffix}", [{"question": "1", "split": "train"}])
        with pytest.raises(ValueError, match=rf"x{suffix} holds no rows of the split 'test'"):
            load_rows(file, "test", QA)

    def test_held_once_and_read_again_when_the_file_changes(
        self, tmp_path: Path, write: Any, suffix: str
    ) -> None:
        file = write(tmp_path / f"x{suffix}", numbered(0, 3))
        first, second = load_rows(file, "train", QA), load_rows(file, "train", QA)
        assert first._table is second._table
        write(file, numbered(5, 9))
        os.utime(file, (0, 0))  # whatever the resolution of the file system's clock
        assert list(load_rows(file, "train", QA)) == numbered(5, 9)

    def test_a_pickle_says_only_where_the_rows_are(self, tmp_path: Path, write: Any, suffix: str) -> None:
        rows = load_rows(write(tmp_path / f"x{suffix}", numbered(0, 2000)), "train", QA)
        data = pickle.dumps(rows)
        assert len(data) < 1000
        assert list(pickle.loads(data)) == numbered(0, 2000)

    def test_a_relative_path_is_pickled_as_an_absolute_one(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Any, suffix: str
    ) -> None:
        write(tmp_path / f"x{suffix}", numbered(0, 2))
        monkeypatch.chdir(tmp_path)
        data = pickle.dumps(load_rows(f"x{suffix}", "train", QA))
        monkeypatch.chdir("/")
        assert len(pickle.loads(data)) == 2

    def test_beyond_the_end(self, tmp_path: Path, write: Any, suffix: str) -> None:
        rows = load_rows(write(tmp_path / f"x{suffix}", numbered(0, 2)), "train", QA)
        with pytest.raises(IndexError):
            rows[2]


def test_parquet_goes_before_jsonl(tmp_path: Path) -> None:
    jsonl(tmp_path / "train_example.jsonl", numbered(0, 1))
    parquet(tmp_path / "train.parquet", numbered(0, 3))
    assert len(load_rows(tmp_path, "train", QA)) == 3


def test_jsonl_rows_may_differ(tmp_path: Path) -> None:
    rows = [
        {"question": "a", "answer": "1"},
        {"question": "b", "answer": 2, "more": [1, {}]},
        {"question": "é"},
    ]
    file = tmp_path / "x.jsonl"
    file.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n\n", encoding="utf-8")
    assert list(load_rows(file, None, (*QA, "more"))) == rows


@pytest.mark.parametrize("line", ['{"question": ', "[1, 2]", "\x80"])
def test_a_line_that_is_no_object(tmp_path: Path, line: str) -> None:
    file = tmp_path / "x.jsonl"
    file.write_bytes(b'{"question": 1}\n' + line.encode("latin-1"))
    with pytest.raises(ValueError, match=r"line 2 of .*x.jsonl"):
        load_rows(file, "train", QA)


def test_half_a_parquet_file(tmp_path: Path) -> None:
    file = parquet(tmp_path / "x.parquet", numbered(0, 100))
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"x.parquet is no parquet file, or only part of one"):
        load_rows(file, "train", QA)


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no file .*absent.jsonl: give a .parquet or .jsonl file"):
        load_rows(tmp_path / "absent.jsonl", "train", QA)
    with pytest.raises(ValueError, match=r"no file .*absent"):
        load_rows("absent", "train", QA)  # no hub id, which has a slash
    (tmp_path / "notes.txt").write_text("a")
    with pytest.raises(ValueError, match=r"notes.txt is neither .parquet nor .jsonl"):
        load_rows(tmp_path / "notes.txt", "train", QA)
    with pytest.raises(ValueError, match=r"has no train\*.parquet or train\*.jsonl, but notes.txt"):
        load_rows(tmp_path, "train", QA)


class FakeDataset(list):
    """As much of `datasets.Dataset` as is used."""

    column_names = ["question", "answer", "extra"]  # noqa: RUF012

    def select_columns(self, names: list[str]) -> FakeDataset:
        return FakeDataset({name: row[name] for name in names} for row in self)


def test_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load_dataset(*args: Any, **kwargs: Any) -> FakeDataset:
        asked.append((args, kwargs))
        return FakeDataset({"question": "q", "answer": "a", "extra": 1} for _ in range(3))

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    rows = load_rows("some-owner/some_set:main", "test", QA)
    assert list(rows) == [{"question": "q", "answer": "a"}] * 3
    assert rows.origin == "some-owner/some_set:main"
    load_rows("some-owner/other.set", "train", QA)
    load_rows("some-owner/other.set", "train", QA)  # not again
    assert asked == [
        (("some-owner/some_set", "main"), {"split": "test"}),
        (("some-owner/other.set", None), {"split": "train"}),
    ]
    assert len(pickle.loads(pickle.dumps(rows))) == 3


def test_the_hub_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(*args: Any, **kwargs: Any) -> None:
        raise ConnectionError("Couldn't reach the Hub")

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    with pytest.raises(ValueError, match=r"no file or folder some/set, .*Couldn't reach the Hub.*network"):
        load_rows("some/set", "train", QA)
    monkeypatch.setitem(sys.modules, "datasets", None)  # as if it were not installed
    with pytest.raises(ValueError, match=r"pip install 'llmenv\[datasets\]'"):
        load_rows("some/set", "train", QA)
