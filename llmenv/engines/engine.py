"""What a learner asks of an engine: gradients to a step. Knows nothing about losses, RLlib or the module."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import nn


class Engine(Protocol):
    """What a learner asks of the thing that holds parameters and optimizer.

    A loss is already divided by its global denominator: gradients are *summed* over micro-batches and learners.

    Attributes:
        sharded: Each learner holds, and saves, a part of the state: a checkpoint is that of its number of learners.
    """

    sharded: bool

    def forward(self, batch: Any, **asked: Any) -> Any:
        """The module's output for one micro-batch. Every learner has the same number of them.

        Args:
            batch: The micro-batch.
            asked: What else the module's `forward` is told.
        """
        ...

    def backward(self, loss: torch.Tensor, *, last: bool) -> None:
        """Adds the gradients of one micro-batch's share of the loss; `step` follows the `last` one."""
        ...

    def step(self) -> float:
        """Sums gradients over the learners, clips, steps, and clears them.

        Returns:
            The global gradient norm before clipping. If it is not finite, the step was not taken.
        """
        ...

    def gather(self, part: nn.Module, *, trained: bool = False) -> dict[str, torch.Tensor] | None:
        """The whole state dict of a part of the module, tied tensors once, on the first learner; None on the others.

        It is in the memory of the host, or is what the learner itself computes with.

        Args:
            part: The module, or one within it.
            trained: Without what is frozen.
        """
        ...

    def whole(self, tensors: Sequence[torch.Tensor]) -> contextlib.AbstractContextManager[None]:
        """Within it some of the module's own tensors are whole, on every learner.

        A view of one of them stays so afterwards, and holds its memory.
        """
        ...

    def save(self, folder: Path) -> None:
        """Writes weights and optimizer state to a folder, but not what is frozen: that is in a model's own folder."""
        ...

    def load(self, folder: Path) -> None:
        """Takes back what `save` wrote. The optimizer's settings stay those that it was made with."""
        ...


def untied_state(part: nn.Module, *, trained: bool = False) -> dict[str, torch.Tensor]:
    """A module's own tensors by name, a tied one under the first of its names alone."""
    names: dict[torch.Tensor, str] = {}  # by identity
    for name, tensor in (trained_state(part) if trained else part.state_dict(keep_vars=True)).items():
        names.setdefault(tensor, name)
    return {name: tensor for tensor, name in names.items()}


def trained_state(module: nn.Module) -> dict[str, torch.Tensor]:
    """A module's own tensors, under all of their names, without frozen parameters."""
    frozen = {id(p) for p in module.parameters() if not p.requires_grad}
    return {name: t for name, t in module.state_dict(keep_vars=True).items() if id(t) not in frozen}


def load_trained(module: nn.Module, state: dict[str, torch.Tensor]) -> None:
    """Takes back what `trained_state` gave.

    Raises:
        ValueError: If it is of another module.
    """
    names = trained_state(module).keys()
    if names != state.keys():
        raise ValueError(
            f"the state is of another model, or of other adapters: {sorted(names ^ state.keys())[:3]} are in one of "
            "them alone; restore it with the policy settings it was made with"
        )
    module.load_state_dict(state, strict=False)


@contextlib.contextmanager
def own_settings(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Within it an optimizer takes moments from a checkpoint, and after it has its own learning rate, decay, ..."""
    own = [
        {key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups
    ]
    yield
    for group, settings in zip(optimizer.param_groups, own, strict=True):
        group.update(settings)


def sum_over_learners(tensor: torch.Tensor) -> torch.Tensor:
    """Adds up the learners' tensors, in place. Collective."""
    if in_company():
        dist.all_reduce(tensor)
    return tensor


def in_company() -> bool:
    """Whether there are other learners."""
    return dist.is_initialized() and dist.get_world_size() > 1


def is_first() -> bool:
    """Whether this is the first learner, or the only one."""
    return not dist.is_initialized() or dist.get_rank() == 0
