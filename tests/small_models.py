"""Random models of several architectures, and rows for them, to compare packed rows with sequence by sequence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from llmenv.policy.batch import TokenRow
from support import random_episodes

VOCAB = 50
LLAMA = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "max_position_embeddings": 128,
}
ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "grouped queries, tied": ("llama", {**LLAMA, "tie_word_embeddings": True}),
    "untied": ("llama", {**LLAMA, "num_key_value_heads": 4, "tie_word_embeddings": False}),
    "biases": ("qwen2", LLAMA),
    "normalised queries": ("qwen3", LLAMA),
    "values of another size": (
        "deepseek_v3",
        {
            **{name: size for name, size in LLAMA.items() if name != "head_dim"},
            "num_key_value_heads": 4,
            "q_lora_rank": 8,
            "kv_lora_rank": 8,
            "qk_rope_head_dim": 4,
            "qk_nope_head_dim": 4,
            "v_head_dim": 6,
            "first_k_dense_replace": 2,
        },
    ),
    "learned positions, Conv1D": ("gpt2", {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 128}),
}


def make_model(kind: str, settings: dict[str, Any], dtype: torch.dtype = torch.float64, seed: int = 0) -> Any:
    """Random weights, drawn wide, so that attention matters."""
    special = {"pad_token_id": None, "bos_token_id": None, "eos_token_id": 0}
    config = AutoConfig.for_model(kind, vocab_size=VOCAB, initializer_range=0.4, **special, **settings)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(config).to(dtype)


def make_row(
    prompt: Sequence[int], response: Sequence[int], group: int = 0, *more: Sequence[int]
) -> TokenRow:
    """A row of one turn, or of several: `more` are a prompt, a response, a prompt, ..."""
    parts = [prompt, response, *more]
    ids = np.array([token for part in parts for token in part])
    mask = np.array([i % 2 == 1 for i, part in enumerate(parts) for _ in part])
    noise = np.random.default_rng(len(ids) + int(ids.sum())).normal(size=(2, len(ids))).astype(np.float32)
    return TokenRow(
        ids, mask, np.where(mask, noise[0], 0), np.where(mask, noise[1], 0), np.zeros_like(noise[0]), group
    )


def random_rows(num_groups: int = 3, group_size: int = 4, max_response: int = 20) -> list[TokenRow]:
    """Groups of rows of very different lengths, every third of two turns."""
    episodes = random_episodes(num_groups, group_size, vocab_size=VOCAB, max_response=max_response)
    rng = np.random.default_rng(3)
    return [TokenRow.from_episode(episode, rng.normal()) for episode in episodes]
