"""What templates do by themselves: open thinking, refuse a system message, print the date, end a message."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
from tokenizers import processors

from llmenv.models.names import load_tokenizer
from llmenv.models.renderer import Renderer
from llmenv.text import parse_response

TURNS = "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content | trim }}<|stop|>\n{% endfor %}"
ASK = "{% if add_generation_prompt %}<|assistant|>\n"
PLAIN = TURNS + ASK + "{% endif %}"
OPENS = TURNS + ASK + "<think>\n{% endif %}"
CLOSES = TURNS + ASK + "<think>\n\n</think>\n\n{% endif %}"
# Every answer has a block of thoughts, an empty one in what is past.
ALWAYS = (
    TURNS.replace("{{ m", "{% if m.role == 'assistant' %}<think>\n\n</think>\n\n{% endif %}{{ m", 1).replace(
        "<|{% if m.role == 'assistant' %}<think>\n\n</think>\n\n{% endif %}{{ m.role }}|>\n",
        "<|{{ m.role }}|>\n{% if m.role == 'assistant' %}<think>\n\n</think>\n\n{% endif %}",
    )
    + ASK
    + "<think>\n{% endif %}"
)
SWITCH = (
    TURNS
    + ASK
    + "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + PLAIN
DROPS_SYSTEM = PLAIN.replace("in messages %}", "in messages if m.role != 'system' %}")
CLOCK = "{{ strftime_now('%d %b %Y') }}\n" + PLAIN

ENV_PREFIX = "Let me solve this step by step.\n<think>"
ANSWER = " 1 + 2 </think>\n<answer> 3 </answer>"


@pytest.fixture
def tokenizer(model_folder: str) -> Any:
    tokenizer = load_tokenizer(model_folder)
    tokenizer.add_tokens(["<|stop|>"], special_tokens=True)
    return tokenizer


def renderer(tokenizer: Any, template: str, **template_kwargs: Any) -> Renderer:
    tokenizer.chat_template = template
    return Renderer(tokenizer, frozenset({tokenizer.eos_token_id}), "chat", template_kwargs)


@pytest.mark.parametrize("template", [OPENS, ALWAYS])
@pytest.mark.parametrize(
    ("prefix", "lead"), [("", ""), ("<think>", ""), (ENV_PREFIX, "Let me solve this step by step.\n")]
)
def test_what_the_template_opens_is_the_models_and_is_opened_once(
    tokenizer: Any, template: str, prefix: str, lead: str
) -> None:
    ours = renderer(tokenizer, template)
    prompt = ours.encode("1 + 2?", "Think.", prefix)
    text = tokenizer.decode(prompt.token_ids)
    assert prompt.response_prefix == "<think>\n" + lead
    assert text.endswith("<|assistant|>\n<think>\n" + lead)
    assert text.count("<think>") == 1
    assert parse_response(prompt.response_prefix + ANSWER).well_formed
    later = ours.next_turn([5], "And 3?", prefix)
    assert later.response_prefix == "<think>\n" + lead
    assert tokenizer.decode(later.token_ids) == (
        "<|stop|>\n<|user|>\nAnd 3?<|stop|>\n<|assistant|>\n<think>\n" + lead
    )


@pytest.mark.parametrize("prefix", ["", "<think>", ENV_PREFIX])
def test_after_a_template_that_ends_thinking_nothing_thinks(tokenizer: Any, prefix: str) -> None:
    prompt = renderer(tokenizer, CLOSES).encode("1 + 2?", None, prefix)
    assert prompt.response_prefix == "<think>\n\n</think>\n\n"
    assert tokenizer.decode(prompt.token_ids).endswith("<|assistant|>\n<think>\n\n</think>\n\n")
    assert parse_response(prompt.response_prefix + "<answer> 3 </answer>").well_formed


def test_a_template_that_opens_nothing_leaves_the_environments_prefix_alone(tokenizer: Any) -> None:
    prompt = renderer(tokenizer, PLAIN).encode("1 + 2?", None, ENV_PREFIX)
    assert prompt.response_prefix == ENV_PREFIX
    assert tokenizer.decode(prompt.token_ids) == f"<|user|>\n1 + 2?<|stop|>\n<|assistant|>\n{ENV_PREFIX}"


def test_arguments_reach_the_template_and_are_its_own(tokenizer: Any) -> None:
    assert renderer(tokenizer, SWITCH).encode("?").response_prefix == ""
    assert renderer(tokenizer, SWITCH, enable_thinking=True).encode("?").response_prefix == ""
    assert (
        renderer(tokenizer, SWITCH, enable_thinking=False).encode("?").response_prefix
        == "<think>\n\n</think>\n\n"
    )
    with pytest.raises(ValueError, match="has no argument 'enable_thinkin'"):
        renderer(tokenizer, SWITCH, enable_thinkin=False)
    with pytest.raises(ValueError, match="template_kwargs are for a chat template, and the template is 'r1'"):
        Renderer(tokenizer, frozenset({0}), "r1", {"enable_thinking": False})


@pytest.mark.parametrize("template", [NO_SYSTEM, DROPS_SYSTEM])
def test_a_system_message_that_the_template_refuses_goes_before_the_users(
    tokenizer: Any, template: str
) -> None:
    prompt = renderer(tokenizer, template).encode("1 + 2?", "Be brief.")
    assert tokenizer.decode(prompt.token_ids) == "<|user|>\nBe brief.\n\n1 + 2?<|stop|>\n<|assistant|>\n"


def test_a_template_that_fails_on_any_message_is_refused(tokenizer: Any) -> None:
    with pytest.raises(ValueError, match=r"fails on a user's message \(no tools\).*template='r1'"):
        renderer(tokenizer, "{{ raise_exception('no tools') }}")


def test_a_template_that_prints_the_clock_is_told(tokenizer: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        renderer(tokenizer, PLAIN)
        assert "clock" not in caplog.text
        renderer(tokenizer, CLOCK)
    assert "prints the clock" in caplog.text


def test_what_the_template_writes_after_a_message_ends_a_response(tokenizer: Any) -> None:
    stop = tokenizer.convert_tokens_to_ids("<|stop|>")
    assert renderer(tokenizer, PLAIN).stop_token_ids == {tokenizer.eos_token_id, stop}
    # Llama 2 has a space before it.
    spaced = PLAIN.replace("trim }}<|stop|>", "trim }} <|stop|>")
    assert renderer(tokenizer, spaced).stop_token_ids == {tokenizer.eos_token_id, stop}
    # A line break ends a message here, and stands within many.
    assert renderer(tokenizer, PLAIN.replace("<|stop|>", "")).stop_token_ids == {tokenizer.eos_token_id}


def test_stop_tokens_are_all_that_any_file_names(model_folder: str, tmp_path: Path) -> None:
    folder = shutil.copytree(model_folder, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "eos_token_id": [7, 8]}))
    end = load_tokenizer(model_folder).eos_token_id
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 3}))
    assert Renderer.from_model(str(folder)).stop_token_ids == {3, 7, 8, end}
    (folder / "generation_config.json").unlink()
    assert Renderer.from_model(str(folder)).stop_token_ids == {7, 8, end}


@pytest.mark.parametrize("template", ["r1", "raw"])
def test_a_prompt_begins_with_what_the_tokenizer_begins_with_and_never_ends(
    tokenizer: Any, template: str
) -> None:
    pad, end = tokenizer.pad_token_id, tokenizer.eos_token_id
    bare = Renderer(tokenizer, frozenset({end}), template).encode("1 + 2?").token_ids
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|pad|> $A <|end|>", special_tokens=[("<|pad|>", pad), ("<|end|>", end)]
    )
    assert tokenizer.encode("a")[0], tokenizer.encode("a")[-1] == (pad, end)
    assert Renderer(tokenizer, frozenset({end}), template).encode("1 + 2?").token_ids == [pad, *bare]
