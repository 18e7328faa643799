"""What the sections of the GPU check share: models with random weights, rows, clocks, and what is asked of figures."""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from llmenv.policy.batch import TokenRow

# Qwen2.5-0.5B's; `shape` makes other ones of it.
QWEN = {
    "hidden_size": 896,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "intermediate_size": 4864,
    "vocab_size": 151936,
}
SMALL = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "vocab_size": 300,
}


@dataclass
class Bench:
    """Where and how large a check runs, and what it found.

    Attributes:
        device: CUDA, or a CPU for a smoke test.
        smoke: Small enough for a CPU: says that the script runs, and nothing about GPUs.
        deadline: `time.monotonic()` after which what takes long is left out.
        figures: Of the section that is running.
        wants: Its pass lines.
    """

    device: torch.device
    smoke: bool
    deadline: float
    figures: dict[str, Any] = field(default_factory=dict)
    wants: list[dict[str, Any]] = field(default_factory=list)

    def want(
        self, what: str, value: float, *, at_most: float | None = None, at_least: float | None = None
    ) -> None:
        """Asks for a figure within a bound, and prints whether it is: NaN never is."""
        passed = (at_most is None or value <= at_most) and (at_least is None or value >= at_least)
        bound = f"at most {at_most:g}" if at_most is not None else f"at least {at_least:g}"
        self.wants.append({"what": what, "value": value, "bound": bound, "passed": passed})
        print(f"  {'pass' if passed else 'FAIL'}  {what}: {value:.4g} ({bound})", flush=True)

    def sized(self, full: int) -> int:
        """A number of tokens, steps or rounds: an eighth of it in a smoke test."""
        return max(2, full // 8) if self.smoke else full

    @property
    def late(self) -> bool:
        return time.monotonic() > self.deadline

    def synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def seconds(self, run: Callable[[], Any], rounds: int = 3) -> float:
        """The median of some rounds, after one that warms up."""
        run()
        times = []
        for _ in range(1 if self.smoke else rounds):
            self.synchronize()
            start = time.perf_counter()
            run()
            self.synchronize()
            times.append(time.perf_counter() - start)
        return statistics.median(times)

    def peak(self, run: Callable[[], Any]) -> float:
        """GiB that it takes at most, beside what was there; 0 on a CPU."""
        if self.device.type != "cuda":
            run()
            return 0.0
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        return (torch.cuda.max_memory_allocated() - before) / 2**30

    @contextmanager
    def waits(self) -> Iterator[list[Any]]:
        """Collects the operations that wait for the GPU within it, as PyTorch finds them; none on a CPU."""
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            if self.device.type == "cuda":
                torch.cuda.set_sync_debug_mode("warn")
            try:
                yield found
            finally:
                if self.device.type == "cuda":
                    torch.cuda.set_sync_debug_mode("default")
                found[:] = [one for one in found if "synchroniz" in str(one.message)]


def make_model(bench: Bench, dtype: torch.dtype = torch.bfloat16, family: str = "qwen2", **shape: Any) -> Any:
    """Random weights, the same for the same shape: Qwen2.5-0.5B's where nothing else is said."""
    config_class, model_class = {
        "qwen2": (Qwen2Config, Qwen2ForCausalLM),
        "llama": (LlamaConfig, LlamaForCausalLM),
    }[family]
    special = {"bos_token_id": None, "eos_token_id": 0, "pad_token_id": None, "attn_implementation": "sdpa"}
    sizes = {**QWEN, **shape, **(SMALL if bench.smoke else {})}
    config = config_class(tie_word_embeddings=True, max_position_embeddings=131072, **sizes, **special)
    torch.manual_seed(0)
    with bench.device:
        return model_class(config).to(dtype).eval()


def make_rows(
    vocab_size: int, *, groups: int, size: int, prompt: int, shortest: int, longest: int, seed: int = 0
) -> list[TokenRow]:
    """Random tokens, groups with prompts of about the same length, responses of any length between the two."""
    rng = np.random.default_rng(seed)
    rows = []
    for group in range(groups):
        start = rng.integers(vocab_size, size=max(2, round(prompt * rng.uniform(0.8, 1.2))))
        for _ in range(size):
            response = rng.integers(vocab_size, size=rng.integers(shortest, longest + 1))
            rows.append(make_row(start, response, advantage=rng.normal(), group=group))
    return rows


def make_row(
    prompt: np.ndarray, response: np.ndarray, *, group: int, advantage: float = 0.0, logps: Any = 0.0
) -> TokenRow:
    mask = np.repeat([False, True], [len(prompt), len(response)])
    sampling_logps = np.zeros(len(mask), dtype=np.float32)
    sampling_logps[mask] = logps
    return TokenRow(
        token_ids=np.concatenate([prompt, response]).astype(np.int64),
        response_mask=mask,
        sampling_logps=sampling_logps,
        advantages=np.where(mask, np.float32(advantage), np.float32(0)),
        rewards=np.zeros(len(mask), dtype=np.float32),
        group=group,
    )


def gradient(parameters: Sequence[torch.nn.Parameter]) -> torch.Tensor:
    return torch.cat([p.grad.float().flatten() for p in parameters if p.grad is not None])


def gap(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """The norm of the difference over that of theirs."""
    return float((ours.double() - theirs.double()).norm() / theirs.double().norm())
