"""The DeepSpeed engine: ZeRO partitions optimizer state, gradients and parameters over the learners.

Knows nothing about losses, RLlib or what the module computes. DeepSpeed itself is imported in a learner alone.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import math
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from llmenv.engines.engine import load_trained, own_settings, trained_state, untied_state

Config = dict[str, Any]

# What llmenv sets itself, and by which of its settings.
OWN_KEYS = {
    "train_batch_size": "training.minibatch_size",
    "train_micro_batch_size_per_gpu": "training.micro_batch_tokens",
    "gradient_accumulation_steps": "training.micro_batch_tokens",
    "gradient_clipping": "training.grad_clip",
    "optimizer": "training.lr, adam_betas, adam_epsilon and weight_decay",
    "scheduler": "training.lr and lr_warmup_iterations",
    "fp16.enabled": "policy.dtype",
    "bf16.enabled": "policy.dtype",
    "bfloat16.enabled": "policy.dtype",
    "data_types.grad_accum_dtype": "policy.dtype",
    "zero_optimization.stage": "deepspeed.zero_stage",
    "zero_optimization.offload_optimizer.device": "deepspeed.offload_optimizer",
    "zero_optimization.offload_param.device": "deepspeed.offload_parameters",
}


def build_config(
    *,
    zero_stage: int,
    offload_optimizer: bool,
    offload_parameters: bool,
    dtype: str,
    grad_clip: float | None,
    extra: Config,
) -> Config:
    """What `deepspeed.initialize` is given.

    Args:
        zero_stage: What is partitioned: 0 nothing, 1 optimizer state, 2 gradients too, 3 parameters too.
        offload_optimizer: Optimizer state in CPU memory.
        offload_parameters: Partitions of the parameters in CPU memory.
        dtype: "float32", "bfloat16" or "float16", the last with loss scaling. In 16 bits the masters, which are
            stepped on, and the sums of gradients are float32.
        grad_clip: Largest norm of the gradient; None clips nothing.
        extra: DeepSpeed's own settings, merged in last. An "auto", as Hugging Face's trainer has it, sets nothing.

    Raises:
        ValueError: For settings that contradict each other.
    """
    _refuse_contradictions(zero_stage, offload_optimizer, offload_parameters, dtype)
    zero: Config = {"stage": zero_stage}
    offload = {"device": "cpu", "pin_memory": True}
    if offload_optimizer:
        zero["offload_optimizer"] = offload
    if offload_parameters:
        zero["offload_param"] = offload
    own: Config = {
        # The batch plan decides on both; DeepSpeed only wants to see a number.
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": grad_clip or 0.0,
        "fp16": {"enabled": dtype == "float16"},
        "bf16": {"enabled": dtype == "bfloat16"},
        # The learners' gradients, too, are added up in float32.
        "data_types": {"grad_accum_dtype": "fp32"},
        "communication_data_type": "fp32",
        "zero_optimization": zero,
        # PyTorch's AdamW: DeepSpeed's own would be compiled at its first use.
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }
    for key, setting in OWN_KEYS.items():
        value = _lookup(extra, key)
        if value not in (None, "auto", _lookup(own, key)):
            raise ValueError(
                f"the DeepSpeed settings say {key}={value!r}, which is llmenv's own: leave it out there, and set "
                f"{setting}"
            )
    return _merge(own, extra)


def _refuse_contradictions(
    zero_stage: int, offload_optimizer: bool, offload_parameters: bool, dtype: str
) -> None:
    if zero_stage not in (0, 1, 2, 3):
        raise ValueError(f"zero_stage must be 0, 1, 2, 3 or None, got {zero_stage!r}")
    if zero_stage == 0 and dtype != "float32":
        raise ValueError(
            f"zero_stage=0 in {dtype} would add gradients up in 16 bits: set zero_stage=1, or None for PyTorch's "
            "engine, which partitions nothing either, and adds them up in float32"
        )
    if offload_optimizer and zero_stage == 0:
        raise ValueError("offload_optimizer needs zero_stage 1, 2 or 3: stage 0 partitions nothing")
    if offload_parameters and zero_stage != 3:
        raise ValueError(f"offload_parameters needs zero_stage=3, got {zero_stage}: only 3 partitions them")


def read_config(path: str | Path) -> Config:
    """DeepSpeed's settings in a JSON file.

    Raises:
        ValueError: If there is no such file, or it holds no JSON object.
    """
    try:
        config = json.loads(Path(path).read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise ValueError(f"cannot read DeepSpeed settings from {str(path)!r}: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path} must hold a JSON object of DeepSpeed settings, and holds {config!r}")
    return config


def check_installed() -> None:
    """Raises ValueError where DeepSpeed cannot be imported."""
    for package in ("deepspeed", "accelerate"):
        if importlib.util.find_spec(package) is None:
            raise ValueError(f"zero_stage needs {package}: pip install 'llmenv[deepspeed]', or leave it out")


@contextlib.contextmanager
def deepspeed_world(config: Config, device: torch.device) -> Iterator[None]:
    """Joins DeepSpeed to the learners' process group; models that are loaded within come out as stage 3 wants them.

    A learner without others forms a group of its own, without a port.
    """
    os.environ.setdefault("LOCAL_RANK", "0")  # a learner sees its own GPU alone
    if device.type == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import deepspeed

    deepspeed.utils.logger.setLevel("ERROR")
    # DeepSpeed calls PyTorch's collectives by names that PyTorch warns of, at every call.
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed.c10d_logger")
    if device.type == "cpu":
        # It would be compiled now, for more than a minute.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    if not dist.is_initialized():
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
        # DeepSpeed goes on with the groups of a world that another has destroyed, as vLLM does where it shuts down.
        deepspeed.utils.groups._release_process_group_references()
    deepspeed.init_distributed(dist_backend=dist.get_backend(), verbose=False)
    if config["zero_optimization"]["stage"] < 3:
        yield
        return
    from transformers.integrations import HfDeepSpeedConfig, unset_hf_deepspeed_config

    partitioned = HfDeepSpeedConfig(config)  # transformers holds a weak reference to it
    try:
        yield
    finally:
        # Or every model that this process loads later would be partitioned too.
        unset_hf_deepspeed_config()
        del partitioned


def restore_buffers(model: nn.Module) -> None:
    """Gives a model that came out partitioned its buffers in the precision that they were made for.

    While it is made DeepSpeed casts every tensor to the dtype of the weights. Frequencies of rotary embeddings in 16
    bits are other positions.
    """
    if not any(hasattr(parameter, "ds_id") for parameter in model.parameters()):
        return
    from accelerate import init_empty_weights

    with init_empty_weights(include_buffers=False):
        whole = type(model)(model.config)
    saved = model.state_dict().keys()  # those that came from the model's files
    for name, buffer in whole.named_buffers():
        if name not in saved:
            owner, _, last = name.rpartition(".")
            module = model.get_submodule(owner)
            setattr(module, last, buffer.to(getattr(module, last).device))


class DeepSpeedEngine:
    """An `Engine` (see there) on DeepSpeed. All of its methods are collective.

    Args:
        module: The policy.
        optimizer: PyTorch's, over the module's parameters; its learning rate stays settable there.
        config: See `build_config`.
    """

    TAG = "engine"
    sharded = True

    def __init__(self, module: nn.Module, optimizer: torch.optim.Optimizer, config: Config):
        import deepspeed

        self.module = module
        self.optimizer = optimizer
        with contextlib.redirect_stdout(None):  # some stages print what memory there is
            self._deepspeed, *_ = deepspeed.initialize(
                model=module, optimizer=optimizer, config=config, dist_init_required=False
            )
        # Its own leaves a frozen parameter out under one name, and a tied one has several.
        self._deepspeed.module_state_dict = lambda **kwargs: {
            name: tensor.detach() for name, tensor in trained_state(module).items()
        }

    def forward(self, batch: Any, **asked: Any) -> Any:
        return self._deepspeed(batch, **asked)

    def backward(self, loss: torch.Tensor, *, last: bool) -> None:
        self._deepspeed.set_gradient_accumulation_boundary(last)
        # DeepSpeed takes the mean over the learners.
        self._deepspeed.backward(loss * dist.get_world_size())

    def step(self) -> float:
        if self._deepspeed.zero_optimization_stage() > 0:
            self._deepspeed.step()
            return float(self._deepspeed.get_global_grad_norm())
        # At stage 0 the norm is known to nobody, and a step would be taken whatever it is.
        norm = float(
            nn.utils.get_total_norm([p.grad for p in self.module.parameters() if p.grad is not None])
        )
        if math.isfinite(norm):
            self._deepspeed.step()
        else:
            self._deepspeed.zero_grad()
        return norm

    def gather(self, part: nn.Module, *, trained: bool = False) -> dict[str, torch.Tensor] | None:
        state: dict[str, torch.Tensor] = {}
        for name, tensor in untied_state(part, trained=trained).items():
            # One at a time: the others drop it again before the next.
            with self.whole([tensor]):
                if dist.get_rank() == 0:
                    state[name] = tensor.detach().to("cpu", copy=True)
        return state if dist.get_rank() == 0 else None

    def whole(self, tensors: Sequence[torch.Tensor]) -> contextlib.AbstractContextManager[None]:
        import deepspeed

        return deepspeed.zero.GatheredParameters([tensor for tensor in tensors if hasattr(tensor, "ds_id")])

    def save(self, folder: Path) -> None:
        """Each learner writes its partition."""
        folder.mkdir(parents=True, exist_ok=True)  # the first learner would make it, on its own node
        self._deepspeed.save_checkpoint(str(folder), tag=self.TAG, exclude_frozen_parameters=True)

    def load(self, folder: Path) -> None:
        def load_module(src: dict[str, torch.Tensor], dst: nn.Module) -> None:
            load_trained(dst, src)

        with own_settings(self.optimizer):
            path, _ = self._deepspeed.load_checkpoint(str(folder), tag=self.TAG, custom_load_fn=load_module)
        if path is None:
            raise ValueError(
                f"{folder} holds no state of a DeepSpeed engine: restore it with zero_stage=None"
            )
        wrapper = self._deepspeed.optimizer
        if hasattr(wrapper, "clip_grad"):  # some stages take the checkpoint's
            wrapper.clip_grad = self._deepspeed.gradient_clipping()


def _lookup(config: Config, dotted: str) -> Any:
    """`config["a"]["b"]` for "a.b"; None where there is none."""
    value: Any = config
    for key in dotted.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _merge(ours: Config, theirs: Config) -> Config:
    merged = dict(ours)
    for key, value in theirs.items():
        if isinstance(value, dict):
            merged[key] = _merge(merged.get(key, {}), value)
        elif value != "auto":
            merged[key] = value
    return merged
