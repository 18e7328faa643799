"""Rows that are to be imitated, in each of their forms; and those that are none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from llmenv.conversations import Conversation, Exchange, load_demonstrations, parse_conversation

SYSTEM, ASKED, ANSWERED = (
    {"role": role, "content": text}
    for role, text in (("system", "Be brief."), ("user", "1 + 1?"), ("assistant", "2"))
)
AGAIN = [{"role": "user", "content": "And 2 + 2?"}, {"role": "assistant", "content": "4"}]
TWO_TURNS = [
    {"text": "calc: <calc>1+1</calc>", "observation": "= 2", "info": {"continues": True}},
    {"text": "so 2", "observation": "sure?", "info": {"assistant_prefix": "Well, "}},
    {"text": "Well, yes", "observation": "", "info": {}},
]


@pytest.mark.parametrize(
    ("row", "conversation"),
    [
        ({"messages": [SYSTEM, ASKED, ANSWERED]}, Conversation((Exchange("1 + 1?", "2"),), "Be brief.")),
        (
            {"messages": json.dumps([ASKED, ANSWERED, *AGAIN])},
            Conversation((Exchange("1 + 1?", "2"), Exchange("And 2 + 2?", "4"))),
        ),
        ({"prompt": "[1] + 1?", "completion": "2"}, Conversation((Exchange("[1] + 1?", "2"),))),
        (
            {"prompt": [SYSTEM, ASKED], "completion": [ANSWERED]},
            Conversation((Exchange("1 + 1?", "2"),), "Be brief."),
        ),
        (  # a record: its messages are the prompt's, and end with how the environment begins the answer
            {
                "messages": json.dumps([ASKED, {"role": "assistant", "content": "Let me see. "}]),
                "prompt": "as it was rendered",
                "completion": "Let me see. 2",
            },
            Conversation((Exchange("1 + 1?", "Let me see. 2", "Let me see. "),)),
        ),
        (
            {"messages": [ASKED], "completion": "the transcript", "turns": json.dumps(TWO_TURNS)},
            Conversation(
                (
                    Exchange("1 + 1?", "calc: <calc>1+1</calc>"),
                    Exchange("= 2", "so 2", continues=True),
                    Exchange("sure?", "Well, yes", "Well, "),
                )
            ),
        ),
    ],
)
def test_every_form_of_a_row(row: dict[str, Any], conversation: Conversation) -> None:
    assert parse_conversation(row) == conversation


@pytest.mark.parametrize(
    ("row", "error"),
    [
        ({"messages": [ASKED]}, "of user: user and assistant must take turns"),
        ({"messages": [SYSTEM, ANSWERED, ASKED]}, "of assistant, user"),
        ({"messages": [{"role": "user"}]}, "column messages must be a text, or a list of"),
        ({"prompt": None, "completion": "2"}, "column prompt must be"),
        ({"prompt": "1 + 1?", "completion": " \n"}, "response 1 is empty.*leave the row out"),
        (
            {"messages": [ASKED, ANSWERED, AGAIN[0], {"role": "assistant", "content": ""}]},
            "response 2 is empty",
        ),
    ],
)
def test_what_is_no_conversation_is_refused(row: dict[str, Any], error: str) -> None:
    with pytest.raises(ValueError, match=error):
        parse_conversation(row)


def test_of_records_what_is_right_and_whole_is_wanted(tmp_path: Path) -> None:
    rows = {"messages": "[]", "completion": "2", "truncated": False, "error": None, "correct": True}
    frame = pd.DataFrame([rows] * 5)
    frame["correct"] = pd.array([True, False, None, True, True], dtype="boolean")
    frame.loc[3, "truncated"], frame.loc[4, "error"] = True, "it failed"
    (tmp_path / "records").mkdir()
    frame.to_parquet(tmp_path / "records" / "part_000000.parquet")
    assert load_demonstrations(tmp_path)[1] == [0]
    assert load_demonstrations(tmp_path / "records", only_right=False)[1] == [0, 1, 2]
    frame[1:3].to_parquet(tmp_path / "wrong.parquet")
    with pytest.raises(ValueError, match=r"none of the 2 rows .*wrong.parquet is right.*only_right=False"):
        load_demonstrations(tmp_path / "wrong.parquet")


def test_a_source_that_cannot_be_read_says_what_it_needs(tmp_path: Path) -> None:
    (tmp_path / "half.jsonl").write_text('{"prompt": "1 + 1?"}\n')
    with pytest.raises(
        ValueError, match=r"half.jsonl has prompt of .*needs `messages`, or `prompt` and `comp.*rename"
    ):
        load_demonstrations(tmp_path / "half.jsonl")
    (tmp_path / "other.jsonl").write_text('{"question": "1 + 1?"}\n')
    with pytest.raises(ValueError, match="none of the columns messages, prompt"):
        load_demonstrations(tmp_path / "other.jsonl")
    (tmp_path / "cut.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"cut.parquet is no parquet file, or only part of one"):
        load_demonstrations(tmp_path / "cut.parquet")
    with pytest.raises(ValueError, match="there is no file"):
        load_demonstrations(tmp_path / "nowhere.parquet")
