"""LoRA: what is adapted, and what it is merged to."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from adapters import move_adapters
from architectures import make_folder
from llmenv.models import lora
from llmenv.models.names import load_causal_lm
from llmenv.policy.batch import TokenBatch, TokenRow
from llmenv.policy.policy import CausalPolicy
from moe import make_moe_folder
from support import dropout_model, plain_logps, random_episodes, relative_gap

LAYERS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@pytest.fixture
def adapted(model: Any) -> Any:
    """The small random model with adapters of rank 3 on all linear layers, in the middle of training."""
    lora.add_adapters(model, rank=3, alpha=6, targets="all-linear", seed=0)
    move_adapters(model)
    return model


def merged_model(adapted: Any, model_folder: str, scale: float = 2.0) -> Any:
    plain = load_causal_lm(model_folder)
    plain.load_state_dict(lora.merge(adapted.state_dict(), scale))
    return plain


@pytest.fixture
def ids() -> torch.Tensor:
    return torch.randint(0, 1000, (2, 20), generator=torch.Generator().manual_seed(0))


def test_merging_by_hand() -> None:
    """W + 0.5 B A with A = (1, 3) and B = (2, 4): B A = ((2, 6), (4, 12))."""
    state = {
        "head.q.base_layer.weight": torch.tensor([[1.0, 2.0], [3.0, 4.0]]),
        "head.q.base_layer.bias": torch.tensor([5.0, 6.0]),
        "head.q.lora_A.default.weight": torch.tensor([[1.0, 3.0]]),
        "head.q.lora_B.default.weight": torch.tensor([[2.0], [4.0]]),
        "norm.weight": torch.tensor([7.0]),
    }
    before = copy.deepcopy(state)
    merged = lora.merge(state, 0.5)
    assert merged.keys() == {"head.q.weight", "head.q.bias", "norm.weight"}
    assert merged["head.q.weight"].tolist() == [[2.0, 5.0], [5.0, 10.0]]
    assert merged["head.q.bias"] is state["head.q.base_layer.bias"]
    assert merged["norm.weight"] is state["norm.weight"]
    assert all(torch.equal(tensor, before[name]) for name, tensor in state.items())


def test_merged_weights_are_those_that_peft_merges(adapted: Any, model: Any, model_folder: str) -> None:
    merged = lora.merge(adapted.state_dict(), 6 / 3)
    plain = load_causal_lm(model_folder).state_dict()
    assert merged.keys() == plain.keys()
    assert merged["lm_head.weight"].data_ptr() == merged["model.embed_tokens.weight"].data_ptr()
    theirs = copy.deepcopy(adapted)
    for module in theirs.modules():
        if hasattr(module, "lora_A"):
            module.merge()
    for name, tensor in theirs.state_dict().items():
        if "lora_" not in name:
            torch.testing.assert_close(merged[name.replace("base_layer.", "")], tensor, atol=1e-6, rtol=0)
    changed = {name for name, tensor in merged.items() if not torch.equal(tensor, plain[name])}
    assert len(changed) == 2 * len(LAYERS)
    assert {name.split(".")[-2] for name in changed} == set(LAYERS)


def test_merging_keeps_the_dtype_and_rounds_once(model: Any) -> None:
    model.bfloat16()
    lora.add_adapters(model, rank=2, alpha=4, targets=["q_proj"], seed=0)
    move_adapters(model)
    state = model.state_dict()
    layer = "model.layers.1.self_attn.q_proj"
    a, b = (state[f"{layer}.lora_{x}.default.weight"] for x in "AB")
    assert a.dtype == b.dtype == torch.float32
    exact = state[f"{layer}.base_layer.weight"].double() + 2 * b.double() @ a.double()
    merged = lora.merge(state, 2.0)[f"{layer}.weight"]
    assert merged.dtype == torch.bfloat16
    # A unit in the last of 8 places: to one of both neighbours.
    torch.testing.assert_close(merged.double(), exact, rtol=2**-7, atol=1e-6)


def tenth_of_a_step(dtype: torch.dtype, low: float, step: float) -> list[torch.Tensor]:
    """Weights from `low` to twice that, of both signs; B and A: their product is a tenth of a step, or 0, by rows."""
    draw = torch.Generator().manual_seed(0)
    weight = (low + low * torch.rand(512, 512, generator=draw)) * (
        2.0 * torch.randint(0, 2, (512, 512), generator=draw) - 1
    )
    b = 0.1 * step * torch.randint(0, 2, (512, 1), generator=draw)
    return [weight.to(dtype), b, torch.ones(1, 512)]


@pytest.mark.parametrize(
    ("dtype", "low", "step"),
    # The last are float16's subnormal numbers.
    [
        (torch.bfloat16, 1.0, 2**-7),
        (torch.bfloat16, 2**-9, 2**-16),
        (torch.float16, 1.0, 2**-10),
        (torch.float16, 2**-18, 2**-24),
    ],
)
def test_merging_keeps_changes_of_less_than_half_a_step(dtype: torch.dtype, low: float, step: float) -> None:
    weight, b, a = tenth_of_a_step(dtype, low, step)
    change = (b @ a).double()
    assert torch.equal((weight.float() + b @ a).to(dtype), weight)  # to the nearest: the base model
    moved = lora.merged([weight, b, a], 1.0, "layer.weight").double() - weight.double()
    # What moves is a tenth of half the weights, by a step: of each the variance is 0.1 x 0.9 of the step's square.
    n = int((change > 0).sum())
    assert abs(moved.sum() - change.sum()) < 4 * step * (0.09 * n) ** 0.5
    projected = (moved * change).sum() / (change**2).sum()
    assert projected == pytest.approx(1, abs=4 * (0.09 / 0.01 / n) ** 0.5)
    assert not moved[change == 0].any()
    # To a neighbour: of the powers of two at both ends, towards 0 or away from it, half or twice as far.
    assert set(moved.unique().tolist()) <= {0.0, step / 2, step, 2 * step}


def test_merging_draws_by_name_alone() -> None:
    weight, b, a = tenth_of_a_step(torch.bfloat16, 1.0, 2**-7)
    random_state = torch.random.get_rng_state()
    one, again, other = (lora.merged([weight, b, a], 1.0, name) for name in ("one", "one", "other"))
    assert torch.equal(torch.random.get_rng_state(), random_state)
    assert torch.equal(one, again)
    # Where there is a change a tenth moves, each time other weights: 2 x 0.1 x 0.9 of them are not the same.
    different = (one != other)[(b @ a) > 0].double().mean().item()
    assert different == pytest.approx(0.18, abs=0.01)
    # A larger change moves what a smaller one has, and more.
    larger = lora.merged([weight, 2 * b, a], 1.0, "one")
    assert bool((larger[one != weight] != weight[one != weight]).all())


def test_merging_in_float32_rounds_to_the_nearest() -> None:
    weight, b, a = (tensor.float() for tensor in tenth_of_a_step(torch.bfloat16, 1.0, 2**-7))
    assert torch.equal(lora.merged([weight, b, a], 2.0, "layer.weight"), weight + 2.0 * (b @ a))


def test_adapters_change_nothing_yet_and_nothing_else_can_be_trained(model: Any, ids: torch.Tensor) -> None:
    with torch.no_grad():
        before = model(ids).logits
        random_state = torch.random.get_rng_state()
        lora.add_adapters(model, rank=3, alpha=6, targets="all-linear", seed=0)
        assert torch.equal(torch.random.get_rng_state(), random_state)
        assert torch.equal(model(ids).logits, before)
    assert type(model) is LlamaForCausalLM
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert len(trained) == 2 * 2 * len(LAYERS)
    assert all(min(p.shape) == 3 for p in trained.values())
    assert all("lora_" in name for name in trained)


def test_the_start_is_a_function_of_the_seed(model_folder: str) -> None:
    def start(seed: int) -> torch.Tensor:
        model = load_causal_lm(model_folder)
        lora.add_adapters(model, rank=3, alpha=6, targets=["q_proj"], seed=seed)
        return model.model.layers[1].self_attn.q_proj.lora_A.default.weight.detach()

    assert torch.equal(start(0), start(0))
    assert not torch.equal(start(0), start(1))


def test_an_output_layer_of_its_own_is_not_adapted() -> None:
    config = LlamaConfig(
        vocab_size=20, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2
    )
    model = LlamaForCausalLM(config)
    assert model.lm_head.weight is not model.model.embed_tokens.weight
    lora.add_adapters(model, rank=1, alpha=2, targets="all-linear", seed=0)
    assert type(model.lm_head) is nn.Linear
    assert sum("lora_A" in name for name, _ in model.named_parameters()) == len(LAYERS)


@pytest.mark.parametrize("targets", [["q_proj", "query"], ["lm_head"], ["embed_tokens"], ["proj"]])
def test_targets_that_are_no_layers_are_named_with_those_there_are(model: Any, targets: list[str]) -> None:
    message = rf"lora_targets \['{targets[-1]}'\] are no layers .*all-linear.*down_proj, gate_proj, k_proj"
    with pytest.raises(ValueError, match=message):
        lora.add_adapters(model, rank=3, alpha=6, targets=targets, seed=0)


def test_what_is_no_linear_layer_is_left_out_and_told_of(
    model: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """OLMoE's experts and its router are tensors of modules that are no linear layers."""
    lora.add_adapters(model, rank=2, alpha=4, targets="all-linear", seed=0)
    assert not caplog.records
    mixture: Any = load_causal_lm(make_moe_folder("olmoe", tmp_path))
    lora.add_adapters(mixture, rank=2, alpha=4, targets="all-linear", seed=0)
    (record,) = caplog.records
    left = "experts.down_proj, experts.gate_up_proj, gate.weight of OlmoeForCausalLM"
    assert f'"all-linear" leaves out {left}' in record.getMessage()
    trained = {name.split(".")[-4] for name, p in mixture.named_parameters() if p.requires_grad}
    assert trained == {"q_proj", "k_proj", "v_proj", "o_proj"}


def test_a_router_that_is_a_kind_of_linear_layer_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Phi-MoE's gives more than a product: with an adapter its layer would fail."""
    mixture = load_causal_lm(make_folder("phimoe", tmp_path))
    lora.add_adapters(mixture, rank=3, alpha=6, targets="all-linear", seed=0)
    assert "experts.gate_up_proj, router.weight of PhimoeForCausalLM" in caplog.text
    assert mixture(input_ids=torch.tensor([[1, 2, 3]])).logits.isfinite().all()


def test_layers_that_adapters_would_not_reach_are_refused(tmp_path: Path) -> None:
    """Mamba's fast kernels take the weight of out_proj, and never call the layer."""
    folder = make_folder("mamba", tmp_path)
    settings: dict[str, Any] = {"rank": 3, "alpha": 6, "seed": 0}
    with pytest.raises(
        ValueError, match=r"LoRA does not adapt these layers of MambaForCausalLM.*lora_targets"
    ):
        lora.add_adapters(load_causal_lm(folder), targets="all-linear", **settings)
    model = load_causal_lm(folder)
    lora.add_adapters(model, targets=["in_proj", "x_proj"], **settings)
    assert {n.split(".")[-4] for n, p in model.named_parameters() if p.requires_grad} == {"in_proj", "x_proj"}


def test_a_model_without_linear_layers_is_refused() -> None:
    with pytest.raises(ValueError, match="GPT2LMHeadModel has no linear layer"):
        lora.add_adapters(dropout_model(), rank=3, alpha=6, targets="all-linear", seed=0)


def test_switched_off_the_model_is_the_initial_one(
    adapted: Any, model_folder: str, ids: torch.Tensor
) -> None:
    trained = {name for name, p in adapted.named_parameters() if p.requires_grad}
    with torch.no_grad():
        on = adapted(ids).logits
        with lora.switched_off(adapted):
            off = adapted(ids).logits
        assert torch.equal(off, load_causal_lm(model_folder)(ids).logits)
        assert not torch.allclose(on, off, atol=0.1)
        assert torch.equal(adapted(ids).logits, on)
    assert {name for name, p in adapted.named_parameters() if p.requires_grad} == trained


def test_the_policy_is_that_of_the_merged_weights(adapted: Any, model_folder: str) -> None:
    """Its log-probabilities, and by the chain rule through W + 2 B A: dL/dB = 2 dL/dW A^T and dL/dA = 2 B^T dL/dW."""
    row = TokenRow.from_episode(random_episodes(1, 1)[0], 1.0)
    mask = torch.from_numpy(row.response_mask)
    logps = CausalPolicy(adapted)(TokenBatch.from_rows([row])).logps[0]
    plain = merged_model(adapted, model_folder)
    expected = plain_logps(plain, row.token_ids.tolist(), 1.0)[0][mask[1:]]
    torch.testing.assert_close(logps[mask].double(), expected, atol=2e-5, rtol=0)
    logps.sum().backward()
    expected.sum().backward()
    modules = dict(adapted.named_modules())
    for name, parameter in plain.named_parameters():
        layer = modules.get(name.removesuffix(".weight"))
        if hasattr(layer, "lora_A"):
            a, b = layer.lora_A.default.weight, layer.lora_B.default.weight
            assert relative_gap(b.grad, 2 * parameter.grad @ a.T) < 1e-4
            assert relative_gap(a.grad, 2 * b.T @ parameter.grad) < 1e-4
            assert layer.base_layer.weight.grad is None
