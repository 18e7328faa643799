"""Whole GRPO iterations side by side with TRL: seconds an iteration and peak memory, on the same work.

All sides get the same model folder, the same Countdown tasks rendered with its chat template, 4 prompts x
groups of 8, up to 64 new tokens at temperature 1, no KL term, float32, and take one optimizer step an
iteration. An iteration is everything: prompts, sampling, rewards (on all sides `step` of the same Gymnasium
environment), update. Each run is a process of its own; the sides take turns, so that a machine that slows
down meanwhile slows all. This project learns from up to 1,024 tokens a forward pass, about a group, and runs with its
transformers sampler and, where vLLM is installed, with that, which gets 256 MiB for keys and values.

The environment's verdict is computed on all sides, but the reward learned from is `coin`: this model hardly ever
solves a task in 64 tokens, and samples of a group that all score the same have no gradient, so that a trainer
that drops them (as this project does) would be timed without its update.

TRL stays out of this project's dependencies: it runs in a virtual environment of its own, which also needs
gymnasium (for the rewards; `envs` needs nothing else):

    python -m venv trlvenv
    trlvenv/bin/pip install torch==2.13.0 "transformers>=5.16.1,<5.20" trl datasets gymnasium==1.2.2
    python experiments/benchmarks/bench_trl.py --trl-python trlvenv/bin/python

TRL gets the faster of its settings: the whole batch of 32 in one forward pass or (`--trl-batch 8`) in four;
gradient checkpointing, reports and checkpoints off.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from statistics import mean, median
from typing import Any

TRL, OURS, OURS_VLLM = SIDES = ("trl", "ours", "ours-vllm")
ROOT = Path(__file__).resolve().parents[2]
ENV_ID = "envs:Countdown-v0"
PROMPTS = 4  # an iteration
GROUP_SIZE = 8
MAX_NEW_TOKENS = 64
LEARNING_RATE = 1e-6
POLL_S = 0.2  # between looks at the processes' memory


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trl-python", help="the interpreter of a virtual environment that has TRL")
    parser.add_argument(
        "--model", default="smollm2-135m", help="name or path of the model (default: %(default)s)"
    )
    parser.add_argument(
        "--iterations", type=int, default=3, help="timed iterations a run (default: %(default)s)"
    )
    parser.add_argument(
        "--repeats", type=int, default=1, help="runs of each side, in turns (default: %(default)s)"
    )
    parser.add_argument(
        "--threads", type=int, default=2, help="CPU threads of each side (default: %(default)s)"
    )
    parser.add_argument("--only", choices=SIDES, help="measure one side alone")
    parser.add_argument(
        "--trl-batch", type=int, default=32, help="samples in one forward pass of TRL's update"
    )
    parser.add_argument("--json", type=Path, help="also write all figures to this file")
    parser.add_argument("--worker", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        work = json.loads(args.work.read_text())
        samplers = {OURS: "transformers", OURS_VLLM: "vllm"}
        result = run_trl(work) if args.worker == TRL else run_ours(work, samplers[args.worker])
        args.work.with_name("result.json").write_text(json.dumps(result))
        return
    sides = (args.only,) if args.only else SIDES if find_spec("vllm") else (TRL, OURS)
    if TRL in sides and not args.trl_python:
        parser.error("TRL runs in a virtual environment of its own: name its interpreter with --trl-python")
    if PROMPTS * GROUP_SIZE % args.trl_batch:
        parser.error(f"--trl-batch must divide the {PROMPTS * GROUP_SIZE} samples of an iteration")
    work = prepare(args.model, args.iterations, args.threads, args.trl_batch)
    runs: list[dict[str, Any]] = []
    for _ in range(args.repeats):
        for side in sides:
            python = args.trl_python if side == TRL else sys.executable
            runs.append({"side": side, **measure(side, work, python)})
            show(runs[-1:])
    if len(runs) > 1:
        show(runs)
    if args.json:
        del work["tasks"]
        args.json.write_text(json.dumps({**work, "runs": runs}, indent=2))


def prepare(model: str, iterations: int, threads: int, trl_batch: int) -> dict[str, Any]:
    """What all sides work on: the model's folder and, for each prompt, its seed and its rendered text."""
    import gymnasium as gym

    from llmenv.models.names import resolve_model
    from llmenv.models.renderer import Renderer

    folder = resolve_model(model)
    renderer = Renderer.from_model(folder, "chat")
    env = gym.make(ENV_ID)
    tasks = []
    for seed in range(iterations * PROMPTS):
        observation, info = env.reset(seed=seed)
        prompt = renderer.encode(observation, info["system"], info["assistant_prefix"])
        text = renderer.tokenizer.decode(prompt.token_ids)
        tasks.append({"seed": seed, "prompt": text, "response_prefix": prompt.response_prefix})
    return {
        "model": folder,
        "iterations": iterations,
        "threads": threads,
        "trl_batch": trl_batch,
        "tasks": tasks,
    }


def measure(side: str, work: dict[str, Any], python: str) -> dict[str, Any]:
    """Runs one side in a process of its own and watches the memory of that process and all its children."""
    import psutil

    environ = dict(os.environ, OMP_NUM_THREADS=str(work["threads"]), PYTHONPATH=str(ROOT), HF_HUB_OFFLINE="1")
    environ |= {"TOKENIZERS_PARALLELISM": "false", "CUDA_VISIBLE_DEVICES": ""}  # a comparison of CPUs
    peak = 0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "work.json"
        path.write_text(json.dumps(work))
        command = [os.path.abspath(python), os.path.abspath(__file__), "--worker", side, "--work", str(path)]
        process = subprocess.Popen(command, env=environ, cwd=folder, stdout=sys.stderr)
        tree = psutil.Process(process.pid)
        while process.poll() is None:
            peak = max(peak, resident_bytes(tree))
            time.sleep(POLL_S)
        if process.returncode != 0:
            raise SystemExit(f"the {side} side failed with exit status {process.returncode}")
        result = json.loads(path.with_name("result.json").read_text())
    return {**result, "peak_memory_gb": peak / 1e9}


def resident_bytes(root: Any) -> int:
    """Resident memory of a process tree; pages shared between processes count in each."""
    import psutil

    total = 0
    try:
        for process in (root, *root.children(recursive=True)):
            total += process.memory_info().rss
    except psutil.NoSuchProcess:
        pass  # ended between the listing and the look
    return total


def show(runs: list[dict[str, Any]]) -> None:
    print(f"{'side':9} {'seconds an iteration':30}  median  peak GB  prompt  response tokens")
    seconds: dict[str, list[float]] = {}
    for run in runs:
        seconds.setdefault(run["side"], []).extend(run["seconds"])
        each = " ".join(f"{s:.1f}" for s in run["seconds"])
        print(
            f"{run['side']:9} {each:30} {median(run['seconds']):7.1f} {run['peak_memory_gb']:8.2f}", end=" "
        )
        print(f"{run['prompt_tokens']:7.1f} {run['response_tokens']:16.1f}", end=" ")
        print(*(f" {median(of):.1f} s {phase}" for phase, of in run.get("phases", {}).items()), flush=True)
    for side in seconds:
        if side != TRL and TRL in seconds:
            ratio = median(seconds[TRL]) / median(seconds[side])
            print(f"TRL takes {ratio:.2f} times as long an iteration as {side}")


def coin(token_ids: list[int]) -> float:
    """A reward of 0 or 1 that differs within nearly every group, whatever the model writes."""
    return float(sum(token_ids) % 2)


def run_ours(work: dict[str, Any], sampler: str) -> dict[str, Any]:
    """This project through its public configuration; only the tasks' seeds are put in from outside."""
    import ray
    import torch

    from experiments.common.figures import PHASES

    ray.init(address="local", include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    torch.set_num_threads(work["threads"])
    algo = our_config(work["model"], sampler).build_algo()
    episodes: list[Any] = []
    verdicts: list[float] = []
    sample_given_tasks(algo.env_runner, work["tasks"], episodes, verdicts)
    seconds: list[float] = []
    phases: dict[str, list[float]] = {phase: [] for phase in PHASES}
    for _ in range(work["iterations"]):
        start = time.perf_counter()
        timers = algo.train()["timers"]
        seconds.append(time.perf_counter() - start)
        for phase in PHASES:
            phases[phase].append(float(timers[phase]))
    algo.stop()
    return {
        "seconds": seconds,
        "phases": phases,
        "samples": len(episodes),
        "prompt_tokens": mean(len(episode.turns[0].prompt_ids) for episode in episodes),
        "response_tokens": mean(episode.response_length for episode in episodes),
        "verdict": mean(verdicts),
    }


def our_config(model: str, sampler: str) -> Any:
    from algorithms.grpo import GRPOConfig

    return (
        GRPOConfig()
        .environment(ENV_ID)
        .policy(model=model)
        .sampling(
            sampler=sampler,
            sampler_kwargs={"kv_cache_memory_bytes": 2**28} if sampler == "vllm" else {},
            max_new_tokens=MAX_NEW_TOKENS,
            max_prompt_tokens=256,
            overlong_prompts="error",
        )
        .training(
            prompts_per_iteration=PROMPTS,
            group_size=GROUP_SIZE,
            minibatch_size=PROMPTS * GROUP_SIZE,
            micro_batch_tokens=1024,
            lr=LEARNING_RATE,
        )
        .env_runners(num_env_runners=0)
        .learners(num_learners=0)
    )


def sample_given_tasks(
    runner: Any, tasks: list[dict[str, Any]], episodes: list[Any], verdicts: list[float]
) -> None:
    """From now on a runner samples these tasks, and pays `coin`; episodes and true rewards go into the lists."""
    seeds = iter([task["seed"] for task in tasks])
    sample = runner.sample

    def given(*, requests: Any, **kwargs: Any) -> Any:
        requests = [dataclasses.replace(request, seed=next(seeds)) for request in requests]
        sampled = sample(requests=requests, **kwargs)
        for episode in sampled:
            verdicts.append(episode.total_reward)
            episode.turns[-1].reward = coin(episode.turns[-1].response_ids)
        episodes.extend(sampled)
        return sampled

    runner.sample = given


def run_trl(work: dict[str, Any]) -> dict[str, Any]:
    """TRL's GRPOTrainer on the same prompts. Of this project only `envs` works in its interpreter."""
    import gymnasium as gym
    import torch
    from datasets import Dataset
    from transformers import AutoTokenizer, TrainerCallback
    from trl import GRPOTrainer

    torch.set_num_threads(work["threads"])
    tokenizer = AutoTokenizer.from_pretrained(work["model"])
    env = gym.make(ENV_ID)
    verdicts: list[float] = []
    prompt_lengths: list[int] = []
    response_lengths: list[int] = []

    def reward(
        prompts: Any, completions: Any, completion_ids: Any, seed: Any, response_prefix: Any, **_: Any
    ) -> Any:
        for task_seed, prefix, completion in zip(seed, response_prefix, completions, strict=True):
            env.reset(seed=task_seed)
            verdicts.append(float(env.step(prefix + completion)[1]))
        prompt_lengths.extend(len(ids) for ids in tokenizer(prompts)["input_ids"])
        response_lengths.extend(len(ids) for ids in completion_ids)
        return [coin(ids) for ids in completion_ids]

    seconds: list[float] = []

    class Stopwatch(TrainerCallback):
        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            self.start = time.perf_counter()

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            seconds.append(time.perf_counter() - self.start)

    trainer = GRPOTrainer(
        model=work["model"],
        reward_funcs=reward,
        args=trl_config(work["iterations"], work["trl_batch"]),
        train_dataset=Dataset.from_list(work["tasks"]),
        processing_class=tokenizer,
        callbacks=[Stopwatch()],
    )
    trainer.train()
    return {
        "seconds": seconds,
        "samples": len(verdicts),
        "prompt_tokens": mean(prompt_lengths),
        "response_tokens": mean(response_lengths),
        "verdict": mean(verdicts),
    }


def trl_config(iterations: int, batch: int) -> Any:
    from trl import GRPOConfig

    return GRPOConfig(
        output_dir=tempfile.mkdtemp(dir="."),
        model_init_kwargs={"dtype": "float32"},
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=PROMPTS * GROUP_SIZE // batch,
        num_generations=GROUP_SIZE,
        max_completion_length=MAX_NEW_TOKENS,
        max_steps=iterations,
        shuffle_dataset=False,
        loss_type="grpo",
        beta=0.0,
        temperature=1.0,
        learning_rate=LEARNING_RATE,
        report_to="none",
        save_strategy="no",
        logging_steps=1,
        disable_tqdm=True,
    )


if __name__ == "__main__":
    main()
