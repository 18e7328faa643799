"""What a model is found to be when it is tried, before anything is trusted to it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from llmenv.policy.batch import TokenBatch
from llmenv.policy.policy import CausalPolicy
from llmenv.policy.trial import try_policy
from other_models import NO_HEAD_SIZE, STATES
from small_models import ARCHITECTURES, LLAMA, make_model, random_rows
from support import plain_logps


def assert_plain_log_probabilities(policy: CausalPolicy) -> None:
    rows = random_rows(1, 3)
    output = policy(TokenBatch.from_rows(rows))
    for i, row in enumerate(rows):
        logps, _ = plain_logps(policy.model, row.token_ids.tolist(), 1.0)
        mask = torch.as_tensor(row.response_mask)[1:]
        torch.testing.assert_close(
            output.logps[i, 1 : len(mask) + 1][mask].double(), logps[mask].double(), atol=1e-4, rtol=0
        )


def test_layers_that_do_not_pass_on_what_they_are_given_are_found_out() -> None:
    policy = CausalPolicy(make_model("nemotron", NO_HEAD_SIZE, torch.float32))
    assert not policy.shared_prompts
    assert policy.why_not_shared is not None
    assert "layers that fail on packed rows (RuntimeError: NemotronAttention" in policy.why_not_shared
    assert policy.model.config._attn_implementation == "sdpa"
    assert_plain_log_probabilities(policy)


def test_layers_that_compute_something_else_on_packed_rows_are_found_out() -> None:
    model = make_model(*ARCHITECTURES["biases"], torch.float32)
    layer = model.model.layers[1]
    forward = layer.forward
    # What a model does that mixes neighbours, where those of a packed row are another sequence's.
    layer.forward = lambda x, *args, **kwargs: forward(x, *args, **kwargs) + 0.1 * x.roll(1, 1)
    policy = CausalPolicy(model)
    assert policy.why_not_shared is not None
    assert "layers that compute something else on packed rows" in policy.why_not_shared
    assert CausalPolicy(make_model(*ARCHITECTURES["biases"], torch.float32)).shared_prompts


def test_a_model_that_gives_itself_for_its_trunk_works() -> None:
    experts = {"num_local_experts": 2, "intermediate_size_mlp": 24, "interleave_moe_layer_step": 1}
    policy = CausalPolicy(make_model("llama4_text", {**LLAMA, **experts}, torch.float32))
    try_policy(policy)
    assert_plain_log_probabilities(policy)


@pytest.mark.parametrize("kind", STATES)
def test_models_with_states_pass(kind: str) -> None:
    policy = CausalPolicy(make_model(kind, STATES[kind], torch.float32))
    try_policy(policy)
    assert_plain_log_probabilities(policy)


def test_logits_that_are_made_in_an_unknown_way_are_refused() -> None:
    model = make_model(*ARCHITECTURES["untied"], torch.float32)
    policy = CausalPolicy(model)
    try_policy(policy)
    model.lm_head.register_forward_hook(lambda _module, _inputs, logits: 1.5 * logits)
    with pytest.raises(
        ValueError, match="in a way that is not known here: log-probabilities would be off by"
    ):
        try_policy(policy)


def test_weights_that_are_not_finite_are_refused() -> None:
    model = make_model(*ARCHITECTURES["biases"], torch.float32)
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"not finite.*too large for float32"):
        try_policy(CausalPolicy(model, shared_prompts=False))


def test_a_model_that_cannot_be_run_is_refused_by_name() -> None:
    policy: Any = CausalPolicy(make_model(*ARCHITECTURES["biases"], torch.float32), shared_prompts=False)
    del policy.model.model.layers[0].mlp.up_proj
    with pytest.raises(ValueError, match=r"Qwen2ForCausalLM cannot be trained here.*AttributeError.*up_proj"):
        try_policy(policy)
