"""A whole road at a tiny size: killed in three of its stages, it goes on there and comes to the same table."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import ray
import yaml
from typer.testing import CliRunner

from experiments.common.keeping import HELD_OUT_TASKS
from experiments.r1 import app
from llmenv.conversations import question_of
from llmenv.env import make_env
from llmenv.evaluation.rescoring import score_completions
from llmenv.evaluation.tasks import evaluation_requests
from llmenv.selection import HeldOut

pytestmark = pytest.mark.slow

RL = {"prompts_per_iteration": 4, "group_size": 4, "lr": 1e-4}
SFT = {"prompts_per_iteration": 16, "lr": 5e-4}
RECIPE = {
    "environments": {"Countdown-v0": {"num_numbers": 3}, "Multiplication-v0": {"digits": [1, 1]}},
    "evaluation": {"num_tasks": 4, "samples": 2, "max_new_tokens": 48},
    "settings": {
        "sampling": {"max_new_tokens": 48},
        "evaluation": {"evaluation_duration": 2},
        "run": {"evaluate_every": 0, "checkpoint_every": 1, "keep_checkpoints": 1, "show_every": 0},
    },
    "stages": {
        "base": {"kind": "model", "name": "tiny-zero"},
        "demonstrations": {"kind": "demonstrate", "tasks": 24, "style": "hasty"},
        "cold-start": {
            "algo": "SFT",
            "model": "base",
            "data": "demonstrations",
            "training": SFT,
            "run": {"iterations": 2},
        },
        "reasoning": {
            "algo": "GRPO",
            "model": "cold-start",
            "env": "Countdown-v0",
            "training": RL,
            "run": {"iterations": 3},
        },
        "samples": {"kind": "sample", "model": "reasoning", "tasks": 12, "samples": 4},
        "second-start": {
            "algo": "SFT",
            "model": "base",
            "data": ["samples", "demonstrations"],
            "training": SFT,
            "run": {"iterations": 2},
        },
        "all": {
            "algo": "GRPO",
            "model": "second-start",
            "env": {"Countdown-v0": 0.5, "Multiplication-v0": 0.5},
            "training": RL,
            "run": {"iterations": 1},
        },
        "student": {"kind": "build", "tokenizer_of": "base", "hidden_size": 32, "layers": 1},
        "taught": {
            "algo": "Distill",
            "model": "student",
            "teacher": "all",
            "training": RL,
            "run": {"iterations": 1},
        },
        "alone": {
            "arm": "rl",
            "algo": "GRPO",
            "model": "cold-start",
            "env": "Countdown-v0",
            "tokens_of": "reasoning",
            "training": RL,
        },
    },
}


# Where it is killed: as soon as there is the first row of a run's progress, which no checkpoint has yet, and the first
# file of samples, of one of two environments.
KILLED_AT = (
    "cold-start-*/run/progress.csv",
    "reasoning-*/run/progress.csv",
    "samples-*/samples/*/records/part_*.parquet",
)
# A process for each kill, forked after the imports, which take longer than all the rest.
DRIVER = """
import os, signal, sys
from pathlib import Path

import ray
import algorithms.sft, experiments.common.training, experiments.recipes.walking, llmenv.evaluation.subject
from experiments.r1 import app

address, *patterns = sys.argv[1:]
init, replace = ray.init, os.replace
ray.init = lambda **kwargs: init(address=address, log_to_driver=False, logging_level="ERROR")

def replace_and_die(source, target):
    replace(source, target)
    if Path(target).match(pattern):
        os.killpg(0, signal.SIGKILL)

os.replace = replace_and_die
for pattern in patterns:
    if not (child := os.fork()):
        os.setsid()
        app(["--preset=road.yaml", "--output=killed", "--until=samples"])
    print("died:", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.fixture(scope="module")
def invoke(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The command, in a folder that has the recipe; and there the road as far as its samples, whole and killed."""
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(tmp_path_factory.mktemp("road"))
        Path("road.yaml").write_text(yaml.safe_dump(RECIPE, sort_keys=False))
        address = ray.get_runtime_context().gcs_address
        killed = subprocess.run(
            [sys.executable, "-c", DRIVER, address, *KILLED_AT], check=True, capture_output=True, text=True
        )
        died = [line for line in killed.stdout.splitlines() if line.startswith("died")]
        assert died == [f"died: {-signal.SIGKILL}"] * len(KILLED_AT), killed.stderr
        patched.setattr("ray.init", lambda **kwargs: None)
        patched.setattr("ray.shutdown", lambda: None)

        def invoke(*arguments: str) -> str:
            done = CliRunner().invoke(app, arguments)
            assert done.exit_code == 0, done.output
            return done.output

        invoke("--preset=road.yaml", "--output=whole", "--until=samples")
        yield invoke


def rows_of(output: str) -> dict[str, dict[str, Any]]:
    return {row["stage"]: row for row in json.loads(Path(output, "summary.json").read_text())["stages"]}


def but_times(row: dict[str, Any]) -> dict[str, Any]:
    scores = {env: {**score, "seconds": 0} for env, score in (row.get("scores") or {}).items()}
    return {**row, "seconds": 0, "scores": scores}


def kept_rows(output: str) -> pd.DataFrame:
    (file,) = Path(output).glob("samples-*/rows.parquet")
    return pd.read_parquet(file)


def test_killed_in_three_stages_it_comes_to_the_same_table(invoke: Callable[..., str]) -> None:
    assert not [*Path("killed").glob("samples-*/done.json")]
    output = invoke("--preset=road.yaml", "--output=killed", "--until=samples")
    assert "samples: killed" in output and "reasoning: killed" not in output
    whole, killed = rows_of("whole"), rows_of("killed")
    assert [name for name, row in killed.items() if row["done"]] == [*RECIPE["stages"]][:5]
    for name, row in killed.items():
        assert but_times(row) == but_times(whole[name]), name
    assert kept_rows("killed").astype(str).equals(kept_rows("whole").astype(str))


def test_what_is_kept_is_right_new_and_not_held_out(invoke: Callable[..., str], tmp_path: Path) -> None:
    funnel = rows_of("whole")["samples"]["funnel"]
    assert [counts["verified anew"] for counts in funnel.values()] == [
        counts["kept"] for counts in funnel.values()
    ]
    files = [*Path("whole").glob("samples-*/samples/*/kept.parquet")]
    tables = {file: pd.read_parquet(file) for file in files}
    assert len(kept_rows("whole")) == sum(map(len, tables.values())) > 0
    for file, kept in tables.items():
        if kept.empty:  # nothing of this environment was worth it
            continue
        (env,) = kept["env"].unique()
        judged = score_completions(file, env, tmp_path / file.parent.name)
        assert judged["changed"] == [] and judged["environments"][env]["accuracy"] == 1.0
        (options,) = kept["env_options"].unique()
        made = make_env(env, {**json.loads(options), "split": "test"})
        asked = [made.reset(seed=one.seed)[0] for one in evaluation_requests(HELD_OUT_TASKS, None)]
        held_out = HeldOut(asked)
        assert not [row for row in kept.to_dict("records") if held_out.has(question_of(row))]
        assert held_out.has(asked[0])
        texts = kept["completion"].str.lower().str.split().str.join(" ")
        assert not pd.DataFrame({"task": kept["task"], "text": texts}).duplicated().any()


def test_the_rest_of_the_road(invoke: Callable[..., str]) -> None:
    whole = ("--preset=road.yaml", "--output=whole", "--compare-with=rl")
    output = invoke(*whole)
    assert "reasoning: whole" not in output and "second-start: whole" in output
    rows = rows_of("whole")
    assert all(row["done"] for row in rows.values()) and len(rows) == len(RECIPE["stages"])
    # The comparison had the tokens of what it is compared with, give or take an iteration.
    assert rows["reasoning"]["sampled"] <= rows["alone"]["sampled"] < 2 * rows["reasoning"]["sampled"]
    (learned,) = Path("whole").glob("second-start-*/rows.parquet")
    demonstrated = pd.read_parquet(next(Path("whole").glob("demonstrations-*/rows.parquet")))
    assert len(pd.read_parquet(learned)) == len(kept_rows("whole")) + len(demonstrated)
    assert "taught" in Path("whole/table.md").read_text() and Path("whole/report.html").is_file()
    again = invoke("--resume=whole")  # all is there: nothing is done, and the table is shown
    assert "reasoning: whole" not in again and "summary.json, table.md, report.html: whole" in again
