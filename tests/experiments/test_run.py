"""The command line, run tiny: what it leaves behind, and what it says to bad arguments."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from experiments.common.run_folder import checkpoints
from experiments.run import _sections, app
from pages import unpacked

ROOT = Path(__file__).parents[2]
SMALL = [
    "--iterations=6",
    "--prompts-per-iteration=4",
    "--group-size=4",
    "--max-new-tokens=40",
    "--eval-tasks=4",
    "--evaluate-every=3",
    "--set=run.checkpoint_every=2",
    "--set=run.show_every=1",
]


def run(*arguments: str, timeout: float = 600, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "experiments" / "run.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False, cwd=cwd)


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("run") / "first"
    done = run(f"--output={folder}", *SMALL)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done.stdout


def test_a_run_leaves_all_its_files(run_folder):
    folder, output = run_folder
    names = {path.name for path in folder.iterdir()}
    assert {"config.yaml", "progress.csv", "evaluations.csv", "curve.png", "summary.json", "policy"} <= names
    facts, completions = unpacked((folder / "report.html").read_text())
    assert facts["curves"][0]["series"][0]["x"] == [1, 2, 3, 4, 5, 6]
    assert len(completions) == 6 * 16 + 3 * 2 * 4 and facts["tables"][1]["rows"][0][:2] == ["6", "96"]
    assert any(name.startswith("events.out") for name in names)
    (start,) = (json.loads(line) for line in (folder / "starts.jsonl").read_text().splitlines())
    assert "run.py" in start["command"] and start["versions"]["torch"]
    assert "4 held-out tasks" in output and "before" in output and "after" in output

    progress = pd.read_csv(folder / "progress.csv")
    assert progress["iteration"].tolist() == [1, 2, 3, 4, 5, 6]
    assert (progress["num_episodes"] == 16).all()
    assert (progress["num_steps_skipped"] == 0).all()
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["num_eval_tasks"] == 4 and summary["samples"] == 96
    assert 0 <= summary["accuracy_before"] <= 1 and 0 <= summary["accuracy_after"] <= 1

    samples = pd.read_parquet(folder / "samples" / "train_000002.parquet")
    assert len(samples) == 16 and samples["completion"].str.startswith("Let me solve this").all()


def test_it_shows_completions_first_and_names_what_to_try_at_its_end(run_folder):
    folder, output = run_folder
    first = output.partition("evaluating on 4 held-out tasks")[0]
    assert first.count("─ a sample: reward") == 2
    evaluated = pd.read_parquet(folder / "samples" / "eval_sampled_000000.parquet")
    for completion in evaluated["completion"].head(2):
        assert all(word in first for word in completion.split())
    end = output.partition(f"are in\n{folder}\n")[2].splitlines()
    assert end[0] == f"next, open {folder}/report.html, load {folder}/policy, or try"
    assert [command.split()[1:4:2] for command in end[1:]] == [
        ["experiments/play.py", str(folder)],
        ["experiments/compare.py", str(folder)],
        ["experiments/run.py", str(folder)],
    ]
    assert end[3].endswith("--iterations 12")


def test_every_column_is_on_the_page_of_metrics(run_folder):
    folder, _ = run_folder
    told = set(re.findall(r"`([\w<>/*]+)`", (ROOT / "docs" / "metrics.md").read_text()))
    evaluations = [
        name.removeprefix("sampled_").removeprefix("greedy_")
        for name in pd.read_csv(folder / "evaluations.csv")
    ]
    columns = {*pd.read_csv(folder / "progress.csv"), *evaluations}
    assert len(columns) > 30 and columns <= told, columns - told


def test_the_readme_shows_what_a_run_prints(run_folder):
    """Its lines, but for the numbers, the folder, what a sample says and how wide a table is; "..." are others."""
    _, output = run_folder
    printed = {loosened(line) for line in output.splitlines()}
    block = re.search(r"^```\n(GRPO on .*?)^```", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE)
    shown = [loosened(line) for line in block[1].splitlines() if line != "..."]
    assert len(shown) >= 20
    assert {*shown} <= printed, {*shown} - printed


def loosened(line: str) -> str:
    line = re.sub(r"^( *after) +\d+ ", r"\1 ", line)  # after which iteration, where there are several
    line = re.sub(r"\(\w+\): fits", "(PHASE): fits", line)
    line = re.sub(r"^│.*", "│", re.sub(r"(?<=reward ).*(?= ─)", "AND VERDICT", line))
    line = re.sub(r"(?<![\w.])(runs)?/[^\s,]*?(?=/report|/policy|,|\s|$)", "FOLDER", line)
    return " ".join(re.sub(r"─+", "─", re.sub(r"\d+", "0", line)).split())


def test_the_final_policy_loads_in_plain_transformers(run_folder):
    folder, _ = run_folder
    model = AutoModelForCausalLM.from_pretrained(folder / "policy")
    tokenizer = AutoTokenizer.from_pretrained(folder / "policy")
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert "after 6 iterations of GRPO" in (folder / "policy" / "README.md").read_text()


def start(*arguments: str) -> subprocess.Popen:
    command = [sys.executable, str(ROOT / "experiments" / "run.py"), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_rows(process: subprocess.Popen, folder: Path, number: int) -> None:
    """Until so many iterations are in `progress.csv`."""
    file = folder / "progress.csv"
    while not file.exists() or len(file.read_text().splitlines()) <= number:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


def kill(folder: Path, process: subprocess.Popen, number: int) -> None:
    """After so many iterations, at whatever the next one is doing; checkpoints are of the even ones."""
    wait_for_rows(process, folder, number)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "it was over before it was killed"
    assert checkpoints(folder)[-1].name < "iteration_000006"


@pytest.fixture
def resume_here(ray_cluster, monkeypatch) -> Callable[..., None]:
    """Goes on to the end, in this process and on the Ray that is there: a start less to wait for."""
    monkeypatch.setattr("ray.init", lambda **kwargs: None)
    monkeypatch.setattr("ray.shutdown", lambda: None)

    def resume_here(folder: Path, *arguments: str) -> None:
        resumed = CliRunner().invoke(app, [f"--resume={folder}", *arguments])
        assert resumed.exit_code == 0, resumed.output
        assert "resumed after iteration" in resumed.output

    return resume_here


def metrics_of(folder: Path, table: str) -> pd.DataFrame:
    """All columns that are no times."""
    frame = pd.read_csv(folder / f"{table}.csv")
    return frame[[name for name in frame if not name.startswith("seconds") and name != "tokens_per_second"]]


def assert_same_run(ours: Path, theirs: Path, **tolerance: float) -> None:
    """Tasks and completions to the bit; metrics and weights too, unless there is a tolerance."""
    for table in ("progress", "evaluations"):
        pd.testing.assert_frame_equal(
            metrics_of(ours, table), metrics_of(theirs, table), check_exact=not tolerance, **tolerance
        )
    names = sorted(path.name for path in (theirs / "samples").iterdir())
    assert len(names) == 6 + 2 * 3  # an iteration each, and three evaluations, sampled and greedy
    assert names == sorted(path.name for path in (ours / "samples").iterdir())
    for name in names:
        pd.testing.assert_frame_equal(
            pd.read_parquet(ours / "samples" / name), pd.read_parquet(theirs / "samples" / name)
        )
    for weights, expected in zip(learned(ours), learned(theirs), strict=True):
        torch.testing.assert_close(
            weights, expected, rtol=tolerance.get("rtol", 0), atol=tolerance.get("atol", 0)
        )


def learned(folder: Path) -> list[torch.Tensor]:
    """The final weights, and the optimizer's moments."""
    state = torch.load(checkpoints(folder)[-1] / "learner_group" / "learner" / "engine.pt", weights_only=True)
    moments = [
        value[name] for value in state["optimizer"]["state"].values() for name in ("exp_avg", "exp_avg_sq")
    ]
    assert moments
    return [*load_file(folder / "policy" / "model.safetensors").values(), *moments]


def stop(folder: Path, process: subprocess.Popen, number: signal.Signals, rows: int, status: int) -> None:
    """After so many iterations, of which all but the first leave no checkpoint: what there is then is the stop's."""
    wait_for_rows(process, folder, rows)
    time.sleep(0.2)  # until the next one samples
    os.kill(process.pid, number)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == status, output + errors
    last = pd.read_csv(folder / "progress.csv")["iteration"].iloc[-1]
    assert f"stopped after iteration {last}: go on with --resume {folder}" in " ".join(output.split())
    assert checkpoints(folder)[-1].name == f"iteration_{last:06d}"


def test_a_killed_and_resumed_run_equals_an_uninterrupted_one(run_folder, tmp_path, resume_here):
    """Killed, then stopped by Ctrl-C where the first checkpoint after a start is an iteration behind."""
    whole, _ = run_folder
    assert (metrics_of(whole, "progress")["gradient_norm"] > 0).sum() >= 4, "else nothing is learned"
    folder = tmp_path / "run"
    kill(folder, start(f"--output={folder}", *SMALL), 3)
    stop(folder, start(f"--resume={folder}", "--set=run.checkpoint_every=100000"), signal.SIGINT, 4, 130)
    resume_here(folder)
    assert_same_run(folder, whole)


@pytest.mark.slow
def test_a_terminated_run_leaves_a_checkpoint(tmp_path):
    """Ray's own waiting for the runner is what the signal interrupts."""
    folder = tmp_path / "run"
    endless = ["--iterations=10000", "--set=run.checkpoint_every=100000", "--num-env-runners=1"]
    stop(folder, start(f"--output={folder}", *SMALL, *endless), signal.SIGTERM, 2, 143)


@pytest.fixture(scope="module")
def killed_with_one_of_each(tmp_path_factory):
    """The folder of a run with a runner and a learner in processes of their own, killed after its third iteration."""
    folder = tmp_path_factory.mktemp("one") / "run"
    kill(folder, start(f"--output={folder}", *SMALL, "--num-env-runners=1", "--num-learners=1"), 3)
    return folder


@pytest.mark.slow
def test_with_a_runner_and_a_learner_in_processes_of_their_own_too(
    run_folder, killed_with_one_of_each, tmp_path, resume_here
):
    """Killed, resumed, and to the bit the same run as one in a single process that went through."""
    whole, _ = run_folder
    folder = shutil.copytree(killed_with_one_of_each, tmp_path / "run")
    resume_here(folder)
    assert_same_run(folder, whole)


@pytest.mark.slow
def test_a_run_goes_on_with_any_number_of_processes(
    run_folder, killed_with_one_of_each, tmp_path, resume_here
):
    """Killed with one of each, then with two, it ends in one process as in that alone.

    The same but for the order in which two learners' gradients are added up.
    """
    whole, _ = run_folder
    folder = shutil.copytree(killed_with_one_of_each, tmp_path / "run")
    two = start(f"--resume={folder}", "--num-env-runners=2", "--num-learners=2")
    kill(folder, two, 5)
    resume_here(folder, "--num-env-runners=0", "--num-learners=0")
    assert_same_run(folder, whole, rtol=0, atol=1e-5)
    recorded = yaml.safe_load((folder / "config.yaml").read_text())
    assert (recorded["env_runners"]["num_env_runners"], recorded["learners"]["num_learners"]) == (0, 0)


@pytest.mark.parametrize(
    ("arguments", "section", "name", "value"),
    [
        ([], "training", "shared_prompts", None),
        (["--no-shared-prompts"], "training", "shared_prompts", False),
        (["--shared-prompts"], "training", "shared_prompts", True),
        (["--lr=1e-3"], "training", "lr", 1e-3),
        (["--lora-rank=8"], "policy", "lora_rank", 8),
        (["--num-learners=2"], "learners", "num_learners", 2),
    ],
)
def test_options_become_settings(arguments, section, name, value, monkeypatch):
    """None: the config's own default."""
    built = []
    monkeypatch.setattr(
        "experiments.common.launch.start", lambda algo, sections, *rest, **kwargs: built.append(sections)
    )
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.stderr
    assert built[0].get(section, {}).get(name) == value


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
        ({"policy": {}, "preset": {"policy": {"model": "smollm2-135m"}}}, True, "vllm"),
    ],
)
def test_vllm_samples_where_it_is_installed(options, installed, sampler, monkeypatch, tmp_path):
    """None: the config's own default, transformers."""
    monkeypatch.setattr("experiments.run.find_spec", lambda name: installed or None)
    preset = None
    if written := options.pop("preset", None):
        preset = str(tmp_path / "preset.yaml")
        Path(preset).write_text(yaml.safe_dump(written))
    assert _sections(["Countdown-v0"], preset, {}, options).get("sampling", {}).get("sampler") == sampler


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
    done = run(*SMALL, *command.split(), f"--output={tmp_path / 'run'}", cwd=tmp_path, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    progress = pd.read_csv(tmp_path / "run" / "progress.csv")
    assert progress["iteration"].tolist() == [1, 2]
    samples = pd.read_parquet(tmp_path / "run" / "samples" / "train_000002.parquet")
    assert len(samples) == 16 and samples["prompt"].str.contains("backwards").all()
