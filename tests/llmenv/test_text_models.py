"""Functions as models, through the rollout loop: what they are told, and what is recorded."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from typing import Any

import gymnasium as gym
import pandas as pd
import pytest

from llmenv.evaluation import evaluate
from llmenv.evaluation.text_models import (
    ASSISTANT,
    END,
    SYSTEM,
    USER,
    Characters,
    function_subject,
    messages_of,
)
from scripted import EchoEnv

gym.register("Echo-v0", entry_point=EchoEnv)
told: list[Any] = []


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    module = types.ModuleType("own_model")

    def shout(text: str) -> str:
        told.append(text)
        return text.upper()

    def count(messages: list[dict[str, str]]) -> str:
        told.append(messages)
        return f"{len(messages)} \U0001f642"

    module.shout, module.count, module.number = shout, count, 3  # type: ignore[attr-defined]
    module.none = lambda text: None  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "own_model", module)
    told.clear()
    return module


def test_a_sequence_is_a_conversation() -> None:
    renderer = Characters()
    prompt = renderer.encode("1+1?", "Be brief.", "Well:").token_ids
    assert [code for code in prompt if code >= SYSTEM] == [SYSTEM, USER, ASSISTANT]
    reply = [ord("2"), END]
    later = renderer.next_turn(reply, "sure?").token_ids
    assert messages_of([*prompt, *reply, *later]) == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "1+1?"},
        {"role": "assistant", "content": "2"},
        {"role": "user", "content": "sure?"},
    ]
    assert renderer.decode(reply) == "2"
    assert (
        renderer.decode(prompt, skip_special_tokens=False) == "<|system|>Be brief.<|user|>1+1?<|assistant|>"
    )


def test_how_an_answer_begins_is_its_last_message_where_that_is_sent() -> None:
    renderer = Characters()
    renderer.takes_prefix = True
    prompt = renderer.encode("1+1?", None, "Well:")
    assert prompt.response_prefix == "Well:"
    assert messages_of(prompt.token_ids)[-1] == {"role": "assistant", "content": "Well:"}
    later = renderer.next_turn([ord("2"), END], "sure?", "Yes,")
    messages = messages_of([*prompt.token_ids, ord("2"), END, *later.token_ids])
    assert [message["content"] for message in messages] == ["1+1?", "Well:2", "sure?", "Yes,"]


def test_a_function_of_a_text(own: types.ModuleType, tmp_path: Path) -> None:
    evaluate(function_subject("own_model:shout"), "envs:Countdown-v0", tmp_path, num_tasks=2, samples=1)
    row = pd.read_parquet(tmp_path / "records").iloc[0]
    messages = json.loads(row["messages"])
    assert [message["role"] for message in messages] == ["system", "user"]  # nothing put into its mouth
    assert told[0] == "\n\n".join(message["content"] for message in messages)
    assert row["completion"] == told[0].upper()
    assert (row["finish_reason"], row["failure"]) == ("stop", "no answer")


def test_a_function_of_messages_has_all_turns(own: types.ModuleType, tmp_path: Path) -> None:
    evaluate(
        function_subject("own_model:count"), "test_text_models:Echo-v0", tmp_path, num_tasks=1, samples=1
    )
    row = pd.read_parquet(tmp_path / "records").iloc[0]
    turns = json.loads(row["turns"])
    assert [turn["text"] for turn in turns] == ["2 \U0001f642", "4 \U0001f642"]
    assert [turn["reward"] for turn in turns] == [0.25, 1.0]
    assert row["reward"] == 1.25
    assert [message["role"] for message in told[1]] == ["system", "user", "assistant", "user"]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("own_model:nothing", "there is no function 'own_model:nothing'"),
        ("no_such_module:f", "there is no function 'no_such_module:f'"),
        ("own_model:number", "is a int, and no function"),
    ],
)
def test_what_is_no_function_is_refused(own: types.ModuleType, name: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        function_subject(name)


def test_a_function_must_return_a_text(own: types.ModuleType, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="own_model:none returned a NoneType"):
        evaluate(function_subject("own_model:none"), "envs:Countdown-v0", tmp_path, num_tasks=1, samples=1)
