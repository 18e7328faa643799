"""What the tests of an outbox share: a sender that keeps what it is given, and what that has to be."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from types import SimpleNamespace
from typing import Any

import torch

from adapters import move_adapters
from llmenv.models import lora
from llmenv.models.names import load_causal_lm
from llmenv.weights.transfer import Meta

ADAPTERS = {"rank": 3, "alpha": 6, "targets": "all-linear"}


def config_with(adapters: Any) -> Any:
    return SimpleNamespace(lora=adapters, sampler_kwargs={}, sampler_sleeps=False, weight_transfer="nccl")


class Sender:
    """Takes what is sent, and counts the parameters that are whole at each tensor."""

    model: Any
    sent: dict[str, torch.Tensor]
    metadata: Sequence[Meta]
    whole: list[int]

    def __init__(self, *args: Any):
        Sender.sent, Sender.whole = {}, []

    def send(
        self, metadata: Sequence[Meta], tensors: Iterable[tuple[str, torch.Tensor]], version: int
    ) -> None:
        Sender.metadata = metadata
        for name, tensor in tensors:
            Sender.sent[name] = tensor.clone()
            Sender.whole.append(sum(p.numel() > 0 for p in Sender.model.parameters()))


def make_model(folder: str, adapters: Any) -> Any:
    model = load_causal_lm(folder)
    if adapters:
        lora.add_adapters(model, seed=0, **adapters)
        move_adapters(model)
    return model


def assert_sent(folder: str, adapters: Any) -> None:
    wanted = lora.merge(dict(make_model(folder, adapters).named_parameters()), 2.0)
    assert [meta.name for meta in Sender.metadata] == list(Sender.sent)
    assert Sender.sent.keys() == wanted.keys()
    for name, dtype, shape in Sender.metadata:
        assert (dtype, shape) == (Sender.sent[name].dtype, tuple(Sender.sent[name].shape))
        torch.testing.assert_close(Sender.sent[name], wanted[name], atol=1e-6, rtol=0)
