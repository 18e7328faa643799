"""Small random mixtures of experts, with weights drawn wide, so that it matters which expert computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from llmenv.models.names import load_tokenizer
from llmenv.samplers.sampler import Completion, SamplingParams
from support import plain_logps

PROMPTS = [list(range(5, 75)), [7, 300, 20, 11, 4, 900, 31], [42]]
PARAMS = SamplingParams(20, frozenset())
COMMON: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
    "bos_token_id": None,
}
QWEN = {"moe_intermediate_size": 32, "num_experts": 4, "num_experts_per_tok": 2}
OWN: dict[str, dict[str, Any]] = {
    "qwen2_moe": {**QWEN, "shared_expert_intermediate_size": 64},
    "qwen3_moe": QWEN,
    "olmoe": {"num_experts": 4, "num_experts_per_tok": 2, "intermediate_size": 32, "num_key_value_heads": 2},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "deepseek_v3": {
        "moe_intermediate_size": 32,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "topk_method": "noaux_tc",  # vLLM reads it, and makes the router's bias for it alone
        "scoring_func": "sigmoid",
        "n_group": 2,
        "topk_group": 1,
        "first_k_dense_replace": 1,
        "num_key_value_heads": 2,
        "q_lora_rank": 24,
        "kv_lora_rank": 512,  # their sum is the one that vLLM's kernel for CPUs has
        "qk_rope_head_dim": 64,
        "qk_nope_head_dim": 32,
        "v_head_dim": 32,
        "head_dim": None,
    },
    "gpt_oss": {
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "layer_types": ["sliding_attention", "full_attention"],
    },
}


def make_moe_folder(kind: str, folder: Path, *, tied: bool = False) -> str:
    """A mixture of experts of one of the kinds of `OWN`, with the embedded model's tokenizer."""
    tokenizer = load_tokenizer("tiny")
    settings = {**COMMON, **OWN[kind], "vocab_size": len(tokenizer), "tie_word_embeddings": tied}
    settings |= {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    config = AutoConfig.for_model(
        kind, **{k: v for k, v in settings.items() if v is not None or k == "bos_token_id"}
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@torch.no_grad()
def gap(model: Any, sampler: Any) -> float:
    """The mean absolute difference of what is sampled from a plain forward pass of `model`, in nats."""
    completions: list[Completion] = sampler.generate(PROMPTS, PARAMS, range(len(PROMPTS)))
    gaps = []
    for prompt, completion in zip(PROMPTS, completions, strict=True):
        plain, _ = plain_logps(model, [*prompt, *completion.token_ids], 1.0)
        gaps.append((torch.tensor(completion.logps).double() - plain[len(prompt) - 1 :]).abs())
    return float(torch.cat(gaps).mean())


@torch.no_grad()
def change_experts(model: Any, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if ".experts." in name:
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
