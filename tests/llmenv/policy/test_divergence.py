"""The KL to a teacher over a vocabulary: by hand, against whole tensors, and with little memory."""

from __future__ import annotations

import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from llmenv.policy import head as head_module
from llmenv.policy.divergence import Teacher, reverse_kl
from llmenv.policy.head import PLAIN, Shaping, TokenHead


def test_five_tokens_by_hand() -> None:
    """p = (1/2, 1/4, 1/8, 1/16, 1/16) and q = 1/5 each: KL = log 5 - H(p), dKL / dz = p (log p - log q - KL)."""
    probs = torch.tensor([1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 16])
    head = TokenHead(torch.nn.Parameter(probs.log()[:, None]))
    hidden = torch.ones(1, 1, requires_grad=True)
    teacher = Teacher(torch.zeros(1, 1), torch.ones(5, 1), None, PLAIN)
    kl = reverse_kl(hidden, head, 1.0, teacher)
    entropy = 1.875 * math.log(2)
    assert kl.item() == pytest.approx(math.log(5) - entropy, abs=1e-6)
    kl.sum().backward()
    expected = probs * (probs.log() + entropy)  # log 5 is in both, and falls out
    torch.testing.assert_close(head.weight.grad, expected[:, None], rtol=0, atol=1e-6)
    assert hidden.grad.item() == pytest.approx(float(expected @ probs.log()), abs=1e-6)
    # At a temperature of 2 both distributions are others: p ~ sqrt(p), and the gradient is half as steep.
    head.weight.grad = None
    reverse_kl(hidden, head, 2.0, teacher).sum().backward()
    flat = probs.sqrt() / probs.sqrt().sum()
    steep = flat * (flat.log() - (flat * flat.log()).sum()) / 2
    torch.testing.assert_close(head.weight.grad, steep[:, None], rtol=0, atol=1e-6)


def make(rows: int, width: int, seed: int, positions: int = 23) -> tuple[torch.Tensor, TokenHead]:
    generator = torch.Generator().manual_seed(seed)
    hidden, weight = (torch.randn(n, width, generator=generator) for n in (positions, rows))
    bias = torch.nn.Parameter(torch.randn(rows, generator=generator))
    return hidden, TokenHead(torch.nn.Parameter(weight), bias, Shaping(scale=0.5, cap=4.0))


@pytest.mark.parametrize("chunk", [1, 7, 512])
def test_it_is_that_of_whole_tensors_cut_to_the_tokenizer(
    chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A student padded to 40 rows and a teacher to 48, of another width, for 37 tokens; whatever the chunk is."""
    monkeypatch.setattr(head_module, "CHUNK_POSITIONS", chunk)
    (hidden, head), (theirs, teacher) = make(40, 8, 0), make(48, 12, 1)
    hidden.requires_grad_()
    weights = torch.linspace(-1, 2, len(hidden))
    learned = [hidden, *head.parameters()]
    ours = reverse_kl(hidden, head, 0.7, Teacher.of(theirs, teacher, 37))
    found = torch.autograd.grad((weights * ours).sum(), learned)
    logs = []
    for states, layer in ((hidden, head), (theirs, teacher)):
        z = 4.0 * torch.tanh(0.5 * (states @ layer.weight.T + layer.bias) / 4.0)
        logs.append((z[:, :37] / 0.7).log_softmax(-1))
    slow = (logs[0].exp() * (logs[0] - logs[1].detach())).sum(-1)
    torch.testing.assert_close(ours, slow, rtol=1e-5, atol=1e-6)
    for one, expected in zip(found, torch.autograd.grad((weights * slow).sum(), learned), strict=True):
        torch.testing.assert_close(one, expected, rtol=1e-4, atol=1e-5)
    assert not found[1][37:].any() and found[1][:37].any()


class Largest(TorchDispatchMode):
    """Remembers the largest result of any operation."""

    numel = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = function(*args, **(kwargs or {}))
        for one in result if isinstance(result, tuple) else (result,):
            if isinstance(one, torch.Tensor):
                self.numel = max(self.numel, one.numel())
        return result


def test_no_tensor_is_larger_than_a_chunk_of_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head_module, "CHUNK_POSITIONS", 16)
    (hidden, head), (theirs, teacher) = make(1000, 8, 0, 400), make(1000, 12, 1, 400)
    hidden.requires_grad_()
    with Largest() as largest:
        reverse_kl(hidden, head, 1.0, Teacher.of(theirs, teacher, 1000)).sum().backward()
    assert largest.numel == 16 * 1000  # and not 400 * 1000
