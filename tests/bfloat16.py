"""Products in bfloat16 at the speed of float32, for tests on a CPU that has no instructions for them.

There PyTorch multiplies bfloat16 matrices in a plain loop, some twenty times as slow as float32 kernels. Here factors
are widened, and the product, added up in float32 as by instructions for it, is rounded once.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

_CPU = torch._C.DispatchKeySet(torch._C.DispatchKey.CPU)
_FLAGS = Path("/proc/cpuinfo").read_text()
_HAS_INSTRUCTIONS = "avx512_bf16" in _FLAGS or "amx_bf16" in _FLAGS
# Names, and which of their results stay float32.
_PRODUCTS: dict[str, tuple[int, ...]] = {
    "mm": (),
    "addmm": (),
    "bmm": (),
    "baddbmm": (),
    "_scaled_dot_product_flash_attention_for_cpu": (1,),
    "_scaled_dot_product_flash_attention_for_cpu_backward": (),
}


@contextlib.contextmanager
def fast_bfloat16() -> Iterator[None]:
    """Within it this process's products in bfloat16 are fast."""
    if _HAS_INSTRUCTIONS:
        yield
        return
    library = torch.library.Library("aten", "IMPL")
    for name, wide_results in _PRODUCTS.items():
        library.impl(name, _widened(name, wide_results), "CPU")
    try:
        yield
    finally:
        library._destroy()


def _widened(name: str, wide_results: tuple[int, ...]) -> Callable[..., Any]:
    kernel = torch.library.get_kernel(f"aten::{name}", "CPU")

    def product(*args: Any, **kwargs: Any) -> Any:
        if not any(map(_is_rough, args)):
            return kernel.call_boxed(_CPU, *args, **kwargs)
        wide = {key: _widen(value) for key, value in kwargs.items()}  # a mask has the queries' dtype
        results = kernel.call_boxed(_CPU, *map(_widen, args), **wide)
        if isinstance(results, torch.Tensor):
            return results.bfloat16()
        return tuple(r if i in wide_results else r.bfloat16() for i, r in enumerate(results))

    return product


def _widen(arg: Any) -> Any:
    return arg.float() if _is_rough(arg) else arg


def _is_rough(arg: Any) -> bool:
    return isinstance(arg, torch.Tensor) and arg.dtype == torch.bfloat16
