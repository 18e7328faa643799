"""What the tests of the page share: hostile text, folders to show, and what a page holds."""

from __future__ import annotations

import base64
import gzip
import json
import re
from pathlib import Path
from typing import Any

import yaml

from experiments.common.run_folder import RunFolder
from llmenv.episode import TextEpisode, Turn
from llmenv.evaluation.records import Records, record

HOSTILE = (
    "</script><script>window.pwned = 1</script><img src=x onerror='window.pwned = 1'><svg onload=window.pwned=1>"
    "<!-- @@FACTS@@ \x1b]52;c;aGk=\x07\x1b[31mred\u202edlrow\x00 [bold]b[/] \u2028 a`${window.pwned = 1}`\ud800 z"
)
ENV = "envs:Multiplication-v0"
VERSIONS = {"python": "3.11.9"}


def unpacked(page: str) -> tuple[dict[str, Any], list[str]]:
    """The facts and the completions that a page has embedded."""
    found = [
        re.search(f'<script type="text/plain" id="{name}">([A-Za-z0-9+/=]*)</script>', page)
        for name in ("facts", "completions")
    ]
    facts, completions = (json.loads(gzip.decompress(base64.b64decode(match[1]))) for match in found if match)
    return facts, completions


def episode(task: int, sample: int, text: str, **others: Any) -> TextEpisode:
    """Of a task whose right answer is its double. A sample is right where its number is even."""
    right = sample % 2 == 0
    info = {"correct": right, "well_formed": sample != 3, "failure": None if right else "wrong value"}
    turn = Turn(
        [1, 2, 3], [4, 5], [-1.0, -0.5], "stop", text, float(right), info | {"answer": str(task + task)}
    )
    return TextEpisode(
        task,
        sample,
        [turn],
        True,
        observation=f"Twice {task}?",
        seed=task,
        right_answer=str(2 * task),
        **others,
    )


def evaluation(folder: Path, episodes: list[TextEpisode]) -> Path:
    """An evaluation that was stopped before its summary, written by what writes the real ones."""
    common = {
        "model": "m",
        "fingerprint": "f",
        "sampler": "{}",
        "versions": json.dumps(VERSIONS),
        "seconds": 0.25,
    }
    rows = [
        {**record(each, ENV, {"split": "test"}, f"<user>{each.observation}"), **common} for each in episodes
    ]
    Records(folder, {"model": "m", "template": "chat", "temperature": 0.7, "stop_token_ids": [2]}).append(
        rows
    )
    return folder


def run(folder: Path) -> Path:
    """A run of two iterations, evaluated once, that was stopped then."""
    config = {
        "algo": "GRPO",
        "environment": {"env": ENV},
        "policy": {"model": "tiny"},
        "training": {"lr": 1e-4},
    }
    made = RunFolder(folder)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    ends = {
        "accuracy": 0.5,
        "accuracy_low": 0.25,
        "accuracy_high": 0.75,
        "format_rate": 1.0,
        "response_length": 20.0,
    }
    row = {f"{name}_{key}": value for name in ("sampled", "greedy") for key, value in ends.items()}
    made.log("evaluations", {"iteration": 0, **row, "num_tasks": 2})
    made.write_samples("eval_sampled", 0, [episode(i, 0, "held out") for i in range(2)])
    for iteration in (1, 2):
        figures = {
            "episode_return_mean": 0.5,
            "accuracy": 0.5,
            "response_length": 2.0 + iteration,
            "num_episodes": 4,
        }
        figures |= {
            "num_tokens": 20,
            "seconds": 2.0,
            "tokens_per_second": 4.0,
            "entropy": 0.5,
            "kl_behaviour": 0.0,
        }
        made.log("progress", {"iteration": iteration, **figures})
    made.write_some_samples(1, [episode(10 + group, i, "early") for group in range(6) for i in range(2)])
    made.write_samples("train", 2, [episode(20, i, HOSTILE) for i in range(4)])
    made.close()
    return folder
