"""A folder of peft's adapters as `--model`: the model that peft itself makes of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from llmenv.models.names import load_causal_lm, load_tokenizer, resolve_model
from llmenv.models.renderer import Renderer

IDS = torch.arange(5, 25)[None]


@pytest.fixture
def adapters(model_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of two layers by the ends of their names, with the scale of rsLoRA, as others than we write them."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    config = LoraConfig(r=4, lora_alpha=12, use_rslora=True, target_modules=["q_proj", "down_proj"])
    model = get_peft_model(load_causal_lm(model_folder), config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / 4)
    model.peft_config["default"].base_model_name_or_path = model_folder
    model.save_pretrained(tmp_path / "adapters")
    return tmp_path / "adapters"


def test_it_is_the_adapter_over_its_base(adapters: Path, model_folder: str) -> None:
    with torch.no_grad():
        base = load_causal_lm(model_folder)
        plain = base(IDS).logits
        expected = PeftModel.from_pretrained(base, str(adapters)).eval()(IDS).logits
        logits = load_causal_lm(str(adapters))(IDS).logits
    assert (expected - plain).abs().max() > 0.1, "else the adapters do nothing"
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
    assert load_tokenizer(str(adapters)).get_vocab() == load_tokenizer(model_folder).get_vocab()


def test_it_is_merged_once_and_anew_when_it_changes(adapters: Path, tmp_path: Path) -> None:
    first = resolve_model(str(adapters))
    shutil.copytree(adapters, tmp_path / "moved")
    assert resolve_model(str(tmp_path / "moved")) == first
    config = adapters / "adapter_config.json"
    config.write_text(config.read_text().replace('"lora_alpha": 12', '"lora_alpha": 24'))
    assert resolve_model(str(adapters)) != first


def test_the_tokenizer_saved_with_the_adapters_is_the_models(adapters: Path, model_folder: str) -> None:
    """As TRL and peft save it: with the chat template and the end of a response that the adapters were trained with."""
    base = resolve_model(str(adapters))
    tokenizer = load_tokenizer(model_folder)
    before = tokenizer.eos_token_id
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(7)
    tokenizer.chat_template = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
    tokenizer.save_pretrained(adapters)
    assert (adapters / "chat_template.jinja").is_file()
    model = resolve_model(str(adapters))
    assert model != base
    renderer = Renderer.from_model(str(adapters))
    assert (renderer.template, renderer.tokenizer.chat_template) == ("chat", tokenizer.chat_template)
    assert renderer.tokenizer.decode(renderer.encode("Hello").token_ids) == "[user]Hello"
    # The base's own end is still named by its configuration.
    assert (renderer.tokenizer.eos_token_id, renderer.stop_token_ids) == (7, {7, before})
    (adapters / "chat_template.jinja").write_text("{% for m in messages %}({{ m.content }}){% endfor %}")
    assert resolve_model(str(adapters)) not in (base, model)
    prompt = Renderer.from_model(str(adapters)).encode("Hello")
    assert renderer.tokenizer.decode(prompt.token_ids) == "(Hello)"


def test_a_generation_ends_as_the_adapters_folder_says(adapters: Path) -> None:
    base = resolve_model(str(adapters))
    (adapters / "generation_config.json").write_text(json.dumps({"eos_token_id": [3, 4]}))
    assert resolve_model(str(adapters)) != base
    assert load_causal_lm(str(adapters)).generation_config.eos_token_id == [3, 4]
    assert {3, 4} <= Renderer.from_model(str(adapters)).stop_token_ids


def test_a_base_that_is_not_there_is_named(adapters: Path, model_folder: str) -> None:
    config = adapters / "adapter_config.json"
    config.write_text(config.read_text().replace(model_folder, "/no/such/base"))
    with pytest.raises(ValueError, match=rf"base model of the adapters in {adapters} .*'/no/such/base'"):
        resolve_model(str(adapters))
