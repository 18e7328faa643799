"""Weights from a learner's GPU straight into vLLM's workers, by vLLM's own transfer engines (NCCL or CUDA IPC).

The alternative to `llmenv.weights.format`, which goes through the memory of the host and works everywhere. Written to
the interface of vLLM 0.32 and tested through it on a CPU, with a transport that hands tensors over by value: neither
NCCL nor CUDA IPC has been run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

if TYPE_CHECKING:
    from vllm.distributed.weight_transfer.base import TrainerInitInfo

BACKENDS = ("nccl", "ipc")

# Calls a method on every runner, with keyword arguments of its own for each, and waits for all of them.
CallRunners = Callable[[str, Sequence[dict[str, Any]]], None]


class Meta(NamedTuple):
    """What a tensor that is sent will be."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


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

    def send(
        self, metadata: Sequence[Meta], tensors: Iterable[tuple[str, torch.Tensor]], version: int
    ) -> None:
        """Brings weights to every runner, in the order in which they come.

        Args:
            metadata: Of the tensors, under their Hugging Face names and without duplicates.
            tensors: Whole ones. vLLM puts them together in a buffer, and keeps none for longer.
            version: Of the weights.
        """
        self._client.version = version
        self._source.announced, self._source.tensors = metadata, tensors
        self._engine.send_weights()
        self._source.tensors = ()

    def close(self) -> None:
        self._engine.shutdown()


def init_info_of(
    backend: str, num_runners: int, workers_per_runner: int, *, buffer_bytes: int
) -> TrainerInitInfo:
    """What vLLM's backend wants to know of this process, which is the only sender.

    Args:
        backend: One of `BACKENDS`.
        num_runners: That it sends to.
        workers_per_runner: GPUs of each.
        buffer_bytes: Of the buffer that tensors are put into; at least the largest tensor.
    """
    if backend == "ipc":
        from vllm.distributed.weight_transfer.ipc_engine import IPCTrainerInitInfo

        # Without a buffer it would keep all tensors until they have been taken over: a second model, where they are
        # gathered or merged.
        return IPCTrainerInitInfo(rank=0, packed=True, packed_buffer_size_bytes=buffer_bytes)
    from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo
    from vllm.utils.network_utils import get_ip, get_open_port

    world_size = 1 + num_runners * workers_per_runner
    return NCCLTrainerInitInfo(
        get_ip(), get_open_port(), world_size, rank=0, packed_buffer_size_bytes=buffer_bytes
    )


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
    """A `WeightSource` of vLLM's over what is being sent."""
    from vllm.distributed.weight_transfer.base import ParamMeta, WeightSource

    class StreamSource(WeightSource):
        announced: Sequence[Meta] = ()
        tensors: Iterable[tuple[str, torch.Tensor]] = ()

        def metadata(self) -> list[Any]:
            return [ParamMeta(*meta) for meta in self.announced]

        def __iter__(self) -> Any:
            return iter(self.tensors)

    return StreamSource()
