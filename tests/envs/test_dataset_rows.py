"""Rows of Dataset-v0 as the public writes them: each is read rightly, or refused when the rows are loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from envs.dataset import DatasetEnv
from envs.math_word import ANSWER_IN_TAGS, MATHEnv
from envs.truths import verifier_of


def row(truth: Any, *contents: str, source: str = "openai/gsm8k", **columns: Any) -> dict[str, Any]:
    """Messages by turns: the last is the user's, one before it the system's."""
    roles = ["system", "user"][2 - len(contents) :]
    messages = [
        {"role": role, "content": text} for role, text in zip(roles, contents or ("2+2?",), strict=False)
    ]
    if not contents:
        messages = [{"role": "user", "content": "2+2?"}]
    return {"data_source": source, "prompt": messages, "reward_model": {"ground_truth": truth}} | columns


@pytest.fixture
def make(tmp_path: Path) -> Any:
    def make(*rows: dict[str, Any], **arguments: Any) -> DatasetEnv:
        file = tmp_path / "t_train.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return DatasetEnv(str(file), **arguments)

    return make


def failure(env: DatasetEnv, answer: str) -> str | None:
    env.reset(seed=0)
    return env.step(f"<think>.</think><answer>{answer}</answer>")[4]["failure"]


@pytest.mark.parametrize(
    "truth",
    ["", " ", float("nan"), "nan", "NaN", "null", "None", "N/A", "$$", "\\boxed{}", "-", [], ["4", None]],
)
def test_a_ground_truth_that_says_nothing(make: Any, truth: Any) -> None:
    with pytest.raises(ValueError, match=r'row 0 of .*t_train.jsonl: its reward_model\["ground_truth"\] is'):
        make(row(truth))


@pytest.mark.parametrize("truth", ["proof", "notfound", "Proof", "not found", "unknown", "\\text{proof}"])
def test_a_word_for_a_missing_ground_truth(make: Any, truth: str) -> None:
    with pytest.raises(ValueError, match=r"row 0 of .*t_train.jsonl: .*missing: leave the row out"):
        make(row(truth, source="numina_olympiads"))


def test_a_later_bad_row_is_refused_where_it_is_drawn(make: Any) -> None:
    env = make(row("4"), row("proof"))
    with pytest.raises(ValueError, match=r"row 1 of .*t_train.jsonl: .*'proof'"):
        env.reset(options={"index": 1})
    assert failure(make(row("4")), "") is not None  # an empty answer is never right


@pytest.mark.parametrize(
    ("truth", "right", "wrong"),
    [
        ("Two and two is <<2+2=4>>4.\n#### 4", "4", "2"),
        (r"So the sum is $\boxed{4}$.", "4", "3"),
        (r"so $x = \boxed{1}$ or $x = \boxed{-2}$.", "1, -2", "-2"),
        ("<think>2 + 2</think><answer>4</answer>", "4", "5"),
        ("#### 1,200", "1200", "1"),
        ("2 + 2.\nThe answer is 4.", "4", "2"),
        (["1", "2"], "1, 2", "1"),
        ([4], "4", "5"),
        (4.0, "4", "40"),
        (0.5, r"\frac{1}{2}", "5"),
    ],
)
def test_a_ground_truth_of_many_forms(make: Any, truth: Any, right: str, wrong: str) -> None:
    env = make(row(truth))
    assert failure(env, right) is None
    assert failure(env, wrong) == "wrong value"


PLACEHOLDERS = [
    ("Put your final answer in the format of `#### <answer>`.", "#### 72"),
    ("The last line is: Answer: <answer>", "Answer: 72"),
    (r"End with \boxed{<answer>}.", r"So it is \boxed{72}."),
    ("Say 'The result is #### <answer>'.", "The result is #### 72"),
    ('Write "answer: <answer>" on a line of its own.', "answer: 72"),
    ('Let\'s think step by step and output the final answer after "####".', "#### 72"),  # verl's GSM8K
    ('Remember to put your answer on its own line after "Answer:".', "Answer: 72"),  # DAPO
    (r"Please reason step by step, and put your final answer within \boxed{}.", r"\boxed{72}"),
]


@pytest.mark.parametrize(("asked", "said"), PLACEHOLDERS)
@pytest.mark.parametrize("by", ["system", "user"])
def test_a_prompt_that_asks_for_another_form(make: Any, asked: str, said: str, by: str) -> None:
    """A block is asked for; and who does as the row says is read, though that is no good form."""
    contents = (asked, "How many?") if by == "system" else (f"How many? {asked}",)
    env = make(row("72", *contents))
    assert env.reset(seed=0)[0] == f"{contents[-1]}\n{ANSWER_IN_TAGS}"
    _, reward, _, _, info = env.step(f"<think>48+24=72</think>\n{said}")
    assert (reward, info["correct"], info["answer"]) == (0.1, True, "72")
    env.reset(seed=0)
    assert env.step(f"<think>48+24=72</think>\n{said}".replace("72", "73"))[1] == 0.0
    env.reset(seed=0)
    assert env.step("<think>48+24=72</think><answer>72</answer>")[1] == 1.0


def test_forms_that_nobody_asked_for_are_not_read(make: Any) -> None:
    env = make(row("72", "How many?"))
    for said in ("#### 72", "Answer: 72", r"\boxed{72}"):
        env.reset(seed=0)
        assert env.step(f"<think>.</think>\n{said}")[4]["failure"] == "no answer"
    env = make(row("72", "How many? End with ####."))
    for said in ("#### 72 #### 73", "<answer>#### 72", "<think>#### 72"):
        env.reset(seed=0)
        assert env.step(said)[4]["failure"] == "no answer"


@pytest.mark.parametrize(
    "asked",
    [
        "Return the final answer in <answer> </answer> tags.",
        "Answer in <answer> tags.",
        "Put it between <answer> and </answer>.",
        "Write it within the `<answer>` block.",
        "Respond as <think> reasoning </think> <answer> answer </answer>.",
    ],
)
def test_a_prompt_that_asks_for_a_block_is_left_alone(make: Any, asked: str) -> None:
    assert make(row("72", f"How many? {asked}")).reset(seed=0)[0] == f"How many? {asked}"
    assert make(row("72", asked, "How many?")).reset(seed=0)[0] == "How many?"


def test_turns(make: Any) -> None:
    turns = [
        ("user", "Let x be 2."),
        ("assistant", "Noted."),
        ("user", "What is x+2?"),
        ("assistant", "Sure:\n<think>"),
    ]
    messages = [{"role": role, "content": text} for role, text in turns]
    with pytest.raises(
        ValueError, match=r"row 0 of .*t_train.jsonl: the column prompt has the turns user, assistant"
    ):
        make(row("4", prompt=messages))
    question, info = make(row("4", prompt=messages[2:])).reset(seed=0)
    assert question == f"What is x+2?\n{ANSWER_IN_TAGS}"
    assert info["assistant_prefix"] == "Sure:\n<think>"


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"reward_model": json.dumps({"ground_truth": "4"})}, r"its reward_model is a text, .*json.loads"),
        ({"reward_model": "4"}, r"its reward_model is a text"),
        ({"reward_model": None, "reward_spec": '{"ground_truth": "4"}'}, r"a text, .*json.loads"),
    ],
)
def test_reward_models_as_text(make: Any, broken: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=rf"row 0 of .*{message}"):
        make(row("4") | broken)


def test_skyrl(make: Any) -> None:
    skyrl = row("4", env_class="gsm8k", reward_spec={"method": "rule", "ground_truth": "4"})
    del skyrl["reward_model"]
    env = make(skyrl)
    assert failure(env, "4") is None
    assert failure(env, "5") == "wrong value"


@pytest.mark.parametrize(
    ("source", "truth", "message"),
    [
        (
            "countdown",
            {"numbers": [2.0, 2.0], "target": 4.0},
            "numbers that are floats: convert them to integers",
        ),
        ("countdown", {"numbers": [2, 2], "target": 4.0}, "target that are floats"),
        (
            "countdown",
            {"numbers": ["2", "2"], "target": 4},
            "numbers that are texts: convert them to integers",
        ),
        ("countdown", {"numbers": [2, 2], "target": "4"}, "target that are texts"),
        ("countdown", {"numbers": [2, None], "target": 4}, "numbers that are of the type NoneType"),
        ("countdown", {"target": 4}, "has no 'numbers'"),
        ("multiply", 408.0, "digits that are floats"),
        ("multiply", "408", "digits that are texts"),
    ],
)
def test_numbers_of_another_type(make: Any, source: str, truth: Any, message: str) -> None:
    with pytest.raises(
        ValueError, match=rf'row 0 of .*\["ground_truth"\] is .*{message}.* or choose another'
    ):
        make(row(truth, source=source))


@pytest.mark.parametrize(
    "source",
    [
        "claimed_facts",
        "aftermath_qa",
        "polymathic",
        "campaigns",
        "dreamcast",
        "arithmetical",
        "hamcrest",
        "multiplying",
    ],
)
def test_a_word_within_a_word_names_no_verifier(make: Any, source: str) -> None:
    with pytest.raises(ValueError, match=rf"row 0 of .*data_source, '{source}'"):
        make(row("4", source=source))


@pytest.mark.parametrize(
    ("source", "verifier"),
    [
        ("DeepMath-103K", "math"),
        ("zwhe99/DeepMath", "math"),
        ("AI-MO/NuminaMath-1.5", "math"),
        ("numinamath_cot", "math"),
        ("OpenR1-Math-220k", "math"),
        ("math500", "math"),
        ("MATH500", "math"),
        ("aime25", "math"),
        ("amc23", "math"),
        ("GSM8K", "math"),
        ("simplelr_gsm8k_level1", "math"),
        ("Countdown3to4", "arithmetic"),
        ("multiply-3_digit", "integer"),
    ],
)
def test_words_of_a_source(source: str, verifier: str) -> None:
    assert verifier_of(source) == verifier


def test_rows_of_mathematics_are_refused_by_row_and_column(tmp_path: Path) -> None:
    file = tmp_path / "train.jsonl"
    for broken, message in (
        ({"problem": ["Q"], "answer": "3"}, "its column `problem` is the list"),
        ({"problem": "Q", "answer": {"a": 5}}, "its column `answer` is the dict"),
        ({"problem": "Q", "answer": "notfound"}, "its column `answer` is the text 'notfound'"),
    ):
        file.write_text(json.dumps(broken))
        with pytest.raises(ValueError, match=rf"row 0 of .*train.jsonl: {message}"):
            MATHEnv(data=str(file))
    file.write_text(json.dumps({"problem": "Q", "answer": "", "solution": r"\boxed{3}"}))
    assert MATHEnv(data=str(file)).num_tasks == 1
    env = MATHEnv(data="sample")
    for answer in ("", "nan", "proof"):
        with pytest.raises(ValueError, match=r'options\["answer"\]'):
            env.reset(options={"question": "Q", "answer": answer})
