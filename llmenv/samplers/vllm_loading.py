"""New weights in a vLLM worker's model: what vLLM's own reload leaves undone, and whether all of them arrived.

Each function is called within a worker, with the worker. Knows nothing about sampling or about who sends the weights.
Written to vLLM 0.32, and run on a CPU alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from llmenv.weights import format as weights


class IncompleteError(ValueError):
    """A weight sync left some of an engine's weights as they were."""


def watch(worker: Any) -> None:
    """Once, before the first sync: has the model note what it takes of each, which its loader alone knows."""
    model = _model(worker)
    load_weights = model.load_weights

    def load_and_note(tensors: Iterable[tuple[str, torch.Tensor]], *args: Any, **kwargs: Any) -> Any:
        names = load_weights(tensors, *args, **kwargs)
        model.llmenv_taken |= set(names or ())
        model.llmenv_left = _left(model) if names is not None else []
        return names

    model.load_weights = load_and_note


def borrows(worker: Any) -> bool:
    """Whether a worker's model is made of a class of transformers', since vLLM has none of its own for it."""
    return any("models.transformers" in kind.__module__ for kind in type(_model(worker)).__mro__)


def begin(worker: Any) -> None:
    """Before the weights of one sync arrive.

    On a CPU experts compute with a repacked copy of their weights, which vLLM makes where it makes their kernel, and a
    reload keeps that: without the old kernel there will be a new one.
    """
    model = _model(worker)
    model.llmenv_taken, model.llmenv_left = set(), []
    for experts in _experts_on_cpu(model):
        experts.moe_kernel = None


def reload(worker: Any, packed: weights.Packed) -> None:
    """Writes weights, under the names of the model's files, into one worker's model, layer by layer."""
    begin(worker)
    worker.model_runner.reload_weights(weights_iterator=iter(weights.unpack(packed).items()))


def finish(worker: Any) -> None:
    """After all weights of a sync have been written into one worker's model.

    On a CPU a layer computes with a repacked copy of its weights. Where the output layer's are tied to the embedding's,
    vLLM renews the embedding's copy alone, and the output layer would go on with the old one.

    Raises:
        IncompleteError: If some have not.
    """
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead, UnquantizedEmbeddingMethod

    model = _model(worker)
    if model.llmenv_left:
        raise IncompleteError(
            f"vLLM's {type(model).__name__} takes no new weights for {', '.join(model.llmenv_left[:3])} "
            f"({len(model.llmenv_left)} in all), and would sample with the old ones: take --sampler transformers"
        )
    for layer in model.modules():
        if isinstance(layer, ParallelLMHead) and isinstance(layer.quant_method, UnquantizedEmbeddingMethod):
            layer.quant_method.process_weights_after_loading(layer)


def forget(worker: Any) -> None:
    """Before one worker's model is given up.

    vLLM keeps a note on each layer in a dictionary with weak keys, and after a reload the notes themselves refer to the
    layers.
    """
    from vllm.model_executor.model_loader.reload.layerwise import LAYERWISE_INFO

    model = _model(worker)
    del model.load_weights  # it refers to the model
    for layer in model.modules():
        LAYERWISE_INFO.pop(layer, None)


def _model(worker: Any) -> Any:
    return worker.model_runner.get_model()


def _left(model: Any) -> list[str]:
    """The parameters that a sync under way has brought nothing for, by vLLM's names.

    A layer that waits for weights has placeholders in their places, without memory; what is copied into these is lost.
    What came by the layer's own loader is noted until the layer is whole.
    """
    from vllm.model_executor.model_loader.reload.layerwise import LAYERWISE_INFO

    waiting: dict[str, torch.Tensor] = {}
    written: set[int] = set()
    for prefix, layer in model.named_modules():
        info = LAYERWISE_INFO.get(layer)
        arrived = {name for name, _ in info.loaded_weights} if info is not None else set()
        for name, parameter in layer.named_parameters(recurse=False):
            full_name = f"{prefix}.{name}".lstrip(".")
            if parameter.is_meta:
                is_written, parameter = name in arrived, info.kernel_tensors[0][name]
            else:
                is_written = full_name in model.llmenv_taken
            if is_written:
                written.add(id(parameter))
            else:
                waiting[full_name] = parameter
    # One that is tied to another is written with it.
    return [name for name, parameter in waiting.items() if id(parameter) not in written]


def _experts_on_cpu(model: Any) -> list[Any]:
    """What computes the experts of each layer that has some, where they are in the host's memory."""
    from vllm.model_executor.layers.fused_moe.unquantized_fused_moe_method import UnquantizedFusedMoEMethod

    return [
        layer.quant_method
        for layer in model.modules()
        if isinstance(getattr(layer, "quant_method", None), UnquantizedFusedMoEMethod)
        and layer.w13_weight.device.type == "cpu"
    ]
