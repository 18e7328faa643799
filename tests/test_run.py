"""The command line, run tiny: what it leaves behind, and what it says to bad arguments."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pandas as pd
import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from experiments.run import _sections, app

ROOT = Path(__file__).parent.parent
SMALL = [
    "--prompts-per-iteration=2",
    "--group-size=2",
    "--max-new-tokens=24",
    "--eval-tasks=4",
    "--evaluate-every=2",
    "--set=run.checkpoint_every=1",
    "--set=run.show_every=1",
]


def run(*arguments: str, timeout: float = 240, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "experiments" / "run.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False, cwd=cwd)


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("run") / "first"
    done = run("--iterations=2", f"--output={folder}", *SMALL)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done.stdout


def test_a_run_leaves_all_its_files(run_folder):
    folder, output = run_folder
    names = {path.name for path in folder.iterdir()}
    assert {"config.yaml", "progress.csv", "evaluations.csv", "curve.png", "summary.json", "policy"} <= names
    assert any(name.startswith("events.out") for name in names)
    assert "4 held-out tasks" in output and "before" in output and "after" in output

    progress = pd.read_csv(folder / "progress.csv")
    assert progress["iteration"].tolist() == [1, 2]
    assert (progress["num_episodes"] == 4).all()
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["num_eval_tasks"] == 4 and summary["samples"] == 8
    assert 0 <= summary["accuracy_before"] <= 1 and 0 <= summary["accuracy_after"] <= 1

    samples = pd.read_parquet(folder / "samples" / "train_000002.parquet")
    assert len(samples) == 4 and samples["completion"].str.startswith("Let me solve this").all()


def test_the_final_policy_loads_in_plain_transformers(run_folder):
    folder, _ = run_folder
    model = AutoModelForCausalLM.from_pretrained(folder / "policy")
    tokenizer = AutoTokenizer.from_pretrained(folder / "policy")
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id


def test_a_resumed_run_equals_an_uninterrupted_one(run_folder, tmp_path):
    """Two iterations and then one more give the weights, the tasks and the samples of three in one go."""
    folder, _ = run_folder
    resumed = run(f"--resume={folder}", "--iterations=3")
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    whole = run("--iterations=3", f"--output={tmp_path / 'whole'}", *SMALL)
    assert whole.returncode == 0, whole.stdout + whole.stderr

    for name in ("train_000003.parquet", "eval_sampled_000003.parquet"):
        pd.testing.assert_frame_equal(
            pd.read_parquet(folder / "samples" / name), pd.read_parquet(tmp_path / "whole" / "samples" / name)
        )
    assert pd.read_csv(folder / "progress.csv")["iteration"].tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--env=Nope-v0"], "there is no environment 'Nope-v0'"),
        (["--algo=Nope"], "there is no algorithm 'Nope'"),
        (["--model=nope"], "no model 'nope'"),
        (["--minibatch-size=7"], "minibatch_size=7 must divide"),
        (["--preset=nope"], "there is no preset 'nope'"),
        (["--resume=nowhere"], "is no run folder"),
    ],
)
def test_bad_arguments_fail_with_the_remedy(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 2
    assert message in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert not any(tmp_path.iterdir()), "a refused run leaves nothing behind"


@pytest.mark.parametrize(
    ("options", "installed", "sampler"),
    [
        ({"policy": {"model": "smollm2-135m"}}, True, "vllm"),
        ({"policy": {"model": "smollm2-135m"}}, False, None),
        (
            {"policy": {"model": "smollm2-135m"}, "sampling": {"sampler": "transformers"}},
            True,
            "transformers",
        ),
        ({"policy": {"model": "tiny-zero"}}, True, None),
        ({"policy": {}}, True, None),
    ],
)
def test_vllm_samples_where_it_is_installed(options, installed, sampler, monkeypatch):
    """None: the config's own default, transformers."""
    monkeypatch.setattr("experiments.run.find_spec", lambda name: installed or None)
    assert _sections("Countdown-v0", None, [], options)["sampling"].get("sampler") == sampler


@pytest.mark.slow
def test_contributings_environment_trains_from_a_directory_of_its_own(tmp_path):
    """The module and the command, as CONTRIBUTING has them."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    (block,) = re.findall(
        r"```python\n(.*?register\(id=\"Reverse-v0\", entry_point=\"my_module.*?)```", text, re.DOTALL
    )
    code = textwrap.dedent(block)
    assert len(code.splitlines()) < 40
    (tmp_path / "my_module.py").write_text(code)
    (command,) = re.findall(r"python experiments/run.py (--env my_module.*)", text)
    done = run(*command.split(), f"--output={tmp_path / 'run'}", *SMALL, cwd=tmp_path, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    progress = pd.read_csv(tmp_path / "run" / "progress.csv")
    assert progress["iteration"].tolist() == [1, 2]
    samples = pd.read_parquet(tmp_path / "run" / "samples" / "train_000002.parquet")
    assert len(samples) == 4 and samples["prompt"].str.contains("backwards").all()


def test_ctrl_c_leaves_a_checkpoint(tmp_path):
    folder = tmp_path / "run"
    command = [
        sys.executable,
        str(ROOT / "experiments" / "run.py"),
        "--iterations=10000",
        f"--output={folder}",
    ]
    process = subprocess.Popen(
        [*command, *SMALL, "--set=run.checkpoint_every=100000"], stdout=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 200
    while not (folder / "progress.csv").exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    os.kill(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "--resume" in output
    assert list((folder / "checkpoints").glob("iteration_*"))
