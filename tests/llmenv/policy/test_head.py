"""The head in 16 bits: as exact as float32 allows, from the same hidden states and weight."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch._dynamo.testing import CompileCounter
from torch._subclasses.fake_tensor import FakeTensorMode

from llmenv.policy import head as head_module
from llmenv.policy.head import TokenHead, _differentiate, _summarise, _TokenLogProbs, logits
from support import relative_gap

POSITIONS, WIDTH, VOCAB = 300, 64, 700
BFLOAT16_ROUNDING = 2.0**-9  # half of a unit in the last place, relative


def make_inputs(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Hidden states, weight and targets; logits of standard deviation 8, as those of a model that knows something."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(POSITIONS, WIDTH, generator=generator).to(dtype)
    weight = torch.randn(VOCAB, WIDTH, generator=generator).to(dtype)
    return hidden, weight, torch.randint(VOCAB, (POSITIONS,), generator=generator)


def exact(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> list[torch.Tensor]:
    """Log-probabilities, entropies and the gradients of their sum, in float64."""
    states = [x.double().requires_grad_() for x in (hidden, weight)]
    log_probs = (states[0] @ states[1].T).log_softmax(-1)
    logps = log_probs.gather(-1, targets[:, None]).squeeze(-1)
    entropy = -(log_probs.exp() * log_probs).sum(-1)
    return [logps, entropy, *torch.autograd.grad((logps + entropy).sum(), states)]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_of_16_bits_log_probabilities_are_as_exact_as_float32(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head_module, "CHUNK_POSITIONS", 7)
    inputs = make_inputs(dtype)
    hidden, weight = (x.requires_grad_() for x in inputs[:2])
    logps, entropy = _TokenLogProbs.apply(hidden, weight, inputs[2], 1.0, True)
    assert (logps.dtype, entropy.dtype) == (torch.float32, torch.float32)
    (logps + entropy).sum().backward()
    expected = exact(*inputs)
    # Logits are below 64, where float32 has steps of 4e-6; those of bfloat16 are 0.25 wide.
    torch.testing.assert_close(logps.double(), expected[0], rtol=0, atol=2e-5)
    torch.testing.assert_close(entropy.double(), expected[1], rtol=0, atol=2e-5)
    rough = (hidden @ weight.T).float().log_softmax(-1).gather(-1, inputs[2][:, None]).squeeze(-1)
    assert (rough.double() - expected[0]).abs().max() > (0.05 if dtype == torch.bfloat16 else 0.005)
    # Added up over 43 chunks in float32, and rounded once.
    assert weight.grad is not None and hidden.grad is not None
    assert (weight.grad.dtype, hidden.grad.dtype) == (dtype, dtype)
    for grad, expected_grad in zip((hidden.grad, weight.grad), expected[2:], strict=True):
        # The norm of errors that are spread evenly over half a step is less than half a step's.
        assert relative_gap(grad.double(), expected_grad) < BFLOAT16_ROUNDING


def test_a_sum_in_bfloat16_would_miss_that_bound() -> None:
    hidden, weight, targets = make_inputs(torch.bfloat16)
    expected = exact(hidden, weight, targets)[3]
    total = torch.zeros_like(weight)
    for i in range(0, POSITIONS, 7):
        total += exact(hidden[i : i + 7], weight, targets[i : i + 7])[3].bfloat16()
    assert relative_gap(total.double(), expected) > 1.5 * BFLOAT16_ROUNDING


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_without_entropy_everything_else_is_the_same(dtype: torch.dtype) -> None:
    hidden, weight, targets = make_inputs(dtype)
    results = []
    for with_entropy in (True, False):
        head = TokenHead(torch.nn.Parameter(weight.clone()))
        states = hidden.clone().requires_grad_()
        logps, entropy = head(states, targets, 0.7, with_entropy)
        assert (entropy is None) == (not with_entropy)
        logps.sum().backward()
        results.append((logps.detach(), states.grad, head.weight.grad))
    assert all(torch.equal(*pair) for pair in zip(*results, strict=True))


def test_logits_by_themselves_are_those_of_the_head() -> None:
    hidden, weight, targets = make_inputs(torch.bfloat16)
    found = logits(hidden, weight)
    assert found.dtype == torch.float32
    logps, _ = _TokenLogProbs.apply(hidden, weight, targets, 1.0, False)
    torch.testing.assert_close(
        found.log_softmax(-1).gather(-1, targets[:, None]).squeeze(-1), logps, rtol=0, atol=2e-5
    )


def test_a_gpu_multiplies_16_bits_into_float32() -> None:
    """PyTorch's own word on dtypes, without a GPU."""
    with FakeTensorMode():
        hidden = torch.empty(4, 5, dtype=torch.bfloat16, device="cuda")
        found = logits(hidden, torch.empty(7, 5, dtype=torch.bfloat16, device="cuda"))
    assert (found.dtype, found.shape, found.device.type) == (torch.float32, (4, 7), "cuda")


@pytest.mark.parametrize("with_entropy", [True, False])
def test_as_a_gpu_compiles_it_it_is_the_same_and_compiled_once(with_entropy: bool) -> None:
    """Traced as for a GPU, run as written: whatever the number of positions, there is one variant."""
    torch.manual_seed(0)
    counters = CompileCounter(), CompileCounter()
    summarise, differentiate = (
        torch.compile(function, dynamic=True, fullgraph=True, backend=counter)
        for function, counter in zip((_summarise, _differentiate), counters, strict=True)
    )
    for size in (512, 300, 17, 2):
        z, targets = 5 * torch.randn(size, VOCAB), torch.randint(VOCAB, (size,))
        before, columns = z.clone(), (targets[:, None], torch.randn(size, 1))
        spare = torch.empty_like(z)
        found = summarise(z, targets, 0.7, with_entropy, False, None)
        in_place = _summarise(z.clone(), targets, 0.7, with_entropy, True, spare)
        assert _equal(found, in_place)
        surprises = (found[2][:, None], torch.randn(size, 1)) if with_entropy else None
        rest: Any = (columns[0], 0.7, found[1][:, None], columns[1], surprises)
        assert torch.equal(differentiate(z, *rest, False), _differentiate(z.clone(), *rest, True))
        assert torch.equal(z, before)
    assert [counter.frame_count for counter in counters] == [1, 1]


def _equal(ours: tuple[Any, ...], theirs: tuple[Any, ...]) -> bool:
    pairs = list(zip(ours, theirs, strict=True))
    return all((a is None and b is None) or torch.equal(a, b) for a, b in pairs)
