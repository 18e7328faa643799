"""Low-rank adapters, Hu et al. (2106.09685): y = W x + (alpha / rank) B A x, with W frozen, by peft.

peft's layers are put into the Hugging Face model in place, so that it stays a model of its own class and a policy
reads it as any other. What leaves it, for a sampler or a folder, is merged weights under the model's plain names.
Knows nothing about losses, engines or RLlib.
"""

from __future__ import annotations

import contextlib
import json
import logging
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

logger = logging.getLogger(__name__)

ALL_LINEAR = "all-linear"
# Where peft keeps a layer `q_proj` that it adapts: the weight, and the two matrices [rank, in] and [out, rank].
_WEIGHT, _A, _B = "base_layer.weight", "lora_A.default.weight", "lora_B.default.weight"
# How peft's files name what it keeps there.
_PREFIX, _ADAPTERS = "base_model.model.", "adapter_model.safetensors"


def add_adapters(
    model: PreTrainedModel, *, rank: int, alpha: int, targets: str | Sequence[str], seed: int
) -> None:
    """Freezes a model and gives its linear layers adapters, which change nothing yet: B is 0.

    Adapters are float32 whatever the model's dtype: 16 bits would round an optimizer's small steps away. They drop
    nothing out: the sampler and the learner must be one policy.

    Args:
        model: Changed in place.
        rank: Rows of A, columns of B.
        alpha: The product of B and A counts `alpha / rank`.
        targets: "all-linear": every linear layer but the output layer, which may be tied to the embeddings. Experts
            that a model holds in one tensor are none, nor are some routers: what is left out is told. Or last parts of
            layers' names, such as ["q_proj", "v_proj"].
        seed: A is drawn with it: the same on every learner.

    Raises:
        ValueError: If a target is the name of no such layer, or of one that peft does not adapt.
    """
    from peft import LoraConfig, inject_adapter_in_model
    from peft.functional import cast_adapter_dtype

    config = LoraConfig(
        r=rank, lora_alpha=alpha, lora_dropout=0.0, target_modules=_target_layers(model, targets)
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            inject_adapter_in_model(config, model)
        except (
            ValueError
        ) as error:  # some layers are used without being called, and adapters would do nothing
            raise ValueError(
                f"LoRA does not adapt these layers of {type(model).__name__} ({error}): give lora_targets without "
                "them, or leave lora_rank out"
            ) from error
    cast_adapter_dtype(model, adapter_name="default")


def _target_layers(model: PreTrainedModel, targets: str | Sequence[str]) -> list[str]:
    """Full names of the layers to adapt."""
    output = model.get_output_embeddings()
    linear = [name for name, module in model.named_modules() if _is_linear(module) and module is not output]
    known = sorted({name.rpartition(".")[2] for name in linear})
    if not linear:
        raise ValueError(
            f"{type(model).__name__} has no linear layer that LoRA could adapt: leave lora_rank out"
        )
    if targets == ALL_LINEAR:
        if left := _matrices_outside_layers(model):
            logger.warning(
                '"%s" leaves out %s of %s, which are no linear layers of their own, and stay as they are: train all '
                "weights (without lora_rank) where they are to learn",
                ALL_LINEAR,
                ", ".join(left),
                type(model).__name__,
            )
        return linear
    chosen = {target: [name for name in linear if f".{name}".endswith(f".{target}")] for target in targets}
    if unknown := [target for target, names in chosen.items() if not names]:
        raise ValueError(
            f"lora_targets {unknown} are no layers of {type(model).__name__} that LoRA adapts: "
            f'give "{ALL_LINEAR}", or some of {", ".join(known)}'
        )
    return sorted({name for names in chosen.values() for name in names})


def _is_linear(module: nn.Module) -> bool:
    """Whether it computes as a linear layer does: routers of experts that are a kind of one may give more than that."""
    return isinstance(module, nn.Linear) and type(module).forward is nn.Linear.forward


def _matrices_outside_layers(model: PreTrainedModel) -> list[str]:
    """Last two parts of the names of parameters that multiply, and belong to no linear layer and no embedding."""
    return sorted(
        {
            ".".join(f"{name}.{parameter}".split(".")[-2:])
            for name, module in model.named_modules()
            if not (_is_linear(module) or isinstance(module, nn.Embedding))
            for parameter, tensor in module.named_parameters(recurse=False)
            if len(getattr(tensor, "ds_shape", tensor.shape)) >= 2 and "bias" not in parameter
        }
    )


def merge(state: Mapping[str, torch.Tensor], scale: float) -> dict[str, torch.Tensor]:
    """An adapted model's state dict as one of the plain model: W + scale B A in the place of W, B and A.

    The sums are new tensors, in the dtype of W and on the CPU, so that a device holds one of them at a time. What is
    not adapted is passed on as it is, and what is tied stays tied. Nothing in `state` changes.

    Args:
        state: Whole tensors: of `state_dict()`, or gathered from shards.
        scale: `alpha / rank`.
    """
    return {
        name: merged(tensors, scale, name).cpu() if len(tensors) > 1 else tensors[0]
        for name, tensors in parts(state).items()
    }


def parts(state: Mapping[str, torch.Tensor]) -> dict[str, list[torch.Tensor]]:
    """By the plain model's names, what of an adapted model's state dict each tensor comes from: W, B and A, or itself.

    The state dict of a plain model has but tensors of the second kind.
    """
    found = {}
    for name, tensor in state.items():
        layer, is_weight, _ = name.partition(_WEIGHT)
        if is_weight:
            found[f"{layer}weight"] = [tensor, state[layer + _B], state[layer + _A]]
        elif not name.endswith((_A, _B)):
            found[name.replace("base_layer.", "")] = [tensor]
    return found


def merged(tensors: Sequence[torch.Tensor], scale: float, name: str) -> torch.Tensor:
    """W + scale B A from W, B and A, in the dtype of W; what is not adapted as it is.

    Args:
        tensors: W, B and A, or W alone.
        scale: `alpha / rank`.
        name: Of W in the plain model, for `_rounded`.
    """
    weight, *adapter = tensors
    if not adapter:
        return weight
    b, a = adapter
    total = weight.float() + scale * (b.float() @ a.float())
    return _rounded(total, weight.dtype, name) if weight.dtype.itemsize == 2 else total.to(weight.dtype)


def _rounded(exact: torch.Tensor, dtype: torch.dtype, name: str) -> torch.Tensor:
    """Float32 numbers as ones of 16 bits, stochastically (Gupta et al., 1502.02551, section 3).

    W is such a number itself: whatever changes it by less than half a step would be rounded away, all of it, and a
    sampler would go on with the base model. Here each number becomes one of its two neighbours, with the probability
    of its nearness: the mean of what it becomes is the number.

    A weight's draw depends on its name and place alone. So all learners, and a resumed run, get the same bits of the
    same weights; and a weight moves only where its change does. It stays unbiased, over weights: the draws of
    different weights are independent of each other, and of their changes. (Another kind of device draws others.)

    Args:
        exact: Float32; overwritten.
        dtype: bfloat16 or float16.
        name: Of the tensor.
    """
    info = torch.finfo(dtype)
    # The power of two at or below each number, by the bits of its exponent. A step is so many times smaller.
    powers = (exact.view(torch.int32) & 0x7F800000).view(torch.float32)
    steps = powers.mul_(info.eps).clamp_(min=info.smallest_normal * info.eps)
    below = exact.div_(steps).floor()
    fraction = exact.sub_(below)
    generator = torch.Generator(exact.device).manual_seed(zlib.crc32(name.encode()))
    draws = torch.rand(exact.shape, generator=generator, device=exact.device)
    return below.add_(draws < fraction).mul_(steps).to(dtype)


def write_adapters(
    folder: Path, state: Mapping[str, torch.Tensor], base_model: str, *, rank: int, alpha: int
) -> None:
    """Writes adapters as peft's `save_pretrained` does, for `PeftModel.from_pretrained` and `merge_adapters`.

    Args:
        folder: Made if needed.
        state: An adapted model's state dict, or the adapters' part of it.
        base_model: The name of the model that they adapt.
        rank: Theirs.
        alpha: Theirs.
    """
    from peft import LoraConfig
    from safetensors.torch import save_file

    adapters = {name: tensor for name, tensor in state.items() if name.endswith((_A, _B))}
    layers = sorted(name.removesuffix(f".{_A}") for name in adapters if name.endswith(_A))
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=0.0,
        target_modules=layers,
        task_type="CAUSAL_LM",
        base_model_name_or_path=base_model,
        inference_mode=True,
    )
    config.save_pretrained(folder)
    tensors = {_PREFIX + name.replace(".default.", "."): t.contiguous() for name, t in adapters.items()}
    save_file(tensors, folder / _ADAPTERS, metadata={"format": "pt"})


def merge_adapters(model: PreTrainedModel, folder: Path) -> None:
    """Adds to a base model's weights, in place, what `write_adapters` wrote of it."""
    from safetensors.torch import load_file

    config = json.loads((folder / "adapter_config.json").read_text())
    adapters, scale = load_file(folder / _ADAPTERS), config["lora_alpha"] / config["r"]
    with torch.no_grad():
        for layer in config["target_modules"]:
            weight = model.get_submodule(layer).weight
            b, a = (adapters[f"{_PREFIX}{layer}.{part.replace('.default.', '.')}"] for part in (_B, _A))
            weight.copy_(merged([weight, b, a], scale, f"{layer}.weight"))


@contextlib.contextmanager
def switched_off(model: nn.Module) -> Iterator[None]:
    """Within it, an adapted model computes what it did before it had adapters; any other model what it always does."""
    layers: list[Any] = [module for module in model.modules() if hasattr(module, "lora_A")]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)
