"""Every data set of reasoning-gym: it resets, its oracle is paid in full, another answer less; and hostile answers."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest

import envs

DATASETS = pytest.importorskip("reasoning_gym.factory").DATASETS
WITHOUT_ORACLE = {"boxnet", "graph_color", "propositional_logic", "rubiks_cube", "rush_hour"}
CONFIGS = {"composite": {"datasets": [{"name": "chain_sum", "weight": 2}, {"name": "leg_counting"}]}}


def make(name: str, **arguments: Any) -> Any:
    return gym.make("ReasoningGym-v0", dataset=name, config=CONFIGS.get(name), **arguments).unwrapped


def pay(env: Any, index: int, answer: str) -> tuple[float, str | None]:
    env.reset(options={"index": index})
    step = env.step(f"<think> a </think>\n<answer> {answer} </answer>")
    return step[1], step[4]["failure"]


@pytest.mark.parametrize("name", sorted(DATASETS))
def test_every_data_set(name: str) -> None:
    env = make(name)
    for seed in range(2):
        question, _ = env.reset(seed=seed)
        assert question in env.observation_space and question.endswith("in <answer> </answer> tags.")
        number, right = env.task.number, env.task.answer
        assert bool(right) == (name not in WITHOUT_ORACLE)
        if right:
            assert pay(env, number, right) == (1.0, None)
        for wrong in ("no such thing", "False" if right == "True" else "True"):
            assert pay(env, number, wrong)[0] < 1.0


def test_the_docstring_lists_the_exceptions() -> None:
    text = " ".join((Path(envs.__file__).parent / "reasoning_gym.py").read_text().split())
    assert "boxnet, graph_color, propositional_logic, rubiks_cube and rush_hour give no oracle answer" in text


def test_a_part_of_the_score_is_paid_in_part() -> None:
    """Its scorer gives an answer that holds the oracle the share of its length: 1 character of 4."""
    env = make("leg_counting")
    env.reset(options={"index": 0})
    right = env.task.answer
    wordy = right + "x" * (3 * len(right))
    assert pay(env, 0, wordy) == (pytest.approx(0.1 + 0.9 * 0.25), "wrong answer")
    env.reset(options={"index": 0})
    assert env.step(f"<answer> {wordy} </answer>")[1] == 0.0  # malformed
    env = make("leg_counting", reward="tinyzero")
    env.reset(options={"index": 0})
    assert env.step(f"<answer> {wordy} </answer>")[1] == pytest.approx(0.1 + 0.9 * 0.25)


@pytest.mark.parametrize("name", ["chain_sum", "leg_counting", "fraction_simplification"])
def test_marks_around_an_answer_cost_nothing(name: str) -> None:
    env = make(name)
    env.reset(options={"index": 1})
    right = env.task.answer
    for text in (
        "{}",
        "\\boxed{{{}}}",
        "\\text{{{}}}",
        "${}$",
        "\\( {} \\)",
        "$\\boxed{{{}}}$.",
        "**{}**",
        "`{}`",
    ):
        assert pay(env, 1, text.format(right)) == (1.0, None), text
    for text in (
        "\\boxed{{{}}} \\boxed{{1}}",
        "\\text{{{} or 1}}",
        "${}1$",
        "\\boxed{{-({})}}",
        "**{}** or **1**",
    ):
        assert pay(env, 1, text.format(right))[0] < 1.0, text


# Those whose scorers evaluate the answer as Python: its literals, and formulas, which all go through one function.
LITERALS = ["string_insertion", "spiral_matrix", "binary_matrix", "n_queens"]
FORMULAS = [
    "simple_integration",
    "intermediate_integration",
    "polynomial_multiplication",
    "puzzle24",
    "countdown",
]


@pytest.mark.parametrize("name", LITERALS + FORMULAS)
def test_answers_are_not_evaluated_as_code(name: str, tmp_path: Path) -> None:
    file = tmp_path / "written"
    codes = [
        f"open({str(file)!r}, 'w')",
        f"(open)({str(file)!r}, 'w')",
        f"[x for x in [__import__('pathlib').Path({str(file)!r}).touch()]]",
        "[0 for entry['answer'] in ['hacked']]",
        "exec(chr(48))",
        "[[0]*10**9]*10**9",
        "(" * 5000,
    ]
    env = make(name)
    start = time.perf_counter()
    for code in codes:
        assert pay(env, 3, code)[0] < 0.2
    assert not file.exists()
    assert time.perf_counter() - start < 60


def test_puzzle24_takes_the_task_s_numbers_alone() -> None:
    """The library's scorer pays any four numbers whose value begins with 24."""
    env = make("puzzle24")
    for index in range(4):
        assert pay(env, index, "6*4*1*1")[0] < 1.0
        env.reset(options={"index": index})
        right = env.task.answer
        assert pay(env, index, right)[0] == 1.0, right
        for wrong in (
            f"{right}.0",
            f"{right} + 0",
            f"({right})**1",
            f"({right})//1",
            right.replace("*", "**"),
        ):
            assert pay(env, index, wrong)[0] < 1.0 or wrong == right
    start = time.perf_counter()
    for wrong in (f"({right}", f"{right})", "7" * 5000, "1" * 60 + " = 24", "", "()"):
        assert pay(env, 0, wrong) == (0.1, "wrong answer")
    assert time.perf_counter() - start < 5  # milliseconds: no way through the digits is tried twice


@pytest.mark.parametrize("name", [*LITERALS, FORMULAS[0]])  # of formulas one: it takes a worker with it
def test_a_tower_of_powers_ends_in_time(name: str) -> None:
    start = time.perf_counter()
    assert pay(make(name), 3, "9**9**9**9**9")[0] < 0.2
    assert time.perf_counter() - start < 60


def test_an_answer_of_any_length_is_bounded() -> None:
    assert pay(make("chain_sum"), 0, "9" * 10**6) == (0.1, "too long")


def test_what_cannot_be_made_says_so() -> None:
    with pytest.raises(ValueError, match=r"dataset='nope' cannot be made .*there is no data set 'nope'"):
        make("nope")
    with pytest.raises(ValueError, match=r"cannot be made with config=.*min_termz"):
        gym.make("ReasoningGym-v0", dataset="chain_sum", config={"min_termz": 1})
