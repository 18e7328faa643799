"""The policy's log-probabilities, entropies and gradients against plain transformers and plain autograd."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from llmenv.env import TextSpace
from llmenv.models.names import load_causal_lm
from llmenv.policy import head as head_module
from llmenv.policy.batch import TokenBatch, TokenRow
from llmenv.policy.head import _TokenLogProbs
from llmenv.policy.policy import CausalPolicy
from llmenv.rllib.rl_module import LLMModule
from support import dropout_model, plain_logps, random_episodes, relative_gap


@pytest.fixture
def batch() -> TokenBatch:
    """Six rows of very different lengths, two of them with two turns."""
    return TokenBatch.from_rows([TokenRow.from_episode(e, 1.0) for e in random_episodes(2, 3)])


def expected(model: Any, batch: TokenBatch, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Row by row without padding: log-probabilities and entropies [B, T], zero outside the response mask."""
    rows_l, rows_h = [], []
    for i, length in enumerate(batch.lengths.tolist()):
        row_logps, row_entropy = plain_logps(model, batch.input_ids[i, :length].tolist(), temperature)
        pad = (1, batch.input_ids.shape[1] - length)
        rows_l.append(nn.functional.pad(row_logps, pad))
        rows_h.append(nn.functional.pad(row_entropy, pad))
    mask = batch.response_mask
    return torch.stack(rows_l).masked_fill(~mask, 0.0), torch.stack(rows_h).masked_fill(~mask, 0.0)


@pytest.mark.parametrize("chunk", [7, 1024])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_equals_a_plain_forward(
    model: Any, batch: TokenBatch, temperature: float, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head_module, "CHUNK_POSITIONS", chunk)
    with torch.no_grad():
        output = CausalPolicy(model, temperature)(batch)
        logps, entropy = expected(model, batch, temperature)
    assert logps[batch.response_mask].std() > 0.5  # the model is not so flat that anything would pass
    torch.testing.assert_close(output.logps.double(), logps, atol=2e-5, rtol=0)
    torch.testing.assert_close(output.entropy.double(), entropy, atol=2e-5, rtol=0)
    assert (output.logps[~batch.response_mask] == 0).all()
    assert (output.entropy[~batch.response_mask] == 0).all()


@pytest.mark.parametrize("chunk", [7, 1024])
def test_gradients_of_all_weights_equal_plain_autograd(
    model: Any, batch: TokenBatch, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head_module, "CHUNK_POSITIONS", chunk)
    torch.manual_seed(0)
    coefficients = torch.randn(batch.response_mask.shape)
    parameters = list(model.parameters())
    (CausalPolicy(model, 0.7)(batch).logps * coefficients).sum().backward()
    ours = torch.cat([p.grad.flatten() for p in parameters])
    model.zero_grad()
    (expected(model, batch, 0.7)[0] * coefficients).sum().backward()
    plain = torch.cat(
        [p.grad.flatten() for p in parameters]
    )  # the tied embedding's is the sum of both its roles
    assert relative_gap(ours, plain) < 1e-5


@pytest.mark.parametrize("scale", [1, 1000])  # exp of such logits overflows
@pytest.mark.parametrize("chunk", [3, 4, 100])  # 10 positions: a remainder, and everything at once
def test_the_chunked_function_equals_autograd(
    chunk: int, scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head_module, "CHUNK_POSITIONS", chunk)
    torch.manual_seed(0)
    hidden = torch.randn(10, 5, dtype=torch.float64).mul(scale).requires_grad_()
    weight = torch.randn(7, 5, dtype=torch.float64, requires_grad=True)
    targets, coefficients = torch.randint(7, (10,)), torch.randn(2, 10, dtype=torch.float64)
    ours = _TokenLogProbs.apply(hidden, weight, targets, 0.7, True)
    log_probs = (hidden @ weight.T / 0.7).log_softmax(-1)
    plain = log_probs.gather(-1, targets[:, None]).squeeze(-1), -(log_probs.exp() * log_probs).sum(-1)
    torch.testing.assert_close(ours, plain)
    # The gradient of the log-probabilities, of the entropies, and of both together.
    for wanted in ((0,), (1,), (0, 1)):
        gradients = [
            torch.autograd.grad(
                sum((results[i] * coefficients[i]).sum() for i in wanted), (hidden, weight), retain_graph=True
            )
            for results in (ours, plain)
        ]
        torch.testing.assert_close(*gradients)


def test_an_impossible_token_has_no_share_in_the_gradients() -> None:
    hidden = torch.tensor([[1e30]], requires_grad=True)
    weight = torch.tensor([[0.0], [0.0], [-1e30]], requires_grad=True)  # logits of 0, 0 and -inf
    logps, entropy = _TokenLogProbs.apply(hidden, weight, torch.tensor([0]), 1.0, True)
    (logps + entropy).sum().backward()
    torch.testing.assert_close(torch.stack([logps, entropy]), torch.tensor([[0.5], [2.0]]).log())
    torch.testing.assert_close(weight.grad, torch.tensor([[0.5e30], [-0.5e30], [0.0]]))
    assert not hidden.grad.any()


def test_no_positions_give_zero_gradients() -> None:
    hidden = torch.zeros(0, 5, requires_grad=True)
    weight = torch.randn(7, 5, requires_grad=True)
    logps, _ = _TokenLogProbs.apply(hidden, weight, torch.zeros(0, dtype=torch.long), 1.0, True)
    logps.sum().backward()
    assert logps.shape == (0,)
    assert not weight.grad.any()


def test_a_frozen_head_gets_no_gradient() -> None:
    hidden, weight = torch.randn(4, 5, requires_grad=True), torch.randn(7, 5)
    _TokenLogProbs.apply(hidden, weight, torch.tensor([0, 1, 2, 3]), 1.0, True)[0].sum().backward()
    assert hidden.grad.abs().sum() > 0


def test_entropy_of_a_token_that_cannot_be_drawn() -> None:
    # Logits (0, 0, -inf): p = (1/2, 1/2, 0), so that H = ln 2 = 0.693147, not NaN.
    weight = torch.tensor([[0.0], [0.0], [-torch.inf]])
    logps, entropy = _TokenLogProbs.apply(torch.ones(1, 1), weight, torch.tensor([0]), 1.0, True)
    assert logps.item() == pytest.approx(-0.693147, abs=1e-6)
    assert entropy.item() == pytest.approx(0.693147, abs=1e-6)


def test_nothing_of_the_vocabularys_width_is_kept_for_the_backward_pass(
    model: Any, batch: TokenBatch
) -> None:
    kept: list[torch.Size] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.shape) or t, lambda t: t):
        CausalPolicy(model)(batch)
    assert kept
    assert not [shape for shape in kept if shape and shape[-1] == model.config.vocab_size]


def test_other_tokens_have_exactly_no_gradient(model: Any, batch: TokenBatch) -> None:
    """The loss of the response positions alone: prompts and padding contribute nothing, whatever their weight."""
    output = CausalPolicy(model)(batch)
    (output.logps * torch.where(batch.response_mask, 0.0, 1e6)).sum().backward()
    assert not any(p.grad.any() for p in model.parameters())


def test_bfloat16_gives_float32_logps(model: Any, batch: TokenBatch) -> None:
    with torch.no_grad():
        exact = CausalPolicy(model)(batch).logps
        rough = CausalPolicy(model.to(torch.bfloat16))(batch)
    assert (rough.logps.dtype, rough.entropy.dtype) == (torch.float32, torch.float32)
    assert 0 < (rough.logps - exact).abs().mean() < 0.3


def test_gradient_checkpointing_computes_the_layers_twice_and_the_same(
    model_folder: str, batch: TokenBatch
) -> None:
    """In evaluation mode too, in which a policy always is."""
    calls = []
    gradients = []
    for thrifty in (False, True):
        policy = CausalPolicy(load_causal_lm(model_folder), gradient_checkpointing=thrifty)
        policy.model.model.layers[0].mlp.register_forward_pre_hook(lambda *_: calls.append(thrifty))  # noqa: B023
        policy(batch).logps.sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in policy.parameters()]))
    assert calls == [False, True, True]
    assert torch.equal(gradients[0], gradients[1])


def test_gradient_checkpointing_needs_layers_that_are_marked(model: Any) -> None:
    model.model.layers = nn.ModuleList()
    with pytest.raises(ValueError, match="leave out gradient_checkpointing"):
        CausalPolicy(model, gradient_checkpointing=True)


def test_an_output_layer_of_another_kind_is_refused(model: Any) -> None:
    model.set_output_embeddings(nn.Bilinear(2, 2, 2))
    with pytest.raises(ValueError, match="LlamaForCausalLM has Bilinear as its output layer"):
        CausalPolicy(model)


@pytest.mark.parametrize("temperature", [0.0, -1.0])
def test_temperature_must_be_positive(model: Any, temperature: float) -> None:
    with pytest.raises(ValueError, match="temperature must be positive"):
        CausalPolicy(model, temperature)


def test_the_module_drops_nothing_out(tmp_path: Any) -> None:
    """Dropout would make the learner's policy another one than the sampler's and the reference's."""
    dropout_model().save_pretrained(tmp_path)
    config = {
        "model": str(tmp_path),
        "dtype": "float32",
        "trust_remote_code": False,
        "temperature": 1.0,
        "gradient_checkpointing": True,
        "shared_prompts": True,
        "critic": None,
    }
    module = LLMModule(observation_space=TextSpace(), action_space=TextSpace(), model_config=config)
    rows = [TokenRow.from_episode(e, 1.0) for e in random_episodes(1, 3, vocab_size=50)]
    batch = TokenBatch.from_rows(rows)
    logps = module.forward_train(batch).logps
    torch.testing.assert_close(
        logps.double(), expected(module.policy.model, batch, 1.0)[0], atol=2e-5, rtol=0
    )
