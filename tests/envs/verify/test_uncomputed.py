"""MATH-v0 pays for no expression that is yet to be computed; and what is heavy to compute is judged in time."""

from __future__ import annotations

import time

import gymnasium as gym
import pytest

import envs  # noqa: F401 (registers)
from envs.verify.verifiers import verify_math
from experiments.benchmarks.bench_heavy import pairs

UNCOMPUTED = [
    (r"Compute $99^2+99+1$ in your head.", "99^2+99+1", "9901"),
    (r"Compute $99^2+99+1$.", "1+99+99^2", "9901"),
    (r"Compute $99^2+99+1$.", "99*100+1", "9901"),
    (r"Simplify $\sqrt{242}$.", r"\sqrt{242}", r"11\sqrt2"),
    (r"Evaluate $\binom{8}{4}$.", r"\binom{8}{4}", "70"),
    (r"What is $\frac{3}{4}+\frac16$?", r"\frac34+\frac{1}{6}", r"\frac{11}{12}"),
    (r"Reduce $\frac{12}{16}$.", "12/16", r"\frac34"),
    (r"Find $\sin 60^\circ$.", r"\sin(60^\circ)", r"\frac{\sqrt3}{2}"),
    ("Compute 5!.", "5!", "120"),
    (r"Compute $2^{10}$.", "x = 2^{10}", "1024"),
    (r"Compute $17 \times 3$.", "17(3)", "51"),
    (r"Compute $\log_2 8$.", r"\log_2 8", "3"),
    ("Tom has 9 apples and buys 9.", "9+9", "18"),
    ("Tom has 20 apples and eats 2.", "20-2", "18"),
]
COMPUTED = [
    ("Halve 1.", r"\frac{2}{4}", r"\frac12"),
    ("How many subsets has a set of ten?", "2^{10}", "1024"),
    ("How many orders have five books?", "5!", "120"),
    ("What is 6 times 7?", r"6 \times 7 = 42", "42"),
    ("Which is larger, 5 or 7?", "7", "7.0"),
    (r"Which is larger, $\frac12$ or $\frac13$?", "1/2", "0.5"),
    ("How many?", r"3 \times 10^5", "300000"),
    ("How much?", "1 1/2", "1.5"),
    ("How much?", r"\$18.00", "18"),
    (r"Factor $x^2-1$.", "(x+1)(x-1)", "(x-1)(x+1)"),
    (r"Solve $2x+1=5$.", "x=2", "2"),
    (r"Rationalise $\frac{2}{\sqrt2}$.", r"2^{1/2}", r"\sqrt{2}"),
]


def pay(question: str, answer: str, gold: str, **options: str) -> tuple[float, str | None]:
    env = gym.make("MATH-v0", data="sample", **options)
    env.reset(options={"question": question, "answer": gold})
    _, reward, _, _, info = env.step(f"<think>.</think><answer>{answer}</answer>")
    return float(reward), info["failure"]


@pytest.mark.parametrize(("question", "answer", "gold"), UNCOMPUTED)
def test_an_expression_yet_to_be_computed(question: str, answer: str, gold: str) -> None:
    assert pay(question, answer, gold) == (0.1, "not computed")
    assert pay(question, answer, gold, unsimplified="accept") == (1.0, None)


@pytest.mark.parametrize(("question", "answer", "gold"), COMPUTED)
def test_a_computed_answer(question: str, answer: str, gold: str) -> None:
    assert pay(question, answer, gold) == (1.0, None)


def test_arithmetic_with_bases_is_no_answer() -> None:
    assert pay("Compute $58_9 - 18_9$ in base 9.", "58_9 - 18_9", "40_9") == (0.1, "wrong value")


def test_the_option_has_two_values() -> None:
    with pytest.raises(ValueError, match='unsimplified is \'maybe\': "refuse" or "accept"'):
        gym.make("MATH-v0", data="sample", unsimplified="maybe")


def test_heavy_answers_are_judged_in_time() -> None:
    verify_math("1/2", "0.5")  # starts a worker
    heavy = pairs(100)
    started = time.monotonic()
    assert None not in [verify_math(*pair) for pair in heavy]
    assert time.monotonic() - started < 20  # 1,000 in a minute on two cores, and some for a busy machine
