"""What `--check-data` finds in the rows of a data set: files as TinyZero and verl write them, and files with faults."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import typer
from rich.console import Console

from envs.countdown import QUESTION
from experiments.common.check_data import check_data, reader_of
from experiments.prepare_data import main
from llmenv.schema import Prompt, flat_prompt
from support import REAL_DATA

SYSTEM = "The assistant first thinks about the reasoning process in the mind and then provides the user with an answer."
HOSTILE = "\x1b[2J" + "1+" * 1000 + "1"  # long, and it would clear a terminal
MATH_BOXED = "Let's think step by step and output the final answer within \\boxed{}."


def write(file: Path, rows: list[dict[str, Any]]) -> Path:
    import pyarrow as pa

    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), file)
    else:
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def shown(data: Path | str, env_id: str | None = None) -> tuple[dict[str, Any], str]:
    console = Console(width=200, record=True, quiet=False, file=open("/dev/null", "w"))  # noqa: SIM115
    return check_data(str(data), env_id, console), console.export_text()


def tinyzero_row(i: int, split: str) -> dict[str, Any]:
    numbers, target = [i, i + 1, i + 2], 3 * i + 3
    question = QUESTION.replace("{numbers}", str(numbers)).replace("{target}", str(target))
    content = flat_prompt(Prompt(question, SYSTEM, "Let me solve this step by step.\n<think>"))
    return {
        "target": target,
        "nums": numbers,
        "data_source": "countdown",
        "prompt": [{"content": content, "role": "user"}],
        "ability": "math",
        "reward_model": {"ground_truth": {"numbers": numbers, "target": target}, "style": "rule"},
        "extra_info": {"index": i, "split": split},
    }


def verl_row(source: str, question: str, truth: str, split: str, i: int) -> dict[str, Any]:
    return {
        "data_source": source,
        "prompt": [{"content": question, "role": "user"}],
        "ability": "math",
        "reward_model": {"ground_truth": truth, "style": "rule"},
        "extra_info": {"answer": "...", "index": i, "question": question, "split": split},
    }


def gsm8k_row(i: int, split: str) -> dict[str, Any]:
    question = f'{i} + 1? Let\'s think step by step and output the final answer after "####".'
    return verl_row("openai/gsm8k", question, str(i + 1), split, i)


def math_row(i: int, split: str) -> dict[str, Any]:
    question = f"Halve {i}. {MATH_BOXED}"
    return verl_row("DigitalLearningGmbH/MATH-lighteval", question, rf"\frac{{{i}}}{{2}}", split, i)


def skyrl_row(i: int, split: str) -> dict[str, Any]:
    row = gsm8k_row(i, split)
    truth = row.pop("reward_model")["ground_truth"]
    return row | {"env_class": "gsm8k", "reward_spec": {"method": "rule", "ground_truth": truth}}


def countdown_3to4_row(i: int, split: str) -> dict[str, Any]:
    return {"target": 3 * i + 3, "nums": [i, i + 1, i + 2]}


@pytest.mark.parametrize("row", [tinyzero_row, gsm8k_row, math_row, skyrl_row, countdown_3to4_row])
def test_files_as_they_are_published_are_usable_throughout(tmp_path: Path, row: Any) -> None:
    write(tmp_path / "train.parquet", [row(i, "train") for i in range(1, 41)])
    write(tmp_path / "test.parquet", [row(i, "test") for i in range(101, 111)])
    found, text = shown(tmp_path)
    assert "as Dataset-v0 reads it" in " ".join(text.split())
    assert {split: (part.rows, part.usable) for split, part in found.items()} == {
        "train": (40, 40),
        "test": (10, 10),
    }
    for part in found.values():
        assert not part.unread and not part.refused and not part.repeated


def test_what_prepare_data_writes_is_usable_throughout(tmp_path: Path) -> None:
    for task in ("countdown", "multiplication"):
        main(task=task, out=tmp_path / task, num_train=30, num_test=10)
        found, _ = shown(tmp_path / task)
        assert [(part.usable, len(part.unread), part.repeated) for part in found.values()] == [
            (30, 0, 0),
            (10, 0, 0),
        ]


def test_faults_are_counted_and_told(tmp_path: Path) -> None:
    train = [
        {"problem": "1?", "answer": "proof"},  # the first row may be a bad one
        {"problem": "2?", "answer": "2"},
        {"problem": "2?", "answer": "2"},  # asked before
        {"problem": " 2?\n", "answer": "3"},  # asked before, with another gold
        {"problem": "3?", "answer": "Proof"},
        {"problem": "4?", "answer": ""},
        {"problem": ["5?"], "answer": "5"},
        {"problem": ["6?", "[bold]"], "answer": "6"},
        {"problem": "7?", "answer": HOSTILE},  # longer than what a verifier looks at
        {"problem": "8?", "solution": r"\boxed{8}"},
    ]
    write(tmp_path / "train.jsonl", train)
    write(tmp_path / "test.jsonl", [{"problem": "8?", "answer": "8"}, {"problem": "9?", "answer": "9"}])
    found, text = shown(tmp_path / "train.jsonl")
    part = found["train"]
    assert (part.rows, part.usable) == (10, 5)
    assert sorted(map(tuple, part.refused.values())) == [(0, 4), (5,), (6, 7)]
    assert part.unread == [(8, HOSTILE)]
    assert (part.repeated, part.contradicting) == (2, 1)
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines() if "│" in line]
    assert cells == [
        ["rows", "10", "2"],
        ["usable", "5", "2"],
        ["refused", "5", "0"],
        ["golds that do not accept themselves", "1", "0"],
        ["questions asked before", "2", "0"],
        ["of these, with another gold", "1", "0"],
        ["questions that are in both splits", "1", "1"],
    ]
    assert "train: 2 refused, the first is row 0: its column `answer` is the text 'proof'" in text
    assert "train: 1 refused, the first is row 5: it has no right answer" in text
    assert "train: 2 refused, the first is row 6: its column `problem` is the list ['5?']" in text
    assert (
        "train: the gold of row 8 is not read, so that only its own characters are right: \\x1b[2J1+1+1"
        in text
    )


def test_a_split_that_is_missing_is_told(tmp_path: Path) -> None:
    write(tmp_path / "test.jsonl", [{"question": "1?", "answer": "#### 1"}])
    found, text = shown(tmp_path)
    assert found.keys() == {"test"}
    assert "no split 'train': " in text and "as GSM8K-v0 reads it" in " ".join(text.split())


def test_rows_of_other_environments(tmp_path: Path) -> None:
    dialogue = gsm8k_row(1, "train")
    dialogue["prompt"] = [{"role": role, "content": "a"} for role in ("user", "assistant", "user")]
    scored = gsm8k_row(2, "train") | {"reward_model": {"score": 0.5}}
    write(tmp_path / "x.jsonl", [dialogue, scored, gsm8k_row(3, "train") | {"data_source": "codeforces"}])
    found, text = shown(tmp_path / "x.jsonl")
    assert found["train"].usable == 1
    assert "the turns user, assistant, user" in text and "'codeforces'" in text
    assert reader_of(str(tmp_path / "x.jsonl")) == "Dataset-v0"
    assert [reader_of(name) for name in ("dapo-math-17k", "svamp", "aime")] == [
        "Dataset-v0",
        "GSM8K-v0",
        "MATH-v0",
    ]


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path / "train.jsonl", [{"question": "1?", "answer": "#### 1"}])
    before = sorted(tmp_path.iterdir())
    main(check=str(file))
    assert "usable" in capsys.readouterr().out
    assert sorted(tmp_path.iterdir()) == before
    for arguments, message in (
        ({}, "say --task and --out to write a data set, or --check-data"),
        (
            {"check": str(file), "env": "Countdown-v0"},
            "no rows for --env Countdown-v0: choose one of Dataset-v0",
        ),
        ({"check": str(tmp_path / "absent.jsonl")}, "there is no file"),
    ):
        with pytest.raises(typer.Exit):
            main(**arguments)
        assert message in capsys.readouterr().err.replace("\n", " ")


def test_a_named_data_set_is_prepared_without_its_bad_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """NuminaMath has proofs among its problems."""
    numina = [("1?", "1"), ("2?", "proof"), ("3?", "notfound"), ("4?", "4"), ("5?", "5")]
    rows = [{"problem": problem, "answer": answer, "solution": "s"} for problem, answer in numina]
    write(tmp_path / "numinamath" / "train.jsonl", rows[1:] + rows[:1])
    monkeypatch.setenv("LLMENV_DATA", str(tmp_path))
    main(task="numinamath", out=tmp_path / "out", num_train=2, template="chat")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["train.parquet"]
    written = pq.read_table(tmp_path / "out" / "train.parquet").to_pylist()
    assert [row["reward_model"]["ground_truth"] for row in written] == ["4", "5"]
    out = " ".join(capsys.readouterr().out.split())
    assert "train: 2 rows were left out, the first since its column `answer` is the text 'proof'" in out
    found, _ = shown(tmp_path / "out")
    assert found["train"].usable == 2


@pytest.mark.parametrize(
    ("name", "rows"),
    [("gsm8k", {"train": 7473, "test": 1319}), ("math500", {"test": 500}), ("asdiv", {"train": 1788})],
)
def test_real_data_sets_are_usable_throughout(name: str, rows: dict[str, int]) -> None:
    if not (REAL_DATA / name).exists():
        pytest.skip(f"no {name} in $LLMENV_DATA")
    found, _ = shown(REAL_DATA / name)
    assert {split: part.usable for split, part in found.items()} == rows
    assert not any(part.unread for part in found.values())
