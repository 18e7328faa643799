"""The data sets that `prepare_data` writes: what is in them, that they are disjoint and reproducible, and kills."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import typer
from rich.console import Console

from envs.countdown import split_of
from envs.dataset import DatasetEnv
from envs.math_word import GSM8KEnv
from envs.multiplication import MultiplicationEnv
from envs.multiplication import split_of as split_of_product
from experiments.prepare_data import RECIPES, Written, _summarize, main, prepare

SCRIPT = Path(__file__).parents[2] / "experiments" / "prepare_data.py"
PREAMBLE = (
    "A conversation between User and Assistant. The user asks a question, and the Assistant solves it. "
)


def rows(file: Path) -> list[dict[str, Any]]:
    return pq.read_table(file).to_pylist()


def judge(env: DatasetEnv, index: int, answer: str) -> bool:
    env.reset(options={"index": index})
    return env.step(f"<think> a </think>\n<answer> {answer} </answer>")[-1]["correct"]


def test_countdown(tmp_path: Path) -> None:
    main(task="countdown", out=tmp_path, num_train=300, num_test=60, seed=0, template="r1")
    assert {path.name for path in tmp_path.iterdir()} == {"train.parquet", "test.parquet"}
    keys: dict[str, set[Any]] = {}
    for split, count in (("train", 300), ("test", 60)):
        data = rows(tmp_path / f"{split}.parquet")
        assert len(data) == count
        for i, row in enumerate(data):
            assert list(row) == [
                "target", "nums", "data_source", "prompt", "ability", "reward_model", "extra_info"
            ]  # fmt: skip
            assert row["reward_model"]["ground_truth"] == {"target": row["target"], "numbers": row["nums"]}
            assert row["extra_info"] == {"split": split, "index": i}
            assert len(row["nums"]) in (3, 4) and split_of(row["nums"], row["target"]) == split
            (message,) = row["prompt"]
            assert message["role"] == "user" and message["content"].startswith(PREAMBLE)
            assert f"\nUser: Using the numbers {row['nums']}, create" in message["content"]
            assert message["content"].endswith("\nAssistant: Let me solve this step by step.\n<think>")
        keys[split] = {(*sorted(row["nums"]), row["target"]) for row in data}
        assert len(keys[split]) == count
    assert not keys["train"] & keys["test"]


def test_chat_leaves_the_template_to_the_trainer(tmp_path: Path) -> None:
    main(task="countdown", out=tmp_path, num_train=5, num_test=5, seed=0, template="chat")
    for row in rows(tmp_path / "train.parquet"):
        system, user = row["prompt"]
        assert (system["role"], user["role"]) == ("system", "user")
        assert system["content"].startswith("The assistant first thinks")
        assert user["content"].startswith(f"Using the numbers {row['nums']}, create")


@pytest.mark.parametrize("template", ["r1", "chat"])
@pytest.mark.parametrize("task", ["countdown", "multiplication"])
def test_dataset_v0_asks_what_the_environment_asks(tmp_path: Path, task: str, template: str) -> None:
    main(task=task, out=tmp_path, num_train=20, num_test=20, seed=0, template=template)
    source = RECIPES[task].env()
    names = {"countdown": ("nums", "target"), "multiplication": ("num1", "num2")}[task]
    for split in ("train", "test"):
        env = DatasetEnv(str(tmp_path), split=split)
        for i, row in enumerate(rows(tmp_path / f"{split}.parquet")):
            first, second = (row[name] for name in names)
            options = (
                {"numbers": first, "target": second} if task == "countdown" else {"a": first, "b": second}
            )
            question, info = source.reset(options=options)
            if task == "multiplication" and template == "chat":
                info["assistant_prefix"] = env.assistant_prefix  # its own beginning is no part of a chat
            assert env.reset(options={"index": i}) == (question, info)


def test_multiplication(tmp_path: Path) -> None:
    main(task="multiplication", out=tmp_path, num_train=200, num_test=50, seed=0, template="r1")
    data = rows(tmp_path / "train.parquet")
    assert len({tuple(sorted((row["num1"], row["num2"]))) for row in data}) == 200
    env = DatasetEnv(str(tmp_path))
    for i, row in enumerate(data):
        assert row["reward_model"]["ground_truth"] == row["result"] == row["num1"] * row["num2"]
        assert judge(env, i, str(row["num1"] * row["num2"]))
        assert not judge(env, i, str(row["num1"] * row["num2"] + 1))


def test_a_task_that_runs_out_repeats(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = replace(RECIPES["multiplication"], env=partial(MultiplicationEnv, digits=1))
    prepare(recipe, tmp_path, {"train": 200, "test": 5}, 0, "r1")
    pairs = [(row["num1"], row["num2"]) for row in rows(tmp_path / "train.parquet")]
    tasks = [(min(pair), max(pair)) for pair in pairs]
    there_are = {(a, b) for b in range(10) for a in range(b + 1) if split_of_product(a, b) == "train"}
    assert len(tasks) == 200
    assert set(tasks[: len(there_are)]) == there_are  # nothing repeats before all have been there
    assert f"train: there are no more than {len(there_are)} tasks" in capsys.readouterr().out


@pytest.fixture
def local_gsm8k(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for $LLMENV_DATA/gsm8k."""
    folder = tmp_path / "source" / "gsm8k"
    folder.mkdir(parents=True)
    for split, numbers in (("train", range(8)), ("test", range(10, 13))):
        lines = [
            json.dumps({"question": f"{n} + 1,000?", "answer": f"so\n#### {n + 1000:,}"}) for n in numbers
        ]
        (folder / f"{split}.jsonl").write_text("\n".join(lines))
    monkeypatch.setenv("LLMENV_DATA", str(folder.parent))
    return folder


def test_a_data_set_keeps_its_rows_and_their_order(tmp_path: Path, local_gsm8k: Path) -> None:
    main(task="gsm8k", out=tmp_path / "out", num_train=None, num_test=2, seed=0, template="chat")
    data = rows(tmp_path / "out" / "train.parquet")
    assert [row["prompt"][1]["content"].partition("?")[0] for row in data] == [
        f"{n} + 1,000" for n in range(8)
    ]
    assert [row["reward_model"]["ground_truth"] for row in data] == [str(n + 1000) for n in range(8)]
    assert {row["data_source"] for row in data} == {"openai/gsm8k"}
    assert len(rows(tmp_path / "out" / "test.parquet")) == 2
    env, made = DatasetEnv(str(tmp_path / "out"), split="test"), GSM8KEnv(split="test")
    assert env.reset(options={"index": 1}) == made.reset(options={"index": 1})
    assert judge(env, 1, "1,011.0") and not judge(env, 1, "1012")
    main(task="gsm8k", out=tmp_path / "out", num_train=1000, num_test=1000, seed=0, template="chat")
    assert [len(rows(tmp_path / "out" / f"{split}.parquet")) for split in ("train", "test")] == [8, 3]


def test_splits_with_a_task_in_common_are_refused(
    tmp_path: Path, local_gsm8k: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    main(task="gsm8k", out=out, num_train=None, num_test=None, seed=0, template="r1")
    before = {file.name: file.read_bytes() for file in out.iterdir()}
    with (local_gsm8k / "test.jsonl").open("a") as file:
        file.write('\n{"question": "3 + 1,000?", "answer": "1003"}')
    with pytest.raises(typer.Exit) as error:
        main(task="gsm8k", out=out, num_train=None, num_test=None, seed=0, template="r1")
    assert error.value.exit_code == 2
    assert "1 tasks are in both splits, such as '3 + 1,000?'" in capsys.readouterr().err
    assert {file.name: file.read_bytes() for file in out.iterdir()} == before


def test_the_seed_decides_every_byte(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        main(task="countdown", out=tmp_path / name, num_train=50, num_test=10, seed=seed, template="r1")
    for split in ("train", "test"):
        a, b, c = ((tmp_path / name / f"{split}.parquet").read_bytes() for name in "abc")
        assert a == b != c


def test_why_rows_are_left_out_is_shown_as_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "train.parquet").touch()
    written = Written(num_rows=1, keys={"1"}, refused=[ValueError("its gold is \x1b[2J")])
    _summarize(tmp_path, {"train": written}, Console())
    assert "train: 1 rows were left out, the first since its gold is \\x1b[2J\n" in capsys.readouterr().out


def test_a_killed_run_leaves_no_half_file(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, str(SCRIPT), "--task=countdown", f"--out={tmp_path}"], stdout=subprocess.DEVNULL
    )
    part = tmp_path / ".train.parquet.part"
    deadline = time.monotonic() + 120
    while not (part.exists() and part.stat().st_size > 100_000) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert [path.name for path in tmp_path.iterdir()] == [".train.parquet.part"]
    main(task="countdown", out=tmp_path, num_train=5, num_test=5, seed=0, template="r1")
    assert {path.name for path in tmp_path.iterdir()} == {"train.parquet", "test.parquet"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "chess"}, "no task 'chess': choose one of countdown, multiplication, gsm8k, math"),
        ({"template": "qwen"}, "no template 'qwen': choose one of r1, chat"),
    ],
)
def test_mistakes(
    tmp_path: Path, options: dict[str, str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments: dict[str, Any] = {"task": "countdown", "template": "r1", **options}
    with pytest.raises(typer.Exit):
        main(out=tmp_path / "out", num_train=1, num_test=1, seed=0, **arguments)
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
