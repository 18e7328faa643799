"""Random models whose layers keep other states than keys and values, or that go their own ways."""

from __future__ import annotations

from typing import Any

from small_models import LLAMA

NO_HEAD_SIZE = {name: size for name, size in LLAMA.items() if name != "head_dim"}
LINEAR = {
    "num_hidden_layers": 4,
    "linear_num_value_heads": 2,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 4,
    "linear_value_head_dim": 4,
}
MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 4}
MOE = {"num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 8}
STATES: dict[str, dict[str, Any]] = {
    "qwen3_next": {**LLAMA, **LINEAR, **MOE, "shared_expert_intermediate_size": 8},
    "qwen3_5_text": {**LLAMA, **LINEAR},
    "lfm2": {**NO_HEAD_SIZE, "layer_types": ["conv", "full_attention"]},
    "jamba": {
        **NO_HEAD_SIZE,
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "mamba_d_state": 4,
        "mamba_d_conv": 3,
        "num_experts": 2,
        "use_mamba_kernels": False,
    },
    "mamba": {"hidden_size": 16, "num_hidden_layers": 2, "state_size": 4},
    "falcon_mamba": {"hidden_size": 16, "num_hidden_layers": 2, "state_size": 4},
    "mamba2": {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "state_size": 4,
        "num_heads": 4,
        "head_dim": 8,
        "n_groups": 1,
    },
    "granitemoehybrid": {
        **NO_HEAD_SIZE,
        **MAMBA,
        "layer_types": ["linear_attention", "full_attention"],
        "num_local_experts": 2,
        "num_experts_per_tok": 1,
        "shared_intermediate_size": 8,
        "position_embedding_type": "rope",
    },
    "falcon_h1": {**LLAMA, **MAMBA, "mamba_d_ssm": 32, "lm_head_multiplier": 0.5},
    "bamba": {**NO_HEAD_SIZE, **MAMBA, "attn_layer_indices": [1]},
    "nemotron_h": {
        **LLAMA,
        "layers_block_type": ["mamba", "attention"],
        "mamba_num_heads": 4,
        "mamba_head_dim": 8,
        "ssm_state_size": 4,
        "n_groups": 1,
    },
    "olmo_hybrid": {**NO_HEAD_SIZE, "num_key_value_heads": 4, "num_hidden_layers": 4},
}
STATES_OUT_OF_REACH: dict[str, dict[str, Any]] = {
    "rwkv": {"hidden_size": 16, "num_hidden_layers": 2, "attention_hidden_size": 16},
    "recurrent_gemma": {
        **LLAMA,
        "num_key_value_heads": 1,
        "lru_width": 16,
        "attention_window_size": 32,
        "block_types": ["recurrent", "attention"],
    },
}
