"""Is it right? Packed rows, the optimizer, the head, the masks: against slower ways that cannot be wrong."""

from __future__ import annotations

import copy
import time
from typing import Any

import torch
from torch._dynamo.utils import counters
from torch.nn import functional
from torch.nn.attention.flex_attention import create_block_mask

from experiments.benchmarks.gpu.bench import Bench, gap, gradient, make_model, make_rows
from llmenv.engines.torch import TorchEngine
from llmenv.policy.attention import Span
from llmenv.policy.batch import TokenBatch
from llmenv.policy.flex import make_block_mask
from llmenv.policy.head import TokenHead
from llmenv.policy.policy import CausalPolicy

SHAPES: dict[str, dict[str, Any]] = {
    "Qwen2.5-0.5B's heads, 7 of 64 on a key": {},
    "Llama's heads, 4 of 128": {
        "family": "llama",
        "hidden_size": 1024,
        "num_attention_heads": 8,
        "intermediate_size": 2048,
    },
    "SmolLM2's heads, 3 of 64": {
        "family": "llama",
        "hidden_size": 576,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "intermediate_size": 1536,
    },
}
ROWS: dict[str, dict[str, int]] = {
    "long rows": {"groups": 3, "size": 4, "prompt": 300, "shortest": 50, "longest": 900},
    "rows within a block": {"groups": 1, "size": 3, "prompt": 12, "shortest": 3, "longest": 9},
    "groups of one": {"groups": 5, "size": 1, "prompt": 60, "shortest": 10, "longest": 200},
}


WAYS: dict[str, dict[str, bool]] = {
    "plain": {"shared_prompts": False},
    "packed": {},
    "packed, checkpointed": {"gradient_checkpointing": True},
}


def passes(policy: CausalPolicy, batch: TokenBatch) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities, and the gradient of their sum weighted with the advantages."""
    logps = policy(batch).logps
    (logps * batch.advantages).sum().backward()
    return logps.detach(), gradient(list(policy.parameters()))


def correctness(bench: Bench) -> None:
    """Packed rows against sequence by sequence in float32; in bfloat16 they may be as far off as those are."""
    for name, shape in SHAPES.items():
        exact = make_model(
            bench,
            torch.float32,
            **{"num_hidden_layers": 3, "vocab_size": 4096, "initializer_range": 0.05, **shape},
        )
        for rows, sizes in ROWS.items():
            sizes = {what: bench.sized(size) for what, size in sizes.items()}
            batch = TokenBatch.from_rows(make_rows(exact.config.vocab_size, **sizes)).to(bench.device)
            compare(bench, f"{name}, {rows}", exact, batch)
        if bench.late or bench.smoke:  # small, all shapes are one
            return


def compare(bench: Bench, name: str, exact: Any, batch: TokenBatch) -> None:
    expected = passes(CausalPolicy(copy.deepcopy(exact), shared_prompts=False), batch)
    found: dict[tuple[str, torch.dtype], list[float]] = {}
    for dtype in (torch.float32, torch.bfloat16):
        for way, settings in WAYS.items():
            policy = CausalPolicy(copy.deepcopy(exact).to(dtype), **settings)
            ours = passes(policy, batch)
            found[way, dtype] = [gap(*pair) for pair in zip(ours, expected, strict=True)]
            with torch.no_grad():
                without = policy(batch, with_entropy=False).logps
            found[f"{way}, no grad", dtype] = [gap(without, expected[0])]
    bench.figures[name] = {f"{way}, {dtype}": gaps for (way, dtype), gaps in found.items()}
    ways = ("packed", "packed, checkpointed")
    worst = max(max(found[way, torch.float32] + found[f"{way}, no grad", torch.float32]) for way in ways)
    # Triton's float32 products may round to TF32's 10 bits.
    bench.want(f"{name}: gap in float32", worst, at_most=1e-2)
    for i, what in enumerate(("log-probabilities", "gradient")):
        plain = found["plain", torch.bfloat16][i]
        packed = max(found[way, torch.bfloat16][i] for way in ways)
        bench.want(f"{name}: gap in bfloat16 over the plain path's, {what}", packed / plain, at_most=3)


def variants(bench: Bench) -> None:
    """24 lengths, with gradients and without: compilations must stop after the first few."""
    model = make_model(bench, num_hidden_layers=2, vocab_size=4096)
    policy = CausalPolicy(model)
    torch._dynamo.reset()
    counters.clear()
    seen = []
    for i in range(bench.sized(24)):
        rows = make_rows(
            model.config.vocab_size,
            groups=1 + i % 4,
            size=4,
            prompt=bench.sized(100 + 37 * i),
            shortest=2,
            longest=bench.sized(60 + 11 * i),
            seed=i,
        )
        batch = TokenBatch.from_rows(rows).to(bench.device)
        start = time.perf_counter()
        with torch.set_grad_enabled(i % 3 > 0):
            logps = policy(batch, with_entropy=i % 3 > 0).logps
            if i % 3:
                logps.sum().backward()
        bench.synchronize()
        graphs = counters["stats"].get("unique_graphs", 0)
        seen.append((batch.packed.input_ids.shape[1], round(time.perf_counter() - start, 3), graphs))
    bench.figures["tokens, seconds, graphs so far"] = seen
    # FlexAttention and the head's two functions, with gradients and without.
    bench.want("compiled variants", seen[-1][2], at_most=8)
    early = seen[len(seen) // 3]
    bench.want("of them after a third of the lengths", seen[-1][2] - early[2], at_most=0)


def optimizer(bench: Bench) -> None:
    """What 20 steps of AdamW at 1e-6 move: in bfloat16, over float32 master weights, the same way as in float32."""
    base = make_model(bench, torch.float32, num_hidden_layers=4, vocab_size=8192)
    moves = []
    for dtype in (torch.float32, torch.bfloat16):
        policy = CausalPolicy(copy.deepcopy(base).to(dtype))
        adam = torch.optim.AdamW(list(policy.parameters()), lr=1e-6, weight_decay=0.0)
        engine = TorchEngine(policy, adam, 1.0)
        steppers = [p for group in engine.optimizer.param_groups for p in group["params"]]
        before = [p.detach().float().clone() for p in steppers]
        for step in range(bench.sized(20)):
            longest = bench.sized(60)
            rows = make_rows(
                base.config.vocab_size, groups=2, size=4, prompt=40, shortest=4, longest=longest, seed=step
            )
            batch = TokenBatch.from_rows(rows).to(bench.device)
            logps = engine.forward(batch).logps
            engine.backward(-(logps * batch.advantages).sum() / batch.response_mask.sum(), last=True)
            engine.step()
        moved = [(p.detach().float() - q).flatten() for p, q in zip(steppers, before, strict=True)]
        moves.append(torch.cat(moved))
    exact, rough = moves
    cosine = float(functional.cosine_similarity(exact, rough, dim=0))
    bench.want("cosine of bfloat16's displacement to float32's", cosine, at_least=0.95)
    share = float(((exact != 0) & (rough != 0)).sum() / (exact != 0).sum())
    bench.want("share of the weights that float32 moves", share, at_least=0.99)


def head(bench: Bench) -> None:
    """Log-probabilities from 16 bits against float64; time beside full cross-entropy and the products by themselves."""
    positions, width, vocab = (64, 64, 300) if bench.smoke else (8192, 896, 151936)
    torch.manual_seed(0)
    with bench.device:
        hidden = torch.randn(positions, width, dtype=torch.bfloat16, requires_grad=True)
        weight = torch.nn.Parameter(torch.randn(vocab, width, dtype=torch.bfloat16) * 0.2)
        targets = torch.randint(vocab, (positions,))
    layer = TokenHead(weight)
    some = slice(0, 64)
    logps, _ = layer(hidden[some], targets[some], 1.0, False)
    logps.sum().backward()
    ours = weight.grad
    wide = weight.detach().double().requires_grad_()
    log_probs = (hidden.detach()[some].double() @ wide.T).log_softmax(-1)
    exact = log_probs.gather(-1, targets[some, None]).squeeze(-1)
    exact.sum().backward()
    error = (logps - exact).detach().abs().max()
    bench.want("error of log-probabilities, nats", float(error), at_most=2e-4)
    assert ours is not None and wide.grad is not None
    bench.want("gap of the weight's gradient", gap(ours, wide.grad), at_most=2**-8)
    del wide, log_probs, exact

    def chunked() -> None:
        layer(hidden, targets, 1.0, True)[0].sum().backward()

    def full() -> None:
        functional.cross_entropy((hidden @ weight.T).float(), targets, reduction="sum").backward()

    def products() -> None:
        states, matrix = hidden.detach(), weight.detach()
        for _ in range(2):
            logits = states @ matrix.T
        logits @ matrix
        logits.T @ states

    for run in (chunked, full, products):
        bench.figures[f"{run.__name__}, ms"] = 1e3 * bench.seconds(run)
        bench.figures[f"{run.__name__}, peak GiB"] = bench.peak(run)
    if not bench.smoke:
        ratio = bench.figures["chunked, ms"] / bench.figures["products, ms"]
        bench.want("time over that of the four products alone", ratio, at_most=2.5)


def masks(bench: Bench) -> None:
    """What a block mask costs, once a micro-batch, and that it is the one which looks at all pairs."""
    for size in (1024,) if bench.smoke else (8192, 16384, 32768, 65536):
        prompt, response = size // 4, 3 * size // 64
        spans = [Span(0, prompt, 0)]
        spans += [Span(prompt + i * response, prompt + (i + 1) * response, 0) for i in range(16)]
        mask = make_block_mask(spans, bench.device)
        if size <= 8192:
            expected = create_block_mask(mask.mask_mod, None, None, size, size, device=bench.device.type)
            same = torch.equal(mask.to_dense(), expected.to_dense())
            full = (mask.full_kv_num_blocks, expected.full_kv_num_blocks)
            same &= full[0] is not None and full[1] is not None and torch.equal(full[0], full[1])
            bench.want(f"{size} tokens: the mask of all pairs", float(same), at_least=1)
        milliseconds = 1e3 * bench.seconds(lambda: make_block_mask(spans, bench.device), rounds=5)  # noqa: B023
        peak = bench.peak(lambda: make_block_mask(spans, bench.device))  # noqa: B023
        bench.figures[f"{size} tokens"] = {"ms": milliseconds, "peak GiB": peak}
        bench.want(f"{size} tokens: milliseconds", milliseconds, at_most=100)
        bench.want(f"{size} tokens: GiB", peak, at_most=0.1)
