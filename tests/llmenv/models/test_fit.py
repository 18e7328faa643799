"""Sizes that do not fit are told of before anything is loaded."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import AutoConfig

from llmenv.models.fit import _scaling_by_length, check_fit, check_scaling, positions_of
from llmenv.models.names import load_tokenizer

KINDS: dict[str, dict[str, Any]] = {
    "llama": {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2},
    "gpt2": {"n_embd": 16, "n_layer": 1, "n_head": 2},
    "opt": {
        "hidden_size": 16,
        "ffn_dim": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "word_embed_proj_dim": 16,
    },
    "gptj": {"n_embd": 16, "n_layer": 1, "n_head": 2, "rotary_dim": 4},
    "bloom": {"hidden_size": 16, "n_layer": 1, "n_head": 2},
}


def make(kind: str, folder: Path, *, rows: int = 0, tokens: tuple[str, ...] = ()) -> str:
    """A configuration of 64 positions and a tokenizer: neither needs weights here."""
    tokenizer = load_tokenizer("tiny")
    size = len(tokenizer)
    tokenizer.add_tokens(list(tokens))
    tokenizer.save_pretrained(folder)
    AutoConfig.for_model(
        kind, vocab_size=size + rows, max_position_embeddings=64, **KINDS[kind]
    ).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("kind", ["gpt2", "opt", "gptj"])
def test_positions_of_a_table_end_with_it(kind: str, tmp_path: Path) -> None:
    model = make(kind, tmp_path)
    check_fit(model, 64)
    with pytest.raises(
        ValueError, match="has 64 positions, and a prompt with its response may take 65: lower max_"
    ):
        check_fit(model, 65)


def test_rotary_positions_go_on_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = make("llama", tmp_path)
    with caplog.at_level(logging.WARNING):
        check_fit(model, 64, strict=True)
        assert not caplog.records
        check_fit(model, 65)
    assert "has 64 positions, and a prompt with its response may take 65: beyond them" in caplog.text
    with pytest.raises(ValueError, match="may take 65: lower max_prompt_tokens"):
        check_fit(model, 65, strict=True)


LONG = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [4.0] * 4}


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        # As Phi 3.5 has it: the length outside, and the older name of the mapping.
        ({"rope_scaling": {**LONG, "type": "longrope"}, "original_max_position_embeddings": 16}, "longrope"),
        ({"rope_parameters": {**LONG, "original_max_position_embeddings": 16}}, "longrope"),
        ({"rope_scaling": {"type": "dynamic", "factor": 4.0}, "max_position_embeddings": 16}, "dynamic"),
        (
            {"rope_parameters": {"rope_type": "dynamic", "factor": 4.0}, "max_position_embeddings": 16},
            "dynamic",
        ),
    ],
)
def test_positions_that_a_batch_scales_are_refused(given: dict[str, Any], kind: str, tmp_path: Path) -> None:
    load_tokenizer("tiny").save_pretrained(tmp_path)
    size = {"vocab_size": len(load_tokenizer("tiny")), "max_position_embeddings": 64, "pad_token_id": 0}
    family = "phi3" if "original_max_position_embeddings" in given else "llama"
    AutoConfig.for_model(family, **KINDS["llama"], **{**size, **given}).save_pretrained(tmp_path)
    model = str(tmp_path)
    check_scaling(model, 16)
    with pytest.raises(
        ValueError,
        match=rf"more than 16 tokens \(rope_type '{kind}'\), and a sequence may take 17 tokens: set max_prompt_tokens "
        "and max_new_tokens so that together they are at most 16",
    ):
        check_scaling(model, 17)
    with pytest.raises(ValueError, match="a sequence may be of any length: set max_prompt_tokens"):
        check_scaling(model, None)
    assert positions_of(model) == 16


def test_other_scalings_are_of_any_length(tmp_path: Path) -> None:
    check_scaling(make("llama", tmp_path / "none"), None)
    check_scaling(make("gpt2", tmp_path / "table"), None)
    scaled = {"rope_type": "linear", "factor": 4.0}
    config = AutoConfig.for_model("llama", vocab_size=9, rope_parameters=scaled, **KINDS["llama"])
    config.save_pretrained(tmp_path / "linear")
    check_scaling(str(tmp_path / "linear"), None)
    # A mapping for each kind of layer, as Gemma 3 has it; some are without one.
    layers = {"full_attention": {"rope_type": "dynamic"}, "sliding_attention": None}
    config = SimpleNamespace(rope_parameters=layers, max_position_embeddings=32)
    assert _scaling_by_length(config) == ("dynamic", 32)


def test_a_model_without_positions_has_no_limit(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = AutoConfig.for_model("bloom", vocab_size=len(load_tokenizer("tiny")), **KINDS["bloom"])
    config.save_pretrained(tmp_path)
    load_tokenizer("tiny").save_pretrained(tmp_path)
    check_fit(str(tmp_path), 10**6, strict=True)
    assert not caplog.records


def test_tokens_without_embeddings_are_refused(tmp_path: Path) -> None:
    size = len(load_tokenizer("tiny"))
    check_fit(make("llama", tmp_path / "fits", rows=2, tokens=("<a>", "<b>")), 1)
    model = make("llama", tmp_path / "lacks", rows=1, tokens=("<a>", "<b>"))
    with pytest.raises(
        ValueError, match=rf"tokens up to {size + 1}, and the model embeddings for {size + 1} \('<b>'"
    ):
        check_fit(model, 1)
    # As Gemma 3's text model has it.
    check_fit(make("llama", tmp_path / "blind", rows=1, tokens=("<a>", "<image_soft_token>")), 1)
