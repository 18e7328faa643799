"""Weights that leave a learner tensor by tensor: of two learners under ZeRO-3, that no more than one is whole."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import distributed as dist
from torch import multiprocessing

import llmenv.rllib.outbox
from adapters import move_adapters
from llmenv.engines.deepspeed import DeepSpeedEngine, build_config, deepspeed_world
from llmenv.engines.torch import TorchEngine
from llmenv.models import lora
from llmenv.models.names import load_causal_lm
from llmenv.policy.policy import CausalPolicy
from llmenv.rllib.outbox import Outbox
from llmenv.weights.transfer import Meta
from updates import PARTITION_ALL

CPU = torch.device("cpu")
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


def learn_and_send(rank: int, folder: str, rendezvous: str) -> None:
    """One of two learners, in a process of its own: without adapters, and with them."""
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    llmenv.rllib.outbox.WeightSender = Sender
    llmenv.rllib.outbox.init_info_of = lambda *args, **kwargs: None
    settings = build_config(
        zero_stage=3,
        offload_optimizer=False,
        offload_parameters=False,
        dtype="float32",
        grad_clip=1.0,
        extra=PARTITION_ALL,
    )
    for adapters in (None, ADAPTERS):
        with deepspeed_world(settings, CPU):
            model = make_model(folder, adapters)
            policy = CausalPolicy(model)
        optimizer = torch.optim.AdamW([p for p in policy.parameters() if p.requires_grad])
        outbox = Outbox(DeepSpeedEngine(policy, optimizer, settings), policy, config_with(adapters), CPU)
        Sender.model = model
        assert not any(p.numel() for p in model.parameters())
        outbox.send(1, [], renew=True)
        assert not any(p.numel() for p in model.parameters())
        if rank == 0:
            assert_sent(folder, adapters)
            parts = [len(tensors) for group in outbox._groups() for tensors in group.values()]
            assert Sender.whole == parts and max(parts) == (3 if adapters else 1)
        assert hasattr(Sender, "sent") == (rank == 0)


@pytest.mark.slow
def test_a_sharded_policy_is_whole_tensor_by_tensor(model_folder: str, tmp_path: Path) -> None:
    pytest.importorskip("deepspeed")
    multiprocessing.spawn(learn_and_send, (model_folder, str(tmp_path / "rendezvous")), nprocs=2)


@pytest.mark.parametrize("adapters", [None, ADAPTERS])
def test_a_plain_policy_is_sent_as_it_is(
    model_folder: str, adapters: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model(model_folder, adapters)
    policy = CausalPolicy(model)
    engine = TorchEngine(policy, torch.optim.AdamW(policy.parameters()), 1.0)
    asked: dict[str, int] = {}
    monkeypatch.setattr(llmenv.rllib.outbox, "WeightSender", Sender)
    monkeypatch.setattr(llmenv.rllib.outbox, "init_info_of", lambda *args, **kwargs: asked.update(kwargs))
    Sender.model = model
    Outbox(engine, policy, config_with(adapters), CPU).send(1, [], renew=True)
    assert_sent(model_folder, adapters)
    assert asked == {"buffer_bytes": 4 * max(p.numel() for p in model.parameters())}
