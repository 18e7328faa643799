"""Suites: what they say, and that nobody trains on the tasks of ours."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from algorithms.curriculum import Curriculum
from algorithms.tasks import training_requests
from envs.countdown import split_of as split_of_countdown
from envs.multiplication import split_of as split_of_multiplication
from experiments.common.suites import SUITES, Part, check_tasks, read_suite
from llmenv.env import make_env
from llmenv.evaluation.tasks import Source, evaluation_requests
from support import small_config

PARTS = read_suite("arithmetic")


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.name)
def test_the_tasks_are_still_the_same_and_others_are_refused(part: Part) -> None:
    assert part.sha256 is not None
    check_tasks(part)
    changed = Part(part.name, part.env, part.num_tasks, part.seed + 1, part.env_config, part.sha256)
    with pytest.raises(ValueError, match=f"the tasks of {part.name} are not those of the suite"):
        check_tasks(changed)


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.name)
def test_no_training_seed_meets_them(part: Part, model_folder: str) -> None:
    """Whatever the seed: a task is of one split by the hash of its own text, and training draws from the other one."""
    held = make_env(part.env, {**part.env_config, "split": "test"}).unwrapped
    questions, seeds = set(), set()
    for request in evaluation_requests(part.num_tasks, None, seed=part.seed):
        question, _ = held.reset(seed=request.seed)
        task = held.task  # type: ignore[attr-defined]
        multiplied = "Multiplication" in part.env
        assert (split_of_multiplication(*task) if multiplied else split_of_countdown(*task[:2])) == "test"
        questions.add(question)
        seeds.add(request.seed)
    training = make_env(part.env, part.env_config).unwrapped  # as run.py makes it: "train" is its own default
    config = small_config(model_folder)
    source = Curriculum([Source(None, 1.0, None)], config.prompts_per_iteration)
    drawn = [request.seed for update in range(50) for request in training_requests(config, source, update)]
    assert not seeds & {*drawn}
    assert not questions & {training.reset(seed=seed)[0] for seed in drawn}
    assert all(training.reset(seed=seed)[0] not in questions for seed in seeds)  # even by the same seeds


def test_what_is_no_suite_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no suite 'arithmetics' \(did you mean arithmetic\?\)"):
        read_suite("arithmetics")
    content = yaml.safe_load((SUITES / "arithmetic.yaml").read_text())
    content["evaluations"]["multiplication"]["colour"] = "red"
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(content))
    with pytest.raises(ValueError, match=r"mine.yaml is no suite .*colour"):
        read_suite(str(file))
