"""The command `evaluate.py`: what it refuses, what it shows, and that it says what training said."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from algorithms.base import LLMAlgorithm
from experiments.common.ownership import claim
from experiments.common.saved_models import saved_model
from experiments.evaluate import app
from llmenv.evaluation import evaluate
from llmenv.evaluation.subject import load_subject
from pages import unpacked
from support import small_config
from updates import make_rows

ROOT = Path(__file__).parents[2]


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "experiments" / "evaluate.py"), *arguments]
    environment = {**os.environ, "COLUMNS": "80", "PYTHONPATH": ""}
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, env=environment)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--model=nope"], "There is no model 'nope'"),
        (["--model=no_such:thing", "--num-tasks=1"], "there is no function 'no_such:thing'"),
        (["--env=Nope-v0"], "there is no environment 'Nope-v0'"),
        (["--env-set=digits"], "--env-set 'digits' must have the form key=value"),
        (["--env-set=colour=red"], "does not take these options"),
        (["--sampler=sglang"], "--sampler must be one of transformers, vllm, got sglang"),
        (["--temperature=nan"], "--temperature must be from 0 to 2, got nan"),
        (["--template=xml"], "--template must be one of auto, r1, chat, raw, got xml"),
        (["--suite=nope"], "there is no suite 'nope'"),
        (["--suite=arithmetic", "--env=Countdown-v0"], "--suite takes the place of --env and --env-set"),
        (
            ["--suite=arithmetic", "--completions=x.parquet"],
            "--completions is no evaluation of a suite",
        ),
        (["--suite=arithmetic", "--parity=4"], "--parity is no evaluation of a suite"),
        (["--completions=nope.parquet"], "there is no nope.parquet"),
        (["--completions=README.md"], "README.md cannot be read"),
    ],
)
def test_what_is_wrong_is_told(arguments: list[str], says: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, [*arguments, f"--output={tmp_path / 'e'}"])
    assert result.exit_code == 2
    assert says in " ".join(result.output.split())
    assert not (tmp_path / "e").exists()


def test_a_misspelt_model_is_told_within_a_second_or_two(tmp_path: Path) -> None:
    start = time.monotonic()
    assert "There is no model 'nope'" in run("--model=nope", cwd=tmp_path).stderr
    assert time.monotonic() - start < 4  # half a second on a free machine


def test_the_command_shows_coverage_first_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "says_one.py").write_text("def say(text):\n    return '<think>x</think><answer>1</answer>'\n")
    command = [
        "--model=says_one:say",
        "--env=Countdown-v0",
        "--env=Multiplication-v0",
        "--num-tasks=5",
        "--output=e",
    ]
    first = run(*command, "--samples=1", cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    lines = first.stdout.splitlines()
    header = next(line for line in lines if "expected" in line)
    assert header.split() == [
        "environment",
        "expected",
        "scored",
        "errored",
        "truncated",
        "accuracy",
        "95",
        "%",
        "pass@1",
    ]
    row = next(line for line in lines if "Countdown-v0" in line)
    wilson = "0.0-43.4"  # of 0 of 5: z^2 / (5 + z^2)
    assert row.split() == ["Countdown-v0", "5", "5", "0", "0", "0.0", "%", wilson, "0.0", "%"]
    assert max(map(len, lines)) <= 80
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    done = CliRunner().invoke(app, [*command, "--samples=3"])
    assert done.exit_code == 0, done.output
    assert len(pd.read_parquet(tmp_path / "e" / "records")) == 30
    facts, completions = unpacked((tmp_path / "e" / "report.html").read_text())
    assert len(completions) == 30 and [row[:3] for row in facts["tables"][0]["rows"]] == [
        ["envs:Countdown-v0", "15", "15"], ["envs:Multiplication-v0", "15", "15"]
    ]  # fmt: skip
    refused = CliRunner().invoke(app, [*command, "--samples=3", "--seed=1"])
    assert refused.exit_code == 2 and "seed was 0 and is 1" in " ".join(refused.stderr.split())


def test_a_suite_has_a_folder_for_each_evaluation_and_records_can_be_scored_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Path("says_six.py").write_text("def say(text):\n    return '<think>x</think><answer>6</answer>'\n")
    asked = ["--model=says_six:say", "--suite=arithmetic", "--num-tasks=3", "--samples=1"]
    result = CliRunner().invoke(app, asked)
    assert result.exit_code == 0, result.output
    folder = Path("evaluations", "says_six.say-arithmetic")
    assert sorted(path.name for path in folder.iterdir()) == [
        "countdown-3-4",
        "countdown-5-6",
        "multiplication",
    ]
    assert {len(pd.read_parquet(path / "records")) for path in folder.iterdir()} == {3}
    settings = json.loads((folder / "countdown-5-6" / "evaluation.json").read_text())
    assert (settings["seed"], settings["env_options"]) == (1, {"num_numbers": [5, 6]})
    records = folder / "countdown-3-4" / "records" / "part_000000.parquet"
    changed = pd.read_parquet(records)
    changed.loc[1, "correct"] = True  # as if the verifier had been more generous then
    changed.to_parquet("then.parquet")
    result = CliRunner().invoke(app, ["--completions=then.parquet"])
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert "verdicts that have changed: 1" in lines
    row = next(line.split() for line in lines if "->" in line and "right -> wrong" in line)
    assert row[:5] == [changed["task"][1], "0", "right", "->", "wrong"]


def test_a_folder_is_one_process_s_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Path("says_nothing.py").write_text("def say(text):\n    return ''\n")
    command = ["--model=says_nothing:say", "--num-tasks=1", "--samples=1", "--output=e"]
    claimed = claim(tmp_path / "e", resuming=False)
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 2
    assert f"e is being written by process {os.getpid()} on " in " ".join(result.output.split())
    assert not (tmp_path / "e" / "records").exists()
    claimed.release()
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0 and (tmp_path / "e" / "records").exists(), result.output


def said(algorithm: LLMAlgorithm) -> dict[str, list[str]]:
    """What it says in an evaluation, sampled and greedily."""
    algorithm.evaluate()
    return {name: [e.transcript for e in found] for name, found in algorithm.last_evaluation.items()}


@pytest.fixture(scope="module", params=[{}, {"lora_rank": 2}], ids=["whole", "adapters"])
def trained(
    request: pytest.FixtureRequest,
    ray_cluster: None,
    model_folder: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[LLMAlgorithm, Path]]:
    """An algorithm, whose update has changed what it says, and the folder of its run."""
    config = small_config(model_folder, lr=1e-2).policy(**request.param)
    algorithm = config.build_algo()
    algorithm.train()  # which changes nothing: no sample of the random model's is right
    before = said(algorithm)
    algorithm.update_rows(make_rows())
    algorithm.runners.sync_weights()
    after = said(algorithm)
    assert all(before[name] != after[name] for name in ("sampled", "greedy"))
    folder = tmp_path_factory.mktemp("run")
    algorithm.save_to_path(str(folder / "checkpoints" / "iteration_000001"))
    yield algorithm, folder
    algorithm.stop()


@pytest.mark.parametrize("temperature", [1.0, 0.0])
def test_training_and_evaluate_give_one_number(
    trained: tuple[LLMAlgorithm, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, temperature: float
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    algorithm, folder = trained
    algorithm.evaluate()
    episodes = algorithm.last_evaluation["sampled" if temperature else "greedy"]
    model = saved_model(str(folder))
    assert saved_model(str(folder / "checkpoints" / "iteration_000001")) == model
    summary = evaluate(
        load_subject(model),
        "envs:Countdown-v0",
        tmp_path / "e",
        num_tasks=16,
        samples=1,
        max_new_tokens=24,
        temperature=temperature,
    )
    frame = pd.read_parquet(tmp_path / "e" / "records")
    assert frame["completion"].tolist() == [episode.transcript for episode in episodes]
    assert frame["reward"].tolist() == [episode.total_reward for episode in episodes]
    assert [*map(list, frame["response_ids"])] == [e.turns[0].response_ids.tolist() for e in episodes]
    right = sum(episode.turns[-1].info["correct"] for episode in episodes)
    assert summary["environments"]["envs:Countdown-v0"]["accuracy"] == right / 16


def test_records_say_where_they_come_from(model_folder: str, tmp_path: Path) -> None:
    command = [f"--model={model_folder}", "--num-tasks=2", "--samples=2", "--max-new-tokens=4"]
    done = CliRunner().invoke(app, [*command, f"--output={tmp_path / 'e'}"])
    assert done.exit_code == 0, done.output
    settings = json.loads((tmp_path / "e" / "evaluation.json").read_text())
    assert (settings["model"], settings["sampler"], settings["template"]) == (
        model_folder,
        "transformers",
        "r1",
    )
    row = pd.read_parquet(tmp_path / "e" / "records").iloc[0]
    assert row["fingerprint"] == settings["fingerprint"]
    assert json.loads(row["versions"]).keys() >= {"torch", "transformers", "llmenv"}
