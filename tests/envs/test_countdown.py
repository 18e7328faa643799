"""Countdown's tasks: solvable, disjoint between splits, TinyZero's by default, set by options, quick to draw."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections import Counter

import gymnasium as gym
import numpy as np
import pytest

import envs  # noqa: F401 - registers the environments
from envs.countdown import CountdownTask, draw_task, split_of
from envs.verify.verifiers import verify_arithmetic


def test_question_is_tinyzeros() -> None:
    question, info = gym.make("Countdown-v0").reset(options={"numbers": [44, 19, 35], "target": 98})
    assert question == (
        "Using the numbers [44, 19, 35], create an equation that equals 98. You can use basic arithmetic operations "
        "(+, -, *, /) and each number can only be used once. Show your work in <think> </think> tags. And return the "
        "final answer in <answer> </answer> tags, for example <answer> (1 + 2) / 3 </answer>."
    )
    assert info["system"].startswith(
        "The assistant first thinks about the reasoning process in the mind and then"
    )
    assert info["assistant_prefix"] == "Let me solve this step by step.\n<think>"


def test_drawn_tasks_are_solvable_and_of_tinyzeros_ranges() -> None:
    rng = np.random.default_rng(0)
    tasks = [draw_task(rng) for _ in range(2000)]
    for task in tasks:
        assert verify_arithmetic(task.solution, task.numbers, task.target) is None
        assert all(type(n) is int and 1 <= n <= 99 for n in task.numbers)
        assert 10 <= task.target <= 100
    lengths = Counter(len(task.numbers) for task in tasks)
    assert set(lengths) == {3, 4} and lengths[3] == pytest.approx(1000, abs=120)
    assert {n for task in tasks for n in task.numbers} == set(range(1, 100))
    assert {task.target for task in tasks} == set(range(10, 101))
    operators = Counter(re.findall(r"[-+*/]", " ".join(task.solution for task in tasks)))
    assert min(operators[operator] for operator in "+-*/") > 100


@pytest.mark.parametrize("count", [2, 3, 4, 5, 6])
def test_arguments_of_a_draw(count: int) -> None:
    rng = np.random.default_rng(count)
    for _ in range(100):
        task = draw_task(rng, num_numbers=(count,), number_range=(0, 12), target_range=(0, 30), split=None)
        assert len(task.numbers) == count and max(task.numbers) <= 12 and 0 <= task.target <= 30
        assert verify_arithmetic(task.solution, task.numbers, task.target) is None


def test_splits_are_disjoint() -> None:
    rng = np.random.default_rng(0)
    tasks = {split: [draw_task(rng, split=split) for _ in range(2000)] for split in ("train", "test")}
    keys = {split: {(*sorted(task.numbers), task.target) for task in tasks[split]} for split in tasks}
    assert not keys["train"] & keys["test"]
    assert all(split_of(task.numbers, task.target) == split for split in tasks for task in tasks[split])
    either = [draw_task(rng, split=None) for _ in range(2000)]
    assert sum(split_of(task.numbers, task.target) == "test" for task in either) == pytest.approx(
        500, abs=100
    )


def test_split_is_the_same_everywhere() -> None:
    assert split_of([44, 19, 35], 98) == split_of([19, 35, 44], 98)
    # Written down, so that a change of the hash, which would mix the splits, cannot pass unseen.
    held_out = [target for target in range(10, 40) if split_of([44, 19, 35], target) == "test"]
    assert held_out == [19, 20, 24, 28, 32, 34, 35]
    code = "from envs.countdown import *; print(''.join(split_of((1, 2, n), 10)[1] for n in range(64)))"
    elsewhere = subprocess.check_output([sys.executable, "-c", code], text=True).strip()
    assert elsewhere == "".join(split_of((1, 2, n), 10)[1] for n in range(64))
    assert set(elsewhere) == {"r", "e"}


def test_options_take_any_integers() -> None:
    env = gym.make("Countdown-v0")
    for numbers, target in (
        ([0], 0),
        ([-5, 3], -15),
        ([10**30, 7, 7, 7, 7, 7, 7], -1),
        (np.array([1, 2]), np.int64(3)),
    ):
        question, _ = env.reset(options={"numbers": numbers, "target": target})
        assert f"{[int(n) for n in numbers]}" in question and f"equals {target}." in question


@pytest.mark.parametrize(
    "arguments",
    [
        {"num_numbers": 1},
        {"num_numbers": ()},
        {"num_numbers": (3, 7)},
        {"number_range": (9, 1)},
        {"number_range": (-1, 9)},
        {"target_range": (5,)},
        {"question": "no fields"},
        {"split": "validation"},
        {"reward": "sparse"},
        {"reward_amounts": (1.0, 0.0)},
    ],
)
def test_bad_arguments(arguments: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(arguments))):
        gym.make("Countdown-v0", **arguments)


def test_impossible_ranges_are_refused_instead_of_searched_for_ever() -> None:
    env = gym.make("Countdown-v0", num_numbers=2, number_range=(1, 2), target_range=(50, 60))
    with pytest.raises(ValueError, match="widen number_range or target_range"):
        env.reset(seed=0)


def test_constructor_arguments() -> None:
    env = gym.make(
        "Countdown-v0",
        num_numbers=2,
        number_range=(1, 9),
        target_range=(1, 20),
        question="Make {target} of {numbers} as in \\frac{a}{b}.",
        reward_amounts=(5, 2, -1),
    )
    question, _ = env.reset(seed=1)
    task = env.unwrapped.task
    assert question == f"Make {task.target} of {list(task.numbers)} as in \\frac{{a}}{{b}}."
    assert len(task.numbers) == 2 and max(task.numbers) <= 9 and task.target <= 20
    assert env.step(f"<think></think><answer>{task.solution}</answer>")[1] == 5.0
    env.reset(seed=1)
    assert env.step(f"<answer>{task.solution}</answer>")[1] == 2.0
    env.reset(seed=1)
    assert env.step("")[1] == -1.0


@pytest.mark.parametrize(
    ("text", "default", "tinyzero"),
    [
        ("<think>a</think><answer>44 + 19 + 35</answer>", 1.0, 1.0),
        ("<answer>44 + 19 + 35</answer>", 0.1, 1.0),
        ("<think>a</think> so <answer>44 + 19 + 35</answer>", 0.1, 1.0),
        ("<think>a</think><answer>44 + 19</answer>", 0.1, 0.1),
        ("<think>a</think><answer></answer>", 0.1, 0.1),
        ("<answer>44 + 19</answer>", 0.0, 0.1),
        ("<think>a<answer>44 + 19 + 35</answer>", 0.0, 0.0),
        ("<think>a</think><answer>44 + 19 + 35", 0.0, 0.0),
        ("", 0.0, 0.0),
    ],
)
def test_rewards(text: str, default: float, tinyzero: float) -> None:
    for scale, expected in (("default", default), ("tinyzero", tinyzero)):
        env = gym.make("Countdown-v0", reward=scale)
        env.reset(options={"numbers": [44, 19, 35], "target": 98})
        reward = env.step(text)[1]
        assert type(reward) is float and reward == expected


def test_seed_fixes_the_task() -> None:
    # Written down: a change here means a new version of the environment.
    env = gym.make("Countdown-v0")
    env.reset(seed=0)
    assert env.unwrapped.task == CountdownTask(numbers=(27, 5, 2, 81), target=30, solution="81 * 2 / 27 * 5")


def test_draws_are_quick() -> None:
    rng = np.random.default_rng(0)
    rates = []
    for _ in range(5):
        start = time.process_time()
        for _ in range(500):
            draw_task(rng)
        rates.append(500 / (time.process_time() - start))
    assert (
        max(rates) > 10_000
    )  # half of what an idle core must do: experiments/benchmarks/bench_envs.py has the figure
