"""Helpers of the core's tests, in a module of their own so that Ray's workers can import them too."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from algorithms import make_config
from algorithms.config import LLMConfig
from llmenv.engines import torch as torch_engine
from llmenv.engines.deepspeed import DeepSpeedEngine
from llmenv.engines.torch import TorchEngine
from llmenv.env import TextEnv
from llmenv.episode import TextEpisode, Turn
from llmenv.models import tiny
from llmenv.models.names import load_causal_lm, load_tokenizer

# GSM8K and MATH-500 in files: where the environments look for them, else beside the checkout.
REAL_DATA = Path(os.environ.get("LLMENV_DATA") or Path(__file__).parents[2] / "shared" / "data")


def make_model_folder(folder: Path) -> str:
    """Two layers, width 32, grouped-query attention, tied embeddings; weights drawn wide, so that attention matters."""
    tokenizer = tiny.build_tokenizer(["\nUser: ", "\nAssistant: "])
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.3,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
    tiny.save(model, tokenizer, folder)
    return str(folder)


def make_teacher_folder(model_folder: str, folder: Path) -> str:
    """Another model with that one's tokenizer."""
    model = load_causal_lm(model_folder)
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight.mul_(1.5)
    model.save_pretrained(folder)
    load_tokenizer(model_folder).save_pretrained(folder)
    return str(folder)


def small_config(
    model: str, algo: str = "GRPO", *, num_env_runners: int = 0, num_learners: int = 0, **training: Any
) -> LLMConfig:
    """Countdown, 4 groups of 4, one step an iteration at a learning rate of 1e-3; two fifths of a CPU an actor."""
    training = {"prompts_per_iteration": 4, "group_size": 4, "lr": 1e-3, **training}
    return (
        make_config(algo)
        .environment("envs:Countdown-v0")
        .policy(model=model)
        .sampling(max_new_tokens=24)
        .training(**training)
        .env_runners(num_env_runners=num_env_runners, num_cpus_per_env_runner=0.4)
        .learners(num_learners=num_learners, num_cpus_per_learner=0.4)
        .evaluation(evaluation_duration=16)
    )


def random_episodes(
    num_groups: int, group_size: int, seed: int = 0, *, vocab_size: int = 1000, max_response: int = 40
) -> list[TextEpisode]:
    """Episodes of random tokens, of very different lengths; every third has two turns."""
    rng = np.random.default_rng(seed)

    def tokens(low: int, high: int) -> list[int]:
        return rng.integers(0, vocab_size, rng.integers(low, high)).tolist()

    episodes = []
    for group in range(num_groups):
        prompt = tokens(3, 12)
        for sample in range(group_size):
            turns = [Turn(prompt_ids=prompt, response_ids=tokens(1, max_response), finish_reason="stop")]
            if sample % 3 == 2:
                turns.append(Turn(prompt_ids=tokens(2, 6), response_ids=tokens(1, 8), finish_reason="stop"))
            for turn in turns:
                turn.logps = (-rng.random(len(turn.response_ids)) * 5).astype(np.float32)
                turn.reward = float(rng.random())
            episodes.append(TextEpisode(group, sample, turns))
    return episodes


def plain_logps(model: Any, ids: Sequence[int], temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
    """What the policy must agree with: one unpadded forward pass, full logits, no cache, float64 softmax.

    Returns:
        For each position but the first, log p(ids[t] | ids[:t]) [T - 1] and the entropy of p [T - 1].
    """
    logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, :-1]
    log_probs = torch.log_softmax(logits.double() / temperature, dim=-1)
    chosen = log_probs.gather(-1, torch.tensor(ids)[1:, None]).squeeze(-1)
    return chosen, -(log_probs.exp() * log_probs).sum(-1)


def record_gradients(learner: Any) -> None:
    """From now on the learner's process keeps the gradients of each step as they are just before clipping."""
    learner.recorded = []
    if isinstance(learner.engine, DeepSpeedEngine):
        _record_sharded_gradients(learner)
        return
    learner.recorded_clip = clip = torch.nn.utils.clip_grad_norm_

    def clip_and_record(parameters: Any, limit: float) -> torch.Tensor:
        learner.recorded.append(torch.cat([p.grad.flatten().clone() for p in parameters]))
        return clip(parameters, limit)

    torch_engine.nn.utils.clip_grad_norm_ = clip_and_record


def _record_sharded_gradients(learner: Any) -> None:
    from deepspeed.utils import safe_get_full_grad

    def record(engine: DeepSpeedEngine, module: torch.nn.Module) -> None:
        step = engine.step

        def record_and_step() -> float:
            grads = [safe_get_full_grad(p).flatten().clone() for p in module.parameters() if p.requires_grad]
            learner.recorded.append(torch.cat(grads))
            return step()

        engine.step = record_and_step

    for each in _engines(learner):
        record(*each)


def _engines(learner: Any) -> list[tuple[Any, torch.nn.Module]]:
    """In the order of their steps."""
    critic = [] if learner.critic_engine is None else [(learner.critic_engine, learner.critic)]
    return [*critic, (learner.engine, learner.policy)]


def take_gradients(learner: Any) -> list[torch.Tensor]:
    """The recorded gradients, one flat vector a step; ends the recording."""
    if isinstance(learner.engine, DeepSpeedEngine):
        for sharded, _ in _engines(learner):
            del sharded.step
    else:
        torch_engine.nn.utils.clip_grad_norm_ = learner.recorded_clip
    return learner.recorded


def flat_weights(learner: Any) -> torch.Tensor:
    """The policy's weights that the optimizer steps on, from all learners that hold some of them."""
    return _flat_weights(learner.engine, learner.policy)


def critic_weights(learner: Any) -> torch.Tensor:
    """Those of a critic of its own."""
    return _flat_weights(learner.critic_engine, learner.critic)


def _flat_weights(engine: Any, module: torch.nn.Module) -> torch.Tensor:
    parameters = list(module.parameters())
    if isinstance(engine, TorchEngine):
        parameters = [engine.masters.of(p) for p in parameters]
    else:
        from deepspeed.utils import safe_get_full_fp32_param

        shared = [safe_get_full_fp32_param(p) for p in parameters]
        parameters = [p if whole is None else whole for p, whole in zip(parameters, shared, strict=True)]
    return torch.cat([p.detach().flatten().clone() for p in parameters])


def runner_weights(runner: Any) -> torch.Tensor:
    return torch.cat([p.detach().flatten().clone() for p in runner.sampler.model.parameters()])


def contents(episodes: list[TextEpisode]) -> list[tuple[Any, ...]]:
    return [
        (e.group, e.sample, e.observation, e.token_ids.tolist(), e.total_reward, e.error) for e in episodes
    ]


def assert_weights_are_in_sync(algorithm: Any) -> None:
    """Every runner has the learners' weights, to the bit."""
    learners = algorithm.learner_group.on_all(flat_weights)
    group = algorithm.env_runner_group
    if group.num_remote_env_runners():
        runners = group.foreach_env_runner(runner_weights, local_env_runner=False)
        assert len(runners) == algorithm.config.num_env_runners
    else:
        runners = [runner_weights(group.local_env_runner)]
    assert all(torch.equal(weights, learners[0]) for weights in (*learners, *runners))


def wait_for_runners(algorithm: Any, number: int) -> bool:
    """Trains on until so many runners are in service: a new process has to import everything."""
    manager = algorithm.env_runner_group._worker_manager
    deadline = time.monotonic() + 90
    while manager.num_healthy_actors() < number and time.monotonic() < deadline:
        time.sleep(3)  # to train takes the cores that a start needs
        algorithm.train()
    return manager.num_healthy_actors() == number


def relative_gap(a: torch.Tensor, b: torch.Tensor) -> float:
    """||a - b|| / ||b||."""
    return float((a - b).norm() / b.norm())


class NoDigitEnv(TextEnv):
    """Pays 1 for a message without a digit: most tokens of the random model are numbers, so there is much to learn."""

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        return f"task {self.np_random.integers(10)}", {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        correct = not any(character.isdigit() for character in action)
        return "", float(correct), True, False, {"correct": correct}


class FatalEnv(NoDigitEnv):
    """Sends its own process a signal in the middle of a step, once.

    Args:
        order: File that holds the number of the signal. Whoever takes it away obeys.
    """

    def __init__(self, order: str):
        super().__init__()
        self.order = Path(order)

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        with suppress(FileNotFoundError):
            number = int(self.order.read_text())
            self.order.unlink()
            os.kill(os.getpid(), number)
        return super().step(action)


gym.register("NoDigit-v0", entry_point=NoDigitEnv)
gym.register("Fatal-v0", entry_point=FatalEnv)


def dropout_model() -> Any:
    """A GPT-2 that drops out half of everything when it is in training mode."""
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=50,
            n_positions=64,
            n_embd=16,
            n_layer=1,
            n_head=2,
            resid_pdrop=0.5,
            embd_pdrop=0.5,
            attn_pdrop=0.5,
            bos_token_id=None,
            eos_token_id=0,
        )
    )


def free_port() -> int:
    """One that nobody listens at, at the moment."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]
