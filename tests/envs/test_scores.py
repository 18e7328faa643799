"""The verifiers as verl and TRL call them."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from typing import Any

import numpy as np
import pytest

from envs.scores import compute_score, reward

TRUTH = {"target": 98, "numbers": np.array([44, 19, 35])}  # as pandas gives it


def answered(text: str, think: str = "<think> hm </think>") -> str:
    return f"{think}\n<answer> {text} </answer>"


@pytest.mark.parametrize(
    ("source", "truth", "right", "wrong"),
    [
        ("countdown", TRUTH, "44 + 19 + 35", "44 + 19 - 35"),
        ("openai/gsm8k", np.int64(72), "72", "73"),
        ("yolo/multiply-3_digit", 56088, "56,088", "56089"),
        ("openai/gsm8k", "72", "72.0", "27"),
        ("DigitalLearningGmbH/MATH-lighteval", "\\frac{1}{2}", "0.5", "\\frac{1}{3}"),
    ],
)
def test_called_as_verl_does(source: str, truth: Any, right: str, wrong: str) -> None:
    """By these keywords, of which extra_info has what the row and the trainer put there."""
    for text, score in ((answered(right), 1.0), (answered(wrong), 0.0), (right, 0.0), ("", 0.0)):
        found = compute_score(
            data_source=source,
            solution_str=text,
            ground_truth=truth,
            extra_info={"split": "train", "index": 3, "num_turns": 2},
        )
        assert type(found) is float and found == score, text


def test_reasoning_that_the_prompt_has_opened() -> None:
    score = partial(compute_score, "gsm8k", ground_truth="72")
    assert score(solution_str="so it is\n</think><answer>72</answer>") == 1.0
    assert score(solution_str="maybe <answer>72</answer>, no\n</think> I do not know") == 0.0
    assert score(solution_str="maybe <answer>72</answer>, no\n</think><answer>71</answer>") == 0.0


def test_a_source_that_is_not_known() -> None:
    with pytest.raises(ValueError, match="no verifier is known for its data_source, 'pubmed'"):
        compute_score("pubmed", answered("4"), "4")
    assert compute_score("pubmed", answered("4"), "4", verifier="math") == 1.0
    with pytest.raises(ValueError, match="ground_truth"):
        compute_score("countdown", answered("4"), "4")


def test_called_as_trl_does_with_texts() -> None:
    """A value a completion of every column, and the trainer's own keywords."""
    found = reward(
        prompts=["What is 6 x 7?"] * 3,
        completions=[answered("42"), answered("41"), "42"],
        completion_ids=[[1], [2], [3]],
        data_source=["multiply"] * 3,
        ground_truth=[42, 42, 42],
        trainer_state=None,
        log_metric=print,
    )
    assert found == [1.0, 0.0, 0.0] and all(type(value) is float for value in found)


def test_called_as_trl_does_with_messages_and_rows_of_verl() -> None:
    found = reward(
        prompts=[[{"role": "user", "content": "Make 98."}]] * 3,
        completions=[
            [{"role": "assistant", "content": answered("44 + 19 + 35")}],
            [{"role": "assistant", "content": answered("98")}],
            [{"role": "assistant", "content": None, "tool_calls": []}],
        ],
        data_source=["countdown"] * 3,
        reward_model=[{"style": "rule", "ground_truth": TRUTH}] * 3,
        extra_info=[{"index": i} for i in range(3)],
    )
    assert found == [1.0, 0.0, 0.0]


def test_a_prompt_that_ends_with_an_open_think() -> None:
    """An answer in reasoning that never ends is none, whoever opened that."""
    completions = ["is it <answer>42</answer>? Or", "</think><answer>42</answer>"]
    columns: dict[str, Any] = {"data_source": ["multiply"] * 2, "ground_truth": [42, 42]}
    assert reward(prompts=["6 x 7?\n<think>\n"] * 2, completions=completions, **columns) == [0.0, 1.0]
    assert reward(prompts=["6 x 7?"] * 2, completions=completions, **columns) == [1.0, 1.0]


def test_columns_that_are_missing() -> None:
    with pytest.raises(ValueError, match=r"columns data_source and ground_truth.*it has answer"):
        reward(prompts=["?"], completions=["!"], answer=["4"])
    judged = partial(reward, verifier="math")
    assert judged(prompts=["?"], completions=[answered("1/2")], ground_truth=["0.5"]) == [1.0]


def test_its_import_is_light() -> None:
    code = "import sys, envs.scores; print({'torch', 'ray', 'pandas', 'sympy'} & set(sys.modules))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown == "set()\n"
