"""Multiplication: TinyZero's question, disjoint splits, an integer verifier without its holes, steps that pay once."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import envs  # noqa: F401 - registers the environments
from envs.multiplication import MultiplicationTask, share_of_steps, split_of
from envs.verify.verifiers import decimal_text, verify_integer

MEGA = 1_000_000


def test_question_is_tinyzeros() -> None:
    question, info = gym.make("Multiplication-v0").reset(options={"a": 47, "b": 36})
    assert question == "Give me the answer of the following equation: 47 * 36 ="
    assert info["system"] == (
        "The assistant first thinks about the reasoning process in the mind and then provides the user with the "
        "answer. The reasoning process and answer are enclosed within <think> </think> and <answer> </answer> tags, "
        "respectively, i.e., <think> reasoning process here </think> <answer> answer here </answer>."
    )
    assert info["assistant_prefix"] == "Ok let me think about it.\n<think>"


@pytest.mark.parametrize(
    ("digits", "highest"), [(3, (999, 999)), (1, (9, 9)), ((2, 1), (99, 9)), ([1, 3], (9, 999))]
)
def test_drawn_factors_have_up_to_so_many_digits(digits: int | tuple, highest: tuple[int, int]) -> None:
    env = gym.make("Multiplication-v0", digits=digits).unwrapped
    env.reset(seed=0)
    tasks = []
    for _ in range(2000):
        env.reset()
        tasks.append(env.task)
    assert all(type(factor) is int for task in tasks for factor in task)
    for factors, most in zip(zip(*tasks, strict=True), highest, strict=True):
        assert 0 <= min(factors) <= most // 50 and most - most // 50 <= max(factors) <= most
        assert np.mean(factors) == pytest.approx(
            most / 2, rel=0.15
        )  # uniform, up to which pairs are of the split


def test_eighteen_digits_can_be_drawn() -> None:
    env = gym.make("Multiplication-v0", digits=18).unwrapped
    env.reset(seed=0)
    assert 10**17 < max(env.task) < 10**18


def test_splits_are_disjoint_whatever_the_order() -> None:
    pairs: dict[str, set] = {}
    for split in ("train", "test"):
        env = gym.make("Multiplication-v0", digits=2, split=split).unwrapped
        env.reset(seed=0)
        pairs[split] = set()
        for _ in range(2000):
            env.reset()
            assert split_of(*env.task) == split
            pairs[split].add(tuple(sorted(env.task)))
    assert not pairs["train"] & pairs["test"]
    everything = [split_of(a, b) for a in range(100) for b in range(a, 100)]
    assert everything.count("test") == pytest.approx(len(everything) / 4, rel=0.1)


def test_split_is_the_same_everywhere() -> None:
    assert all(split_of(a, 36) == split_of(36, a) for a in range(100))
    # Written down, so that a change of the hash, which would mix the splits, cannot pass unseen. These are the b
    # for which `printf "$b * 47" | b2sum -l 8` is a multiple of 4.
    assert [b for b in range(30) if split_of(47, b) == "test"] == [4, 5, 10, 13, 21, 22, 24, 27]
    code = "from envs.multiplication import *; print(''.join(split_of(3, n)[1] for n in range(64)))"
    elsewhere = subprocess.check_output([sys.executable, "-c", code], text=True).strip()
    assert elsewhere == "".join(split_of(3, n)[1] for n in range(64))
    assert set(elsewhere) == {"r", "e"}


def test_seed_fixes_the_task() -> None:
    # Written down: a change here means a new version of the environment.
    env = gym.make("Multiplication-v0")
    env.reset(seed=0)
    assert env.unwrapped.task == MultiplicationTask(a=511, b=269)


@pytest.mark.parametrize(
    ("a", "b", "question", "product"),
    [
        (0, 0, "0 * 0 =", "0"),
        (-5, 3, "-5 * 3 =", "-15"),
        (-5, -3, "-5 * -3 =", "15"),
        (np.int64(7), np.uint8(8), "7 * 8 =", "56"),
        (10**30, 7, f"1{'0' * 30} * 7 =", f"7{'0' * 30}"),
    ],
)
def test_options_take_any_integers(a: int, b: int, question: str, product: str) -> None:
    env = gym.make("Multiplication-v0", step_reward=0.5)
    assert env.reset(options={"a": a, "b": b})[0].endswith(f": {question}")
    assert env.step(f"<think></think><answer>{product}</answer>")[1] == 1.0
    env.reset(options={"a": a, "b": b})
    assert env.step(f"<think></think><answer>{product}1</answer>")[1] == 0.1


def test_options_take_more_digits_than_str_writes() -> None:
    env = gym.make("Multiplication-v0", step_reward=0.5)
    zeros = "0" * 5000
    assert env.reset(options={"a": 10**5000, "b": -20})[0].endswith(f": 1{zeros} * -20 =")
    steps = f"1{zeros} * 20 = 2{zeros}0"
    assert env.step(f"<think>{steps}</think><answer>-2{zeros}0</answer>")[1] == 1.5


@pytest.mark.parametrize(
    "arguments",
    [
        {"digits": 0},
        {"digits": 19},
        {"digits": (3,)},
        {"digits": (1, 2, 3)},
        {"digits": (0, 3)},
        {"digits": (2.5, 3)},
        {"question": "What is {a} squared?"},
        {"step_reward": -0.1},
        {"step_reward": 0.91},
        {"step_reward": float("nan")},
        {"step_reward": 0.5, "reward_amounts": (1.0, 0.6, 0.0)},
        {"step_reward": 0.1, "reward_amounts": (0.0, 1.0, 0.0)},
        {"split": "validation"},
    ],
)
def test_bad_arguments(arguments: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(arguments))):
        gym.make("Multiplication-v0", **arguments)


def test_wording_is_an_argument() -> None:
    env = gym.make("Multiplication-v0", question="{b} times {a}, as in \\frac{x}{y}?")
    assert env.reset(options={"a": 47, "b": 36})[0] == "36 times 47, as in \\frac{x}{y}?"


@pytest.mark.parametrize(
    ("answer", "failure"),
    [
        ("56088", None),
        (" \n56088\t", None),
        ("56,088", None),
        ("$56088$", None),
        ("$$ 56,088 $$", None),
        ("56087", "wrong value"),
        ("-56088", "wrong value"),
        ("0", "wrong value"),
        ("1,234,567", "wrong value"),
        ("", "not an integer"),
        ("5,6088", "not an integer"),
        ("560,88", "not an integer"),
        ("56,088,", "not an integer"),
        (",56088", "not an integer"),
        ("5_6088", "not an integer"),  # with the next one, holes of TinyZero's verifier
        ("+56088", None),
        ("056088", "not an integer"),
        ("056,088", "not an integer"),
        ("--56088", "not an integer"),
        ("56088.0", None),
        ("56088.", None),
        ("5.6088e4", "not an integer"),
        ("56e3", "not an integer"),
        ("0xDB18", "not an integer"),
        ("56 088", None),
        ("５６０８８", None),
        ("٥٦٠٨٨", "not an integer"),
        ("56088²", "not an integer"),
        ("123 * 456", "not an integer"),
        ("123 * 456 = 56088", None),
        ("123 * 457 = 56088", "not an integer"),
        ("56088 or 56087", "not an integer"),
        ("about 56088", "not an integer"),
        ("\\boxed{56088}", None),
        ("**56088**", None),
        ("56088\x00", "not an integer"),
        ("$56088", "not an integer"),
        ("$ $56088$ $", None),
        ("$$$56088$$$", None),
        ("int('56088')", "not an integer"),
    ],
)
def test_integers(answer: str, failure: str | None) -> None:
    assert verify_integer(answer, 56088) == failure


def test_integers_below_a_thousand_and_below_zero() -> None:
    assert verify_integer("0", 0) is verify_integer("-15", -15) is verify_integer("−15", -15) is None
    assert verify_integer("$-1,500$", -1500) is None
    assert verify_integer("15", -15) == "wrong value"
    for answer in ("-0", "00", "- 15", "-$15$", "-,015", "−−15"):
        assert verify_integer(answer, -15) == verify_integer(answer, 0) == "not an integer"


@given(st.integers())
def test_every_integer_is_itself_and_not_its_neighbour(n: int) -> None:
    for text in (str(n), f"{n:,}", f"${n}$"):
        assert verify_integer(text, n) is None
        assert verify_integer(text, n + 1) == verify_integer(text, 10 * n + 1) == "wrong value"


@given(st.text(max_size=40), st.integers(-99, 99))
def test_any_text_is_judged(text: str, target: int) -> None:
    assert verify_integer(text, target) in (None, "not an integer", "wrong value")
    assert 0.0 <= share_of_steps(text, target, 47) <= 1.0


def test_decimal_text_has_no_limit() -> None:
    assert [decimal_text(n) for n in (0, -1, 10**5)] == ["0", "-1", "100000"]
    assert decimal_text(10**10_000 + 1) == f"1{'0' * 9_999}1"


# The partial products of 47 * 36: 47 * 30 = 1410 and 47 * 6 = 282, or 36 * 40 = 1440 and 36 * 7 = 252.
@pytest.mark.parametrize(
    ("think", "share"),
    [
        ("47 * 30 = 1410, 47 * 6 = 282, 1410 + 282 = 1692", 1.0),
        ("36 * 40 = 1440, 36 * 7 = 252, 1440 + 252 = 1692", 1.0),
        ("First 30*47=1410. Then 6 × 47 = 282.", 1.0),
        ("- $47 \\times 30 = 1410$\n- $47 \\cdot 6 = 282$\n", 1.0),
        ("**47 · 30 = 1410**\n(47 ⋅ 6 = 282)", 1.0),
        ("47 * 30 = 1410\n47 * 6 = 282\n", 1.0),
        ("47 * 30 = 1410", 0.5),
        ("47 * 30 = 1410, 47 * 6 = 283", 0.5),
        ("47 * 36 = 1692", 0.0),  # the answer, not a step
        ("47 * 3 = 141, 47 * 6 = 282", 0.5),  # the 3 stands for 30
        ("40 * 30 = 1200, 7 * 30 = 210, 40 * 6 = 240, 7 * 6 = 42", 0.0),
        ("47 * 30 is 1410 and 47 * 6 is 282", 0.0),
        ("47 * 300 = 14100, 47 * 60 = 2820, 470 * 3 = 1410", 0.0),
        ("47 * 20 = 940, 47 * 10 = 470, 47 * 5 = 235, 47 * 0 = 0", 0.0),
        ("47 * 030 = 1410, 047 * 6 = 282, 47 * 6 = 0282", 0.0),
        ("47 * 30.0 = 1410, 47 * 6 = 282.0, 1.47 * 6 = 282", 0.0),
        ("47 * 6\n= 282, 47 *\n30 = 1410", 0.0),
        ("5 * 47 * 30 = 1410, 1 + 47 * 6 = 282, 1 / 47 * 6 = 282", 0.0),
        ("47 * 30 = 1410 + 0, 47 * 6 = 282 = 282", 0.0),
        ("４７ * 30 = 1410, 47 * ٦ = 282", 0.0),
        ("", 0.0),
    ],
)
def test_share_of_steps(think: str, share: float) -> None:
    assert share_of_steps(think, 47, 36) == share_of_steps(think, 36, 47) == share
    assert share_of_steps(think, -47, 36) == share


def test_required_steps_are_those_of_digits_that_are_not_0() -> None:
    assert share_of_steps("47 * 6 = 282", 47, 6) == 1.0  # one digit, one step
    assert share_of_steps("40 * 6 = 240", 47, 6) == 0.5
    assert share_of_steps("305 * 200 = 61000", 305, 204) == 0.5
    assert share_of_steps("204 * 300 = 61200, 204 * 5 = 1020", 305, 204) == 1.0
    assert share_of_steps("40 * 40 = 1600", 40, 40) == 1.0
    assert share_of_steps("12 * 10 = 120", 12, 12) == 0.5
    assert share_of_steps("0 * 7 = 0, 7 * 0 = 0, 0 * 0 = 0", 0, 7) == 0.0
    assert share_of_steps("0 * 0 = 0", 0, 0) == 0.0


STEPS = "47 * 30 = 1410, 47 * 6 = 282"


def reward_of(text: str, **arguments: object) -> float:
    env = gym.make("Multiplication-v0", **({"step_reward": 0.4} | arguments))
    env.reset(options={"a": 47, "b": 36})
    return env.step(text)[1]


def worked(think: str, answer: str = "1") -> str:
    return f"Ok let me think about it.\n<think>{think}</think>\n<answer> {answer} </answer>"


def test_steps_add_to_the_reward() -> None:
    assert reward_of(worked(STEPS, "1692")) == 1.4
    assert reward_of(worked("", "1692")) == 1.0
    assert reward_of(worked(STEPS)) == 0.5
    assert reward_of(worked("47 * 6 = 282")) == pytest.approx(0.3)
    assert reward_of(worked(STEPS, "1692"), step_reward=0.0) == 1.0
    assert reward_of(worked(STEPS), step_reward=0.9) == 1.0  # as much as a right answer, never more
    assert reward_of(worked(STEPS), reward="tinyzero") == 0.5
    assert reward_of(worked(STEPS), reward_amounts=(2.0, 1.0, -1.0), step_reward=1.0) == 2.0


# Each is paid no more than what stands behind it without the trick, in shares of the steps.
FARMING: dict[str, tuple[str, float]] = {
    "repeat a step": (worked("47 * 30 = 1410, " * 50), 0.5),
    "repeat it in other words": (worked("47 * 30 = 1410, 30 * 47 = 1410, 47 × 30 = 1410"), 0.5),
    "pad with other truths": (worked(", ".join(f"{n} * 2 = {2 * n}" for n in range(500))), 0.0),
    "pad the steps": (worked(STEPS + ", 47 * 36 = 1692, 40 * 30 = 1200" * 9), 1.0),
    "list guesses": (worked(", ".join(f"47 * 30 = {n}" for n in range(1400, 1420))), 0.0),
    "list guesses of all": (worked(" ".join(f"47 * 6 = {n}, 30 * 47 = {5 * n}" for n in range(280, 290))), 0.0),
    "list guesses in both orders": (worked("47 * 30 = 1400, 30 * 47 = 1410"), 0.0),
    "list guesses in one chain": (worked("47 * 30 = 1400 = 1410 = 1420"), 0.0),
    "correct a guess": (worked("47 * 30 = 1400, no, 47 * 30 = 1410, 47 * 6 = 282"), 0.5),
    "both decompositions": (worked(f"{STEPS}, 36 * 40 = 1440, 36 * 7 = 252"), 1.0),
    "half of each decomposition": (worked("47 * 30 = 1410, 36 * 7 = 252"), 0.5),
    "steps in the answer": (worked("", STEPS), 0.0),
}  # fmt: skip


@pytest.mark.parametrize("trick", FARMING)
def test_steps_cannot_be_farmed(trick: str) -> None:
    text, share = FARMING[trick]
    assert reward_of(text) == pytest.approx(0.1 + 0.4 * share)


@pytest.mark.parametrize(
    "text",
    [
        f"{STEPS} <think></think><answer>1</answer>",  # before the block: well formed, 0.1
        f"<think></think> {STEPS} <answer>1</answer>",
        f"<think></think><answer>1</answer> {STEPS}",
        f"<think>{STEPS}<answer>1</answer>",
        f"<think>{STEPS}</think>",
        f"<think>{STEPS}</think><think>{STEPS}</think><answer>1</answer>",
        STEPS,
    ],
)
def test_steps_elsewhere_or_in_bad_form_earn_nothing(text: str) -> None:
    assert reward_of(text) == reward_of(text, step_reward=0.0) <= 0.1


@pytest.mark.parametrize(
    ("work", "result"),
    [
        (lambda: share_of_steps("47 * 30 = 1410, " * (MEGA // 16), 47, 36), 0.5),
        (lambda: share_of_steps(", ".join(f"47 * {n} = {47 * n}" for n in range(MEGA // 20)), 47, 36), 1.0),
        (lambda: share_of_steps("1" * MEGA, 47, 36), 0.0),
        (lambda: share_of_steps(f"47 * {'9' * MEGA} = {'9' * MEGA}", 47, 36), 0.0),
        (lambda: share_of_steps("1 * " * (MEGA // 4), 47, 36), 0.0),
        (lambda: share_of_steps("1 * 1 = " * (MEGA // 8), 47, 36), 0.0),
        (lambda: share_of_steps("1," * (MEGA // 2), 47, 36), 0.0),
        (lambda: share_of_steps("1\t" * (MEGA // 2), 47, 36), 0.0),
        (lambda: share_of_steps(f"47{' ' * MEGA}* 6 ={' ' * MEGA}282", 47, 36), 0.5),
        (lambda: share_of_steps("47 * 6 = 282", 10**20_000, 36), 0.0),
        (lambda: verify_integer("1" * MEGA, 56088), "wrong value"),
        (lambda: verify_integer("1" + ",111" * (MEGA // 4), 56088), "wrong value"),
        (lambda: verify_integer("1,11" * (MEGA // 4), 56088), "not an integer"),
        (lambda: verify_integer("−" * MEGA, 56088), "not an integer"),
        (lambda: verify_integer("$" * MEGA, 56088), "not an integer"),
        (lambda: verify_integer(" " * MEGA + "56088", 56088), None),
    ],
)
def test_megabytes_take_under_a_second(work: Callable[[], object], result: object) -> None:
    start = time.process_time()
    assert work() == result
    assert time.process_time() - start < 1.0  # linear: a quadratic way would take minutes
