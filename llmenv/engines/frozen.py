"""Forward passes of a module that is not trained and is seldom needed: between its passes a device holds none of it.

Either each learner has all of it in the host's memory, or with DeepSpeed's ZeRO-3 each has a part of it there. Knows
nothing about what the module computes. Neither has run on a GPU.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from llmenv.engines.deepspeed import Config


class WholeModule:
    """All of a frozen module on every learner.

    It is page-locked where the device is a GPU, so that copies are queued and not waited for. Nothing is copied back.

    Args:
        module: In the host's memory. Nobody changes its tensors.
        device: Where it computes.
    """

    def __init__(self, module: nn.Module, device: torch.device):
        self._module, self._device = module, device
        tensors = [*module.parameters(), *module.buffers()]
        if device.type == "cuda":
            for tensor in tensors:
                tensor.data = tensor.data.pin_memory()
        self._at_home = [(tensor, tensor.data) for tensor in tensors]

    @contextlib.contextmanager
    def ready(self) -> Iterator[nn.Module]:
        """Within it, what computes."""
        for tensor, at_home in self._at_home:
            tensor.data = self._copied(at_home)
        try:
            yield self._module
        finally:
            for tensor, at_home in self._at_home:
                tensor.data = at_home

    def _copied(self, at_home: torch.Tensor) -> torch.Tensor:
        return at_home.to(self._device, non_blocking=True)


class SharedModule:
    """A part of a frozen module on each learner; in a forward pass layer after layer is put together and dropped.

    Passes are collective.

    Args:
        module: Loaded within `deepspeed_world(config, ...)`.
        config: From `shared_config`.
    """

    def __init__(self, module: nn.Module, config: Config):
        import deepspeed

        self._engine, *_ = deepspeed.initialize(model=module, config=config, dist_init_required=False)

    @contextlib.contextmanager
    def ready(self) -> Iterator[Any]:
        """Within it, what computes."""
        yield self._engine


def shared_config(config: Config) -> Config:
    """The settings of a learner's engine at stage 3, for a module without an optimizer, in the host's memory."""
    zero = {key: value for key, value in config["zero_optimization"].items() if key != "offload_optimizer"}
    return {**config, "zero_optimization": {**zero, "offload_param": {"device": "cpu", "pin_memory": True}}}
