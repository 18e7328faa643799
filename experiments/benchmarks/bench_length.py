"""A pretrained model learns how long to speak, sampled by vLLM: `python experiments/benchmarks/bench_length.py`.

SmolLM2-135M-Instruct is asked to tell about something, and paid for a response of about 10 words; at first it goes on
until the cap. For each seed: the mean reward of the first five and of the last five iterations, where an iteration's
time goes, the memory of this process and its children over the iterations, and the time of a weight sync beside one
copy of the same weights in memory, both measured in the same run. `--plot FILE.png` draws the rewards.

20 iterations of 4 groups of 4 take about a quarter of an hour a seed on one core.
"""

from __future__ import annotations

import argparse
import logging
import time
from pathlib import Path
from statistics import mean, median
from typing import Any

import gymnasium as gym
import psutil
import ray

from algorithms import GRPO, GRPOConfig
from experiments.common.display import quieten
from experiments.common.figures import PHASES
from llmenv.env import TextEnv

TARGET_WORDS = 10
THINGS = (
    *(
        "bread",
        "rain",
        "the moon",
        "a cat",
        "the sea",
        "tea",
        "a bicycle",
        "snow",
        "a garden",
        "music",
        "a river",
    ),
    *(
        "the sun",
        "a book",
        "a bridge",
        "honey",
        "a train",
        "winter",
        "an apple",
        "a mountain",
        "sleep",
        "a clock",
    ),
    *("paper", "the wind", "a school", "salt", "a bird", "glass", "a forest", "coffee", "a ship", "spring"),
)


class LengthEnv(TextEnv):
    """Pays 1 / (1 + |words - target| / target) for a response, with a target of `TARGET_WORDS`."""

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        return f"Tell me about {THINGS[self.np_random.integers(len(THINGS))]}.", {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        gap = abs(len(action.split()) - TARGET_WORDS) / TARGET_WORDS
        return "", 1 / (1 + gap), True, False, {}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2-135m", help="name or path (default: %(default)s)")
    parser.add_argument("--sampler", default="vllm", help="vllm or transformers (default: %(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="(default: 0 1 2)")
    parser.add_argument("--iterations", type=int, default=20, help="of each seed (default: %(default)s)")
    parser.add_argument("--lr", type=float, default=2e-5, help="learning rate (default: %(default)s)")
    parser.add_argument("--plot", type=Path, help="draw the rewards here")
    arguments = parser.parse_args()

    quieten()
    gym.register("TargetLength-v0", entry_point=f"{__name__}:LengthEnv")
    ray.init(address="local", include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False)
    curves = {seed: train(seed, arguments) for seed in arguments.seeds}
    ray.shutdown()
    if arguments.plot:
        plot(curves, arguments.plot)


def train(seed: int, arguments: argparse.Namespace) -> list[float]:
    """Trains with one seed, prints its figures, and gives the mean reward of each iteration."""
    algorithm = config(seed, arguments).build_algo()
    process = psutil.Process()
    rewards, lengths, memory = [], [], []
    seconds: dict[str, list[float]] = {phase: [] for phase in ("all", *PHASES)}
    for iteration in range(1, arguments.iterations + 1):
        result = algorithm.train()
        rewards.append(float(result["rollout"]["episode_return_mean"]))
        lengths.append(float(result["rollout"]["response_length"]))
        memory.append(sum(p.memory_info().rss for p in (process, *process.children(recursive=True))) / 1e9)
        for phase in PHASES:
            seconds[phase].append(float(result["timers"][phase]))
        seconds["all"].append(result["time_this_iter_s"])
        gap = float(result["learners"]["default_policy"].get("sampler_logp_gap_max", 0.0))
        print(
            f"seed {seed}  {iteration:>3}  reward {rewards[-1]:.3f}  {lengths[-1]:5.1f} tokens  "
            f"{seconds['all'][-1]:5.1f} s  {memory[-1]:.2f} GB  log-prob gap {gap:.1e}",
            flush=True,
        )
    first, last = mean(rewards[:5]), mean(rewards[-5:])
    print(f"seed {seed}: reward {first:.3f} in the first five iterations, {last:.3f} in the last five")
    whole = median(seconds["all"])
    shares = ", ".join(f"{p} {median(seconds[p]):.2f} s ({median(seconds[p]) / whole:.0%})" for p in PHASES)
    print(f"seed {seed}: an iteration {whole:.1f} s: {shares}")
    print(f"seed {seed}: memory {memory[1]:.2f} GB after 2 iterations, {memory[-1]:.2f} GB at the end")
    print_sync(seed, algorithm)
    algorithm.stop()
    return rewards


def config(seed: int, arguments: argparse.Namespace) -> GRPOConfig:
    return (
        GRPOConfig()
        .environment("TargetLength-v0")
        .policy(model=arguments.model)
        .sampling(
            max_new_tokens=32,
            max_prompt_tokens=64,
            max_rows_per_sampler=16,
            sampler=arguments.sampler,
            # Room for 16 sequences many times over; more would be touched bit by bit, and look like a leak.
            sampler_kwargs={"kv_cache_memory_bytes": 2**28} if arguments.sampler == "vllm" else {},
            run_seed=seed,
        )
        .training(prompts_per_iteration=4, group_size=4, lr=arguments.lr, micro_batch_tokens=2048)
        .env_runners(num_env_runners=0)
    )


def print_sync(seed: int, algorithm: GRPO) -> None:
    """A weight sync beside a copy of the same weights, in turns."""
    state = dict(algorithm.learner_group._learner.policy.model.named_parameters())  # tied weights once
    syncs, copies = [], []
    for _ in range(5):
        start = time.perf_counter()
        algorithm.runners.sync_weights()
        syncs.append(time.perf_counter() - start)
        start = time.perf_counter()
        copied = {name: tensor.detach().clone() for name, tensor in state.items()}
        copies.append(time.perf_counter() - start)
        del copied
    ratio = median(syncs) / median(copies)
    print(
        f"seed {seed}: weight sync {median(syncs):.2f} s, one copy {median(copies):.2f} s: {ratio:.1f} times"
    )


def plot(curves: dict[int, list[float]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for seed, rewards in curves.items():
        axes.plot(range(1, len(rewards) + 1), rewards, label=f"seed {seed}")
    axes.set(xlabel="iteration", ylabel=f"mean reward (1: {TARGET_WORDS} words)", ylim=(0, 1))
    axes.legend()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
