"""The sampler against plain transformers: the same numbers, the same greedy tokens, the right distribution."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import numpy as np
import pytest
import torch

from llmenv.episode import TextEpisode, Turn
from llmenv.models.names import load_causal_lm
from llmenv.policy.batch import TokenBatch, TokenRow
from llmenv.policy.policy import CausalPolicy
from llmenv.samplers import transformers as transformers_module
from llmenv.samplers.sampler import Completion, NotFiniteError, SamplingParams
from llmenv.samplers.transformers import TransformersSampler, _Decoder, _draw, _RoomyLayer
from support import plain_logps

NO_STOP: frozenset[int] = frozenset()
# Different lengths; two rows share a prompt; 0, the sampler's own padding, is a token like any other.
PROMPTS = [[0, 5, 9], [7, 300, 20, 11, 4, 900, 31], [0, 5, 9], [42], [0, 0, 0, 0, 8]]
SEEDS = [3, 4, 5, 6, 7]


def sample(
    model: Any, stop: frozenset[int] = NO_STOP, temperature: float = 1.0, tokens: int = 20, **kwargs: Any
) -> list[Completion]:
    params = SamplingParams(max_new_tokens=tokens, stop_token_ids=stop, temperature=temperature)
    return TransformersSampler(model, **kwargs).generate(PROMPTS, params, SEEDS)


def ids(completions: list[Completion]) -> list[list[int]]:
    return [completion.token_ids.tolist() for completion in completions]


def frequent_tokens(completions: list[Completion], count: int = 12) -> frozenset[int]:
    """Stop tokens that end the rows at different times: those drawn at various places of `completions`."""
    return frozenset(ids(completions)[i % len(completions)][2 + i] for i in range(count))


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_logps_are_those_of_the_policy_and_of_a_plain_forward(model: Any, temperature: float) -> None:
    stop = frequent_tokens(sample(model, temperature=temperature))
    completions = sample(model, stop, temperature)
    assert (
        len({len(completion.token_ids) for completion in completions}) > 2
    )  # rows did leave at different times
    rows = []
    for prompt, completion in zip(PROMPTS, completions, strict=True):
        assert len(completion.logps) == len(completion.token_ids)
        with torch.no_grad():
            plain, _ = plain_logps(model, [*prompt, *completion.token_ids], temperature)
        plain = plain[len(prompt) - 1 :]
        assert torch.tensor(completion.logps).double() == pytest.approx(plain, abs=2e-5)
        turn = Turn(prompt_ids=prompt, response_ids=completion.token_ids, logps=completion.logps)
        rows.append(TokenRow.from_episode(TextEpisode(0, 0, [turn]), 0.0))
    batch = TokenBatch.from_rows(rows)
    with torch.no_grad():
        logps = CausalPolicy(model, temperature)(batch).logps
    torch.testing.assert_close(logps, batch.sampling_logps, atol=2e-5, rtol=0)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("temperature", [1.0, 0.0])
def test_weights_that_are_no_numbers_are_refused(model: Any, value: float, temperature: float) -> None:
    """In one row of the embeddings, which are the output layer's too: the token itself is in no prompt."""
    with torch.no_grad():
        model.get_output_embeddings().weight[1200, 3] = value
    with pytest.raises(NotFiniteError, match=r"after 0 updates .*look for NaN in the model's files"):
        sample(model, temperature=temperature)
    sampler = TransformersSampler(model)
    sampler.weights_version = 7
    with pytest.raises(NotFiniteError, match=r"after 7 updates .*lower learning rate"):
        sampler.generate(PROMPTS, SamplingParams(3, NO_STOP, temperature), SEEDS)


def test_a_completion_is_two_arrays_of_its_own(model: Any) -> None:
    """Not views, which would keep those of the whole batch."""
    for completion in sample(model):
        assert (completion.token_ids.dtype, completion.logps.dtype) == (np.int32, np.float32)
        assert completion.token_ids.base is completion.logps.base is None


def test_a_closed_sampler_has_given_its_model_back(model_folder: str) -> None:
    sampler = TransformersSampler(load_causal_lm(model_folder))
    parameters = [weakref.ref(parameter) for parameter in sampler.model.parameters()]
    sampler.close()
    gc.collect()
    assert [parameter() for parameter in parameters] == [None] * len(parameters)


def test_greedy_equals_transformers_generate(model: Any) -> None:
    free = sample(model, temperature=0.0)
    stop = frozenset({ids(free)[1][4], ids(free)[3][9]})
    completions = sample(model, stop, temperature=0.0)
    for prompt, completion in zip(PROMPTS, completions, strict=True):
        output = model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            do_sample=False,
            max_new_tokens=20,
            eos_token_id=sorted(stop),
            pad_token_id=0,
        )
        assert completion.token_ids.tolist() == output[0, len(prompt) :].tolist()
    assert "stop" in {completion.finish_reason for completion in completions}


def test_greedy_logps_are_of_the_unscaled_distribution(model: Any) -> None:
    prompt, completion = PROMPTS[1], sample(model, temperature=0.0)[1]
    with torch.no_grad():
        plain, _ = plain_logps(model, [*prompt, *completion.token_ids], 1.0)
    assert torch.tensor(completion.logps).double() == pytest.approx(plain[len(prompt) - 1 :], abs=2e-5)


def test_a_row_depends_on_its_seed_and_prompt_alone(model: Any) -> None:
    together = sample(model)
    params = SamplingParams(max_new_tokens=20, stop_token_ids=NO_STOP)
    sampler = TransformersSampler(model)
    for i, (prompt, seed) in enumerate(zip(PROMPTS, SEEDS, strict=True)):
        (alone,) = sampler.generate([prompt], params, [seed])
        assert alone.token_ids.tolist() == together[i].token_ids.tolist()
    assert ids(sample(model)) == ids(together)
    assert ids(together)[0] != ids(together)[2]  # one prompt, two seeds
    (other,) = sampler.generate([PROMPTS[0]], params, [99])
    assert other.token_ids.tolist() != ids(together)[0]


def test_the_number_of_rows_at_a_time_changes_nothing(model: Any) -> None:
    whole, parts = sample(model), sample(model, max_rows=2)
    assert ids(parts) == ids(whole)


def test_a_shorter_cap_gives_a_prefix(model: Any) -> None:
    for long, short in zip(sample(model), sample(model, tokens=7), strict=True):
        assert short.token_ids.tolist() == long.token_ids[:7].tolist()


def test_rows_that_stop_keep_their_stop_token_and_leave_the_others_alone(model: Any) -> None:
    free = sample(model)
    stop = frequent_tokens(free)
    for whole, completion in zip(free, sample(model, stop), strict=True):
        ends = [i for i, token in enumerate(whole.token_ids) if token in stop]
        length = ends[0] + 1 if ends else 20
        assert completion.token_ids.tolist() == whole.token_ids[:length].tolist()
        assert completion.finish_reason == ("stop" if ends else "length")


def test_stopping_at_the_cap_is_stopping(model: Any) -> None:
    free = sample(model, tokens=5)
    completions = sample(model, frozenset({ids(free)[0][4]}), tokens=5)
    assert (completions[0].finish_reason, len(completions[0].token_ids)) == ("stop", 5)
    assert {completion.finish_reason for completion in free} == {"length"}


def test_one_token_is_enough(model: Any) -> None:
    assert ids(sample(model, tokens=1)) == [row[:1] for row in ids(sample(model))]


def test_no_prompts_give_no_completions(model: Any) -> None:
    assert TransformersSampler(model).generate([], SamplingParams(4, NO_STOP), []) == []


def test_the_padding_id_is_an_ordinary_token(model: Any) -> None:
    free = sample(model)
    pad = ids(free)[1][3]
    model.config.pad_token_id = model.generation_config.pad_token_id = pad
    again = sample(model)
    assert ids(again) == ids(free)
    assert again[1].token_ids[3] == pad
    assert again[1].finish_reason == "length"


def test_a_prompt_shared_by_a_group_is_computed_once(model: Any) -> None:
    shapes = []
    hook = lambda module, args, kwargs: shapes.append(tuple(kwargs["input_ids"].shape))  # noqa: E731
    model.register_forward_pre_hook(hook, with_kwargs=True)
    TransformersSampler(model).generate(
        [[1, 2, 3]] * 6 + [[4, 5]] * 2, SamplingParams(3, NO_STOP), list(range(8))
    )
    assert shapes == [(2, 3), (8, 1), (8, 1)]  # two distinct prompts, then a token a row


def test_rows_that_ended_leave_the_batch(model: Any) -> None:
    free = sample(model)
    rows = []
    model.register_forward_pre_hook(
        lambda module, args, kwargs: rows.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    sample(model, frozenset(row[2] for row in ids(free[1:])))
    assert rows[1] == 5
    assert rows[-1] < 5


def test_a_cache_that_grows_by_a_few_columns_changes_nothing(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """7 tokens of the longest prompt and room for 4; 20 responses' tokens, of which the last is not fed."""
    stop = frequent_tokens(sample(model))
    expected = sample(model, stop)
    monkeypatch.setattr(transformers_module, "CACHE_BLOCK", 4)
    columns, grow = [], _RoomyLayer._grown

    def grown(layer: _RoomyLayer, old: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
        result = grow(layer, old, new)
        columns.append(result.shape[2])
        return result

    monkeypatch.setattr(_RoomyLayer, "_grown", grown)
    found = sample(model, stop)
    assert ids(found) == ids(expected)
    assert all(np.array_equal(ours.logps, theirs.logps) for ours, theirs in zip(found, expected, strict=True))
    assert sorted(set(columns)) == [11, 16, 21, 26][: len(set(columns))] and len(set(columns)) > 1


def test_in_16_bits_logits_are_as_exact_as_the_learners(model: Any) -> None:
    """The products of the same 16 bits in float32, not rounded to 16 bits again; float32 is the model's own."""
    prompt = PROMPTS[1]
    for dtype, most in ((torch.bfloat16, 1e-5), (torch.float32, 2e-6)):
        model = model.to(dtype)
        decoder = _Decoder(model, [prompt], max_new_tokens=1)
        with torch.inference_mode():
            found = decoder.prefill()
            output = model(input_ids=torch.tensor([prompt]), output_hidden_states=True)
        own = output.logits[:, -1]
        hidden, weight = output.hidden_states[-1][:, -1], model.get_output_embeddings().weight
        exact = hidden.double() @ weight.double().T if dtype == torch.bfloat16 else own.double()
        torch.testing.assert_close(found.double(), exact, rtol=0, atol=most)
        if dtype == torch.bfloat16:
            assert (own.double() - exact).abs().max() > 1e-3
            assert found.dtype == torch.float32


def test_who_samples_much_on_a_gpu_is_told_of_vllm_once(model: Any, caplog: pytest.LogCaptureFixture) -> None:
    sampler = TransformersSampler(model)
    for rows, device in ((500, "cpu"), (63, "cuda"), (64, "cuda"), (500, "cuda")):
        sampler._warn(rows, torch.device(device))
    (record,) = caplog.records
    assert record.getMessage().startswith("64 responses are sampled on a GPU by transformers")
    assert "sampler='vllm'" in record.getMessage()


def test_logits_equal_those_without_a_cache(model: Any) -> None:
    """Step by step, with rows leaving in between (three of five, so that the cache is compacted)."""
    sequences = [list(prompt) for prompt in PROMPTS]
    rows = list(range(5))
    decoder = _Decoder(model, PROMPTS, max_new_tokens=6)
    leaving = {1: [2], 2: [0, 4]}
    with torch.inference_mode():
        logits = decoder.prefill()
        for t in range(6):
            for row, got in zip(rows, logits, strict=True):
                whole = model(input_ids=torch.tensor([sequences[row]]), use_cache=False).logits[0, -1]
                torch.testing.assert_close(got, whole, atol=2e-5, rtol=0)
            if t == 5:
                break
            tokens = torch.tensor([(31 * t + 7 * row) % 1000 for row in rows])
            for row, token in zip(rows, tokens.tolist(), strict=True):
                sequences[row].append(token)
            going = torch.tensor([i for i, row in enumerate(rows) if row not in leaving.get(t, [])])
            rows = [row for row in rows if row not in leaving.get(t, [])]
            logits = decoder.step(tokens, going)


def test_draw_inverts_the_cumulative_distribution() -> None:
    # p = (0.1, 0, 0.6, 0.3); a thousand evenly spaced uniforms hit each token p * 1000 times, give or take the ends.
    probs = torch.tensor([0.1, 0.0, 0.6, 0.3])
    uniforms = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    tokens, logps = _draw(probs.log().expand(1000, 4), 1.0, uniforms)
    counts = torch.bincount(tokens, minlength=4).tolist()
    assert counts[1] == 0
    assert np.abs(np.array(counts) - [100, 0, 600, 300]).max() <= 1
    torch.testing.assert_close(logps, probs.log()[tokens])
    # At temperature 0.5, p^2: 0.01, 0.36, 0.09 of 0.46 -> 21.7, 782.6, 195.7 of a thousand.
    tokens, logps = _draw(probs.log().expand(1000, 4), 0.5, uniforms)
    counts = torch.bincount(tokens, minlength=4).tolist()
    assert np.abs(np.array(counts) - [21.7, 0, 782.6, 195.7]).max() <= 1
    assert logps[tokens == 2][0].item() == pytest.approx(np.log(0.36 / 0.46), abs=1e-6)


def test_draw_never_takes_an_impossible_token_at_the_ends() -> None:
    logits = torch.tensor([[-torch.inf, 0.0, 0.0, -torch.inf]]).expand(2, 4)
    tokens, _ = _draw(logits, 1.0, torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64))
    assert tokens.tolist() == [1, 2]


def test_samples_follow_the_models_distribution(model: Any) -> None:
    """Chi-square of 4,000 first tokens over the 11 likeliest tokens and the rest: 11 degrees of freedom."""
    with torch.no_grad():
        probs = model(input_ids=torch.tensor([[7, 300, 20]])).logits[0, -1].double().softmax(-1)
    params = SamplingParams(max_new_tokens=1, stop_token_ids=NO_STOP)
    sampler = TransformersSampler(model, max_rows=4000)
    drawn = [row[0] for row in ids(sampler.generate([[7, 300, 20]] * 4000, params, range(4000)))]
    counts = torch.bincount(torch.tensor(drawn), minlength=len(probs)).double()
    top = probs.topk(11).indices
    observed = torch.cat([counts[top], (4000 - counts[top].sum())[None]])
    expected = torch.cat([probs[top], (1 - probs[top].sum())[None]]) * 4000
    assert expected.min() > 20
    # 40 is passed by chance once in 30,000 (and the seeds are fixed).
    assert ((observed - expected) ** 2 / expected).sum() < 40


class Letters:
    """A tokenizer with a letter a token: 0 is a, 25 is z, and so on in a circle."""

    def batch_decode(self, rows: torch.Tensor, skip_special_tokens: bool) -> list[str]:
        return ["".join(chr(97 + token % 26) for token in row) for row in rows.tolist()]


def test_a_stop_string_ends_a_response_with_the_token_that_completes_it(model: Any) -> None:
    free = sample(model)
    texts = Letters().batch_decode(torch.tensor(ids(free)), False)
    strings = (texts[0][5:8], texts[1][:2], "0")  # the last one is in no text
    params = SamplingParams(20, NO_STOP, 1.0, stop_strings=strings)
    stopped = TransformersSampler(model, tokenizer=Letters()).generate(PROMPTS, params, SEEDS)
    for whole, text, completion in zip(free, texts, stopped, strict=True):
        ends = [text.find(string) + len(string) for string in strings if string in text]
        assert completion.token_ids.tolist() == whole.token_ids[: min(ends, default=20)].tolist()
        assert len(completion.logps) == len(completion.token_ids)
        assert completion.finish_reason == ("stop" if ends else "length")
    assert len(stopped[0].token_ids) <= 8
    assert len(stopped[1].token_ids) == 2


def test_stop_strings_without_a_tokenizer_name_the_remedy(model: Any) -> None:
    params = SamplingParams(4, NO_STOP, stop_strings=("x",))
    with pytest.raises(ValueError, match=r"need a tokenizer: TransformersSampler\(model, tokenizer="):
        TransformersSampler(model).generate(PROMPTS, params, SEEDS)
