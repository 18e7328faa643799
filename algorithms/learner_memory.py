"""What a learner holds of its GPU between its updates, by arithmetic. Loads no weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmenv.models.names import resolve_model

if TYPE_CHECKING:
    from algorithms.config import LLMConfig


def learner_bytes(config: LLMConfig) -> float:
    """The bytes of a learner's policy and critic (see `held_bytes`). A reference is in the host's memory meanwhile.

    Adapters are taken to be on all matrices, which is too many by the embeddings.
    """
    shapes = _parameter_shapes(config.base_model)
    size = sum(rows * columns for rows, columns in shapes)
    width = 4 if config.dtype == "float32" else 2
    settings = {
        "zero_stage": config.zero_stage or 0,
        "num_learners": max(1, config.num_learners),
        "offload_optimizer": config.offload_optimizer,
        "offload_parameters": config.offload_parameters,
    }
    whole_model = held_bytes(trained=size, width=width, **settings)
    policy = whole_model
    if config.lora_rank is not None:
        adapters = config.lora_rank * sum(rows + columns for rows, columns in shapes if columns > 1)
        policy = held_bytes(frozen=size, width=width, **settings) + held_bytes(
            trained=adapters, width=4, **settings
        )
    return policy + (whole_model if config.critic == "separate" else 0)


def held_bytes(
    *,
    trained: int = 0,
    frozen: int = 0,
    width: int,
    zero_stage: int = 0,
    num_learners: int = 1,
    offload_optimizer: bool = False,
    offload_parameters: bool = False,
) -> float:
    """The bytes that one learner holds of some parameters.

    One that is trained takes 4 + 0 + 4 + 8 = 16 bytes in float32, and 2 + 4 + 4 + 8 = 18 in 16 bits: the weight, its
    float32 master, the gradient, AdamW's two moments. Gradients are there in an update only: counted here, they leave
    room for a weight sync.

    Args:
        trained: How many there are.
        frozen: How many more there are that are weights and nothing else.
        width: Bytes of a weight.
        zero_stage: From 1 on masters and moments are shared out over the learners, from 2 gradients, at 3 weights.
        num_learners: At least 1.
        offload_optimizer: Masters and moments are in the host's memory.
        offload_parameters: Weights are.
    """
    weights = (trained + frozen) * width / (num_learners if zero_stage == 3 else 1)
    gradients = trained * 4 / (num_learners if zero_stage >= 2 else 1)
    optimizer = trained * (8 + (4 if width < 4 else 0)) / (num_learners if zero_stage >= 1 else 1)
    return weights * (not offload_parameters) + gradients + optimizer * (not offload_optimizer)


def _parameter_shapes(name: str) -> list[tuple[int, int]]:
    """Rows and columns of a model's parameters; of what is no matrix, 1 column. Tied ones once."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(resolve_model(name))
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    return [
        (p.numel() // p.shape[-1], p.shape[-1]) if p.dim() > 1 else (p.numel(), 1) for p in model.parameters()
    ]
