"""An algorithm that goes on under other settings, with another one's weights: an exchange of a population, in place."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from algorithms.base import LLMAlgorithm
from algorithms.bounds import BOUNDS
from algorithms.reuse import IN_PLACE, lasting
from support import flat_weights, runner_weights, small_config

pytestmark = pytest.mark.usefixtures("ray_cluster")

# Another value of every setting that changes in place, none of them the default.
OTHER: dict[str, Any] = {
    "prompts_per_iteration": 2,
    "group_size": 8,
    "minibatch_size": 4,
    "num_epochs": 2,
    "micro_batch_tokens": 512,
    "lr": 3e-3,
    "adam_betas": (0.8, 0.99),
    "adam_epsilon": 1e-6,
    "weight_decay": 0.1,
    "grad_clip": 0.5,
    "max_skipped_steps": 3,
    "surrogate": "cispo",
    "ratio_level": "sequence",
    "clip_param": 0.1,
    "clip_param_high": 0.3,
    "tis_cap": 2.0,
    "entropy_coeff": 0.01,
    "kl_coeff": 0.05,
    "kl_estimator": "k2",
    "kl_target": 0.1,
    "kl_horizon": 5000,
    "kl_stop": 9.0,
    "loss_normaliser": "sequence",
    "mask_length_cap": True,
    "baseline": "leave_one_out",
    "advantage_scale": "batch",
    "overlong_buffer": 0.5,
    "dynamic_sampling": True,
    "max_sampling_rounds": 2,
}


@pytest.fixture(scope="module")
def donor(ray_cluster: None, model_folder: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A checkpoint after an iteration."""
    algorithm = easy(model_folder, prompts_per_iteration=8).sampling(run_seed=1).build_algo()
    algorithm.train()
    folder = tmp_path_factory.mktemp("donor")
    algorithm.save_to_path(str(folder))
    learner: Any = algorithm.learner_group._learner
    assert learner.engine.optimizer.state_dict()["state"][0]["step"] == 1
    torch.save(flat_weights(learner), folder / "flat.pt")
    yield folder
    algorithm.stop()


def easy(model: str, **training: Any) -> Any:
    config = small_config(model, **{"prompts_per_iteration": 2, **training}).environment("support:NoDigit-v0")
    return config.sampling(max_new_tokens=1, run_seed=0).evaluation(evaluation_config=None)


def where_it_acts(algorithm: LLMAlgorithm) -> dict[str, Any]:
    """As the last update had them."""
    learner: Any = algorithm.learner_group._learner
    (group,) = learner.engine.optimizer.param_groups
    return {
        "lr": group["lr"],
        "adam_betas": group["betas"],
        "adam_epsilon": group["eps"],
        "weight_decay": group["weight_decay"],
        "grad_clip": learner.engine.max_grad_norm,
        "kl_coeff": learner.kl_coeff,
        "clip_param": learner.config.clip_range[0],
    }


def test_every_setting_acts_in_the_first_iteration_after_an_exchange(model_folder: str, donor: Path) -> None:
    algorithm = easy(model_folder).build_algo()
    learner: Any = algorithm.learner_group._learner
    algorithm.train()
    wanted = {**OTHER, "mask_length_cap": False, "dynamic_sampling": False, "kl_target": None}
    assert algorithm.reset_config(easy(model_folder, **wanted))
    with pytest.raises(RuntimeError, match="followed by a checkpoint"):
        algorithm.evaluate()
    algorithm.restore_from_path(str(donor))
    assert torch.equal(flat_weights(learner), torch.load(donor / "flat.pt"))
    assert torch.equal(runner_weights(algorithm.env_runner_group.local_env_runner), flat_weights(learner))
    algorithm.train()
    acting = where_it_acts(algorithm)
    assert acting == {name: wanted[name] for name in acting}
    assert algorithm.learner_group._learner is learner and learner.reference is not None
    # 2 groups of 8 in minibatches of 4, twice over: 8 steps; the donor had 1.
    assert len(algorithm.last_episodes) == 16
    assert learner.engine.optimizer.state_dict()["state"][0]["step"] == 9
    algorithm.stop()


def test_every_setting_of_training_is_looked_at() -> None:
    """What the table above leaves out must be named here: of a critic, of the driver alone, or checked elsewhere."""
    of_a_critic = {"gamma", "lambda_", "critic_lr", "vf_loss_coeff", "value_clip", "value_warmup_iterations"}
    of_a_critic |= {"whiten_advantages", "bootstrap_length_cap"}
    rest = (
        {"lr_warmup_iterations", "kl_in", "dual_clip", "run_seed", "keep", "most_kept"}
        | of_a_critic
        | {"reward_coeff"}
    )
    assert OTHER.keys() | rest == IN_PLACE
    assert IN_PLACE - {"run_seed"} == BOUNDS["training"].keys() - {"critic", "shared_prompts"}


def test_all_of_them_reach_learner_and_runner(model_folder: str, donor: Path) -> None:
    algorithm = easy(model_folder).build_algo()
    algorithm.reset_config(easy(model_folder, **OTHER))
    learner, runner = algorithm.learner_group._learner, algorithm.env_runner_group.local_env_runner
    for config in (algorithm.config, learner.config, runner.config):
        assert {name: getattr(config, name) for name in OTHER} == OTHER
    algorithm.stop()


def test_what_is_a_part_of_the_model_or_the_sampler_does_not_change_in_place(model_folder: str) -> None:
    old = easy(model_folder)
    assert lasting(old, easy(model_folder, lr=1.0, kl_coeff=0.1).sampling(run_seed=5)) == []
    new = easy(model_folder, shared_prompts=False).sampling(temperature=0.5).policy(lora_rank=4)
    assert lasting(old, new) == ["lora_rank", "shared_prompts", "temperature"]
    algorithm = old.build_algo()
    with pytest.raises(ValueError, match="temperature cannot change in an algorithm that is there"):
        algorithm.reset_config(easy(model_folder).sampling(temperature=0.5))
    algorithm.stop()
