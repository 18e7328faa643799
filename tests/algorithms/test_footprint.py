"""How much memory a run will take: against arithmetic by hand, what autograd keeps, and what a process took."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config

from algorithms import make_config
from algorithms.config import LLMConfig
from algorithms.footprint import Item, at, learner, micro_batch, peak, rows, sampler, sequences_in_cache
from llmenv.models import lora
from llmenv.models.shape import shape_of
from llmenv.policy.attention import Span
from llmenv.policy.packed import PackedRow, run_packed
from llmenv.policy.policy import share_prompts
from qwen import SIZES, make_folders

# As published: Qwen2.5's technical report and the models' cards have 0.49, 1.54, 3.09 and 7.61 billion.
WEIGHTS = {"0.5B": 494_032_768, "1.5B": 1_543_714_304, "3B": 3_085_938_688, "7B": 7_615_616_512}
GB = 10**9


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    return make_folders(tmp_path_factory.mktemp("qwen"))


def settings(
    folders: Path, size: str, *, learners: int = 1, dtype: str = "bfloat16", **training
) -> LLMConfig:
    """vLLM and GPUs of their own; 8,192 tokens a forward pass, sequences of 1,536."""
    return (
        make_config("GRPO")
        .environment("envs:Countdown-v0")
        .policy(model=str(folders / f"Qwen2.5-{size}"), dtype=dtype)
        .sampling(sampler="vllm", max_prompt_tokens=1024, max_new_tokens=512)
        .training(micro_batch_tokens=8192, **training)
        .env_runners(num_env_runners=1, num_gpus_per_env_runner=1)
        .learners(num_learners=learners, num_gpus_per_learner=1)
    )


def named(items: list[Item]) -> dict[str, int]:
    return {item.what: item.bytes for item in items}


@pytest.mark.parametrize("size", SIZES)
def test_weights_are_counted_without_any(size: str, folders: Path) -> None:
    d, layers, heads, key_heads, f, vocabulary, tied = SIZES[size]
    k = d // heads * key_heads
    # Queries, keys and values with biases; outputs; gate, up, down; two norms. Embeddings; the last norm; the output.
    layer = d * (d + 1) + 2 * k * (d + 1) + d * d + 3 * d * f + 2 * d
    by_hand = vocabulary * d * (1 if tied else 2) + layers * layer + d
    shape = shape_of(str(folders / f"Qwen2.5-{size}"))
    assert shape.weights == by_hand == WEIGHTS[size]
    assert shape.trunk == by_hand - (0 if tied else vocabulary * d)
    assert shape.cache_bytes(2) == 2 * layers * k * 2
    adapted = shape_of(str(folders / f"Qwen2.5-{size}"), {"rank": 8, "targets": "all-linear"})
    # Of q and o [d, d], k and v [d, k], gate, up and down [d, f]: rank x (in + out) each.
    assert adapted.adapters == 8 * layers * (2 * 2 * d + 2 * (d + k) + 3 * (d + f))
    assert adapted.base == by_hand


# Of a token and a layer in bfloat16: 16 d of norms, 2 (2 d + 2 k) + 4 heads of attention, 8 f of the rest.
LAYER = {
    "0.5B": 14_336 + 4_096 + 56 + 38_912,
    "1.5B": 24_576 + 7_168 + 48 + 71_680,
    "3B": 32_768 + 9_216 + 64 + 88_064,
    "7B": 57_344 + 16_384 + 112 + 151_552,
}


def passes_by_hand(size: str) -> int:
    """8,192 tokens: all layers, three states of the last norm, and two chunks of logits in float32, one in 16 bits."""
    d, layers, *_, vocabulary, _ = SIZES[size]
    return 8192 * (layers * LAYER[size] + 8 * d) + 512 * vocabulary * (4 + 4 + 2)


@pytest.mark.parametrize("size", SIZES)
def test_a_learner_alone_by_hand(size: str, folders: Path) -> None:
    p, d, vocabulary = WEIGHTS[size], SIZES[size].d, SIZES[size].vocabulary
    held = learner(settings(folders, size)).device
    assert at(held, "sampling") == GB + (2 + 4 + 8) * p
    # The output layer's gradient is added up in float32, and then there in 16 bits too.
    head = (4 + 2) * vocabulary * d
    assert at(held, "learning") == GB + (2 + 4 + 8 + 4) * p + head + passes_by_hand(size)
    assert (
        at(held, "stepping") == GB + (2 + 4 + 8 + 4 + 4) * p
    )  # the last one: Adam's square roots of all moments
    wide = learner(settings(folders, size, dtype="float32")).device
    assert at(wide, "sampling") == GB + (4 + 8) * p
    assert named(wide)["policy: gradients"] == 4 * p


@pytest.mark.parametrize(
    ("dtype", "stage", "always", "gradients"),
    # Bytes a weight with 4 learners: what is held, and the gradients.
    [
        ("bfloat16", 0, 2 + 4 + 8, 4),
        ("bfloat16", 1, 2 + 4 / 4 + 8 / 4, 4),
        ("bfloat16", 2, 2 + 4 / 4 + 8 / 4, 4 / 4),
        ("bfloat16", 3, 2 / 4 + 4 / 4 + 8 / 4, 4 / 4),
        ("float32", 0, 4 + 8, 4),
        ("float32", 1, 4 + 4 / 4 + 8 / 4, 4),
        ("float32", 2, 4 + 4 / 4 + 8 / 4, 4 / 4),
        ("float32", 3, 4 / 4 + 8 / 4, 4 / 4),
    ],
)
def test_what_zero_parts(dtype: str, stage: int, always: float, gradients: float, folders: Path) -> None:
    p = WEIGHTS["1.5B"]
    config = settings(folders, "1.5B", learners=4, dtype=dtype).deepspeed(zero_stage=stage)
    held = learner(config).device
    assert at(held, "sampling") == GB + always * p
    assert named(held)["policy: gradients"] == gradients * p
    element = 2 if dtype == "bfloat16" else 4
    if stage >= 2:  # a bucket of half a billion
        assert named(held)["policy: gradients in flight"] == 500_000_000 * element
    if stage == 3:
        assert named(held)["policy: weights gathered"] == 1_000_000_000 * element
    small = config.copy(copy_frozen=False).deepspeed(
        config={"zero_optimization": {"reduce_bucket_size": 1e6}}
    )
    assert named(learner(small).device)["policy: gradients in flight"] == (
        p * element if stage == 0 or (stage, element) == (1, 2) else 1_000_000 * element
    )


@pytest.mark.parametrize(
    ("dtype", "stage", "element"),
    # The sum in float32, and where there is a bucket the gradient itself, before it gets there.
    [
        ("bfloat16", None, 4),
        ("bfloat16", 1, 4),
        ("bfloat16", 2, 4 + 2),
        ("bfloat16", 3, 4 + 2),
        ("float32", None, 0),
        ("float32", 0, 0),
        ("float32", 1, 4),
        ("float32", 3, 4),
    ],
)
def test_the_output_layers_gradient(dtype: str, stage: int | None, element: int, folders: Path) -> None:
    config = settings(folders, "1.5B", learners=4, dtype=dtype)
    config = config if stage is None else config.deepspeed(zero_stage=stage)
    held = learner(config).device
    assert named(held)["output layer's gradient"] == element * 151_936 * 1536
    assert [item.phases for item in held if item.what == "output layer's gradient"] == [("learning",)]
    adapted = config.copy(copy_frozen=False).policy(lora_rank=16)
    assert named(learner(adapted).device)["output layer's gradient"] == 0


def test_offloading_moves_it_to_the_host(folders: Path) -> None:
    p = WEIGHTS["7B"]
    config = settings(folders, "7B", learners=4).deepspeed(
        zero_stage=3, offload_optimizer=True, offload_parameters=True
    )
    one = learner(config)
    assert at(one.device, "sampling") == GB
    # Weights, masters, moments, gradients, and 16-bit weights on their way back, of a fourth each; the first learner
    # has all of them in Ray's object store too.
    assert at(one.host, "sampling") == (2 + 4 + 8 + 4 + 2) * p // 4 + 2 * p
    assert at(learner(config, first=False).host, "sampling") == (2 + 4 + 8 + 4 + 2) * p // 4


def test_reference_critic_adapters_and_checkpoints(folders: Path) -> None:
    p, d, layers = WEIGHTS["7B"], SIZES["7B"].d, SIZES["7B"].layers
    output = SIZES["7B"].vocabulary * d
    one = learner(settings(folders, "7B", kl_coeff=0.1))
    assert at(one.host, "learning") == 2 * p  # between its passes
    assert at(one.device, "comparing") - at(one.device, "sampling") > 2 * p
    adapted = settings(folders, "7B", kl_coeff=0.1).policy(lora_rank=16)
    small = 16 * layers * (4 * d + 2 * (d + 512) + 3 * (d + 18944))
    assert at(learner(adapted).device, "sampling") == GB + 2 * p + (4 + 8) * small
    assert "reference" not in named(learner(adapted).host)
    ppo = make_config("PPO").from_dict(settings(folders, "7B").to_dict())
    ppo.training(critic="separate")
    assert at(learner(ppo).device, "sampling") == GB + 14 * p + 14 * (p - output)
    checkpoints = settings(folders, "7B").policy(gradient_checkpointing=True)
    # Each layer's input, all of one layer, and the last norm.
    assert named(learner(checkpoints).device)["activations"] == 8192 * (layers * 2 * d + LAYER["7B"] + 8 * d)


def test_micro_batches_and_rows(folders: Path) -> None:
    config = settings(folders, "0.5B", prompts_per_iteration=16, group_size=8)
    assert micro_batch(config) == 8192
    config.training(micro_batch_tokens=100)
    assert micro_batch(config) == 1536  # a row goes alone
    config.training(micro_batch_tokens=8192, prompts_per_iteration=1, group_size=4)
    assert micro_batch(config) == 4 * 1536  # there is no more
    config.env_runners(num_env_runners=2).evaluation(evaluation_duration=100)
    assert rows(config) == 50


def test_a_share_of_a_gpu_is_vllms(folders: Path) -> None:
    config = settings(folders, "7B").sampling(max_rows_per_sampler=256)
    held = sampler(config, 80 * GB).device
    assert peak(held)[0] == int(0.92 * 80 * GB)
    # 16,384 tokens at a time of 3 f + 4 d in 16 bits, 256 rows of logits three times in float32, and graphs of 1 GB.
    working = 16384 * 2 * (3 * 18944 + 4 * 3584) + 256 * 152064 * 12 + GB
    assert named(held)["vLLM: working memory"] == working
    cache = int(0.92 * 80 * GB) - GB - 2 * WEIGHTS["7B"] - working
    assert named(held)["vLLM: cache"] == cache
    # A token has 28 layers x 2 x 4 heads x 128 x 2 bytes = 57,344.
    assert sequences_in_cache(config, cache) == pytest.approx(cache / (1536 * 57_344))
    config.sampling(sampler_kwargs={"tensor_parallel_size": 2, "enable_sleep_mode": True})
    held = sampler(config, 80 * GB).device
    assert named(held)["vLLM: weights"] == WEIGHTS["7B"]
    assert at(held, "learning") == GB  # asleep
    assert sequences_in_cache(config, cache) == pytest.approx(cache / (1536 * 57_344 / 2))


def test_the_transformers_sampler_holds_all_rows_at_full_length(folders: Path) -> None:
    config = settings(folders, "0.5B").sampling(sampler="transformers", max_rows_per_sampler=10)
    held = sampler(config, None).device
    # 24 layers x 2 x 2 heads x 64 x 2 bytes = 12,288 a token; ten prompts of 1,024 in 16 bits, 3 f + 4 d each.
    token = 2 * (3 * 4864 + 4 * 896)
    assert at(held, "sampling") == 2 * WEIGHTS["0.5B"] + 10 * 1536 * 12_288 + 10 * 1024 * token
    assert at(held, "learning") == 2 * WEIGHTS["0.5B"]
    assert at(sampler(config, 24 * GB).device, "learning") == at(held, "sampling") + GB
    # Of many rows so many tokens at a time, and of a prompt that is longer, all of it.
    config.sampling(max_rows_per_sampler=100).training(prompts_per_iteration=16, group_size=8)
    assert named(sampler(config, None).device)["sampler: prompts or logits"] == 65_536 * token
    config.sampling(max_prompt_tokens=70_000)
    assert named(sampler(config, None).device)["sampler: prompts or logits"] == 70_000 * token
    # Of short prompts the logits are more: in float32, twice, and float64, twice.
    config.sampling(max_prompt_tokens=64)
    assert named(sampler(config, None).device)["sampler: prompts or logits"] == 100 * 151_936 * 24


@pytest.mark.parametrize("rank", [None, 8])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", [LlamaConfig, Qwen2Config])
def test_autograd_keeps_what_the_formula_says(
    family, dtype: str, rank: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Once DeepSpeed has loaded a model in parts, its own stays in this place in the process, and keeps more.
    monkeypatch.setattr(torch.nn.functional, "linear", torch._C._nn.linear)

    def kept(layers: int) -> float:
        """Bytes a token that the backward pass of a trunk needs."""
        config = family(
            hidden_size=64,
            num_attention_heads=4,
            num_key_value_heads=2,
            intermediate_size=160,
            vocab_size=50,
            num_hidden_layers=layers,
        )
        config.architectures = [family.__name__.replace("Config", "ForCausalLM")]
        config.save_pretrained(tmp_path)
        model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))
        if rank:
            lora.add_adapters(model, rank=rank, alpha=rank, targets="all-linear", seed=0)
        assert share_prompts(model) is None
        row = PackedRow(torch.zeros(1, 64).long(), torch.arange(64)[None], torch.arange(64), [Span(0, 64, 0)])
        weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
        found = {}

        def note(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                found[storage.data_ptr()] = storage
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            run_packed(model.get_decoder(), row)
        return sum(storage.nbytes() for storage in found.values()) / 64

    measured = kept(3) - kept(2)
    adapters = {"rank": rank, "targets": "all-linear"} if rank else None
    expected = shape_of(str(tmp_path), adapters).layer_bytes(4 if dtype == "float32" else 2)
    assert measured == pytest.approx(expected, rel=0.006)


def measured_over_planned(*arguments: str) -> float:
    script = Path(__file__).with_name("update_memory.py")
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}  # what is freed goes back at once
    command = [sys.executable, str(script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert figures["phase"] == "learning"
    return figures["measured"] / figures["planned"]


# 64 tokens of a prompt and 8 responses of 248 fill 2,048; two such micro-batches make a step.
SETTINGS = ["policy.gradient_checkpointing=true", "policy.lora_rank=16", "training.kl_coeff=0.1"]


def test_the_tiny_model_takes_what_was_planned() -> None:
    assert measured_over_planned("tiny", "2048", "248") == pytest.approx(1, abs=0.15)


@pytest.mark.slow
@pytest.mark.parametrize("setting", SETTINGS)
def test_it_does_with_other_settings(setting: str) -> None:
    assert measured_over_planned("tiny", "2048", "248", setting) == pytest.approx(1, abs=0.15)


@pytest.mark.slow
def test_smollm2_takes_what_was_planned() -> None:
    assert measured_over_planned("smollm2-135m", "320", "32") == pytest.approx(1, abs=0.15)
