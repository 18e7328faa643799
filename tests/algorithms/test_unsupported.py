"""What RLlib's config accepts and nothing here would act upon is refused, with what to set instead."""

from __future__ import annotations

from typing import Any

import pytest

from algorithms import GRPOConfig
from algorithms.unsupported import UNSUPPORTED
from support import small_config


def another(value: Any) -> Any:
    """A value that differs from RLlib's default."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    return {"a": 1} if isinstance(value, dict) else "another"


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_each_is_refused_with_its_remedy(name: str) -> None:
    config = small_config("tiny")
    setattr(config, name, another(getattr(config, name)))
    with pytest.raises(ValueError, match="would change nothing here: ") as caught:
        config.validate()
    assert str(caught.value).endswith(UNSUPPORTED[name])
    assert str(caught.value).startswith(f"{name.lstrip('_')}=")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda config: config.debugging(seed=3), r"seed=3 .* sampling\(run_seed"),
        (lambda config: config.training(train_batch_size_per_learner=64), "prompts_per_iteration"),
        (lambda config: config.env_runners(num_envs_per_env_runner=4), "max_rows_per_sampler"),
        (lambda config: config.env_runners(env_to_module_connector=lambda *a: None), "wrappers"),
        (lambda config: config.offline_data(input_="/data/episodes"), "Dataset-v0"),
        (lambda config: config.multi_agent(policies={"a", "b"}), "one policy"),
        (lambda config: config.evaluation(evaluation_num_env_runners=2), "on the training runners"),
        (
            lambda config: config.evaluation(evaluation_config={"group_size": 2}),
            r"evaluation_config cannot set group_size: it may set env, env_config, temperature",
        ),
        (lambda config: config.callbacks(on_episode_step=lambda **kwargs: None), "on_episode_end"),
    ],
)
def test_as_a_user_would_set_them(change: Any, message: str) -> None:
    config = small_config("tiny")
    change(config)
    with pytest.raises(ValueError, match=message):
        config.validate()


def test_gpus_of_runners_that_there_are_none_of(ray_cluster: None) -> None:
    config = small_config("tiny").env_runners(num_gpus_per_env_runner=1)
    with pytest.raises(ValueError, match=r"num_gpus_per_env_runner=1 .* num_env_runners is 0"):
        config.build_algo()


def test_what_rllib_makes_of_a_config_passes() -> None:
    config = small_config("tiny")
    config.validate()
    evaluation = config.get_evaluation_config_object()
    assert evaluation.batch_mode == "complete_episodes"  # RLlib's own doing
    evaluation.validate()
    GRPOConfig().update_from_dict(config.to_dict()).validate()
