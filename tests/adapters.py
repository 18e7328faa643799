"""Adapters as training leaves them, in a module of their own so that Ray's workers can import it too."""

from __future__ import annotations

import torch
from torch import nn


def move_adapters(model: nn.Module, seed: int = 1) -> None:
    """B as training could leave it: at 0, as it starts, neither the adapters nor the gradient of A would be seen."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
