"""Which models share prompts, what the others say, and that a model by itself stays as it was."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from llmenv.policy.batch import TokenBatch
from llmenv.policy.packed import ATTENTION
from llmenv.policy.policy import CausalPolicy
from small_models import ARCHITECTURES, LLAMA, make_model, random_rows


@pytest.fixture
def policy() -> CausalPolicy:
    return CausalPolicy(make_model(*ARCHITECTURES["grouped queries, tied"]))


def test_the_model_by_itself_is_as_it_was(tmp_path: Any) -> None:
    """Padded batches, generation, saving: the attention of its own is transformers' again where nothing is packed."""
    model = make_model(*ARCHITECTURES["biases"])
    ids, mask = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8]]), torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
    before = model(input_ids=ids, attention_mask=mask).logits
    CausalPolicy(model)
    assert model.config._attn_implementation == ATTENTION
    torch.testing.assert_close(model(input_ids=ids, attention_mask=mask).logits, before)
    model.save_pretrained(tmp_path)
    assert AutoModelForCausalLM.from_pretrained(tmp_path).config._attn_implementation == "sdpa"


def test_an_adapted_output_layer_is_refused() -> None:
    peft = pytest.importorskip("peft")
    model = make_model(*ARCHITECTURES["untied"])
    peft.inject_adapter_in_model(peft.LoraConfig(r=2, target_modules=["lm_head"]), model)
    with pytest.raises(ValueError, match=r"as its output layer.*without adapters"):
        CausalPolicy(model)


UNABLE = {
    "a sliding window of 4 tokens": ("mistral", {**LLAMA, "sliding_window": 4}),
    "layers of sliding_attention": (
        "qwen3",
        {
            **LLAMA,
            "layer_types": ["full_attention", "sliding_attention"],
            "sliding_window": 4,
            "use_sliding_window": True,
        },
    ),
    "an attention of its own": ("bloom", {"hidden_size": 16, "n_layer": 1, "n_head": 2}),
    "attention with soft-capped logits": ("gemma2", {**LLAMA, "layer_types": ["full_attention"] * 2}),
    "layers of linear_attention": ("mamba", {"hidden_size": 16, "num_hidden_layers": 1}),
}


@pytest.mark.parametrize("reason", UNABLE)
def test_a_model_that_cannot_share_prompts_says_so_and_goes_without(reason: str) -> None:
    kind, settings = UNABLE[reason]
    if kind == "gemma2":
        settings = {**settings, "final_logit_softcapping": None}
    model = make_model(kind, settings, torch.float32)
    policy = CausalPolicy(model)
    assert reason in policy.why_not_shared
    assert not policy.shared_prompts
    batch = TokenBatch.from_rows(random_rows(1, 2))
    plain = CausalPolicy(copy.deepcopy(model), shared_prompts=False)
    assert torch.equal(policy(batch).logps, plain(batch).logps)


def test_attention_that_is_not_told_of_the_packed_row_fails(policy: CausalPolicy) -> None:
    """A model that does not pass on what it is called with would let every token see every other."""

    attention = policy.model.model.layers[1].self_attn
    forward = attention.forward
    attention.forward = lambda *args, attend, **kwargs: forward(*args, **kwargs)
    with pytest.raises(RuntimeError, match=r"LlamaAttention is not given .*shared_prompts=False"):
        policy(TokenBatch.from_rows(random_rows()))


def test_attention_with_arguments_that_it_does_not_know_fails(policy: CausalPolicy) -> None:
    attention = policy.model.model.layers[1].self_attn
    forward = attention.forward
    attention.forward = lambda *args, **kwargs: forward(*args, **kwargs, softcap=30.0)
    with pytest.raises(RuntimeError, match="LlamaAttention asks for softcap: set shared_prompts=False"):
        policy(TokenBatch.from_rows(random_rows()))
