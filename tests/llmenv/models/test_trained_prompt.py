"""An export's chat template gives the tokens that were trained on; so does training on from it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from test_chat_template import CLOSES, ENV_PREFIX, NO_SYSTEM, OPENS, PLAIN, SWITCH
from tokenizers import processors
from transformers import AutoTokenizer, GenerationConfig

from llmenv.models.names import load_tokenizer
from llmenv.models.renderer import Renderer
from llmenv.models.trained_prompt import TrainedPrompt

SYSTEM = "The assistant \"thinks\" {% first %}, \\ and 'answers' in {{ tags }}.\n"


@pytest.fixture
def folder(model_folder: str, tmp_path: Path) -> Path:
    """A model whose tokenizer begins and ends every text."""
    folder = Path(shutil.copytree(model_folder, tmp_path / "model"))
    tokenizer = load_tokenizer(model_folder)
    tokenizer.add_tokens(["<|stop|>"], special_tokens=True)
    ends = [(token, tokenizer.convert_tokens_to_ids(token)) for token in ("<|pad|>", "<|end|>")]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|pad|> $A <|end|>", special_tokens=ends
    )
    tokenizer.save_pretrained(folder)
    return folder


def ids(tokenizer: Any, *messages: tuple[str, str]) -> list[int]:
    conversation = [{"role": role, "content": content} for role, content in messages]
    return list(tokenizer.apply_chat_template(conversation, add_generation_prompt=True, return_dict=False))


CASES: dict[str, tuple[str | None, str, dict[str, Any]]] = {
    "r1": (None, "r1", {}),
    "raw": (None, "raw", {}),
    "auto without a chat template": (None, "auto", {}),
    "r1 instead of the chat template": (PLAIN, "r1", {}),
    "chat": (PLAIN, "chat", {}),
    "auto": ("\n  {{ bos_token }}" + PLAIN + "\n", "auto", {}),
    "opens": (OPENS, "auto", {}),
    "closes": (CLOSES, "auto", {}),
    "refuses a system message": (NO_SYSTEM, "auto", {}),
    "arguments": (SWITCH, "auto", {"enable_thinking": False}),
}


@pytest.mark.parametrize("prefix", ["", ENV_PREFIX, 'Ωk {{ "let" }} me 🙂 think.\n<think>'])
@pytest.mark.parametrize("case", CASES)
def test_the_exports_template_gives_the_tokens_of_training(
    folder: Path, tmp_path: Path, case: str, prefix: str
) -> None:
    source, template, arguments = CASES[case]
    tokenizer = load_tokenizer(str(folder))
    tokenizer.chat_template = source
    tokenizer.save_pretrained(folder)
    trained = Renderer.from_model(str(folder), template, arguments)
    out = tmp_path / "out"
    TrainedPrompt(str(folder), template, arguments, SYSTEM, prefix).save(out)

    exported = AutoTokenizer.from_pretrained(out)
    expected = trained.encode("1 + 2?", SYSTEM, prefix).token_ids
    assert ids(exported, ("user", "1 + 2?")) == expected
    assert ids(exported, ("system", SYSTEM), ("user", "1 + 2?")) == expected
    assert ids(exported, ("system", "Hm."), ("user", "?")) == trained.encode("?", "Hm.", prefix).token_ids
    stops = GenerationConfig.from_pretrained(out).eos_token_id
    assert {stops} if isinstance(stops, int) else set(stops) == trained.stop_token_ids

    shutil.copy(folder / "config.json", out)  # what is trained on from it
    again = Renderer.from_model(str(out))
    assert again.template == ("raw" if template == "raw" else "chat")
    prompt = again.encode("1 + 2?", SYSTEM, prefix)
    assert prompt.token_ids == expected
    assert prompt.response_prefix == trained.encode("1 + 2?", SYSTEM, prefix).response_prefix
    response = [*trained.tokenizer.encode("12", add_special_tokens=False), trained.tokenizer.eos_token_id]
    assert again.next_turn(response, "3?", "<think>") == trained.next_turn(response, "3?", "<think>")


OTHERS = [
    (SYSTEM, ENV_PREFIX),
    (None, ""),
    (None, "<think>"),
    ("Hm.", "So: <think>"),
    ("Hm.", "The number is"),
]


@pytest.mark.parametrize("case", CASES)
def test_an_export_is_asked_as_in_training_in_any_environment(
    folder: Path, tmp_path: Path, case: str
) -> None:
    """As a mixture of environments asks the policy in its run; and what is trained on elsewhere, and exported again."""
    source, template, arguments = CASES[case]
    tokenizer = load_tokenizer(str(folder))
    tokenizer.chat_template = source
    tokenizer.save_pretrained(folder)
    trained = Renderer.from_model(str(folder), template, arguments)
    out, further = tmp_path / "out", tmp_path / "further"
    TrainedPrompt(str(folder), template, arguments, SYSTEM, ENV_PREFIX).save(out)
    shutil.copy(folder / "config.json", out)
    TrainedPrompt(str(out), "auto", {}, "Guess.", "The number is").save(further)
    shutil.copy(folder / "config.json", further)
    for exported in (out, further):
        again = Renderer.from_model(str(exported))
        for system, prefix in OTHERS:
            assert again.encode("1 + 2?", system, prefix) == trained.encode("1 + 2?", system, prefix)
        assert again.stop_token_ids == trained.stop_token_ids
    # Whoever renders it without us has the last environment's texts, and no other's.
    expected = trained.encode("?", "Guess.", "The number is").token_ids
    assert ids(AutoTokenizer.from_pretrained(further), ("user", "?")) == expected


def test_an_environment_without_texts_of_its_own_adds_none(folder: Path, tmp_path: Path) -> None:
    TrainedPrompt(str(folder), "r1").save(tmp_path / "out")
    exported = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert ids(exported, ("user", "?")) == Renderer.from_model(str(folder), "r1").encode("?").token_ids


def test_a_dialogue_is_rendered_as_it_grew(folder: Path, tmp_path: Path) -> None:
    TrainedPrompt(str(folder), "r1", {}, None, "Well:").save(tmp_path / "out")
    exported, trained = (
        AutoTokenizer.from_pretrained(tmp_path / "out"),
        Renderer.from_model(str(folder), "r1"),
    )
    response = [*trained.tokenizer.encode(" 3", add_special_tokens=False), trained.tokenizer.eos_token_id]
    grown = trained.encode("1 + 2?", None, "Well:").token_ids + response
    grown += trained.next_turn(response, "2 + 3?").token_ids
    messages = [("user", "1 + 2?"), ("assistant", "Well: 3"), ("user", "2 + 3?")]
    assert trained.tokenizer.decode(ids(exported, *messages)) == trained.tokenizer.decode(grown)


def test_settings_of_generation_stay_but_for_the_stops(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "generation_config.json").write_text(
        json.dumps({"do_sample": True, "temperature": 0.5, "eos_token_id": 1})
    )
    TrainedPrompt(str(folder), "r1").save(out)
    settings = GenerationConfig.from_pretrained(out)
    assert (settings.temperature, settings.eos_token_id) == (0.5, load_tokenizer(str(folder)).eos_token_id)
