"""Tokens a second of the samplers, beside the engines that they are built on.

    python experiments/benchmarks/bench_sampler.py

Four ways to the same work, the same model, prompts and groups of 8, every response exactly `--tokens` long (no token
stops it): this project's two samplers, vLLM's own `LLM.generate` with n=8 and log-probabilities, and Hugging Face's
`generate` (which gives no log-probabilities). They take turns, so that a machine that slows down meanwhile slows
all of them; reported is the median of the rounds. Before each of vLLM's turns its prefix cache is emptied.

Expect our vLLM path at 0.95 or more of vLLM by itself, and our transformers path at 1.3 or more of `generate`. Without
vLLM the other two run alone. Both vLLM rows use one engine.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from importlib.util import find_spec
from statistics import median
from typing import Any

import gymnasium as gym
import torch

import envs  # noqa: F401 (registers)
from llmenv.models.names import load_causal_lm, resolve_model
from llmenv.models.renderer import Renderer
from llmenv.samplers.sampler import Sampler, SamplingParams
from llmenv.samplers.transformers import TransformersSampler

GROUP_SIZE = 8


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="tiny", help="name or path of the model (default: %(default)s)")
    parser.add_argument("--prompts", type=int, default=16, help="groups of 8 (default: %(default)s)")
    parser.add_argument("--tokens", type=int, default=64, help="of each response (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each (default: %(default)s)")
    arguments = parser.parse_args()

    prompts = countdown_prompts(arguments.model, arguments.prompts)
    total = len(prompts) * GROUP_SIZE * arguments.tokens
    rows = contenders(arguments.model, prompts, arguments.tokens)
    seconds: dict[str, list[float]] = {name: [] for name in rows}
    for round_ in range(arguments.rounds + 1):
        for name, run in rows.items():
            run_seconds, num_tokens = run()
            assert num_tokens == total, f"{name} gave {num_tokens} tokens instead of {total}"
            if round_:  # the first turn of each warms up
                seconds[name].append(run_seconds)
    rates = {name: total / median(times) for name, times in seconds.items()}
    print(f"{arguments.model}, {len(prompts)} prompts x {GROUP_SIZE} x {arguments.tokens} tokens")
    for name, rate in rates.items():
        low, high = total / max(seconds[name]), total / min(seconds[name])
        print(f"{name:34}{rate:10,.0f} tokens/s   ({low:,.0f} to {high:,.0f})")
    for ours, theirs in (("our vLLM sampler", "vLLM by itself"), ("our transformers sampler", "generate")):
        if ours in rates:
            print(f"{ours} / {theirs}: {rates[ours] / rates[theirs]:.2f}")


def countdown_prompts(model: str, number: int) -> list[list[int]]:
    renderer = Renderer.from_model(model)
    env = gym.make("Countdown-v0", disable_env_checker=True)
    prompts = []
    for seed in range(number):
        observation, info = env.reset(seed=seed)
        prompts.append(
            renderer.encode(observation, info.get("system"), info.get("assistant_prefix", "")).token_ids
        )
    return prompts


def contenders(
    name: str, prompts: list[list[int]], tokens: int
) -> dict[str, Callable[[], tuple[float, int]]]:
    """Each does all the work once, and gives the seconds that it took and the tokens that it made."""
    model = load_causal_lm(name)
    rows = {
        "our transformers sampler": ours(TransformersSampler(model), prompts, tokens),
        "generate": hugging_face(model, prompts, tokens),
    }
    if find_spec("vllm"):
        from llmenv.samplers.vllm import VLLMSampler

        longest = max(len(prompt) for prompt in prompts)
        sampler = VLLMSampler(resolve_model(name), max_model_len=longest + tokens)
        rows["our vLLM sampler"] = ours(sampler, prompts, tokens, sampler._reset_prefix_cache)
        rows["vLLM by itself"] = vllm_by_itself(sampler._llm, prompts, tokens)
    return rows


def ours(
    sampler: Sampler, prompts: list[list[int]], tokens: int, prepare: Callable[[], None] = lambda: None
) -> Callable[[], tuple[float, int]]:
    params = SamplingParams(max_new_tokens=tokens, stop_token_ids=frozenset())
    requests = [prompt for prompt in prompts for _ in range(GROUP_SIZE)]

    def run() -> tuple[float, int]:
        prepare()
        start = time.perf_counter()
        completions = sampler.generate(requests, params, range(len(requests)))
        return time.perf_counter() - start, sum(len(completion.token_ids) for completion in completions)

    return run


def vllm_by_itself(llm: Any, prompts: list[list[int]], tokens: int) -> Callable[[], tuple[float, int]]:
    import vllm

    params = vllm.SamplingParams(
        n=GROUP_SIZE, max_tokens=tokens, ignore_eos=True, logprobs=0, detokenize=False
    )
    requests = [vllm.TokensPrompt(prompt_token_ids=prompt) for prompt in prompts]

    def run() -> tuple[float, int]:
        llm.reset_prefix_cache()
        start = time.perf_counter()
        outputs = llm.generate(requests, params, use_tqdm=False)
        seconds = time.perf_counter() - start
        return seconds, sum(len(sample.token_ids) for output in outputs for sample in output.outputs)

    return run


def hugging_face(model: Any, prompts: list[list[int]], tokens: int) -> Callable[[], tuple[float, int]]:
    width = max(len(prompt) for prompt in prompts)
    ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])

    def run() -> tuple[float, int]:
        start = time.perf_counter()
        output = model.generate(
            ids,
            attention_mask=mask,
            do_sample=True,
            top_k=0,
            num_return_sequences=GROUP_SIZE,
            min_new_tokens=tokens,
            max_new_tokens=tokens,
            pad_token_id=0,
        )
        return time.perf_counter() - start, output[:, width:].numel()

    return run


if __name__ == "__main__":
    main()
