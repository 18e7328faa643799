"""Functions that a GPU runs compiled, and a CPU as they are. Knows nothing about what they compute."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

import torch

# Compilations of one function: a few for each model of a process, with gradients and without.
MOST_VARIANTS = 64

Function = TypeVar("Function", bound=Callable[..., Any])


def fused(function: Function, device: torch.device) -> Function:
    """A function of a module, as a device is to run it.

    Compiled, it takes tensors of any size. Where anything else makes PyTorch compile it over and over, it fails: it
    would go on with the function as it is written, in many times the time and the memory.
    """
    return function if device.type == "cpu" else _compiled(function)


@cache
def _compiled(function: Any) -> Any:
    limit: Any = {"recompile_limit": MOST_VARIANTS}  # its declaration for type checkers leaves this one out
    return torch.compile(function, dynamic=True, fullgraph=True, **limit)
