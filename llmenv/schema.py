"""The schema of TinyZero and verl: prompts of rows, taken apart, and rows that are written.

Knows messages and columns; which verifier judges a row is for environments to say.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import pyarrow as pa

_ROW_GROUP = 10_000  # rows that are in memory at once while a file is written

R1_PREAMBLE = (  # what the template "r1" puts before the system message
    "A conversation between User and Assistant. The user asks a question, and the Assistant solves it. "
)
_FLAT_PROMPTS = (
    # TinyZero's multiplication has a space where its Countdown and our template have the end of a line.
    re.compile(rf"{re.escape(R1_PREAMBLE)}(.*?)[\n ]User: (.*)[\n ]Assistant: (.*)", re.DOTALL),
    re.compile(
        r"<\|im_start\|>system\n(.*?)<\|im_end\|>\n<\|im_start\|>user\n(.*)<\|im_end\|>\n<\|im_start\|>assistant\n(.*)",
        re.DOTALL,
    ),
)
_TURNS = [["user"], ["system", "user"], ["user", "assistant"], ["system", "user", "assistant"]]
_ANSWERED = ("</think>", "<answer>", "\\boxed", "####")  # in a message that does more than begin


class Prompt(NamedTuple):
    """The parts of a prompt; None where a row leaves one to the environment."""

    question: str
    system: str | None = None
    assistant_prefix: str | None = None


def flat_prompt(prompt: Prompt) -> str:
    """A whole prompt in one text, as TinyZero gives it to base models; what the template "r1" makes of the parts."""
    return f"{R1_PREAMBLE}{prompt.system}\nUser: {prompt.question}\nAssistant: {prompt.assistant_prefix}"


def parse_prompt(messages: Sequence[Mapping[str, Any]]) -> Prompt:
    """Take a row's column "prompt" apart, so that a template is not applied to what one has made already.

    It is a user message, with a system message before it or not, and behind it the beginning of the assistant's or not.
    A user message that is a whole prompt, of TinyZero's form for base models or its form for Qwen's instruct models,
    gives all three parts.

    Raises:
        ValueError: there is no user message, or it is not a text; or there are more turns, none of which may be lost.
    """
    turns: list[tuple[Any, Any]] = []
    if not isinstance(messages, str) and all(isinstance(message, Mapping) for message in messages):
        turns = [(message.get("role"), message.get("content")) for message in messages]
        turns = [
            turn for turn in turns if turn[0] == "user" or turn[1]
        ]  # an empty system message says nothing
    said = dict(turns)
    if not isinstance(said.get("user"), str) or not all(isinstance(text, str) for text in said.values()):
        raise ValueError(
            "the column prompt must be a list of {role, content}, one of the role user with a text"
        )
    prompt = _take_apart(said["user"])
    roles = [role for role, _ in turns]
    in_one = prompt.assistant_prefix is not None
    if roles not in _TURNS or (in_one and len(roles) > 1) or "<|im_start|>" in prompt.question:
        raise ValueError(
            f"the column prompt has the turns {', '.join(map(str, roles))}, and one question is asked: write the turns "
            "before it into one user message, or leave the row out"
        )
    if in_one:
        return prompt
    begun = said.get("assistant")
    if begun and any(mark in begun for mark in _ANSWERED):
        raise ValueError(
            "the column prompt ends with an assistant's message that holds an answer already: leave that message out, "
            "or all of it but the beginning"
        )
    return Prompt(prompt.question, said.get("system"), begun)


def _take_apart(content: str) -> Prompt:
    for form in _FLAT_PROMPTS:
        if parts := form.fullmatch(content):
            return Prompt(parts[2], parts[1], parts[3])
    return Prompt(content)


def task_schema(truth: pa.DataType, *columns: pa.Field) -> pa.Schema:
    """The columns of a file for TinyZero or verl: a task's own, then those that they read."""
    import pyarrow as pa

    message = pa.struct([("role", pa.string()), ("content", pa.string())])
    return pa.schema(
        [
            *columns,
            ("data_source", pa.string()),
            ("prompt", pa.list_(message)),
            ("ability", pa.string()),
            ("reward_model", pa.struct([("style", pa.string()), ("ground_truth", truth)])),
            ("extra_info", pa.struct([("split", pa.string()), ("index", pa.int64())])),
        ]
    )


def task_row(
    data_source: str, prompt: Sequence[Mapping[str, str]], truth: Any, split: str, index: int, **columns: Any
) -> dict[str, Any]:
    """A row of `task_schema`."""
    return {
        **columns,
        "data_source": data_source,
        "prompt": prompt,
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": truth},
        "extra_info": {"split": split, "index": index},
    }


def write_rows(file: Path, rows: Iterable[Mapping[str, Any]], schema: pa.Schema) -> None:
    """Write a parquet file, holding a row group of it in memory at a time. The same rows give the same bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = iter(rows)
    with pq.ParquetWriter(file, schema) as writer:
        while group := list(islice(rows, _ROW_GROUP)):
            writer.write_table(pa.Table.from_pylist(group, schema=schema))
