"""Small random models of many architectures of transformers, written as folders with the embedded model's tokenizer.

Sizes are such that vLLM's kernels for CPUs have them: heads of 32. Weights are drawn wide, so that it matters what a
layer does.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from llmenv.models.names import load_tokenizer
from moe import COMMON as SIZES
from moe import OWN as EXPERTS

Settings = dict[str, Any]
OLD: Settings = {"n_embd": 64, "n_layer": 2, "n_head": 2, "n_positions": 512}
NO_HEAD_SIZE: Settings = {"head_dim": None}  # the architecture makes its own of the heads
EQUAL_HEADS: Settings = {"num_key_value_heads": 2}
MAMBA: Settings = {"mamba_n_heads": 4, "mamba_d_head": 32, "mamba_d_state": 16, "mamba_n_groups": 1}
LINEAR: Settings = {
    "num_hidden_layers": 4,
    "linear_num_value_heads": 2,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 32,
    "linear_value_head_dim": 32,
}
FEW: Settings = {"moe_intermediate_size": 32, "num_experts": 4, "num_experts_per_tok": 2}
ONE_BY_ONE: Settings = {"layer_types": ["linear_attention", "full_attention"]}
LATENT: Settings = {
    name: size for name, size in EXPERTS["deepseek_v3"].items() if "_rank" in name or "_head_dim" in name
}

DENSE: dict[str, Settings] = {
    "llama": {},
    "apertus": {},
    "arcee": {},
    "bitnet": {},
    "bloom": {**OLD, "hidden_size": 64},
    "codegen": {**OLD, **NO_HEAD_SIZE, "n_head": 4, "num_attention_heads": 4, "rotary_dim": 16, "n_ctx": 512},
    "cohere": {},
    "cohere2": {"sliding_window": 128},
    "diffllama": {"num_key_value_heads": 2},
    "ernie4_5": {},
    "exaone4": {"sliding_window": 128, "layer_types": ["sliding_attention", "full_attention"]},
    "falcon": NO_HEAD_SIZE,
    "gemma": {},
    "gemma2": {"sliding_window": 128, "query_pre_attn_scalar": 32},
    "gemma3_text": {"sliding_window": 128, "query_pre_attn_scalar": 32},
    "glm": {},
    "glm4": {},
    "gpt2": OLD,
    "gpt_bigcode": OLD,
    "gpt_neo": {
        "hidden_size": 64,
        "num_layers": 2,
        "num_heads": 2,
        "attention_types": [[["global", "local"], 1]],
    },
    "gpt_neox": NO_HEAD_SIZE,
    "gptj": {**OLD, "rotary_dim": 16},
    "granite": {"logits_scaling": 2.0},
    "helium": {},
    "hunyuan_v1_dense": {},
    "ministral": {"sliding_window": 128},
    "mistral": {"sliding_window": 128},
    "mpt": {"d_model": 64, "n_heads": 2, "n_layers": 2, "max_seq_len": 512},
    "nanochat": {},
    "nemotron": {},
    "olmo": NO_HEAD_SIZE,
    "olmo2": NO_HEAD_SIZE,
    "olmo3": {**NO_HEAD_SIZE, "sliding_window": 128, "layer_types": ["sliding_attention", "full_attention"]},
    "opt": {"ffn_dim": 96, "word_embed_proj_dim": 64},
    "persimmon": NO_HEAD_SIZE,
    "phi": {**NO_HEAD_SIZE, **EQUAL_HEADS},
    "phi3": {**NO_HEAD_SIZE, "original_max_position_embeddings": 512},
    "qwen2": NO_HEAD_SIZE,
    "qwen3": {},
    "seed_oss": {},
    "smollm3": {},
    "stablelm": NO_HEAD_SIZE,
    "starcoder2": NO_HEAD_SIZE,
}
MIXTURES: dict[str, Settings] = {
    **EXPERTS,
    "deepseek_v2": {
        **EXPERTS["deepseek_v3"],
        "topk_method": "greedy",
        "scoring_func": "softmax",
        "n_group": 1,
    },
    "ernie4_5_moe": {
        "moe_num_experts": 4,
        "moe_k": 2,
        "moe_intermediate_size": 32,
        "moe_num_shared_experts": 1,
    },
    "flex_olmo": {"num_experts": 4, "num_experts_per_tok": 2},
    "glm4_moe": {"moe_intermediate_size": 32, "n_routed_experts": 4, "num_experts_per_tok": 2},
    "granitemoe": {"num_local_experts": 4, "num_experts_per_tok": 2, **NO_HEAD_SIZE},
    "llama4_text": {"num_local_experts": 4, "intermediate_size_mlp": 96, "attention_chunk_size": 256},
    "minimax_m2": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "phimoe": {"num_local_experts": 4, "num_experts_per_tok": 2, **NO_HEAD_SIZE},
}
STATES: dict[str, Settings] = {
    "bamba": {**NO_HEAD_SIZE, **MAMBA, "attn_layer_indices": [1]},
    "falcon_h1": {**MAMBA, "mamba_d_ssm": 128, "lm_head_multiplier": 0.5},
    "falcon_mamba": {"state_size": 16},
    "granitemoehybrid": {
        **NO_HEAD_SIZE,
        **MAMBA,
        **ONE_BY_ONE,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "shared_intermediate_size": 32,
        "position_embedding_type": "rope",
    },
    "jamba": {
        **NO_HEAD_SIZE,
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "mamba_d_state": 16,
        "mamba_d_conv": 4,
        "num_experts": 4,
        "use_mamba_kernels": False,
    },
    "lfm2": {**NO_HEAD_SIZE, "layer_types": ["conv", "full_attention"]},
    "mamba": {"state_size": 16},
    "mamba2": {"state_size": 16, "num_heads": 4, "head_dim": 32, "n_groups": 1},
    "nemotron_h": {
        "layers_block_type": ["mamba", "attention"],
        "mamba_num_heads": 4,
        "mamba_head_dim": 32,
        "ssm_state_size": 16,
        "n_groups": 1,
    },
    "olmo_hybrid": {**NO_HEAD_SIZE, **EQUAL_HEADS, "num_hidden_layers": 4},
    "qwen3_5_text": LINEAR,
    "qwen3_next": {**LINEAR, **FEW, "shared_expert_intermediate_size": 32},
    "recurrent_gemma": {
        "lru_width": 64,
        "attention_window_size": 128,
        "block_types": ["recurrent", "attention"],
    },
    "rwkv": {"attention_hidden_size": 64},
}
ARCHITECTURES = {**DENSE, **MIXTURES, **STATES}


def make_folder(kind: str, folder: Path) -> str:
    """A model of one of the kinds of `ARCHITECTURES`."""
    tokenizer = load_tokenizer("tiny")
    # Some rows more than tokens, as most models have: the tokenizers of some kinds add one of their own.
    settings = {**SIZES, **ARCHITECTURES[kind], "vocab_size": len(tokenizer) + 8}
    settings = {name: value for name, value in settings.items() if value is not None}
    special = {
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **settings, **special)).save_pretrained(
            folder
        )
    tokenizer.save_pretrained(folder)
    return str(folder)
