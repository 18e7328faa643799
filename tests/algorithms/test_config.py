"""Settings: what is refused, and in which words; what is set where."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import pytest
from ray import tune

import llmenv.policy.policy
import llmenv.samplers.vllm
from algorithms import GRPO, GRPOConfig
from algorithms.tasks import seed_of_trial
from support import (
    small_config,
)

pytestmark = pytest.mark.usefixtures("ray_cluster")  # RLlib would start a Ray of its own


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"env": "envs:Nowhere-v0"}, r"environment 'envs:Nowhere-v0' cannot be made.*module:Id-v0"),
        ({"env": "nowhere:Countdown-v0"}, r"environment 'nowhere:Countdown-v0' cannot be made"),
        (
            {"env_config": {"spilt": "train"}},
            r"has no argument 'spilt' \(did you mean split.*it has num_numbers, ",
        ),
        (
            {"env": "envs:GSM8K-v0", "env_config": {"data": "/no.jsonl"}},
            r"cannot be made .*no file /no.jsonl",
        ),
        ({"minibatch_size": 5}, r"minibatch_size=5 must divide .* = 4 x 4 = 16 samples"),
        ({"minibatch_size": 0}, r"minibatch_size must be a whole number of at least 1, or None"),
        ({"group_sise": 4}, r"unknown settings \['group_sise'\]"),
        ({"group_size": 0}, r"group_size must be a whole number of at least 1"),
        ({"prompts_per_iteration": 2.5}, r"prompts_per_iteration must be a whole number"),
        ({"num_epochs": 0}, r"num_epochs must be a whole number of at least 1"),
        ({"loss_normaliser": "tokens"}, r"loss_normaliser must be one of token, sequence"),
        ({"kl_estimator": "k4"}, r"kl_estimator must be one of k1, k2, k3"),
        ({"dtype": "float8"}, r"dtype must be one of"),
        ({"temperature": 0.0}, r"temperature must be above 0"),
        ({"kl_coeff": -0.1}, r"kl_coeff must not be negative"),
        ({"entropy_coeff": -0.5}, "entropy_coeff must not be negative"),
        ({"dual_clip": 0.5}, "dual_clip must be above 1"),
        ({"kl_in": "prompt"}, "kl_in must be one of"),
        ({"base_model": "no-such-model"}, r"no-such-model"),
        ({"lr": [[0, 1e-3], [100, 0.0]], "lr_warmup_iterations": 2}, r"needs a plain number as lr"),
        (
            {
                "evaluation_parallel_to_training": True,
                "evaluation_interval": 1,
                "evaluation_num_env_runners": 1,
            },
            r"evaluation_num_env_runners=1 would change nothing here",
        ),
        ({"run_seed": -2}, r"run_seed must be a whole number of at least 0"),
        ({"evaluation_duration": 0}, r"evaluation_duration"),
        ({"weight_transfer": "http"}, r"weight_transfer must be one of None, nccl, ipc"),
        ({"weight_transfer": "nccl"}, r"needs sampler='vllm' and GPUs for both"),
        (
            {
                "weight_transfer": "nccl",
                "sampler": "vllm",
                "num_gpus_per_env_runner": 1,
                "num_gpus_per_learner": 1,
            },
            r"num_gpus_per_env_runner=1 .* num_env_runners is 0",
        ),
        (
            {
                "weight_transfer": "ipc",
                "sampler": "vllm",
                "num_gpus_per_env_runner": 0.5,
                "num_gpus_per_learner": 0.5,
                "num_env_runners": 2,
                "num_learners": 1,
            },
            r"one learner and one runner on one GPU: use 'nccl'",
        ),
    ],
)
def test_a_wrong_setting_fails_in_words(change: dict[str, Any], message: str) -> None:
    config = small_config("tiny")
    config.update_from_dict(change)
    with pytest.raises(ValueError, match=message):
        config.build_algo()


def test_a_misspelt_argument_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="group_sise"):
        GRPOConfig().training(group_sise=4)


def test_a_sampler_that_is_not_installed_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llmenv.samplers.vllm, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'llmenv\[vllm\]'"):
        small_config("tiny").sampling(sampler="vllm").build_algo()


def test_relative_paths_are_taken_from_where_they_are_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tune changes directory before an algorithm is built."""
    for name in ("model", "teacher", "data", "reward"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    config = GRPOConfig().policy(model="./model", reference_model="teacher")
    config.environment(
        "envs:GSM8K-v0",
        env_config={"data": "data", "wrappers": [{"envs.reward_model:RewardModel": {"model": "reward"}}]},
    )
    config.evaluation(evaluation_config={"env_config": {"data": "data"}})
    assert (config.base_model, config.reference_model) == (f"{tmp_path}/model", f"{tmp_path}/teacher")
    assert config.env_config == {
        "data": f"{tmp_path}/data",
        "wrappers": [{"envs.reward_model:RewardModel": {"model": f"{tmp_path}/reward"}}],
    }
    assert config.evaluation_config["env_config"] == {"split": "test", "data": f"{tmp_path}/data"}
    config = GRPOConfig().policy(model=tune.grid_search(["model", "tiny", "Qwen/Qwen2.5-0.5B"]))
    assert config.base_model == {"grid_search": [f"{tmp_path}/model", "tiny", "Qwen/Qwen2.5-0.5B"]}
    config.environment(env_config={"data": "sample", "dataset": "data"})  # no paths
    assert (config.env_config["data"], config.env_config["dataset"]) == ("sample", "data")


def test_weights_may_go_from_gpu_to_gpu() -> None:
    """What Tune asks for, and the evaluation's config with its 0 runners, are no place for checks of a cluster."""
    config = (
        small_config("tiny", num_env_runners=1, num_learners=1)
        .sampling(sampler="vllm", weight_transfer="nccl")
        .env_runners(num_gpus_per_env_runner=1)
        .learners(num_gpus_per_learner=1)
    )
    bundles = GRPO.default_resource_request(config.to_dict()).bundles
    assert [bundle.get("GPU", 0) for bundle in bundles] == [0, 1, 1]
    config.get_evaluation_config_object().validate()


@pytest.mark.parametrize(
    ("folder", "seed"),
    [
        (None, 0),
        ("GRPO_envs_Countdown-v0_3f2a1_00000", 0),
        ("GRPO_envs_Countdown-v0_3f2a1_00003_3_lr=0.0100_2026-11-28_23-08-48", 3),
        ("GRPO_envs_Countdown-v0_a1b2c3d4", zlib.crc32(b"GRPO_envs_Countdown-v0_a1b2c3d4")),
    ],
)
def test_trials_have_seeds_of_their_own(folder: str | None, seed: int) -> None:
    assert seed_of_trial(folder) == seed
