"""The commands of the pages on capabilities run as they are written, at small sizes.

They share a folder, and a bucket on a server of this machine, in the order of the pages, so that one finds what another
has left. What is put in place of what is written: sizes behind it, a server's address, and a folder of the reader's.
`NOT_RUN` names what is not run, and why.
"""

from __future__ import annotations

import importlib
import json
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import yaml
from typer.testing import CliRunner

from endpoint_server import Server, serving
from experiments.recipes import recipe
from qwen import make_folders
from s3_server import s3_bucket, write
from written import PAGES, commands

pytestmark = pytest.mark.slow

CAPABILITIES = ("evaluate", "read", "sft", "sweeps", "r1", "storage", "cluster")
READ = (*(f"docs/{name}.md" for name in CAPABILITIES), "README.md")
# Sizes: given behind what is written, where the last one counts.
ASKED = ["--samples=2", "--max-new-tokens=48"]
LEARNS = ["--prompts-per-iteration=2", "--max-new-tokens=48", "--eval-tasks=2"]
# By a word of the command, the first of these that it has.
SMALL = {
    "experiments/evaluate.py": ["--num-tasks=2", *ASKED],
    "experiments/generate.py": ["--num-tasks=16", *ASKED],  # of the embedded model about a third is right
    "experiments/play.py": ["--max-new-tokens=48"],
    "--plan": [],
    "--resume": ["--iterations=2"],
    "SFT": LEARNS,
    "experiments/run.py": ["--iterations=1", "--group-size=2", *LEARNS],
}
# The beginnings of commands that are not run here, and why. Of the README's those that train have tests of their own.
NOT_RUN = {
    "make ": "it installs, or it is what CI does",
    "pip ": "it installs",
    "python3 -m venv ": "it installs",
    "python experiments/evaluate.py --model smollm2-135m --parity ": "a download, and vLLM: test_parity.py",
    "python experiments/evaluate.py --model smollm2-135m --env GSM8K-v0 ": "a download, and rows of GSM8K",
    "llmenv ": "experiments/test_cli.py: each is its script's own function",
    "python experiments/r1.py --preset smollm2_gsm8k ": "an hour, and rows of GSM8K",
    "python experiments/r1.py --preset r1_qwen ": "billions of parameters, on GPUs",
    "python experiments/r1.py --preset r1_tiny --compare-with rl ": "minutes: recipes/test_road.py compares",
    "python experiments/run.py --preset qwen2.5_0.5b --model /models/Qwen2.5-0.5B --env ": "a GPU",
    "python experiments/run.py --preset qwen2.5_7b --model /models/Qwen2.5-7B --env ": "eight GPUs",
    "python experiments/run.py --address auto ": "on two nodes: experiments/test_cluster.py",
    "python experiments/benchmarks/": "minutes",
    "python experiments/sweep.py ": "minutes, a process a trial: sweeps/test_sweep.py, test_sweep_command.py",
}
TRAINS = {"python experiments/run.py ": "it trains: test_run.py and its neighbours"}


def reason(page: str, command: str) -> str | None:
    """Why a command is not run; None of one that is."""
    named = {**NOT_RUN, **(TRAINS if page == "README.md" else {})}
    return next((why for begins, why in named.items() if f"{command} ".startswith(begins)), None)


FOUND = [(page, command.partition("   ")[0].strip()) for page in READ for command in commands(PAGES[page])]
RUN = list(dict.fromkeys(command for page, command in FOUND if reason(page, command) is None))


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving() as server:
        yield server


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, ray_cluster: None) -> Iterator[Path]:
    """A reader's folder: two runs, answers of another tool, demonstrations, models, R1's recipe with small numbers.

    And rows in the bucket.
    """
    folder = tmp_path_factory.mktemp("reader")
    with pytest.MonkeyPatch.context() as patched, s3_bucket(folder / "cache") as bucket:
        patched.chdir(folder)
        patched.setattr("ray.init", lambda **kwargs: None)
        patched.setattr("ray.shutdown", lambda: None)
        run = ["run.py", "--iterations=1", "--group-size=2", *LEARNS]
        invoke([*run, "--output=runs/A"])
        shutil.copytree("runs/A", "runs/B")
        shutil.copytree("runs/A", "runs/Countdown-v0-GRPO-tiny-20261122-120000")
        said = "<think>x</think><answer>1</answer>"
        Path("answers.jsonl").write_text(json.dumps({"task": 0, "completion": said}) + "\n")
        pd.DataFrame({"prompt": ["1 + 1?"] * 4, "completion": [said] * 4}).to_parquet("demos.parquet")
        pair = json.dumps({"prompt": "1 + 1?", "completion": said}) + "\n"
        write(f"{bucket}/rows.jsonl", pair * 4)
        for split in ("train", "test"):
            write(f"{bucket}/rows/{split}.jsonl", json.dumps(verl_row(f"1 + 1, {split}?")) + "\n")
        make_folders(Path("models"))
        Path("r1_tiny.yaml").write_text(yaml.safe_dump(small_road(), sort_keys=False))
        yield folder


def verl_row(question: str) -> dict:
    prompt = [{"role": "user", "content": question}]
    return {"data_source": "openai/gsm8k", "prompt": prompt, "reward_model": {"ground_truth": "2"}}


def small_road() -> dict:
    """The recipe r1_tiny with other numbers alone."""
    road = yaml.safe_load((recipe.RECIPES / "r1_tiny.yaml").read_text())
    road["evaluation"] = {"num_tasks": 1, "samples": 1, "max_new_tokens": 8}
    road["settings"]["sampling"]["max_new_tokens"] = 8
    road["settings"]["evaluation"]["evaluation_duration"] = 1
    for stage in road["stages"].values():
        if "training" in stage:
            stage["training"] |= {"prompts_per_iteration": 2, "lr_warmup_iterations": 0}
            stage["training"] |= {"group_size": 2} if "group_size" in stage["training"] else {}
            stage["run"] = {"iterations": 1}
            stage.pop("demonstrations", None)
        stage |= {name: 8 for name in ("tasks", "samples") if name in stage}
    return road


def invoke(words: list[str], typed: str = "") -> None:
    """Runs a script's command in this process; an error, where it fails, has what it said."""
    app = importlib.import_module(f"experiments.{Path(words[0]).stem}").app
    done = CliRunner().invoke(app, words[1:], input=typed)
    assert done.exit_code == 0, f"{done.output}\n{done.exception!r}"


def test_what_is_not_run_is_there() -> None:
    """A reason whose command no page has any more says nothing."""
    for begins in (*NOT_RUN, *TRAINS):
        assert any(f"{command} ".startswith(begins) for _, command in FOUND), begins
    assert len(RUN) >= 20


@pytest.mark.parametrize("command", RUN)
def test_it_runs(command: str, place: Path, server: Server) -> None:
    words = shlex.split(command)[1:]
    sizes = next((sizes for word, sizes in SMALL.items() if word in words), [])
    instead = {"http://localhost:8000/v1": server.url, "r1_tiny": "r1_tiny.yaml"}
    words = [
        instead.get(word, word.removeprefix("/") if word.startswith("/models/") else word) for word in words
    ]
    words += sizes
    if "experiments/export.py" in words:
        shutil.rmtree(words[-1], ignore_errors=True)  # another page's
    invoke(words, typed="1\n\n" * 16)
