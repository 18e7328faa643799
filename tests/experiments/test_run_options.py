"""The command line's options: what is wrong is told at once, in the user's own words, and --help says what there is."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from experiments.common import settings
from experiments.run import app, main

ROOT = Path(__file__).parents[2]


def run(*arguments: str, cwd: Path, path: str = "") -> subprocess.CompletedProcess[str]:
    """The command, with 80 columns."""
    command = [sys.executable, str(ROOT / "experiments" / "run.py"), *arguments]
    environment = {**os.environ, "COLUMNS": "80", "PYTHONPATH": path}
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, env=environment)


BAD_ARGUMENTS = [
    (["--env=Nope-v0"], "there is no environment 'Nope-v0'"),
    (["--algo=Nope"], "there is no algorithm 'Nope'"),
    (["--model=nope"], "no model 'nope'"),
    (["--lora-rank=0"], "--lora-rank must be a whole number of at least 1"),
    (["--zero-stage=4"], "--zero-stage must be one of 0, 1, 2, 3, None, got 4"),
    (["--preset=nope"], "there is no preset 'nope'"),
    (["--lr=-0.5"], "--lr must not be negative"),
    (["--lr=inf"], "--lr must not be negative, and a finite number, got inf"),
    (["--kl-coeff=nan"], "--kl-coeff must not be negative"),
    (["--time-limit=-5"], "--time-limit must be above 0"),
    (["--iterations=-3"], "--iterations must be a whole number of at least 0"),
    (["--evaluate-every=-1"], "--evaluate-every must be a whole number of at least 0"),
    (["--eval-tasks=0"], "--eval-tasks must be a whole number of at least 1"),
    (["--seed=-7"], "--seed must be a whole number of at least 0"),
    (["--num-learners=-1"], "--num-learners must be a whole number of at least 0"),
    (["--num-gpus-per-env-runner=-0.5"], "--num-gpus-per-env-runner must not be negative"),
    (["--temperature=0"], "--temperature must be above 0"),
    (["--sampler=vlm"], "--sampler must be one of transformers, vllm, got 'vlm'"),
    (["--set=run.checkpoint_minutes=-1"], "run.checkpoint_minutes must not be negative"),
    (["--set=training.lr=slow"], "training.lr must not be negative, and a finite number, got 'slow'"),
    (["--set=training.adam_betas=[0.9, 1]"], "training.adam_betas must be two numbers"),
    (
        ["--set=training.grup_size=4"],
        "no setting training.grup_size (did you mean group_size?): training has",
    ),
    (["--set=sampling.top_pp=1"], "no setting sampling.top_pp (did you mean top_p"),
    (["--set=run.iteratons=4"], "no setting run.iteratons (did you mean iterations?)"),
    (["--set=sampeling.temperature=1"], "no section 'sampeling' (did you mean sampling?)"),
    (["--set=environment.env_config=null"], "environment.env_config must map names to values"),
    (["--set=training.lr=[1"], "--set training.lr is not YAML, line 1, column 3"),
    *(
        (["--resume=.", given], "leave out --env, --algo, --preset and --output")
        for given in ("--env=GSM8K-v0", "--algo=PPO", "--preset=tiny", "--output=b")
    ),
]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        *BAD_ARGUMENTS,
        (["--minibatch-size=7"], "minibatch_size=7 must divide"),
        (["--set=training.critic=shared"], "GRPO has no setting training.critic"),
        (["--deepspeed=nope.json"], "cannot read DeepSpeed settings from 'nope.json'"),
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


LIGHT = """
import sys
from typer.testing import CliRunner
from experiments.run import app

for arguments in ARGUMENTS:
    assert CliRunner().invoke(app, arguments).exit_code in (0, 2)
    print({"torch", "ray", "transformers", "pandas"} & sys.modules.keys() or "", end="")
"""


def test_they_fail_before_anything_heavy_is_imported(tmp_path):
    """Importing torch and Ray takes seconds."""
    arguments = [["--help"], *(given for given, _ in BAD_ARGUMENTS)]
    code = LIGHT.replace("ARGUMENTS", repr(arguments))
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def test_help_shows_whole_names_in_80_columns_and_every_default(tmp_path):
    done = run("--help", cwd=tmp_path)
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    names = {word for line in lines for word in line.split() if word.startswith("--")}
    options = {f"--{name.replace('_', '-').removesuffix('-')}" for name in inspect.signature(main).parameters}
    assert options <= names
    text = " ".join(done.stdout.replace("│", " ").split())
    for preset in settings.PRESETS.glob("*.yaml"):
        assert preset.stem in text
    for option, section, name in (
        ("--iterations", "run", "iterations"),
        ("--eval-tasks", "evaluation", "evaluation_duration"),
        ("--evaluate-every", "run", "evaluate_every"),
        ("--prompts-per-iteration", "training", "prompts_per_iteration"),
        ("--max-new-tokens", "sampling", "max_new_tokens"),
    ):
        tiny, pretrained = (settings.load_preset(preset)[section][name] for preset in ("tiny", "pretrained"))
        about = text.partition(f"{option} ")[2].partition(" --")[0]
        assert f"(default: tiny: {tiny}, pretrained: {pretrained})" in about


def test_another_package_in_the_working_directory_is_not_taken_for_ours(tmp_path):
    """A folder without __init__.py is a package too, which Python finds before an editable installation."""
    (tmp_path / "algorithms").mkdir()
    (tmp_path / "envs").mkdir()
    done = run("--env=Nope-v0", cwd=tmp_path)
    assert "one of Countdown-v0" in done.stderr, done.stderr
    done = run("--num-env-runners=1", cwd=tmp_path)
    assert done.returncode == 2 and f"{tmp_path / 'envs'} has the name of a package" in done.stderr
    command = [sys.executable, "-c", "from experiments.common.own_packages import import_ours; import_ours()"]
    (tmp_path / "envs" / "__init__.py").touch()
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": path},
        cwd=tmp_path,
    )
    assert f"is another one's: {tmp_path / 'envs' / '__init__.py'}" in done.stderr
