"""The engine on PyTorch alone. Knows nothing about losses, RLlib or what the module computes."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from llmenv.engines.engine import (
    in_company,
    is_first,
    load_trained,
    own_settings,
    sum_over_learners,
    trained_state,
    untied_state,
)
from llmenv.engines.masters import Masters


class TorchEngine:
    """Plain PyTorch: the whole model on every learner, gradients summed with one all-reduce.

    Of parameters in 16 bits it holds float32 masters (see `llmenv.engines.masters`), which is what a checkpoint has of
    them.

    Args:
        module: The policy.
        optimizer: Over the module's parameters.
        max_grad_norm: Clip the global norm to this; None clips nothing.

    Attributes:
        masters: Of the parameters; the optimizer's own are these.
    """

    STATE_FILE = "engine.pt"
    sharded = False

    def __init__(self, module: nn.Module, optimizer: torch.optim.Optimizer, max_grad_norm: float | None):
        self.module = module
        self.optimizer = optimizer
        trained = [p for p in module.parameters() if p.requires_grad]
        self.masters = Masters(trained, optimizer)
        self._stepped = [self.masters.of(p) for p in trained]
        self.max_grad_norm = max_grad_norm

    def forward(self, batch: Any, **asked: Any) -> Any:
        return self.module(batch, **asked)

    def backward(self, loss: torch.Tensor, *, last: bool) -> None:
        loss.backward()

    def step(self) -> float:
        parameters = self._stepped
        # A parameter without a gradient takes part too, with zeros: for any number of learners, and as in DeepSpeed.
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        if in_company():
            flat = sum_over_learners(torch.cat([grad.flatten() for grad in grads]))
            grads = list(flat.split([p.numel() for p in parameters]))
        for p, grad in zip(parameters, grads, strict=True):
            p.grad = grad.view_as(p)
        limit = math.inf if self.max_grad_norm is None else self.max_grad_norm
        norm = float(nn.utils.clip_grad_norm_(parameters, limit))
        if math.isfinite(norm):
            self.optimizer.step()
            self.masters.publish()
        self.optimizer.zero_grad(set_to_none=True)
        return norm

    def gather(self, part: nn.Module, *, trained: bool = False) -> dict[str, torch.Tensor] | None:
        if not is_first():
            return None
        return {name: tensor.detach() for name, tensor in untied_state(part, trained=trained).items()}

    def whole(self, tensors: Sequence[torch.Tensor]) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def save(self, folder: Path) -> None:
        """Every learner holds the same state; the first one writes it."""
        if is_first():
            trained = trained_state(self.module)
            state: dict[str, Any] = {
                "module": {name: self.masters.of(tensor).detach() for name, tensor in trained.items()},
                "optimizer": self.optimizer.state_dict(),
            }
            folder.mkdir(parents=True, exist_ok=True)
            torch.save(state, folder / self.STATE_FILE)

    def load(self, folder: Path) -> None:
        state = torch.load(folder / self.STATE_FILE, map_location="cpu", weights_only=True)
        load_trained(self.module, state["module"])
        with torch.no_grad():
            for name, tensor in trained_state(self.module).items():
                self.masters.of(tensor).copy_(state["module"][name])
        with own_settings(self.optimizer):
            self.optimizer.load_state_dict(state["optimizer"])
