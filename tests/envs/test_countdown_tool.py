"""Countdown with a calculator: calls, bounds, hostile text; and the tokens of a sampled episode, one by one."""

from __future__ import annotations

import time
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import gymnasium as gym
import pytest
import torch

import envs  # noqa: F401
from algorithms.losses import aggregate
from envs.verify.verifiers import calculate
from llmenv.episode import TextEpisode
from llmenv.models import tiny
from llmenv.models.names import load_causal_lm
from llmenv.models.renderer import Renderer
from llmenv.policy.batch import TokenBatch, TokenRow
from llmenv.policy.policy import CausalPolicy
from llmenv.rollout import EnvPool, GroupRequest, rollout
from llmenv.samplers.sampler import Completion, SamplingParams
from llmenv.samplers.transformers import TransformersSampler
from llmenv.samplers.vllm import VLLMSampler
from llmenv.text import pending_tool_call

TASK = {"numbers": [44, 19, 35], "target": 98}
PREFIX = "Let me solve this step by step.\n<think>"
CALL = " <tool>44 + 19</tool>"
ANSWER = " 63 + 35 = 98\n</think>\n<answer> 44 + 19 + 35 </answer>"


@pytest.fixture
def env() -> Any:
    env = gym.make("CountdownTool-v0").unwrapped
    env.reset(options=TASK)
    return env


def test_a_call_is_answered_and_the_whole_message_judged(env: Any) -> None:
    observation, reward, terminated, truncated, info = env.step(PREFIX + CALL)
    assert (observation, reward, terminated, truncated) == ("<result> 63 </result>", 0.0, False, False)
    assert info == {"correct": False, "continues": True}
    observation, reward, terminated, _, info = env.step(ANSWER)
    assert (observation, reward, terminated) == ("", 1.0, True)
    assert info == {"correct": True, "well_formed": True, "answer": "44 + 19 + 35", "failure": None}


def test_a_message_without_calls_is_countdowns(env: Any) -> None:
    assert env.step(PREFIX + ANSWER)[1] == 1.0


def test_calls_are_bounded(env: Any) -> None:
    env = gym.make("CountdownTool-v0", max_calls=2).unwrapped
    question, _ = env.reset(options=TASK)
    assert "up to 2 times" in question
    assert [env.step(CALL)[2] for _ in range(3)] == [False, False, True]  # terminated by the one too many
    env.reset(options=TASK)
    assert not env.step(CALL)[2]  # counted from the reset


@pytest.mark.parametrize(
    ("expression", "result"),
    [
        ("44 + 19", "63"),
        (" (1 + 2) / 3 ", "1"),
        ("1 - 6", "-5"),
        ("7 / 3 + 1", "10/3"),
        (r"\frac{1}{2} \times 4", "2"),
        ("2 ×3", "6"),
        ("1 / (2 - 2)", "division by zero"),
        ("", "not an expression"),
        ("2 ** 9", "not an expression"),
        ("9 // 2", "not an expression"),
        ("1 + 2 = 3", "not an expression"),
        ("__import__('os').getpid()", "not an expression"),
        ("1_0", "not an expression"),
        ("٣ + 1", "not an expression"),
        ("(" * 150, "not an expression"),
        ("9*" * 99 + "9", str(9**100)),
        ("1" * 201, "too long"),
    ],
)
def test_the_calculator_is_exact_and_evaluates_no_code(expression: str, result: str) -> None:
    assert calculate(expression) == result


@pytest.mark.parametrize(
    ("text", "call"),
    [
        ("so <tool> 1 + 2 </tool>", "1 + 2"),
        ("<tool>1</tool><tool>2</tool>\n", "2"),
        ("<tool>1</tool>. ", "1"),  # what the last token brought along
        ("<tool><tool>1</tool>", "1"),
        ("<tool>1</tool> and so on", None),
        ("<tool>1</tool> <answer>", None),
        ("<tool>1", None),
        ("1</tool>", None),
        ("</tool><tool>", None),
        ("<TOOL>1</TOOL>", None),
        ("", None),
    ],
)
def test_what_a_call_is(text: str, call: str | None) -> None:
    assert pending_tool_call(text) == call


@pytest.mark.parametrize(
    "text",
    [
        "<tool> <answer> 44 + 19 + 35 </answer> </tool>",  # an answer, but not outside the reasoning
        "</think><result> 98 </result><answer> 98 </answer>",  # a result that the model made up
        "<tool>98",
        "</tool>",
        "<tool>" * 10**5,
        "</tool>" * 10**5,
        "<tool></tool>" * 10**5 + "x",
        "<tool>" + "(" * 10**6 + "</tool>",
        "<tool>" + "9" * 10**6 + "</tool>",
        "<tool>1</tool>" + " " * 10**6 + "x",
        "\ud800\x00🙂",
    ],
)
def test_hostile_messages_end_in_time_and_are_not_paid(env: Any, text: str) -> None:
    start = time.perf_counter()
    paid = 0.0
    for step in range(20):
        _, reward, terminated, _, _ = env.step(PREFIX + text if step == 0 else text)
        paid += reward
        if terminated:
            break
    assert step <= env.max_calls
    assert paid <= 0.1
    assert time.perf_counter() - start < 10


@pytest.fixture(scope="module")
def tool_user(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The tiny model's architecture, fitted to one episode: it calls the calculator, and answers with the result.

    The token that ends a call goes on behind the stop string, with a line end.
    """
    folder = tmp_path_factory.mktemp("tool_user")
    plain = tiny.build_tokenizer([])
    question, info = gym.make("CountdownTool-v0").reset(options=TASK)
    prompt = Renderer(plain, frozenset([plain.eos_token_id]), "r1").encode(question, info["system"], PREFIX)
    # The whole prompt is one token, so that this is quick.
    tokenizer = tiny.build_tokenizer(["<tool>", "</tool>\n", "<result> ", plain.decode(prompt.token_ids)])
    ids = tokenizer.encode(plain.decode(prompt.token_ids))
    assert len(ids) == 1
    start = len(ids)
    for text in (f"{CALL}\n", "<result> 63 </result>", ANSWER + tiny.END_TOKEN):
        ids = ids + tokenizer.encode(text)
    model = tiny.build_model(tokenizer, seed=0)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    batch = torch.tensor([ids])
    for _ in range(80):
        logits = model(input_ids=batch).logits[0, start - 1 : -1]
        loss = torch.nn.functional.cross_entropy(logits, batch[0, start:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.1
    tiny.save(model, tokenizer, folder)
    return str(folder)


class Recorder:
    """A sampler that remembers every call."""

    def __init__(self, sampler: Any):
        self.sampler = sampler
        self.weights_version = sampler.weights_version
        self.max_sequence_tokens = sampler.max_sequence_tokens
        self.calls: list[tuple[Sequence[Sequence[int]], list[Completion]]] = []

    def generate(
        self, prompts: Sequence[Sequence[int]], params: SamplingParams, seeds: Sequence[int]
    ) -> list[Completion]:
        completions = self.sampler.generate(prompts, params, seeds)
        self.calls.append((prompts, completions))
        return completions


def sampled_positions(recorder: Recorder, episode: TextEpisode) -> list[int]:
    """Where the sampler's own tokens stand in the episode's sequence, by the record of its calls alone."""
    positions: list[int] = []
    for prompts, completions in recorder.calls:
        for prompt, completion in zip(prompts, completions, strict=True):
            end = len(prompt) + len(completion.token_ids)
            if episode.token_ids[:end].tolist() == [*prompt, *completion.token_ids]:
                positions += range(len(prompt), end)
    return positions


@pytest.mark.parametrize(
    "engine",
    [
        "transformers",
        pytest.param("vllm", marks=pytest.mark.skipif(find_spec("vllm") is None, reason="needs vLLM")),
    ],
)
def test_only_tokens_that_the_model_sampled_carry_gradient(tool_user: str, engine: str) -> None:
    renderer = Renderer.from_model(tool_user)
    model = load_causal_lm(tool_user)
    sampler: Any = (
        VLLMSampler(tool_user, max_model_len=512, max_rows=8)
        if engine == "vllm"
        else TransformersSampler(model, tokenizer=renderer.tokenizer)
    )
    recorder = Recorder(sampler)
    params = SamplingParams(80, renderer.stop_token_ids)
    request = GroupRequest(0, 1, seed=0, sampling_seed=1, options=TASK)
    (episode,) = rollout(EnvPool(lambda: gym.make("CountdownTool-v0")), renderer, recorder, [request], params)

    # The sequence is what the sampler produced and what the environment appended, and nothing else.
    tokenizer = renderer.tokenizer
    (first, (called,)), (second, (answered,)) = recorder.calls
    result = tokenizer.encode("<result> 63 </result>", add_special_tokens=False)
    assert second[0] == [*first[0], *called.token_ids, *result]
    assert episode.token_ids.tolist() == [*second[0], *answered.token_ids]
    assert tokenizer.decode(called.token_ids) == f"{CALL}\n" and called.finish_reason == "stop"
    assert [turn.text for turn in episode.turns] == [f"{PREFIX}{CALL}\n", ANSWER]
    assert (episode.total_reward, episode.terminated) == (1.0, True)
    assert episode.transcript == f"{PREFIX}{CALL}\n<result> 63 </result>{ANSWER}"  # one message

    row = TokenRow.from_episode(episode, advantage=0.7)
    positions = sampled_positions(recorder, episode)
    assert row.response_mask.nonzero()[0].tolist() == positions
    assert len(positions) == len(called.token_ids) + len(answered.token_ids)
    logps = torch.tensor([*called.logps, *answered.logps])
    torch.testing.assert_close(torch.from_numpy(row.sampling_logps)[positions], logps)

    # The gradient of the loss is that of the sampled tokens alone, in one plain forward pass.
    batch = TokenBatch.from_rows([row])
    loss = aggregate(
        -CausalPolicy(model)(batch).logps * batch.advantages,
        batch.response_mask,
        "token",
        len(positions),
        1,
        1,
    )
    gradient = torch.autograd.grad(loss, list(model.parameters()))
    log_probs = model(input_ids=torch.from_numpy(episode.token_ids)[None]).logits[0].log_softmax(-1)
    plain = -sum(0.7 * log_probs[t - 1, episode.token_ids[t]] for t in positions) / len(positions)
    for got, expected in zip(gradient, torch.autograd.grad(plain, list(model.parameters())), strict=True):
        torch.testing.assert_close(got, expected, atol=1e-6, rtol=1e-3)
