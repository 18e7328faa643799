"""What a GRPO update costs, three ways beside each other.

    python experiments/benchmarks/bench_learner.py --model tiny

The same model, samples, loss and gradient (which is compared): a plain Hugging Face loop over micro-batches of 8 padded
sequences with full logits, this project's plain path (`--no-shared-prompts`), and its fast one, which computes the
prompt of a group once. The plain path may take as many tokens a forward as the loop does; the fast one, two thirds of
that, which saves memory and costs hardly any speed. Measured are forward and backward passes of a whole batch, without
the optimizer's step.
Each way has a process of its own, and so a peak memory of its own; they take turns, so that a machine that slows down
meanwhile slows all of them; reported is the median of the rounds.

The share of the peak is that of the operations that were carried out, counted by PyTorch, in what a process reaches in
plain float32 matrix products: the median of all, each measured before a turn. Look at the cores too: a run that had
fewer of them says nothing.

With `--growth FILE.png` it draws instead how seconds and memory grow with the size of a group and with the length of
the responses.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode, flop_registry, sdpa_backward_flop, sdpa_flop

from algorithms.losses import aggregate, clipped_surrogate
from llmenv.models.names import load_causal_lm
from llmenv.policy.batch import TokenBatch, TokenRow
from llmenv.policy.plan import plan_update
from llmenv.policy.policy import CausalPolicy

LOOP, PLAIN, FAST = "Hugging Face loop", "plain path", "shared prompts"
SEQUENCES = 8  # of a micro-batch of the loop
LENGTHS = {"uneven": 0.25, "equal": 1.0}  # of the shortest response, as a share of the longest


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="tiny", help="name or path of the model (default: %(default)s)")
    parser.add_argument("--prompts", type=int, default=8, help="groups (default: %(default)s)")
    parser.add_argument("--group-size", type=int, default=8, help="samples of each (default: %(default)s)")
    parser.add_argument("--prompt-tokens", type=int, default=180, help="of each (default: %(default)s)")
    parser.add_argument("--tokens", type=int, default=128, help="of the longest (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each (default: %(default)s)")
    parser.add_argument("--lengths", choices=LENGTHS, nargs="*", default=list(LENGTHS))
    parser.add_argument(
        "--growth", type=Path, metavar="FILE.png", help="draw how cost grows, instead, over its own sizes"
    )
    arguments = parser.parse_args()
    if arguments.growth:
        if not arguments.growth.parent.is_dir():
            parser.error(f"there is no folder {arguments.growth.parent} to draw into")
        draw_growth(arguments)
        return
    for lengths in arguments.lengths:
        compare(arguments, lengths)


def draw_growth(arguments: argparse.Namespace) -> None:
    """Of 32 samples each time, a group of 8 and responses of up to 128 tokens where the other one is varied."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(2, 2, figsize=(10, 6), layout="constrained", sharex="col")
    figure.suptitle(
        f"a GRPO update of 32 samples, prompts of {arguments.prompt_tokens} tokens, {arguments.model}"
    )
    varied: list[tuple[str, str, Sequence[int]]] = [
        ("samples of a prompt", "group_size", [1, 2, 4, 8, 16, 32]),
        ("tokens of the longest response", "tokens", [64, 128, 256, 512, 1024]),
    ]
    for column, (label, name, sizes) in zip(axes.T, varied, strict=True):
        points = []
        for size in sizes:
            one = {**vars(arguments), "group_size": 8, "tokens": 128, name: size}
            points.append(
                compare(argparse.Namespace(**{**one, "prompts": 32 // one["group_size"]}), "uneven")
            )
        for way in points[0]:
            column[0].plot(sizes, [point[way]["seconds"] for point in points], "o-", label=way)
            column[1].plot(
                sizes, [point[way]["peak"] - point[way]["idle"] for point in points], "o-", label=way
            )
        column[1].set_xlabel(label)
        for panel in column:
            panel.set_xscale("log", base=2)
            panel.set_xticks(sizes, [str(size) for size in sizes])
            panel.set_ylim(bottom=0)
    axes[0, 0].set_ylabel("seconds")
    axes[1, 0].set_ylabel("peak memory (GiB over idle)")
    axes[0, 0].legend()
    figure.savefig(arguments.growth, dpi=110)


def compare(arguments: argparse.Namespace, lengths: str) -> dict[str, dict[str, float]]:
    """Lets all ways take turns and prints how they did; for each way the medians of its figures."""
    context = multiprocessing.get_context("spawn")
    turns: dict[str, list[dict[str, float]]] = {LOOP: [], PLAIN: [], FAST: []}
    lines = {}
    for name in turns:
        lines[name], theirs = context.Pipe()
        context.Process(target=work, args=(theirs, name, arguments, lengths), daemon=True).start()
    for line in lines.values():
        line.recv()  # it is ready: nobody computes while another one is timed
    for _ in range(arguments.rounds):
        for name, line in lines.items():
            line.send("go")
            turns[name].append(line.recv())
    for line in lines.values():
        line.send("stop")
    middle = {
        name: {key: median(turn[key] for turn in results) for key in results[0]}
        for name, results in turns.items()
    }
    report(arguments, lengths, turns, middle)
    return middle


def report(
    arguments: argparse.Namespace,
    lengths: str,
    turns: dict[str, list[dict[str, float]]],
    middle: dict[str, dict[str, float]],
) -> None:
    loop = middle[LOOP]
    rates = sorted(turn["matrix_rate"] for results in turns.values() for turn in results)
    print(
        f"\n{arguments.model}, {arguments.prompts} prompts of {arguments.prompt_tokens} tokens x {arguments.group_size}"
        f", responses of {max(1, round(LENGTHS[lengths] * arguments.tokens))} to {arguments.tokens} tokens\n"
        f"{'':18}{'seconds':>9}{'(all)':>20}{'tokens/s':>10}{'speed-up':>9}{'GiB':>7}{'(less idle)':>12}"
        f"{'TFLOP':>8}{'of peak':>8}{'cores':>6}"
    )
    for name, one in middle.items():
        every = ", ".join(f"{turn['seconds']:.1f}" for turn in turns[name])
        assert math.isclose(one["norm"], loop["norm"], rel_tol=1e-3), "the gradients differ"
        print(
            f"{name:18}{one['seconds']:9.2f}{every:>20}{one['tokens'] / one['seconds']:10,.0f}"
            f"{loop['seconds'] / one['seconds']:9.2f}{one['peak']:7.2f}{one['peak'] - one['idle']:12.2f}"
            f"{one['operations'] / 1e12:8.2f}"
            f"{one['operations'] / one['seconds'] / median(rates):8.0%}{one['cores']:6.2f}"
        )
    print(
        f"matrix products: {median(rates) / 1e9:.0f} GFLOP/s ({rates[0] / 1e9:.0f} to {rates[-1] / 1e9:.0f})"
    )


def work(line: Connection, name: str, arguments: argparse.Namespace, lengths: str) -> None:
    """A process's life: the whole batch at every "go"."""
    count_operations()
    model = load_causal_lm(arguments.model)
    rows = make_rows(arguments, model.config.vocab_size, LENGTHS[lengths])
    run = contender(name, model, rows)
    parameters = list(model.parameters())
    contender(name, model, rows[:1])()  # so that what it needs of PyTorch's code is in memory
    clear_gradients(parameters)
    idle = resident("VmRSS")
    with FlopCounterMode(display=False) as counter:  # warms up, too
        run()
    line.send("ready")
    while line.recv() == "go":
        clear_gradients(parameters)
        matrix_rate = measure_matrix_products()
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        start, start_cpu = time.perf_counter(), time.process_time()
        run()
        seconds, cpu = time.perf_counter() - start, time.process_time() - start_cpu
        line.send(
            {
                "seconds": seconds,
                "tokens": sum(row.num_response_tokens for row in rows),
                "peak": resident("VmHWM"),
                "idle": idle,
                "operations": counter.get_total_flops(),
                "matrix_rate": matrix_rate,
                "cores": cpu / seconds,
                "norm": float(torch.stack([p.grad.norm() for p in parameters if p.grad is not None]).norm()),
            }
        )


def count_operations() -> None:
    """PyTorch's counter knows attention on GPUs alone, and no products in place; what is causal takes half of all."""

    def forward(
        query: Any, key: Any, value: Any, dropout_p: float = 0.0, is_causal: bool = False, **_: Any
    ) -> int:
        return sdpa_flop(query, key, value) // (1 + is_causal)

    def backward(
        gradient: Any,
        query: Any,
        key: Any,
        value: Any,
        out: Any,
        lse: Any,
        dropout_p: float,
        is_causal: bool,
        **_: Any,
    ) -> int:
        return sdpa_backward_flop(gradient, query, key, value) // (1 + is_causal)

    aten = torch.ops.aten
    flop_registry[aten.addmm_] = flop_registry[aten.addmm]
    flop_registry[aten._scaled_dot_product_flash_attention_for_cpu] = forward
    flop_registry[aten._scaled_dot_product_flash_attention_for_cpu_backward] = backward


def make_rows(arguments: argparse.Namespace, vocab_size: int, shortest: float) -> list[TokenRow]:
    """Random tokens; prompts of about the same length, responses evenly between the shortest and the longest."""
    rng = np.random.default_rng(0)
    rows = []
    for group in range(arguments.prompts):
        length = max(1, round(arguments.prompt_tokens * rng.uniform(0.9, 1.1)))
        prompt = rng.integers(vocab_size, size=length)
        for _ in range(arguments.group_size):
            size = max(1, round(arguments.tokens * rng.uniform(shortest, 1)))
            mask = np.repeat([False, True], [length, size])
            rows.append(
                TokenRow(
                    token_ids=np.concatenate([prompt, rng.integers(vocab_size, size=size)]),
                    response_mask=mask,
                    sampling_logps=np.zeros(len(mask), dtype=np.float32),
                    advantages=np.where(mask, np.float32(rng.normal()), np.float32(0)),
                    rewards=np.zeros(len(mask), dtype=np.float32),
                    group=group,
                )
            )
    return rows


def contender(name: str, model: Any, rows: Sequence[TokenRow]) -> Callable[[], None]:
    """A function that leaves the gradient of the whole batch in the model's parameters."""
    num_tokens = sum(row.num_response_tokens for row in rows)
    policy: Callable[[TokenBatch], torch.Tensor]
    if name == LOOP:
        batches = [TokenBatch.from_rows(rows[i : i + SEQUENCES]) for i in range(0, len(rows), SEQUENCES)]
        policy = full_logits(model)
    else:
        padded = SEQUENCES * max(map(len, rows))
        ((minibatch,),) = plan_update(
            rows,
            minibatch_size=len(rows),
            micro_batch_tokens=padded * 2 // 3 if name == FAST else padded,
            num_learners=1,
            rng=np.random.default_rng(0),
            shared_prompts=name == FAST,
        )
        batches = minibatch.micro_batches
        causal_policy = CausalPolicy(model, shared_prompts=name == FAST)

        def policy(batch: TokenBatch) -> torch.Tensor:
            return causal_policy(batch).logps

    def run() -> None:
        for batch in batches:
            logps = policy(batch)
            per_token = clipped_surrogate(logps, logps.detach(), batch.advantages, 0.2, 0.2)
            aggregate(
                per_token, batch.response_mask, "token", num_tokens, len(rows), max(map(len, rows))
            ).backward()

    return run


def full_logits(model: Any) -> Callable[[TokenBatch], torch.Tensor]:
    def logps(batch: TokenBatch) -> torch.Tensor:
        attention_mask = torch.arange(batch.input_ids.shape[1]) < batch.lengths[:, None]
        logits = model(
            input_ids=batch.input_ids, attention_mask=attention_mask.long(), use_cache=False
        ).logits
        log_probs = logits[:, :-1].log_softmax(-1)
        chosen = log_probs.gather(-1, batch.input_ids[:, 1:, None]).squeeze(-1)
        return torch.nn.functional.pad(chosen, (1, 0))

    return logps


def clear_gradients(parameters: Sequence[torch.nn.Parameter]) -> None:
    for p in parameters:
        p.grad = None


def measure_matrix_products(size: int = 2048) -> float:
    """Operations a second of a float32 matrix product: the best of a few."""
    a, b, out = (torch.ones(size, size) for _ in range(3))
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        torch.mm(a, b, out=out)
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / min(seconds)


def resident(field: str) -> float:
    """GiB of this process in memory: "VmRSS" now, "VmHWM" at most."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) / 2**20


if __name__ == "__main__":
    main()
