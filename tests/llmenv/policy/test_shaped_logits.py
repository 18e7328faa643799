"""Models that cap, scale or shift their logits: log-probabilities and gradients, against plain transformers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from llmenv.policy import head as head_module
from llmenv.policy.batch import TokenBatch
from llmenv.policy.head import Shaping, TokenHead
from llmenv.policy.policy import CausalPolicy
from small_models import LLAMA, make_model, random_rows
from support import plain_logps, relative_gap

GPT = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 128, "rotary_dim": 4}
SHAPED: dict[str, tuple[str, dict[str, Any]]] = {
    "soft-capping": ("gemma2", {**LLAMA, "final_logit_softcapping": 3.0, "tie_word_embeddings": False}),
    "soft-capping, tied": ("gemma3_text", {**LLAMA, "final_logit_softcapping": 2.0}),
    "soft-capping by another name": ("nanochat", {**LLAMA, "final_logit_softcapping": 2.0}),
    "a factor": ("cohere", {**LLAMA, "logit_scale": 0.3, "use_qk_norm": False}),
    "a divisor": ("granite", {**LLAMA, "logits_scaling": 2.5}),
    "a bias": ("phi", {**LLAMA, "num_key_value_heads": 4, "partial_rotary_factor": 0.5}),
    "a bias of a GPT": ("gptj", GPT),
}


@pytest.mark.parametrize("kind", SHAPED)
def test_a_model_of_its_kind_has_plain_transformers_log_probabilities_and_gradients(kind: str) -> None:
    model = make_model(*SHAPED[kind])
    layer = model.get_output_embeddings()
    if layer.bias is not None:
        nn.init.normal_(layer.bias)
    rows = random_rows(2, 2)
    batch = TokenBatch.from_rows(rows)
    output = CausalPolicy(model, 0.7)(batch)
    parameters = [p for p in model.parameters() if p.requires_grad]
    expected = []
    for i, row in enumerate(rows):
        logps, entropy = plain_logps(model, row.token_ids.tolist(), 0.7)
        mask = torch.as_tensor(row.response_mask)[1:]
        expected.append((logps + 0.3 * entropy)[mask].sum())
        found = output.logps[i, 1 : len(mask) + 1][mask]
        torch.testing.assert_close(found, logps[mask], atol=1e-6, rtol=0)
    ours = torch.autograd.grad((output.logps + 0.3 * output.entropy).sum(), parameters, allow_unused=True)
    plain = torch.autograd.grad(torch.stack(expected).sum(), parameters, allow_unused=True)
    for one, other in zip(ours, plain, strict=True):
        assert (one is None) == (other is None)
        if one is not None and other is not None and other.any():
            assert relative_gap(one, other) < 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shaping", [Shaping(), Shaping(0.5), Shaping(1.0, 3.0), Shaping(2.0, 5.0)])
@pytest.mark.parametrize("chunk", [4, 100])
def test_the_head_equals_float64(
    dtype: torch.dtype, shaping: Shaping, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head_module, "CHUNK_POSITIONS", chunk)
    torch.manual_seed(0)
    hidden, weight, bias = (torch.randn(*shape).to(dtype) for shape in ((10, 5), (7, 5), (7,)))
    targets, coefficients = torch.randint(7, (10,)), torch.randn(2, 10)
    head = TokenHead(nn.Parameter(weight.clone()), nn.Parameter(bias.clone()), shaping)
    states = hidden.clone().requires_grad_()
    found = head(states, targets, 0.7)
    ours = torch.autograd.grad(
        sum((x * c).sum() for x, c in zip(found, coefficients, strict=True)), (states, head.weight, head.bias)
    )
    wide = [x.double().requires_grad_() for x in (hidden, weight, bias)]
    x = shaping.scale * (wide[0] @ wide[1].T + wide[2])
    z = x if shaping.cap is None else shaping.cap * torch.tanh(x / shaping.cap)
    torch.testing.assert_close(head.logits(hidden).double(), z.detach(), atol=1e-5, rtol=0)
    log_probs = (z / 0.7).log_softmax(-1)
    expected = log_probs.gather(-1, targets[:, None]).squeeze(-1), -(log_probs.exp() * log_probs).sum(-1)
    plain = torch.autograd.grad(sum((x * c).sum() for x, c in zip(expected, coefficients, strict=True)), wide)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.double(), other, atol=1e-5, rtol=0)
    for one, other in zip(ours, plain, strict=True):
        assert relative_gap(one.double(), other) < (1e-5 if dtype == torch.float32 else 2**-8)
