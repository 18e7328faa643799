"""Conversations to imitate, read from rows of data. Knows columns and roles, nothing about tokens or templates.

A row is one of these, told apart by its columns:

- a record of an evaluation (`llmenv.evaluation.records`), or what `experiments/generate.py` kept of some: `messages`
  and `completion`. What is not right, or was cut short, is left out;
- `messages`: a list of {role, content}, or JSON of one: a system message or none, then user and assistant in turn;
- `prompt` and `completion`: each a text, or such a list of messages.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from llmenv.data import WANTED, Rows, load_rows, split_files
from llmenv.remote import is_uri, local_copy

COLUMNS = ("messages", "prompt", "completion", "turns", "correct", "truncated", "error")
SHAPES = "`messages`, or `prompt` and `completion`"


class Exchange(NamedTuple):
    """A question and the answer to it.

    Attributes:
        asked: By the user, or the environment.
        answered: By the assistant: the whole message.
        prefix: How the environment begins the answer; nobody learns to write that.
        continues: Whether what was asked goes on with the assistant's last message, instead of answering it.
    """

    asked: str
    answered: str
    prefix: str = ""
    continues: bool = False


class Conversation(NamedTuple):
    """What is to be imitated: every answer in it."""

    exchanges: tuple[Exchange, ...]
    system: str | None = None


def load_demonstrations(
    data: str | Path, *, only_right: bool = True, split: str = "train"
) -> tuple[Rows, list[int]]:
    """The rows of a source, and the numbers of those that are to be imitated.

    Args:
        data: A file, a folder, a URI of one, a hub id (see `llmenv.data`), or the folder of an evaluation: what
            `experiments/generate.py` has kept of it, else all its records.
        only_right: Of records, whether those are left out that were not right. Those that failed or were cut short are
            in any case.
        split: What of the source is wanted, where its rows or files say of which split they are; all where none does.

    Raises:
        ValueError: If it cannot be read, has other columns, or nothing is left of it.
    """
    source = local_copy(data, WANTED) if is_uri(data) else Path(data).expanduser()
    places = [source / name for name in ("kept.parquet", "records") if (source / name).exists()]
    source = places[0] if places else source
    parts = source.is_dir() and not split_files(source, split)  # of a whole that knows no splits
    rows = load_rows(source if source.exists() else data, None if parts else split, COLUMNS, split)
    names = {*rows.columns}
    if not ("messages" in names or names >= {"prompt", "completion"}):
        raise ValueError(
            f"{rows.origin} has {' and '.join(names & {'prompt', 'completion'}) or 'no column'} of a demonstration's "
            f"columns, and needs {SHAPES}: rename its columns"
        )
    if not names & {"correct", "truncated", "error"}:
        return rows, [*range(len(rows))]
    kept = [i for i in range(len(rows)) if _is_wanted(rows[i], only_right)]
    if not kept:
        raise ValueError(
            f"none of the {len(rows)} rows of {rows.origin} is right and whole: sample more of them, from a better "
            "model, or imitate wrong ones too with only_right=False"
        )
    return rows, kept


def _is_wanted(row: Mapping[str, Any], only_right: bool) -> bool:
    whole = not row.get("truncated") and row.get("error") is None
    return whole and (not only_right or "correct" not in row or bool(row["correct"]))


def parse_conversation(row: Mapping[str, Any]) -> Conversation:
    """Takes a row apart.

    Raises:
        ValueError: If it has another form, or an answer is empty.
    """
    if row.get("messages") is not None:
        messages = _messages(row["messages"], "messages", "user")
        is_record = row.get("completion") is not None
        conversation = _of_record(row, messages) if is_record else _of_messages(messages)
    else:
        asked = _messages(row.get("prompt"), "prompt", "user")
        answered = _messages(row.get("completion"), "completion", "assistant")
        conversation = _of_messages([*asked, *answered])
    for number, exchange in enumerate(conversation.exchanges, start=1):
        if not exchange.answered.strip():
            raise ValueError(f"response {number} is empty: there is nothing to learn; leave the row out")
    return conversation


def question_of(row: Mapping[str, Any]) -> str:
    """What a row asks: the last user message of `messages` or `prompt`, or the text of `question` or `problem`."""
    for name in ("messages", "prompt", "question", "problem"):
        if row.get(name) is not None:
            asked = [text for role, text in _messages(row[name], name, "user") if role == "user"]
            return asked[-1] if asked else ""
    raise ValueError(
        "a question stands in messages, prompt, question or problem, and the row has none of them"
    )


def _messages(value: Any, column: str, role: str) -> list[tuple[str, str]]:
    """The (role, content) of a column; a text that is no JSON of messages is one message of `role`."""
    if isinstance(value, str):
        try:
            parsed = json.loads(value) if value.lstrip().startswith("[") else value
        except ValueError:
            parsed = value
        value = parsed if _are_messages(parsed) else [{"role": role, "content": value}]
    if not _are_messages(value):
        raise ValueError(f"the column {column} must be a text, or a list of {{role, content}}, both texts")
    return [(message["role"], message["content"]) for message in value]


def _are_messages(value: Any) -> bool:
    return (
        isinstance(value, Sequence)
        and not isinstance(value, str)
        and bool(value)
        and all(isinstance(message, Mapping) for message in value)
        and all(isinstance(message.get(key), str) for message in value for key in ("role", "content"))
    )


def _of_messages(messages: Sequence[tuple[str, str]]) -> Conversation:
    system = messages[0][1] if messages[0][0] == "system" else None
    rest = messages[1:] if system is not None else messages
    roles = [role for role, _ in rest]
    if not rest or roles != ["user", "assistant"] * (len(rest) // 2):
        raise ValueError(
            f"its messages are of {', '.join(roles) or 'nobody'}: user and assistant must take turns, after a system "
            "message or none, and the assistant has the last word"
        )
    texts = [content for _, content in rest]
    return Conversation(tuple(map(Exchange, texts[::2], texts[1::2])), system)


def _of_record(row: Mapping[str, Any], prompt: Sequence[tuple[str, str]]) -> Conversation:
    """What an environment asked, with the prompt's last message the beginning of the answer, and what it was told."""
    begun = prompt[-1][1] if prompt[-1][0] == "assistant" else ""
    first = _of_messages([*(prompt[:-1] if begun else prompt), ("assistant", str(row["completion"]))])
    (only,) = first.exchanges
    if row.get("turns") is None:
        return first._replace(exchanges=(only._replace(prefix=begun),))
    turns = json.loads(row["turns"])
    exchanges = [Exchange(only.asked, turns[0]["text"], begun)]
    for before, turn in pairwise(turns):
        info = before["info"]
        prefix, continues = info.get("assistant_prefix") or "", bool(info.get("continues"))
        exchanges.append(Exchange(before["observation"], turn["text"], prefix, continues))
    return first._replace(exchanges=tuple(exchanges))
