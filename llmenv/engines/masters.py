"""Float32 masters of parameters in 16 bits: what an optimizer steps on, and where gradients are added up.

A bfloat16 has 8 significant bits: a weight of 0.02 lies 1e-4 from the next one, and a step of 1e-6 ends where it began;
a moment that decays by a thousandth stays as it is; a sum of many gradients soon takes no more (Micikevicius et al.,
1710.03740, section 3.1). Knows nothing about what the parameters compute.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn


class Masters:
    """The masters of a module's trained parameters. A parameter that has 32 bits or more is its own.

    Gradients go over into those of the masters during the backward pass, each as soon as it is there: of the 16-bit
    gradients few exist at a time. The sum over a parameter's uses within one backward pass is autograd's, in 16 bits.

    Args:
        parameters: Those that are trained.
        optimizer: Steps on the masters from now on.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], optimizer: torch.optim.Optimizer):
        self._of: dict[torch.Tensor, nn.Parameter] = {}  # by identity; in 16 bits alone
        for parameter in parameters:
            if parameter.dtype.itemsize < 4:
                self._of[parameter] = nn.Parameter(parameter.detach().float())
                parameter.register_post_accumulate_grad_hook(self._take_gradient)
        for group in optimizer.param_groups:
            group["params"] = [self.of(parameter) for parameter in group["params"]]

    def of(self, parameter: torch.Tensor) -> Any:
        """What the optimizer steps on in its place."""
        return self._of.get(parameter, parameter)

    @torch.no_grad()
    def publish(self) -> None:
        """Rounds the masters to their parameters."""
        for parameter, master in self._of.items():
            parameter.copy_(master)

    @torch.no_grad()
    def _take_gradient(self, parameter: torch.Tensor) -> None:
        assert parameter.grad is not None
        master = self._of[parameter]
        if master.grad is None:
            master.grad = parameter.grad.float()
        else:
            master.grad.add_(parameter.grad)
        parameter.grad = None
