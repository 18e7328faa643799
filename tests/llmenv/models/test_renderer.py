"""Prompts to the letter, dialogues that only grow, responses decoded as they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest

import envs  # noqa: F401
from llmenv.models.names import load_tokenizer
from llmenv.models.renderer import Renderer

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# TinyZero's prompt for base models, from its data preparation script.
TINYZERO = (
    "A conversation between User and Assistant. The user asks a question, and the Assistant solves it. The assistant "
    "first thinks about the reasoning process in the mind and then provides the user with the answer.\nUser: Using the "
    "numbers [44, 19, 35], create an equation that equals 98. You can use basic arithmetic operations (+, -, *, /) "
    "and each number can only be used once. Show your work in <think> </think> tags. And return the final answer in "
    "<answer> </answer> tags, for example <answer> (1 + 2) / 3 </answer>."
    "\nAssistant: Let me solve this step by step.\n<think>"
)


@pytest.fixture
def tokenizer(model_folder: str) -> Any:
    return load_tokenizer(model_folder)


@pytest.fixture
def chat(tokenizer: Any) -> Renderer:
    tokenizer.chat_template = CHAT_TEMPLATE
    return Renderer(tokenizer, frozenset({tokenizer.eos_token_id}), "chat")


def test_r1_is_tinyzeros_prompt_to_the_letter(model_folder: str) -> None:
    renderer = Renderer.from_model(model_folder)
    assert renderer.template == "r1"  # the tokenizer has no chat template
    env = gym.make("Countdown-v0")
    observation, info = env.reset(options={"numbers": [44, 19, 35], "target": 98})
    prompt = renderer.encode(observation, info["system"], info["assistant_prefix"])
    assert renderer.tokenizer.decode(prompt.token_ids) == TINYZERO
    assert prompt.response_prefix == "Let me solve this step by step.\n<think>"


def test_raw_is_the_observation_and_the_prefix(tokenizer: Any) -> None:
    renderer = Renderer(tokenizer, frozenset({0}), "raw")
    prompt = renderer.encode("2 + 2 =", "a system message has no place here", " It is")
    assert tokenizer.decode(prompt.token_ids) == "2 + 2 = It is"
    assert prompt.response_prefix == " It is"
    assert tokenizer.decode(renderer.next_turn([1], "next", " Well,").token_ids) == "next Well,"


def test_chat_is_the_tokenizers_template_and_the_prefix(chat: Renderer) -> None:
    prompt = chat.encode("Hello", "Be brief.", "<think>")
    assert chat.tokenizer.decode(prompt.token_ids) == (
        "<|im_start|>system\nBe brief.<|end|>\n<|im_start|>user\nHello<|end|>\n<|im_start|>assistant\n<think>"
    )
    without = chat.encode("Hello")
    assert (
        chat.tokenizer.decode(without.token_ids) == "<|im_start|>user\nHello<|end|>\n<|im_start|>assistant\n"
    )


def test_a_chat_dialogue_grows_to_what_the_template_renders_for_it(chat: Renderer) -> None:
    tokenizer = chat.tokenizer
    response = [*tokenizer.encode("12 + 3 = 15"), tokenizer.eos_token_id]
    grown = (
        chat.encode("Hello", "Be brief.").token_ids
        + response
        + chat.next_turn(response, "And now?").token_ids
    )
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "12 + 3 = 15"},
        {"role": "user", "content": "And now?"},
    ]
    whole = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert grown == tokenizer.encode(whole, add_special_tokens=False)


def test_an_end_with_a_space_before_it_stands_there_once(tokenizer: Any) -> None:
    """Llama 2's template, without its system message."""
    end = tokenizer.eos_token
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
        "{% else %} {{ m.content }} " + end + "{% endif %}{% endfor %}"
    )
    renderer = Renderer(tokenizer, frozenset({tokenizer.eos_token_id}), "chat")
    cut = tokenizer.encode(" 15")
    ended = renderer.next_turn([*cut, tokenizer.eos_token_id], "And now?")
    assert tokenizer.decode(ended.token_ids) == "[INST] And now? [/INST]"
    # Where the model did not end it, the template does; and a text that is no end of a message stays as it is.
    assert tokenizer.decode(renderer.next_turn(cut, "And now?").token_ids) == f" {end}[INST] And now? [/INST]"
    tokenizer.chat_template = tokenizer.chat_template.replace(end, "")
    other = Renderer(tokenizer, frozenset({tokenizer.eos_token_id}), "chat")
    after = other.next_turn([*cut, tokenizer.eos_token_id], "And now?")
    assert tokenizer.decode(after.token_ids) == " [INST] And now? [/INST]"


def test_an_r1_dialogue_goes_on_with_the_same_labels(tokenizer: Any) -> None:
    renderer = Renderer(tokenizer, frozenset({tokenizer.eos_token_id}), "r1")
    assert tokenizer.decode(renderer.next_turn([5], "And now?").token_ids) == "\nUser: And now?\nAssistant: "
    assert tokenizer.decode(renderer.next_turn([5], "And now?", "<think>").token_ids).endswith(
        "\nAssistant: <think>"
    )


def test_a_response_that_a_stop_string_ended_is_ended_in_the_dialogue_too(chat: Renderer) -> None:
    """The template's own end of a message stands there once, whether or not the model sampled it."""
    tokenizer = chat.tokenizer
    cut = tokenizer.encode("12 + 3 = 15")
    whole = [*cut, tokenizer.eos_token_id]
    after_cut, after_whole = (chat.next_turn(response, "And now?", "So") for response in (cut, whole))
    assert cut + after_cut.token_ids == whole + after_whole.token_ids


@pytest.mark.parametrize("template", ["chat", "r1", "raw"])
def test_an_observation_that_continues_the_message_is_appended_as_it_stands(
    chat: Renderer, template: str
) -> None:
    renderer = Renderer(chat.tokenizer, chat.stop_token_ids, template)
    turn = renderer.next_turn([5], "<result> 63 </result>", continues=True)
    assert turn.token_ids == chat.tokenizer.encode("<result> 63 </result>", add_special_tokens=False)


def test_auto_takes_the_chat_template_where_there_is_one(tokenizer: Any) -> None:
    assert Renderer(tokenizer, frozenset({0})).template == "r1"
    tokenizer.chat_template = CHAT_TEMPLATE
    assert Renderer(tokenizer, frozenset({0})).template == "chat"


def test_decode_drops_the_stop_token_that_ended_the_response_and_nothing_else(tokenizer: Any) -> None:
    end = tokenizer.eos_token_id
    renderer = Renderer(tokenizer, frozenset({end}))
    text = " a</think>\n<answer> 1 , 2 </answer>"
    ids = tokenizer.encode(text)
    assert renderer.decode([*ids, end]) == text
    assert renderer.decode(ids) == text
    assert renderer.decode([end]) == renderer.decode([]) == ""
    assert renderer.decode([*ids, end, end]) == text + "<|end|>"  # visible, and so not well formed
    assert renderer.decode([tokenizer.pad_token_id, *ids, end]) == "<|pad|>" + text


def test_stop_tokens_are_the_generation_configs_and_the_tokenizers(model_folder: str, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(model_folder)
    end = tokenizer.eos_token_id
    assert Renderer.from_model(model_folder).stop_token_ids == {end}
    for file in Path(model_folder).iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [3, 4], "pad_token_id": 5}))
    assert Renderer.from_model(str(tmp_path)).stop_token_ids == {3, 4, end}  # the padding id is none
    (tmp_path / "generation_config.json").unlink()
    assert Renderer.from_model(str(tmp_path)).stop_token_ids == {end}


def test_errors(tokenizer: Any) -> None:
    with pytest.raises(ValueError, match=r"unknown template 'chatt': choose one of auto, r1, chat, raw"):
        Renderer(tokenizer, frozenset({0}), "chatt")
    with pytest.raises(ValueError, match="needs a tokenizer with a chat template"):
        Renderer(tokenizer, frozenset({0}), "chat")
    with pytest.raises(ValueError, match="no response could ever end"):
        Renderer(tokenizer, frozenset())
