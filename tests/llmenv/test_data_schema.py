"""TinyZero's schema: prompts that are taken apart, and rows that are written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llmenv.data import Rows, load_rows
from llmenv.schema import Prompt, flat_prompt, parse_prompt, task_row, task_schema, write_rows

SYSTEM = (
    "The assistant first thinks about the reasoning process in the mind and then provides the user with "
    "the answer."
)
QUESTION = "Using the numbers [44, 19, 35], make 98. User: and Assistant: are words too."
FLAT = (
    "A conversation between User and Assistant. The user asks a question, and the Assistant solves it. "
    f"{SYSTEM}\nUser: {QUESTION}\nAssistant: Let me solve this step by step.\n<think>"
)


def user(content: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": content}]


def test_a_whole_prompt_is_taken_apart() -> None:
    prompt = parse_prompt(user(FLAT))
    assert prompt == Prompt(QUESTION, SYSTEM, "Let me solve this step by step.\n<think>")
    assert flat_prompt(prompt) == FLAT


def test_the_prompt_of_tinyzeros_multiplication() -> None:
    system = f"{SYSTEM} The reasoning process is enclosed within <think> </think> tags."
    question, prefix = (
        "Give me the answer of the following equation: 12 * 34 =",
        "Ok let me think about it.\n<think>",
    )
    start = (
        "A conversation between User and Assistant. The user asks a question, and the Assistant solves it."
    )
    flat = f"{start} {system} User: {question} Assistant: {prefix}"  # all in one line
    assert parse_prompt(user(flat)) == Prompt(question, system, prefix)


def test_the_prompt_for_qwens_instruct_models() -> None:
    flat = (
        f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n {QUESTION}<|im_end|>\n"
        "<|im_start|>assistant\nLet me solve this step by step.\n<think>"
    )
    # With TinyZero's space before the question: the chat template makes the same prompt again.
    assert parse_prompt(user(flat)) == Prompt(
        f" {QUESTION}", SYSTEM, "Let me solve this step by step.\n<think>"
    )


def test_messages() -> None:
    assert parse_prompt(user("What is 1 + 1?")) == Prompt("What is 1 + 1?", None, None)
    system = {"role": "system", "content": "Be brief."}
    assert parse_prompt([system, *user("last")]) == Prompt("last", "Be brief.", None)
    assert parse_prompt([{"role": "system", "content": None}, *user("last")]) == Prompt("last", None, None)
    half = FLAT.partition("\nUser: ")[0]
    assert parse_prompt(user(half)).question == half


def turns(*texts: str) -> list[dict[str, str]]:
    """Messages whose role is told by their first letter: s, u, a or t."""
    roles = {"s": "system", "u": "user", "a": "assistant", "t": "tool"}
    return [{"role": roles[text[0]], "content": text} for text in texts]


@pytest.mark.parametrize(
    ("messages", "begun"),
    [
        (("u", "a: Sure.\n<think>"), "a: Sure.\n<think>"),
        (("s", "u", "a: Let's see"), "a: Let's see"),
        (("u", "a <think>\n"), "a <think>\n"),
        (("s", "u", "a: 1. Look.\n2."), "a: 1. Look.\n2."),
        (("u", "a: Well, "), "a: Well, "),
    ],
)
def test_what_the_assistant_has_begun(messages: tuple[str, ...], begun: str) -> None:
    assert parse_prompt(turns(*messages)).assistant_prefix == begun
    assert parse_prompt(turns(*messages)).question == "u"


@pytest.mark.parametrize(
    "messages",
    [
        turns("u: Let x be 2.", "a: Noted.", "u: What is x + 2?"),
        turns("s", "u: 1 + 1?", "a: 2", "u: 2 + 2?", "a: 4", "u: 3 + 3?"),
        turns("s", "u: first", "u: last"),
        turns("s: one", "s: two", "u"),
        turns("u", "s"),
        turns("a: Hello.", "u"),
        turns("u", "t: result"),
        turns("u", "a", "a"),
        [*user(FLAT), *turns("a: more")],
        user(
            "<|im_start|>system\ns<|im_end|>\n<|im_start|>user\n1?<|im_end|>\n<|im_start|>assistant\n1<|im_end|>\n"
            "<|im_start|>user\n2?<|im_end|>\n<|im_start|>assistant\n"
        ),
    ],
)
def test_no_turn_is_lost(messages: list[dict[str, str]]) -> None:
    with pytest.raises(ValueError, match=r"the column prompt has the turns .* into one user message"):
        parse_prompt(messages)


@pytest.mark.parametrize(
    "text",
    ["a: so\n#### 5", "a: \\boxed{5}", "a: <answer>5", "a</think>", "a <think>b</think><answer>5</answer>"],
)
def test_an_answer_is_not_given_away(text: str) -> None:
    with pytest.raises(ValueError, match="holds an answer already"):
        parse_prompt(turns("u", text))


@pytest.mark.parametrize(
    "messages", [[], [{"role": "system", "content": "a"}], user(None), user([{"text": "a"}])]
)
def test_no_question(messages: list[dict[str, Any]]) -> None:
    with pytest.raises(ValueError, match=r"list of \{role, content\}"):
        parse_prompt(messages)


def countdown_rows(count: int) -> list[dict[str, Any]]:
    return [
        task_row(
            "countdown",
            user(f"question {i}"),
            {"target": i, "numbers": [i, 1]},
            "train",
            i,
            target=i,
            nums=[i, 1],
        )
        for i in range(count)
    ]


NUMBERS = pa.list_(pa.int64())
COUNTDOWN_SCHEMA = (
    pa.struct([("target", pa.int64()), ("numbers", NUMBERS)]),
    pa.field("target", pa.int64()),
    pa.field("nums", NUMBERS),
)


def test_the_schema_is_tinyzeros(tmp_path: Path) -> None:
    file = tmp_path / "train.parquet"
    write_rows(file, countdown_rows(3), task_schema(*COUNTDOWN_SCHEMA))
    # As `datasets` 5.2 writes the rows of TinyZero's script.
    assert str(pq.read_schema(file)) == (
        "target: int64\n"
        "nums: list<element: int64>\n"
        "  child 0, element: int64\n"
        "data_source: string\n"
        "prompt: list<element: struct<role: string, content: string>>\n"
        "  child 0, element: struct<role: string, content: string>\n"
        "      child 0, role: string\n"
        "      child 1, content: string\n"
        "ability: string\n"
        "reward_model: struct<style: string, ground_truth: struct<target: int64, numbers: list<element: int64>>>\n"
        "  child 0, style: string\n"
        "  child 1, ground_truth: struct<target: int64, numbers: list<element: int64>>\n"
        "      child 0, target: int64\n"
        "      child 1, numbers: list<element: int64>\n"
        "          child 0, element: int64\n"
        "extra_info: struct<split: string, index: int64>\n"
        "  child 0, split: string\n"
        "  child 1, index: int64"
    )
    assert pq.read_table(file).to_pylist()[2] == {
        "target": 2,
        "nums": [2, 1],
        "data_source": "countdown",
        "prompt": [{"role": "user", "content": "question 2"}],
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": {"target": 2, "numbers": [2, 1]}},
        "extra_info": {"split": "train", "index": 2},
    }


def test_writing_streams_in_row_groups(tmp_path: Path) -> None:
    alive = 0
    most = 0

    class Row(dict):
        def __init__(self, row: dict[str, Any]) -> None:
            nonlocal alive, most
            super().__init__(row)
            alive += 1
            most = max(most, alive)

        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    file = tmp_path / "train.parquet"
    write_rows(file, (Row(row) for row in countdown_rows(25_000)), task_schema(*COUNTDOWN_SCHEMA))
    metadata = pq.read_metadata(file)
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [10_000, 10_000, 5_000]
    assert most <= 20_001  # a group, and the one that takes its place
    rows: Rows = load_rows(file, "train", ("reward_model",))
    assert rows[12_345]["reward_model"]["ground_truth"] == {"target": 12_345, "numbers": [12_345, 1]}


def test_the_same_rows_are_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_rows(tmp_path / name, countdown_rows(50), task_schema(*COUNTDOWN_SCHEMA))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
