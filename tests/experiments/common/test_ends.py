"""What a run shows first is what its evaluation samples, and what it names last are commands that there are."""

from __future__ import annotations

import shlex
import sys
from typing import Any

import pytest
from runs import algorithm

from experiments.common.ends import FIRST, first_completions, next_steps
from experiments.common.environments import env_options
from written import check

__all__ = ["algorithm"]  # the fixture


@pytest.mark.parametrize("way", ["experiments/run.py", "/usr/bin/llmenv"])
@pytest.mark.parametrize(
    ("env", "env_config"),
    [
        ("envs:Countdown-v0", {}),
        ("envs:Countdown-v0", {"num_numbers": 3}),
        ("envs:Multiplication-v0", {"digits": [2, 3]}),
        ("my_module:Reverse-v0", {"words": "it's = 3"}),
    ],
)
def test_the_next_commands_can_be_run(
    env: str, env_config: dict[str, Any], way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [way])
    commands = next_steps("runs/A", env, env_config, 80)
    for command in commands:
        check(command)
    words = [word for word in shlex.split(commands[0]) if "=" in word]
    assert env_options(words) == env_config
    assert [command.split(" runs")[0].removeprefix("llmenv ") for command in commands[1:]] == (
        ["compare", "train --resume"]
        if "llmenv" in way
        else ["python experiments/compare.py", "python experiments/run.py --resume"]
    )
    assert commands[2].endswith("runs/A --iterations 160")
    assert next_steps("runs/A", env, env_config, 0) == commands[:1]
    # compare.py reads folders alone.
    assert len(next_steps("s3://bucket/A", env, env_config, 80)) == 2


def test_the_first_completions_are_those_that_the_evaluation_finds(algorithm: Any) -> None:
    first = first_completions(algorithm)
    algorithm.evaluate()
    evaluated = algorithm.last_evaluation["sampled"]
    assert (len(first), len(evaluated)) == (FIRST, 4)
    assert [(one.observation, one.transcript) for one in first] == [
        (one.observation, one.transcript) for one in evaluated[:FIRST]
    ]
