"""In bfloat16 a policy learns what it learns in float32: masters, sums of gradients and moments are float32.

These rows' sampling log-probabilities are random numbers: weights by them would magnify the rounding (tis_cap=None).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional

from algorithms.learner import PolicyLearner
from bfloat16 import fast_bfloat16
from llmenv.models import lora, tiny
from llmenv.models.names import load_causal_lm, load_tokenizer
from support import critic_weights, flat_weights, relative_gap, small_config
from updates import SPACES, Update, make_plan, make_rows, set_stage

pytestmark = pytest.mark.usefixtures("ray_cluster")

PLAIN = "PyTorch"
# At stage 0 DeepSpeed would add gradients up in 16 bits: it is refused there.
ENGINES = [PLAIN, "1", "2", "3"]
each_engine = pytest.mark.parametrize("engine", ENGINES)


def learners(
    model: str,
    engine: str = PLAIN,
    dtype: str = "bfloat16",
    algo: str = "GRPO",
    lora: Any = None,
    **training: Any,
) -> Any:
    """One learner in this process."""
    config = small_config(model, algo, **{"tis_cap": None, **training}).policy(dtype=dtype, lora_rank=lora)
    config.learners(learner_class=PolicyLearner if algo == "GRPO" else None)
    if engine != PLAIN:
        pytest.importorskip("deepspeed")
        set_stage(config, engine)
    config.validate()
    return config.build_learner_group(spaces=SPACES)


@pytest.fixture(autouse=True)
def _fast_bfloat16() -> Iterator[None]:
    with fast_bfloat16():
        yield


def displacement(
    group: Any, read: Any = flat_weights, num_groups: int = 5, num_steps: int = 10
) -> torch.Tensor:
    """How far some steps, each on rows of its own, move what is stepped on."""
    before = read(group._learner)
    for i in range(num_steps):
        group.update(make_plan(make_rows(num_groups, seed=i), 1))
    return read(group._learner) - before


def assert_moved_alike(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    """The bounds of a policy that learns: direction to 0.95, and what moves in float32 moves."""
    assert ours.dtype == theirs.dtype == torch.float32
    assert functional.cosine_similarity(ours, theirs, dim=0) >= 0.95
    moved = theirs != 0
    assert float((ours[moved] != 0).float().mean()) >= 0.99


# How many groups a step has rows of, the steps, and the engines that are tried.
MODELS = {"small": (5, 10, ENGINES), "tiny": (5, 10, [PLAIN, "3"]), "SmolLM2": (1, 3, [PLAIN])}


@pytest.fixture(scope="module")
def six_layers(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Those of SmolLM2-135M's 30, with its embeddings: a real model's weights."""
    model = load_causal_lm("smollm2-135m")
    model.model.layers = model.model.layers[:6]
    model.config.num_hidden_layers = 6
    folder = tmp_path_factory.mktemp("six")
    tiny.save(model, load_tokenizer("smollm2-135m"), folder)
    return str(folder)


@cache
def displacement_in_float32(
    model: str, read: Any = flat_weights, num_groups: int = 5, num_steps: int = 10, **settings: Any
) -> torch.Tensor:
    """By the plain engine, which all others are compared with."""
    return displacement(learners(model, dtype="float32", **settings), read, num_groups, num_steps)


@pytest.mark.parametrize(
    ("name", "engine"),
    [
        pytest.param(name, engine, marks=[] if name == "small" else pytest.mark.slow)
        for name, (_, _, engines) in MODELS.items()
        for engine in engines
    ],
)
def test_small_steps_move_the_masters(
    request: pytest.FixtureRequest, model_folder: str, name: str, engine: str
) -> None:
    """Steps of 1e-6."""
    model = {"small": model_folder, "tiny": "tiny"}.get(name) or request.getfixturevalue("six_layers")
    num_groups, num_steps, _ = MODELS[name]
    group = learners(model, engine, lr=1e-6)
    ours = displacement(group, num_groups=num_groups, num_steps=num_steps)
    theirs = displacement_in_float32(model, num_groups=num_groups, num_steps=num_steps, lr=1e-6)
    assert_moved_alike(ours, theirs)
    learner = group._learner
    # What is sampled from and exported are the masters, rounded once.
    sent = torch.cat([tensor.flatten() for tensor in learner.outbox.weights().values()])
    assert sent.dtype == torch.bfloat16
    assert torch.equal(sent, flat_weights(learner).bfloat16())


@pytest.mark.parametrize("critic", ["separate", "shared"])
@pytest.mark.parametrize("engine", [PLAIN, "2"])
def test_a_critic_learns_in_16_bits(model_folder: str, critic: str, engine: str) -> None:
    read = critic_weights if critic == "separate" else flat_weights
    settings: Any = {"algo": "PPO", "critic": critic, "lr": 1e-6}
    ours = displacement(learners(model_folder, engine, **settings), read)
    assert_moved_alike(ours, displacement_in_float32(model_folder, read, **settings))


@pytest.mark.parametrize("engine", [PLAIN, "2"])
def test_adapters_over_a_base_in_16_bits_learn(model_folder: str, engine: str) -> None:
    ours = displacement(learners(model_folder, engine, lora=4, lr=1e-4), _trained)
    assert_moved_alike(ours, displacement_in_float32(model_folder, _trained, lora=4, lr=1e-4))


@pytest.mark.parametrize("engine", [PLAIN, "2"])
def test_adapters_reach_the_sampler_before_they_are_half_a_step(model_folder: str, engine: str) -> None:
    """What is sent less the base, on the adapters' change: 1 but for chance; to the nearest it is 0.08."""
    learner = (group := learners(model_folder, engine, lora=4, lr=5e-5))._learner
    for i in range(3):
        group.update(make_plan(make_rows(5, seed=i), 1))
    projected = changed = noise = 0.0
    sent = learner.outbox.weights()
    assert all(torch.equal(tensor, sent[name]) for name, tensor in learner.outbox.stream())
    for name, parts in lora.parts(learner.policy.model.state_dict()).items():
        if len(parts) == 3:
            weight, b, a = (tensor.detach().double() for tensor in parts)
            change = 2.0 * b @ a
            projected += float(((sent[name].double() - weight) * change).sum())
            changed += float((change**2).sum())
            # Of a draw between neighbours a step apart, which is at most so much: |change| (step - |change|).
            noise += float((weight.abs() * 2**-7 * change.abs() * change**2).sum())
    assert projected / changed == pytest.approx(1, abs=4 * noise**0.5 / changed)
    assert 4 * noise**0.5 / changed < 0.3


def _trained(learner: Any) -> torch.Tensor:
    """Those of the policy's weights that are stepped on."""
    parameters = list(learner.policy.parameters())
    parts = flat_weights(learner).split([p.numel() for p in parameters])
    return torch.cat([part.float() for part, p in zip(parts, parameters, strict=True) if p.requires_grad])


@each_engine
def test_gradients_are_added_up_in_float32(model_folder: str, engine: str) -> None:
    """128 micro-batches, against the sum in float64 of what autograd gives; a sum in 16 bits is beside it."""
    group = learners(model_folder, engine, grad_clip=None)
    parameters = list(group._learner.policy.parameters())
    exact = [torch.zeros(_shape(p), dtype=torch.float64) for p in parameters]
    rough = [torch.zeros(_shape(p), dtype=torch.bfloat16) for p in parameters]
    for parameter, *sums in zip(parameters, exact, rough, strict=True):
        parameter.register_hook(lambda gradient, sums=sums: [s.add_(gradient) for s in sums] and None)
    plan = make_plan(make_rows(32, 4), 1, minibatch_size=128, tokens=1)
    assert len(plan[0][0].micro_batches) == 128
    (ours,) = Update(group, plan).gradients[0]
    theirs = torch.cat([s.flatten() for s in exact])
    assert relative_gap(ours, theirs) < 1e-5
    assert relative_gap(torch.cat([s.flatten() for s in rough]).double(), theirs) > 1e-2


def _shape(parameter: torch.Tensor) -> Sequence[int]:
    """Of the whole parameter: stage 3 leaves an empty one."""
    return getattr(parameter, "ds_shape", parameter.shape)


@each_engine
def test_a_resumed_run_in_16_bits_is_the_uninterrupted_one(
    model_folder: str, tmp_path: Path, engine: str
) -> None:
    plan = make_plan(make_rows(), 1)
    donor, heir = (learners(model_folder, engine, lr=1e-5) for _ in range(2))
    for _ in range(2):
        donor.update(plan)
    heir.restore_from_path(donor.save_to_path(tmp_path))
    theirs, ours = Update(donor, plan), Update(heir, plan)
    assert torch.equal(ours.before[0], theirs.before[0])
    assert torch.equal(ours.after[0], theirs.after[0])
    assert not torch.equal(theirs.after[0], theirs.after[0].bfloat16().float())  # more than 16 bits of it
    policy = load_file(tmp_path / "learner" / "policy" / "model.safetensors")
    assert {tensor.dtype for tensor in policy.values()} == {torch.bfloat16}


@pytest.mark.parametrize("engine", ["1", "2", "3"])
def test_deepspeed_takes_the_gradients_of_the_plain_engine(model_folder: str, engine: str) -> None:
    """Stage 3 too, which makes a model's buffers in 16 bits: its rotary frequencies would move every position."""
    groups = [learners(model_folder, which, kl_coeff=0.05) for which in (engine, PLAIN)]
    ours, theirs = (Update(group, make_plan(make_rows(), 1)) for group in groups)
    assert relative_gap(ours.gradients[0][0], theirs.gradients[0][0]) < 1e-5
    assert ours.metrics[0]["gradient_norm"] == pytest.approx(theirs.metrics[0]["gradient_norm"], rel=1e-5)
    assert relative_gap(ours.change, theirs.change) < 1e-3
    assert ours.metrics[0]["kl_reference"] == 0.0  # which is loaded in parts, too, and still the same policy
    mine, plain = (dict(group._learner.policy.model.named_buffers()) for group in groups)
    assert mine.keys() == plain.keys() and all(torch.equal(mine[name], plain[name]) for name in plain)


def test_the_precision_of_products_is_a_setting_of_the_process(model_folder: str) -> None:
    """PyTorch's, and each learner's and runner's own: the next one in this process begins with its own."""
    config = small_config(model_folder).policy(matmul_precision="medium")
    assert config.importance_cap == 2.0  # sampler and learner round otherwise
    algorithm = config.build_algo()
    assert torch.get_float32_matmul_precision() == "medium"
    algorithm.stop()
    learners(model_folder, dtype="float32")
    assert torch.get_float32_matmul_precision() == "highest"
    with pytest.raises(ValueError, match="matmul_precision must be one of highest, high, medium, got 'low'"):
        small_config(model_folder).policy(matmul_precision="low").validate()
