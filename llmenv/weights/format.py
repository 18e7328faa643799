"""The wire format of a weight sync; nothing else knows it.

A state dict becomes numpy arrays, which Ray's object store maps into a reader without a copy. numpy has no
bfloat16, so that such tensors travel as 16-bit integers. Tied weights travel once.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import numpy as np
import torch

Packed = dict[str, tuple[np.ndarray, str]]


def pack(state: Mapping[str, torch.Tensor]) -> Packed:
    """Arrays that share memory with CPU tensors; a tensor tied to an earlier one is left out."""
    packed: Packed = {}
    seen: set[tuple[int, tuple[int, ...]]] = set()
    for name, tensor in state.items():
        key = (tensor.data_ptr(), tuple(tensor.shape))
        if key in seen:
            continue
        seen.add(key)
        dtype = str(tensor.dtype).removeprefix("torch.")
        tensor = tensor.detach().cpu().contiguous()
        packed[name] = ((tensor.view(torch.int16) if dtype == "bfloat16" else tensor).numpy(), dtype)
    return packed


def unpack(packed: Packed) -> dict[str, torch.Tensor]:
    """Read-only views on the arrays: copy from them, never into them."""
    tensors = {}
    for name, (array, dtype) in packed.items():
        with warnings.catch_warnings():
            # An array out of the object store is read-only; torch warns, and nobody here writes to it.
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            tensor = torch.from_numpy(array)
        tensors[name] = tensor.view(torch.bfloat16) if dtype == "bfloat16" else tensor
    return tensors


def load(model: torch.nn.Module, packed: Packed) -> None:
    """Copies packed weights into `model` in place.

    Raises:
        ValueError: If a name is unknown to the model, a shape is another one, or a parameter of the model would
            keep its old value. Nothing has been copied then.
    """
    state = model.state_dict(keep_vars=True)
    tensors = unpack(packed)
    unknown = sorted(tensors.keys() - state.keys())
    written = {state[name].data_ptr() for name in tensors.keys() & state.keys()}
    missing = sorted(name for name, tensor in state.items() if tensor.data_ptr() not in written)
    # copy_ would spread a smaller tensor over a larger one.
    misshapen = sorted(
        name for name in tensors.keys() & state.keys() if tensors[name].shape != state[name].shape
    )
    if unknown or missing or misshapen:
        raise ValueError(
            f"weights do not fit the model: unknown {unknown[:3]}, missing {missing[:3]}, "
            f"of another shape {misshapen[:3]}"
        )
    with torch.no_grad():
        for name, tensor in tensors.items():
            state[name].copy_(tensor)
