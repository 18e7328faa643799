"""Weights from a learner's GPU straight into vLLM's workers, by vLLM's own transfer engines (NCCL or CUDA IPC).

The alternative to `llmenv.weights.format`, which goes through the memory of the host and works everywhere. Written to
the interface of vLLM 0.32 and tested through it on a CPU, with a transport that hands tensors over by value: neither
NCCL nor CUDA IPC has been run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from vllm.distributed.weight_transfer.base import TrainerInitInfo

BACKENDS = ("nccl", "ipc")

# Calls a method on every runner, with keyword arguments of its own for each, and waits for all of them.
CallRunners = Callable[[str, Sequence[dict[str, Any]]], None]


class WeightSender:
    """The sending end, in the process of the first learner.

    Args:
        init_info: What vLLM's backend wants to know, such as from `init_info_of`.
        call: Reaches the runners; the methods are those of `VLLMSampler`, `transfer` and `finish_transfer`.
        num_runners: How many there are.
        workers_per_runner: GPUs of each runner's engine.
    """

    def __init__(
        self, init_info: TrainerInitInfo, call: CallRunners, num_runners: int, workers_per_runner: int = 1
    ):
        from vllm.distributed.weight_transfer.factory import WeightTransferTrainerFactory

        self._client = _Client(call, num_runners, workers_per_runner)
        self._source = _source()
        self._engine = WeightTransferTrainerFactory.trainer_init(
            init_info, client=self._client, source=self._source
        )

    def send(self, state: Mapping[str, torch.Tensor], version: int) -> None:
        """Brings weights, under their Hugging Face names and without duplicates, to every runner."""
        self._client.version, self._source.state = version, state
        self._engine.send_weights()
        self._source.state = {}

    def close(self) -> None:
        self._engine.shutdown()


def init_info_of(backend: str, num_runners: int, workers_per_runner: int) -> TrainerInitInfo:
    """What vLLM's backend wants to know of this process, which is the only sender."""
    if backend == "ipc":
        from vllm.distributed.weight_transfer.ipc_engine import IPCTrainerInitInfo

        return IPCTrainerInitInfo(rank=0)
    from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo
    from vllm.utils.network_utils import get_ip, get_open_port

    world_size = 1 + num_runners * workers_per_runner
    return NCCLTrainerInitInfo(get_ip(), get_open_port(), world_size, rank=0)


class _Client:
    """A `VLLMWeightSyncClient` of vLLM's: its four calls, made on the engines of all runners."""

    def __init__(self, call: CallRunners, num_runners: int, workers_per_runner: int):
        self._call = call
        self._num_runners = num_runners
        self._workers_per_runner = workers_per_runner
        self.version = 0

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        infos = [dict(init_info) for _ in range(self._num_runners)]
        for i, info in enumerate(infos):
            # vLLM numbers the workers of one engine; ours are several engines in one group.
            if "rank_offset" in info:
                info["rank_offset"] += i * self._workers_per_runner
        self._transfer("init_weight_transfer_engine", [{"init_info": info} for info in infos])

    def start_weight_update(self) -> None:
        self._transfer("start_weight_update", [{}] * self._num_runners)

    def update_weights(self, update_info: dict[str, Any]) -> None:
        self._transfer("update_weights", [{"update_info": update_info}] * self._num_runners)

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        self._call("finish_transfer", [{"version": self.version}] * self._num_runners)

    def _transfer(self, method: str, kwargs: Sequence[dict[str, Any]]) -> None:
        self._call("transfer", [{"method": method, "kwargs": one} for one in kwargs])


def _source() -> Any:
    """A `WeightSource` of vLLM's over the state dict that is being sent."""
    from vllm.distributed.weight_transfer.base import ParamMeta, WeightSource

    class StateSource(WeightSource):
        state: Mapping[str, torch.Tensor] = {}

        def metadata(self) -> list[Any]:
            return [ParamMeta(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in self.state.items()]

        def __iter__(self) -> Any:
            return iter(self.state.items())

    return StateSource()
