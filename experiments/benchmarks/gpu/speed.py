"""Is it fast? An update beside a plain Hugging Face loop, sampling beside `generate`, weights packed and loaded."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from algorithms.losses import aggregate, clipped_surrogate
from experiments.benchmarks.gpu.bench import Bench, gradient, make_model, make_row, make_rows
from llmenv.policy.batch import TokenBatch, TokenRow
from llmenv.policy.packed import ATTENTION
from llmenv.policy.plan import plan_update
from llmenv.policy.policy import CausalPolicy
from llmenv.samplers.sampler import Completion, SamplingParams
from llmenv.samplers.transformers import TransformersSampler
from llmenv.weights import format as weights

LOOP, PLAIN, SMALL, LARGE = "Hugging Face loop", "plain path", "shared prompts, 8k", "shared prompts, 32k"
BUDGETS = {PLAIN: 16384, SMALL: 8192, LARGE: 32768}  # tokens a forward pass
PROFILE = "profile.txt"


def update(bench: Bench, folder: Path) -> None:
    """The gradient of a whole batch: seconds, tokens, share of what matrix products reach, memory, waits."""
    model = make_model(bench)
    sizes = (
        {"groups": 2, "size": 2, "prompt": 20, "shortest": 5, "longest": 30}
        if bench.smoke
        else {"groups": 16, "size": 8, "prompt": 400, "shortest": 256, "longest": 1024}
    )
    rows = make_rows(model.config.vocab_size, **sizes)
    rate = matrix_rate(bench)
    bench.figures["bfloat16 matrix products, TFLOP/s"] = rate / 1e12
    parameters = list(model.parameters())
    norms = {}
    for name in (LOOP, PLAIN, SMALL, LARGE):
        model.set_attn_implementation("sdpa" if name in (LOOP, PLAIN) else ATTENTION)
        run = contender(bench, name, model, rows)
        seconds = bench.seconds(run)
        model.zero_grad()
        peak = bench.peak(run)
        norms[name] = float(gradient(parameters).norm())
        model.zero_grad()
        bench.figures[name] = one = {
            "seconds": seconds,
            "response tokens a second": sum(row.num_response_tokens for row in rows) / seconds,
            "share of matrix products": 6
            * sum(p.numel() for p in parameters)
            * existing(rows)
            / seconds
            / rate,
            "peak GiB beside the weights": peak,
            "gradient norm": norms[name],
        }
        print(f"  {name}: {one}", flush=True)
    for name in (PLAIN, SMALL, LARGE):
        off = abs(norms[name] / norms[LOOP] - 1)
        bench.want(f"{name}: gradient's norm off the loop's", off, at_most=0.02)
    if not bench.smoke:
        speedup = bench.figures[LOOP]["seconds"] / bench.figures[SMALL]["seconds"]
        bench.want(f"{SMALL}: times as fast as the loop", speedup, at_least=1.0)
    count_waits(bench, model, rows, folder)


def existing(rows: Sequence[TokenRow]) -> int:
    """Tokens of a batch, the prompt of a group counted once."""
    prompts = {row.group: len(row) - row.num_response_tokens for row in rows}
    return sum(prompts.values()) + sum(row.num_response_tokens for row in rows)


def matrix_rate(bench: Bench) -> float:
    """Operations a second of a large bfloat16 matrix product."""
    size = 128 if bench.smoke else 8192
    a, b = torch.ones(2, size, size, dtype=torch.bfloat16, device=bench.device)
    return 2 * size**3 / bench.seconds(lambda: a @ b, rounds=10)


def contender(bench: Bench, name: str, model: Any, rows: Sequence[TokenRow]) -> Callable[[], None]:
    """A function that adds the gradient of the whole batch to the model's parameters."""
    num_tokens = sum(row.num_response_tokens for row in rows)
    if name == LOOP:
        batches = [TokenBatch.from_rows(rows[i : i + 8]) for i in range(0, len(rows), 8)]
    else:
        policy = CausalPolicy(model, shared_prompts=name != PLAIN)
        ((minibatch,),) = plan_update(
            rows,
            minibatch_size=len(rows),
            micro_batch_tokens=BUDGETS[name],
            num_learners=1,
            rng=np.random.default_rng(0),
            shared_prompts=name != PLAIN,
            costs=policy.costs,
        )
        batches = minibatch.micro_batches

    def run() -> None:
        for batch in [batch.to(bench.device) for batch in batches]:
            logps = full_logps(model, batch) if name == LOOP else policy(batch).logps
            loss = clipped_surrogate(logps, logps.detach(), batch.advantages, 0.2, 0.2)
            aggregate(loss, batch.response_mask, "token", num_tokens, len(rows), 1).backward()

    return run


def full_logps(model: Any, batch: TokenBatch) -> torch.Tensor:
    """As a plain loop has them: the logits of all tokens, in float32."""
    mask = torch.arange(batch.input_ids.shape[1], device=batch.lengths.device) < batch.lengths[:, None]
    logits = model(input_ids=batch.input_ids, attention_mask=mask.long(), use_cache=False).logits
    log_probs = logits[:, :-1].float().log_softmax(-1)
    chosen = log_probs.gather(-1, batch.input_ids[:, 1:, None]).squeeze(-1)
    return torch.nn.functional.pad(chosen, (1, 0))


def count_waits(bench: Bench, model: Any, rows: Sequence[TokenRow], folder: Path) -> None:
    """How often a micro-batch makes the processor wait, and where the time of one goes."""
    policy = CausalPolicy(model)
    batch = TokenBatch.from_rows(rows[:8]).to(bench.device)

    def run() -> None:
        output = policy(batch)
        loss = clipped_surrogate(output.logps, output.logps.detach(), batch.advantages, 0.2, 0.2)
        aggregate(loss, batch.response_mask, "token", 1, 1, 1).backward()

    run()
    with bench.waits() as found:
        run()
    bench.figures["waits"] = [f"{one.filename}:{one.lineno}" for one in found]
    bench.want("waits of a micro-batch", len(found), at_most=2)
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (bench.device.type == "cuda")
    with profile(activities=activities) as profiler:
        run()
        bench.synchronize()
    order = "self_device_time_total" if bench.device.type == "cuda" else "self_cpu_time_total"
    (folder / PROFILE).write_text(profiler.key_averages().table(sort_by=order, row_limit=40))


def sampler(bench: Bench) -> None:
    """Tokens a second beside `generate`; how far log-probabilities are from the learner's for the same weights."""
    model = make_model(bench)
    distinct, prompt_tokens, tokens = (4, 10, 8) if bench.smoke else (32, 200, 256)
    rng = np.random.default_rng(0)
    drawn = rng.integers(1, model.config.vocab_size, size=(distinct, prompt_tokens)).tolist()
    prompts = [prompt for prompt in drawn for _ in range(8)]
    ours = TransformersSampler(model)
    params = SamplingParams(max_new_tokens=tokens, stop_token_ids=frozenset())
    completions: list[Completion] = []

    def sample() -> None:
        completions[:] = ours.generate(prompts, params, list(range(len(prompts))))

    ids = torch.tensor(prompts, device=bench.device)

    def generate() -> None:
        model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=True,
            top_k=0,
            max_new_tokens=tokens,
            min_new_tokens=tokens,
            pad_token_id=0,
        )

    total = len(prompts) * tokens
    for name, run in {"ours": sample, "generate": generate}.items():
        bench.figures[f"{name}, tokens a second"] = total / bench.seconds(run, rounds=1)
        bench.figures[f"{name}, peak GiB"] = bench.peak(run) if not bench.late else None
    rates = [bench.figures[f"{name}, tokens a second"] for name in ("ours", "generate")]
    if not bench.smoke:
        bench.want("times as fast as generate", rates[0] / rates[1], at_least=1.0)
    measure_gap(bench, model, prompts, completions)


def measure_gap(
    bench: Bench, model: Any, prompts: Sequence[Sequence[int]], completions: Sequence[Completion]
) -> None:
    policy = CausalPolicy(model)
    rows = [
        make_row(np.array(prompt), completion.token_ids, group=i // 8, logps=completion.logps)
        for i, (prompt, completion) in enumerate(zip(prompts, completions, strict=True))
    ]
    gaps = []
    with torch.no_grad():
        for i in range(0, len(rows), 16):
            batch = TokenBatch.from_rows(rows[i : i + 16]).to(bench.device)
            difference = policy(batch, with_entropy=False).logps - batch.sampling_logps
            gaps.append(difference[batch.response_mask])
    found = torch.cat(gaps)
    bench.figures["gap"] = {
        "largest": float(found.abs().max()),
        "over 5 %": float((found.expm1().abs() > 0.05).float().mean()),
        "k3": float((found.expm1() - found).mean()),
    }
    bench.want("mean gap of sampler and learner, nats", float(found.abs().mean()), at_most=0.03)


def weight_sync(bench: Bench) -> None:
    """Weights to arrays in memory and back, as they go to a sampler without NCCL."""
    model = make_model(bench)
    state = model.state_dict()
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    packed = weights.pack(state)
    for name, run in {
        "pack": lambda: weights.pack(state),
        "load": lambda: weights.load(model, packed),
    }.items():
        start = time.perf_counter()
        run()
        bench.synchronize()
        seconds = time.perf_counter() - start
        bench.figures[f"{name}, seconds"] = seconds
        if not bench.smoke:
            bench.want(f"{name}: GiB a second", size / 2**30 / seconds, at_least=0.5)
