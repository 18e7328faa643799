"""Dataset-v0: rows of TinyZero's and verl's schema, their prompts, and which verifier judges them."""

from __future__ import annotations

import json
import pickle
from collections.abc import Sequence
from copy import copy
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from envs.countdown import QUESTION, CountdownEnv
from envs.dataset import DatasetEnv
from llmenv.models.renderer import Renderer

SYSTEM = (
    "The assistant first thinks about the reasoning process in the mind and then provides the user with "
    "the answer."
)
PREFIX = "Let me solve this step by step.\n<think>"
COUNTDOWN = QUESTION.replace("{numbers}", "[44, 19, 35]").replace("{target}", "98")
# TinyZero's own, for base models and for Qwen's instruct models.
FLAT = (
    "A conversation between User and Assistant. The user asks a question, and the Assistant solves it. "
    f"{SYSTEM}\nUser: {COUNTDOWN}\nAssistant: {PREFIX}"
)
QWEN_SYSTEM = (
    "You are a helpful assistant. You first thinks about the reasoning process in the mind and then provides the user "
    "with the answer."
)
FLAT_QWEN = (
    f"<|im_start|>system\n{QWEN_SYSTEM}<|im_end|>\n<|im_start|>user\n {COUNTDOWN}<|im_end|>\n"
    f"<|im_start|>assistant\n{PREFIX}"
)


def row(data_source: str, truth: Any, *messages: str) -> dict[str, Any]:
    """Messages by turns: the last is the user's, one before it the system's."""
    roles = ["system", "user"][2 - len(messages) :]
    return {
        "data_source": data_source,
        "prompt": [{"role": role, "content": text} for role, text in zip(roles, messages, strict=True)],
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": truth},
        "extra_info": {"split": "train", "index": 0},
    }


def tinyzero_row(content: str = FLAT) -> dict[str, Any]:
    return row("countdown", {"target": 98, "numbers": [44, 19, 35]}, content)


def write(file: Path, rows: Sequence[dict[str, Any]]) -> str:
    if file.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(list(rows)), file)
    else:
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def failure(env: DatasetEnv, index: int, answer: str) -> str | None:
    env.reset(options={"index": index})
    return env.step(f"<think> a </think>\n<answer> {answer} </answer>")[-1]["failure"]


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
def test_countdown_of_tinyzero(tmp_path: Path, suffix: str) -> None:
    env = DatasetEnv(write(tmp_path / f"train{suffix}", [tinyzero_row()]))
    question, info = env.reset(seed=0)
    assert question == COUNTDOWN
    assert info == {"system": SYSTEM, "assistant_prefix": PREFIX}
    # 44 + 19 + 35 = 98.
    assert failure(env, 0, "44 + 19 + 35") is None
    assert failure(env, 0, "44 + 19 - 35") == "wrong value"
    assert failure(env, 0, "98") == "wrong numbers"


def rendered(renderer: Renderer, env: DatasetEnv) -> str:
    question, info = env.reset(seed=0)
    prompt = renderer.encode(question, info["system"], info["assistant_prefix"])
    assert prompt.response_prefix == PREFIX
    return renderer.tokenizer.decode(prompt.token_ids)


def test_the_r1_template_makes_tinyzeros_prompt_again(tmp_path: Path, model_folder: str) -> None:
    env = DatasetEnv(write(tmp_path / "train.parquet", [tinyzero_row()]))
    assert rendered(Renderer.from_model(model_folder, "r1"), env) == FLAT


def test_a_chat_template_makes_qwens_prompt_again(tmp_path: Path, model_folder: str) -> None:
    tokenizer = copy(Renderer.from_model(model_folder).tokenizer)
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    env = DatasetEnv(write(tmp_path / "train.parquet", [tinyzero_row(FLAT_QWEN)]))
    assert env.reset(seed=0)[1]["system"] == QWEN_SYSTEM
    assert rendered(Renderer(tokenizer, frozenset([0]), "chat"), env) == FLAT_QWEN


def test_multiplication_of_tinyzero(tmp_path: Path) -> None:
    system = f"{SYSTEM} They are enclosed within <think> </think> and <answer> </answer> tags, respectively."
    flat = (
        "A conversation between User and Assistant. The user asks a question, and the Assistant solves it. "
        f"{system} User: Give me the answer of the following equation: 12 * 34 = Assistant: Ok.\n<think>"
    )
    env = DatasetEnv(write(tmp_path / "train.parquet", [row("yolo/multiply-3_digit", 408, flat)]))
    question, info = env.reset(seed=0)
    assert question == "Give me the answer of the following equation: 12 * 34 ="
    assert info == {"system": system, "assistant_prefix": "Ok.\n<think>"}
    assert failure(env, 0, "408") is None
    assert failure(env, 0, "407") == "wrong value"
    assert failure(env, 0, "12 * 34") == "not an integer"


def test_mathematics_of_verl(tmp_path: Path) -> None:
    rows = [
        row("openai/gsm8k", "72", "How many? Let's think."),
        row("math_dapo", r"\frac{1}{2}", "Be brief.", "Halve 1."),
    ]
    env = DatasetEnv(write(tmp_path / "train.parquet", rows))
    question, info = env.reset(options={"index": 0})
    # It asks for no answer block, without which nothing would be right.
    assert question == (
        "How many? Let's think.\n"
        "Show your work in <think> </think> tags. And return the final answer in <answer> </answer> tags."
    )
    assert info == {"system": SYSTEM, "assistant_prefix": PREFIX}
    assert env.reset(options={"index": 1})[1] == {"system": "Be brief.", "assistant_prefix": PREFIX}
    assert failure(env, 0, "72.0") is None
    assert failure(env, 0, "27") == "wrong value"
    assert failure(env, 1, "0.5") is None


@pytest.mark.parametrize(
    "messages", [["Answer in <answer> tags: 1 + 1?"], ["Answer in <answer> tags.", "1 + 1?"]]
)
def test_a_prompt_that_asks_for_an_answer_block_is_left_alone(tmp_path: Path, messages: list[str]) -> None:
    env = DatasetEnv(write(tmp_path / "train.parquet", [row("gsm8k", "2", *messages)]))
    assert env.reset(seed=0)[0] == messages[-1]


@pytest.mark.parametrize(
    ("data_source", "verifier"),
    [
        ("countdown", "arithmetic"),
        ("Jiayi-Pan/Countdown-Tasks-3to4", "arithmetic"),
        ("multiplication", "integer"),
        ("yolo/arithmetic-3_digit", "integer"),
        ("lighteval/MATH", "math"),
        ("DigitalLearningGmbH/MATH-lighteval", "math"),
        ("HuggingFaceH4/MATH-500", "math"),
        ("aime2024", "math"),
        ("numina_olympiads", "math"),
    ],
)
def test_the_verifier_is_that_of_the_source(tmp_path: Path, data_source: str, verifier: str) -> None:
    truth = {"arithmetic": {"target": 3, "numbers": [1, 2]}, "integer": 3, "math": "3"}[verifier]
    env = DatasetEnv(write(tmp_path / "train.jsonl", [row(data_source, truth, "a")]))
    env.reset(seed=0)
    assert env.task.verifier == verifier
    assert failure(env, 0, "1 + 2" if verifier == "arithmetic" else "3") is None
    assert failure(env, 0, "2 + 2" if verifier == "arithmetic" else "4") is not None


def test_a_rows_own_score_is_passed_through(tmp_path: Path) -> None:
    scored = row("unknown", None, "a") | {"reward_model": {"score": 0.75}}
    both = row("gsm8k", "3", "a") | {"reward_model": {"ground_truth": "3", "score": -2}}
    env = DatasetEnv(write(tmp_path / "train.jsonl", [scored, both, row("gsm8k", "3", "a")]))
    response = "<think> a </think>\n<answer> 3 </answer>"
    expected = [
        (0.75, False, "not judged"),  # nothing to judge by
        (-2.0, True, None),  # judged, and paid what it says
        (1.0, True, None),
    ]
    for index, (reward, correct, failure) in enumerate(expected):
        env.reset(options={"index": index})
        _, paid, terminated, _, info = env.step(response)
        assert (paid, terminated, info["correct"], info["failure"]) == (reward, True, correct, failure)
    env.reset(options={"index": 0})
    assert env.step("anything")[1] == 0.75


@pytest.mark.parametrize("score", ["0.5", True, [1]])
def test_a_score_that_is_no_number_names_the_row(tmp_path: Path, score: object) -> None:
    scored = row("gsm8k", "3", "a") | {"reward_model": {"ground_truth": "3", "score": score}}
    with pytest.raises(ValueError, match=r'row 0 of .*reward_model\["score"\] is .* no finite number'):
        DatasetEnv(write(tmp_path / "train.jsonl", [scored]))


def test_an_unknown_source(tmp_path: Path) -> None:
    file = write(tmp_path / "train.jsonl", [row("codeforces", "3", "a")])
    with pytest.raises(
        ValueError, match=r"row 0 .*'codeforces', but for names with countdown.*verifier=\"math\""
    ):
        DatasetEnv(file)
    env = DatasetEnv(file, verifier="math")
    assert failure(env, 0, "3.0") is None
    with pytest.raises(ValueError, match="verifier must be one of arithmetic, integer, math"):
        DatasetEnv(file, verifier="code")


@pytest.mark.parametrize(
    ("data_source", "truth"),
    [
        ("countdown", "98"),
        ("countdown", {"target": 98}),
        ("countdown", {"target": "98", "numbers": [1]}),
        ("countdown", {"target": 98, "numbers": None}),
        ("multiply", "408"),
        ("multiply", None),
        ("gsm8k", {"answer": "3"}),
        ("gsm8k", None),
    ],
)
def test_a_ground_truth_of_another_kind(tmp_path: Path, data_source: str, truth: Any) -> None:
    with pytest.raises(ValueError, match=r'row 0 .*reward_model\["ground_truth"\] is .* choose another'):
        DatasetEnv(write(tmp_path / "train.jsonl", [row(data_source, truth, "a")]))


@pytest.mark.parametrize("missing", ["data_source", "prompt", "reward_model"])
def test_a_column_that_is_missing(tmp_path: Path, missing: str) -> None:
    broken = row("gsm8k", "3", "a")
    del broken[missing]
    message = {
        "prompt": "the column prompt must",
        "reward_model": "ground_truth",
        "data_source": "data_source, None",
    }
    with pytest.raises(ValueError, match=rf"row 0 of .*train.jsonl: .*{message[missing]}"):
        DatasetEnv(write(tmp_path / "train.jsonl", [broken]))


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("prompt", "What is 1 + 2?", "the column prompt must be a list"),
        ("prompt", ["What is 1 + 2?"], "the column prompt must be a list"),
        ("reward_model", '{"ground_truth": "3"}', "ground_truth"),
    ],
)
def test_a_row_of_another_form_is_refused(tmp_path: Path, column: str, value: Any, message: str) -> None:
    broken = row("gsm8k", "3", "What is 1 + 2?") | {column: value}
    with pytest.raises(ValueError, match=rf"row 0 of .*train.jsonl: .*{message}"):
        DatasetEnv(write(tmp_path / "train.jsonl", [broken]))


def test_the_held_out_rows(tmp_path: Path) -> None:
    def rows(name: str) -> list[dict[str, Any]]:
        return [row("gsm8k", "3", f"<answer> {name}")]

    def question(*args: str) -> str:
        return DatasetEnv(*args, split="test").reset(seed=0)[0]

    train = write(tmp_path / "train.parquet", rows("train"))
    other = write(tmp_path / "held_out.jsonl", rows("other"))
    with pytest.raises(ValueError, match=r"no file .*test.parquet.*; or say by test_data="):
        DatasetEnv(train, split="test")
    assert question(train, other) == "<answer> other"
    write(tmp_path / "test.parquet", rows("sibling"))
    assert question(train) == "<answer> sibling"
    assert question(str(tmp_path)) == "<answer> sibling"
    assert question(train, other) == "<answer> other"
    assert DatasetEnv(train, other).reset(seed=0)[0] == "<answer> train"
    # Held out is what says so, of a folder and of a file, and never a training row.
    assert question(train, str(tmp_path)) == "<answer> sibling"
    both = write(
        tmp_path / "both.jsonl",
        [r | {"split": r["prompt"][0]["content"].split()[-1]} for r in rows("train") + rows("test")],
    )
    assert question(train, both) == "<answer> test"
    assert DatasetEnv(train, both, split="test").num_tasks == 1


def test_options(tmp_path: Path) -> None:
    env = DatasetEnv(write(tmp_path / "train.jsonl", [row("gsm8k", "3", f"<answer> {i}") for i in range(5)]))
    assert [env.reset(options={"index": i})[0] for i in range(5)] == [f"<answer> {i}" for i in range(5)]
    for options in ({"index": 5}, {"index": None}, {"question": "a"}):
        with pytest.raises(ValueError, match=r"options=\{\"index\": i\}, with i from 0 to 4"):
            env.reset(options=options)


def test_a_pickle_carries_no_rows(tmp_path: Path) -> None:
    env = DatasetEnv(
        write(tmp_path / "train.jsonl", [row("gsm8k", "3", f"<answer> {i}") for i in range(5000)])
    )
    data = pickle.dumps(env)
    assert len(data) < 5000
    assert pickle.loads(data).reset(seed=3) == env.reset(seed=3)


def test_judges_as_the_environment_that_made_the_rows(tmp_path: Path) -> None:
    made = CountdownEnv()
    rows, texts = [], []
    for seed in range(50):
        question, info = made.reset(seed=seed)
        truth = {"target": made.task.target, "numbers": list(made.task.numbers)}
        rows.append(row("countdown", truth, info["system"], question))
        answer = made.task.solution if seed % 2 else "1 + 1"
        texts.append(f"{PREFIX} a </think>\n<answer> {answer} </answer>")
    env = DatasetEnv(write(tmp_path / "train.parquet", rows))
    for seed, text in enumerate(texts):
        assert env.reset(options={"index": seed}) == made.reset(seed=seed)
        assert env.step(text) == made.step(text)
