"""Folders with the configurations of Qwen2.5, as they are published, and no weights."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from transformers import Qwen2Config


class Size(NamedTuple):
    """Hidden size, layers, heads, key heads, feed-forward size, vocabulary, and whether the embeddings are tied."""

    d: int
    layers: int
    heads: int
    key_heads: int
    f: int
    vocabulary: int
    tied: bool


SIZES = {
    "0.5B": Size(896, 24, 14, 2, 4864, 151936, True),
    "1.5B": Size(1536, 28, 12, 2, 8960, 151936, True),
    "3B": Size(2048, 36, 16, 2, 11008, 151936, True),
    "7B": Size(3584, 28, 28, 4, 18944, 152064, False),
}


def make_folders(root: Path) -> Path:
    """`root`, with Qwen2.5-0.5B and so on in it."""
    for name, size in SIZES.items():
        config = Qwen2Config(
            hidden_size=size.d,
            num_hidden_layers=size.layers,
            num_attention_heads=size.heads,
            num_key_value_heads=size.key_heads,
            intermediate_size=size.f,
            vocab_size=size.vocabulary,
            tie_word_embeddings=size.tied,
            architectures=["Qwen2ForCausalLM"],
            dtype="bfloat16",
        )
        config.save_pretrained(root / f"Qwen2.5-{name}")
    return root
