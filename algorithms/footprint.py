"""How much memory a run will take, by arithmetic: bytes of a learner, of a sampler and of the host, phase by phase.

docs/memory.md has the formulas in one place, and what is assumed. Knows settings and sizes of models; no devices, and
nothing about what to do where something does not fit. What a GPU really takes has not been measured.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from llmenv.models.shape import BYTES, ModelShape, shape_of
from llmenv.policy.head import CHUNK_POSITIONS
from llmenv.samplers.gpu_memory import CONTEXT, share_left
from llmenv.samplers.transformers import PREFILL_TOKENS

if TYPE_CHECKING:
    from algorithms.config import LLMConfig

# An iteration in order; only `starting` is once. What is held in all of them counts in all of them.
PHASES = ("starting", "sampling", "comparing", "learning", "stepping", "syncing")
LEARN = ("learning", "stepping")

GB = 10**9
# Assumed, not measured: what vLLM's graphs take of a GPU, and what a process takes of the host beside tensors, on a CPU
# and with CUDA.
GRAPHS = 1 * GB
PROCESS, CUDA_PROCESS = 1 * GB, 3 * GB
ASSUMED_PROMPT = 512  # tokens, where max_prompt_tokens sets no limit
# DeepSpeed's own defaults (0.19.8, runtime/zero/config.py), in elements.
REDUCE_BUCKET, LIVE_PARAMETERS, SUB_GROUP = 500_000_000, 1_000_000_000, 1_000_000_000
# vLLM's own defaults (0.32.0, config/cache.py, engine/arg_utils.py); the second on GPUs of less than 70 GiB, of more.
UTILIZATION, BATCHED_TOKENS = 0.92, (8192, 16384)
VLLM_CPU_CACHE = 2 * 2**30  # llmenv.samplers.vllm.CPU_SETTINGS


class Item(NamedTuple):
    """Something in memory.

    Attributes:
        what: In words.
        bytes: How much of it.
        phases: When.
    """

    what: str
    bytes: int
    phases: tuple[str, ...] = PHASES


class Actor(NamedTuple):
    """What a process holds on its device, and beside it in the memory of the host."""

    device: list[Item]
    host: list[Item]


def at(items: Sequence[Item], phase: str) -> int:
    """Bytes of a phase."""
    return sum(item.bytes for item in items if phase in item.phases)


def peak(items: Sequence[Item]) -> tuple[int, str]:
    """The most bytes of any phase, and the first that has them."""
    phase = max(PHASES, key=lambda phase: at(items, phase))
    return at(items, phase), phase


def micro_batch(config: LLMConfig) -> int:
    """The most tokens of a forward pass: the budget, a longest sequence, or a learner's whole share of a step."""
    longest = config.max_sequence_tokens
    if longest is None:
        return config.micro_batch_tokens
    share = math.ceil(_step_samples(config) / max(1, config.num_learners))
    return min(max(config.micro_batch_tokens, longest), share * longest)


def _step_samples(config: LLMConfig) -> int:
    return config.minibatch_size or config.samples_per_iteration


def learner(config: LLMConfig, *, first: bool = True) -> Actor:
    """One of the learners; the first one sends the weights."""
    on_gpu = bool(config.num_gpus_per_learner)
    shape = shape_of(config.base_model, config.lora)
    held, away = _engine(config, shape, shape.base, shape.adapters, "policy")
    if config.critic == "separate":
        critic = _engine(config, shape, shape.trunk, 0, "critic")
        held, away = held + critic[0], away + critic[1]
    device = [*held, _head_gradient(config, shape), *_passes(config, shape)]
    host = list(away)
    if config.kl_coeff and (config.reference_model is not None or not config.lora):
        reference = shape_of(config.reference_model or config.base_model).weights * BYTES[config.dtype]
        if on_gpu:
            device.append(Item("reference", reference, ("comparing",)))
        host.append(Item("reference", reference))
    if getattr(config, "divergence", None) == "vocabulary":
        logits, states, output = _teaching(config, shape_of(config.reference_model or config.base_model))
        device += [logits, output] if on_gpu else [logits]
        host.append(states)
    weights = shape.base * BYTES[config.dtype]
    copied = on_gpu or config.zero_stage is not None or config.lora is not None
    if first and config.weight_transfer is None and copied:
        host.append(Item("weights to be sent", weights, ("syncing",)))
    if first and config.weight_transfer is None and config.num_env_runners:
        host.append(Item("weights in Ray's object store", weights, ("sampling", "syncing")))
    if on_gpu:
        device.append(Item("CUDA", CONTEXT))
        host.append(Item("weights being loaded", weights, ("starting",)))
    return Actor(device, host)


def held_beside_a_sampler(config: LLMConfig) -> int:
    """Bytes that a learner has of its GPU while samples are drawn and weights are sent, without CUDA's own."""
    held = [item for item in learner(config).device if item.what != "CUDA"]
    return max(at(held, phase) for phase in ("sampling", "syncing"))


def _engine(
    config: LLMConfig, shape: ModelShape, base: int, adapters: int, name: str
) -> tuple[list[Item], list[Item]]:
    """What an engine holds of a model, on its device and, offloaded, on the host.

    Of T weights that are trained, in 16 bits: weights 2 T, masters 4 T, gradients 4 T, Adam 8 T, and what is on its way
    into the gradients; in float32 no masters. ZeRO (Rajbhandari et al., 1910.02054, section 5) parts by the number of
    learners n: from stage 1 masters and Adam, from 2 gradients, at 3 weights too. As DeepSpeed 0.19.8 has it: stages 1
    and 2 keep masters in float32 too; at stage 1 gradients are whole, and in 16 bits are so twice within a backward
    pass; from stage 2 on they go through a bucket of its size; at stage 3 up to LIVE_PARAMETERS are whole while they
    are used.

    Args:
        config: The run's.
        shape: Of the whole model.
        base: Weights without adapters.
        adapters: Those of adapters; where there are some, nothing else is trained.
        name: Whose they are.
    """
    stage, n, element = config.zero_stage, max(1, config.num_learners), BYTES[config.dtype]
    trained = adapters or base
    # Adapters are float32, but in DeepSpeed, which casts the whole module.
    own = 4 if adapters and stage is None else element
    parted = n if stage else 1
    whole = base * element + (adapters * own if adapters else 0)
    masters = 4 * trained // parted if own == 2 or stage in (1, 2) else 0
    moments = 8 * trained // parted
    gradients = 4 * trained // (n if stage in (2, 3) else 1)
    stepped = min(4 * trained // parted, 4 * SUB_GROUP) if stage == 3 else 4 * trained // parted
    state = [Item(f"{name}: masters", masters), Item(f"{name}: Adam", moments)]
    accumulated = Item(f"{name}: gradients", gradients, LEARN)
    items = [
        Item(f"{name}: weights", whole // (n if stage == 3 else 1)),
        Item(f"{name}: gradients in flight", _in_flight(config, shape, trained, own), ("learning",)),
    ]
    if stage == 3:
        live = min(whole, LIVE_PARAMETERS * element)
        items.append(Item(f"{name}: weights gathered", live, ("comparing", "learning", "syncing")))
    away: list[Item] = []
    if config.offload_parameters:
        away.append(items.pop(0))
    if config.offload_optimizer:
        staged = Item(f"{name}: weights on their way back", own * trained // parted)
        away += [*state, Item(f"{name}: gradients", 4 * trained // parted), staged]
        items += [] if stage in (2, 3) else [accumulated]
        return items, away
    temporary = (
        stepped if config.num_gpus_per_learner else _cpu_step(shape, stepped, n if stage is None else 1)
    )
    items += [*state, accumulated, Item(f"{name}: Adam's step", temporary, ("stepping",))]
    return items, away


def _in_flight(config: LLMConfig, shape: ModelShape, trained: int, element: int) -> int:
    """Gradients on their way into what they are added up in.

    Of PyTorch's engine the largest tensor's, which is the output layer's: hooks take each tensor's away as soon as it
    is there. DeepSpeed's are those of a whole pass, or those of a bucket, which has its full size from its start.
    """
    if config.zero_stage is None:
        return 0 if shape.adapters else min(shape.output, trained) * element
    if not _has_bucket(config.zero_stage, element):
        return trained * element
    settings = config.deepspeed_config or {}
    return int(settings["zero_optimization"].get("reduce_bucket_size", REDUCE_BUCKET)) * element


def _has_bucket(stage: int | None, element: int) -> bool:
    """Whether DeepSpeed takes gradients away by a bucket, and not all of a pass at once."""
    return stage in (2, 3) or (stage == 1 and element == 4)


def _head_gradient(config: LLMConfig, shape: ModelShape) -> Item:
    """What the output layer's gradient takes beside the gradients in flight, while all activations are still there.

    In 16 bits the head adds it up in float32 first (`llmenv.policy.head.gradients`). Where there is a bucket, it is a
    tensor of its own before it gets there. With adapters the output layer is frozen.
    """
    element = BYTES[config.dtype]
    own = element if _has_bucket(config.zero_stage, element) else 0
    wide = 4 if element == 2 else 0
    return Item(
        "output layer's gradient", 0 if shape.adapters else shape.output * (own + wide), ("learning",)
    )


def _cpu_step(shape: ModelShape, stepped: int, learners: int) -> int:
    """PyTorch's AdamW goes tensor by tensor on a CPU, and over all at once on a GPU; learners sum gradients in one."""
    return stepped if learners > 1 else min(4 * shape.output, stepped)


def _passes(config: LLMConfig, shape: ModelShape) -> list[Item]:
    """Activations of a micro-batch of N tokens, and what its passes take for a while.

    Autograd keeps of each layer `ModelShape.layer_bytes` a token, with checkpoints d, and those of one layer; of the
    last norm three states. On top of it is, whichever is larger, the head's chunk of logits (one in the backward pass,
    two in the forward pass, in 16 bits in both widths) with two hidden states a token, or a layer's backward pass, with
    two states of its feed-forward layer and two others a token.
    """
    n, element = micro_batch(config), BYTES[config.dtype]
    d, f = shape.hidden, shape.inner
    layer = shape.layer_bytes(element)
    kept = shape.layers * d * element + layer if config.gradient_checkpointing else shape.layers * layer
    kept += 12 * d if element == 4 else 8 * d
    chunk = min(n, CHUNK_POSITIONS) * shape.vocabulary
    narrow = 0 if element == 4 else 2 * chunk
    forward = 8 * chunk + narrow
    backward = (8 if config.entropy_coeff else 4) * chunk + 2 * narrow
    states = 2 * n * d * element
    working = max(forward, backward + states, 2 * n * f * element + states)
    looking = max(forward + states, n * element * (3 * f + 4 * d))
    return [
        Item("activations", n * kept, ("learning",)),
        Item("a backward pass", working, ("learning",)),
        Item("a pass without gradient", looking, ("comparing",)),
    ]


def _teaching(config: LLMConfig, teacher: ModelShape) -> tuple[Item, Item, Item]:
    """What a comparison with a teacher's whole distributions takes beside a pass, and beside the teacher.

    Four more chunks of logits: the teacher's, and logarithms of both distributions and of their ratio. The teacher's
    states of all responses. A copy of its output layer.
    """
    element = BYTES[config.dtype]
    chunk = min(micro_batch(config), CHUNK_POSITIONS) * teacher.vocabulary
    responses = config.samples_per_iteration * config.max_new_tokens // max(1, config.num_learners)
    return (
        Item("teacher: chunks of logits", 16 * chunk, ("learning",)),
        Item("teacher: states", responses * teacher.hidden * element, ("comparing", *LEARN)),
        Item("teacher: output layer", teacher.output * element, LEARN),
    )


def longest_sequence(config: LLMConfig) -> int:
    """Tokens of a prompt and its response, of training."""
    return config.max_sequence_tokens or ASSUMED_PROMPT + config.max_new_tokens


def rows(config: LLMConfig) -> int:
    """Sequences that a runner decodes at the same time."""
    most = max(config.samples_per_iteration, config.evaluation_duration)
    return min(config.max_rows_per_sampler, math.ceil(most / max(1, config.num_env_runners)))


def sampler(config: LLMConfig, memory: int | None) -> Actor:
    """One runner's sampler; with tensor parallelism, on one of its GPUs.

    Args:
        config: The run's.
        memory: Bytes of its GPU; None on a CPU.
    """
    shape, element = shape_of(config.base_model), BYTES[config.dtype]
    if config.sampler == "vllm":
        return Actor(_vllm(config, shape, element, memory), [])
    longest, number = longest_sequence(config), rows(config)
    prompt = longest - config.max_new_tokens
    # From the second turn on each row has a prompt of its own. In a pass: three states of the feed-forward layer and
    # four others a token.
    prefill = (
        min(number * prompt, max(PREFILL_TOKENS, prompt)) * element * (3 * shape.inner + 4 * shape.hidden)
    )
    # logits, log-probabilities, and the cumulative distribution in float64, twice
    drawing = number * shape.vocabulary * 24
    held = [
        Item("sampler: weights", shape.weights * element),
        Item("sampler: prompts or logits", max(prefill, drawing), ("sampling",)),
        Item("sampler: cache", number * longest * shape.cache_bytes(element), ("sampling",)),
    ]
    if memory is None:
        return Actor(held, [])
    # PyTorch keeps a GPU's memory for itself once it has it.
    return Actor([*(item._replace(phases=PHASES) for item in held), Item("CUDA", CONTEXT)], [])


def _vllm(config: LLMConfig, shape: ModelShape, element: int, memory: int | None) -> list[Item]:
    """Of the GPU vLLM takes a share, and what weights and passes leave of it is its cache.

    Its working memory is that of the tokens that it computes at once, three states of the feed-forward layer and four
    others a token, and of three rows of float32 logits a sequence.
    """
    settings = config.engine_arguments
    parts = settings.get("tensor_parallel_size", 1)
    awake = ("sampling", "syncing") if config.sampler_sleeps else PHASES
    weights = shape.weights * element // parts
    if memory is None:
        cache = settings.get("kv_cache_memory_bytes", VLLM_CPU_CACHE)
        return [Item("vLLM: weights", weights), Item("vLLM: cache", int(cache))]
    tokens = settings.get("max_num_batched_tokens", BATCHED_TOKENS[memory >= 70 * 2**30])
    states = tokens * element * (3 * shape.inner // parts + 4 * shape.hidden)
    logits = config.max_rows_per_sampler * shape.vocabulary * 4 * 3
    working = states + logits + (0 if settings.get("enforce_eager") else GRAPHS)
    own = share_left(held_beside_a_sampler(config), memory) if config.shares_gpu else UTILIZATION
    cache = int(memory * settings.get("gpu_memory_utilization", own)) - CONTEXT - weights - working
    cache = int(settings.get("kv_cache_memory_bytes", cache))
    return [
        Item("CUDA", CONTEXT),
        Item("vLLM: weights", weights, awake),
        Item("vLLM: working memory", working, awake),
        Item("vLLM: cache", cache, awake),
    ]


def sequences_in_cache(config: LLMConfig, cache: int) -> float:
    """How many of the longest sequences vLLM's cache of one GPU holds at the same time."""
    shape = shape_of(config.base_model)
    parts = min(config.sampler_kwargs.get("tensor_parallel_size", 1), shape.key_heads)
    return cache / (longest_sequence(config) * shape.cache_bytes(BYTES[config.dtype]) / parts)
