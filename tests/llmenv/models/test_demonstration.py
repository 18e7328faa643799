"""Conversations in tokens: what is learned of them, by template."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from llmenv.conversations import Conversation, Exchange
from llmenv.models import tiny
from llmenv.models.demonstration import Demonstration, demonstrate
from llmenv.models.renderer import Renderer

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TALK = Conversation((Exchange("1 + 1?", "It is 2."), Exchange("Sure?", "Yes.")), "Be brief.")


def renderer(template: str, chat_template: str = CHATML) -> Renderer:
    tokenizer = tiny.build_tokenizer([])
    if template == "chat":
        tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
        tokenizer.chat_template = chat_template
    return Renderer(tokenizer, frozenset([tokenizer.eos_token_id]), template)


def parts(one: Demonstration, renderer: Renderer) -> list[tuple[bool, str]]:
    """Runs of tokens that are learned or not, as texts."""
    ends = [0, *(np.flatnonzero(np.diff(one.response_mask)) + 1), len(one.token_ids)]
    return [
        (bool(one.response_mask[start]), renderer.tokenizer.decode(one.token_ids[start:end]))
        for start, end in pairwise(ends)
    ]


def test_several_turns_of_a_chat() -> None:
    chat = renderer("chat")
    assert parts(demonstrate(TALK, chat), chat) == [
        (
            False,
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n1 + 1?<|im_end|>\n<|im_start|>assistant\n",
        ),
        (True, "It is 2.<|im_end|>"),
        (False, "\n<|im_start|>user\nSure?<|im_end|>\n<|im_start|>assistant\n"),
        (True, "Yes.<|im_end|>"),
    ]


def test_several_turns_of_r1_begun_and_gone_on_with() -> None:
    r1 = renderer("r1")
    talk = Conversation(
        (
            Exchange("1 + 1?", "<think>\nsum</calc>", "<think>\n"),
            Exchange(" = 2", ", so 2", continues=True),
            Exchange("Sure?", "Yes."),
        ),
        "Be brief.",
    )
    (asked, start), *rest = parts(demonstrate(talk, r1), r1)
    assert not asked and start.endswith("Be brief.\nUser: 1 + 1?\nAssistant: <think>\n")
    assert rest == [
        (True, "sum</calc>"),  # no end: the environment goes on with it
        (False, " = 2"),
        (True, ", so 2<|end|>"),
        (False, "\nUser: Sure?\nAssistant: "),
        (True, "Yes.<|end|>"),
    ]


def test_what_the_template_opens_is_not_learned_and_must_be_there() -> None:
    thinking = renderer("chat", CHATML.replace("assistant\n{% endif", "assistant\n<think>\n{% endif"))
    talk = Conversation((Exchange("1 + 1?", "<think> sum </think> 2"),))
    assert parts(demonstrate(talk, thinking), thinking)[-1] == (True, "sum </think> 2<|im_end|>")
    with pytest.raises(
        ValueError, match=r"prompt ends with '<think>\\n'.*begins with 'It is 2.'.*template_kwargs"
    ):
        demonstrate(TALK, thinking)
    with pytest.raises(ValueError, match="response 1 is no longer than its beginning"):
        demonstrate(Conversation((Exchange("1 + 1?", "<think>"),)), thinking)
