"""The methods by name, the presets, and what GRPO's relatives ask of the skeleton."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from algorithms import GRPO, METHODS, make_config
from algorithms.methods import table
from algorithms.names import IMITATE, TAUGHT
from algorithms.tasks import TRAIN_ROWS_STREAM
from experiments.common.settings import build, load_preset
from llmenv.episode import TextEpisode, Turn
from llmenv.evaluation.tasks import Source
from llmenv.rollout import GroupRequest, row_at
from support import small_config

DOCS = Path(__file__).parents[2] / "docs" / "methods.md"


def test_the_table_in_the_docs_is_that_of_the_methods() -> None:
    assert table() in DOCS.read_text(), f"docs/methods.md needs this table:\n{table()}"


@pytest.mark.parametrize("name", [name for name in METHODS if name not in (*IMITATE, *TAUGHT)])
def test_every_method_is_a_valid_config(name: str) -> None:
    config = make_config(name)
    config.environment("envs:Countdown-v0").validate()
    assert config.method == name


@pytest.mark.parametrize(
    ("written", "name"), [("drgrpo", "DrGRPO"), ("Reinforce++", "REINFORCE++"), ("GRPO", "GRPO")]
)
def test_names_in_any_case(written: str, name: str) -> None:
    assert make_config(written).method == name


def test_an_unknown_method_is_told_the_names() -> None:
    with pytest.raises(ValueError, match=r"'TRPO'.*PPO, GRPO, DrGRPO"):
        make_config("TRPO")


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("DrGRPO", {"advantage_scale": "none", "baseline": "group_mean", "loss_normaliser": "constant"}),
        ("DAPO", {"clip_range": (0.2, 0.28), "dynamic_sampling": True, "loss_normaliser": "token"}),
        ("RLOO", {"baseline": "leave_one_out", "advantage_scale": "none"}),
        ("REINFORCE++", {"critic": None, "whiten_advantages": True, "kl_in": "reward", "lambda_": 1.0}),
        ("REINFORCE++-baseline", {"advantage_scale": "batch", "baseline": "group_mean"}),
        ("GSPO", {"ratio_level": "sequence", "clip_range": (3e-4, 4e-4), "loss_normaliser": "sequence"}),
        ("CISPO", {"surrogate": "cispo", "clip_range": (1.0, 4.0)}),
        (
            "PPO",
            {
                "critic": "separate",
                "value_clip": 0.5,
                "kl_in": "reward",
                "kl_estimator_name": "k1",
                "gamma": 1.0,
            },
        ),
    ],
)
def test_what_makes_a_method(name: str, settings: dict[str, Any]) -> None:
    config = make_config(name)
    assert {key: getattr(config, key) for key in settings} == settings


def test_the_preset_of_tinyzero() -> None:
    """Its own figures: batch 256, minibatch 64, response 1,024, rates 1e-6 and 1e-5, KL 0.001 (k1, in the reward)."""
    config, _ = build("PPO", load_preset("tinyzero_countdown"))
    found = {
        "batch": config.samples_per_iteration,
        "minibatch": config.minibatch_size,
        "response": config.max_new_tokens,
        "lr": config.lr,
        "critic_lr": config.critic_learning_rate,
        "kl": (config.kl_coeff, config.kl_estimator_name, config.kl_in),
        "entropy": config.entropy_coeff,
        "clip": (*config.clip_range, config.value_clip),
        "gae": (config.gamma, config.lambda_),
        "temperature": config.temperature,
        "epochs": config.num_epochs,
    }
    assert found == {
        "batch": 256,
        "minibatch": 64,
        "response": 1024,
        "lr": 1e-6,
        "critic_lr": pytest.approx(1e-5),
        "kl": (0.001, "k1", "reward"),
        "entropy": 0.001,
        "clip": (0.2, 0.2, 0.5),
        "gae": (1.0, 1.0),
        "temperature": 1.0,
        "epochs": 1,
    }


def test_the_preset_of_r1_zero() -> None:
    """8,192 samples in 16 steps of 32 questions x 16, learning rate 3e-6, KL 0.001, clip 10."""
    config, _ = build("GRPO", load_preset("r1_zero"))
    assert (config.samples_per_iteration, config.minibatch_size, config.group_size) == (8192, 512, 16)
    assert (config.lr, config.kl_coeff, config.clip_param) == (3e-6, 0.001, 10.0)
    assert (config.kl_estimator_name, config.kl_in, config.temperature) == ("k3", "loss", 1.0)


def scripted(algorithm: GRPO, has_signal: Any, asked: list[list[GroupRequest]]) -> None:
    """The algorithm samples two-token episodes whose rewards differ in the groups that `has_signal` picks."""

    def sample(requests: Sequence[GroupRequest], **kwargs: Any) -> list[TextEpisode]:
        asked.append(list(requests))
        episodes = []
        for request in requests:
            for i in range(request.size):
                reward = float(i % 2) if has_signal(request.group) else 1.0
                turn = Turn(
                    prompt_ids=[3, request.group % 50],
                    response_ids=[4, 5 + i],
                    logps=[-1.0, -2.0],
                    finish_reason="length" if i == 0 else "stop",
                    reward=reward,
                )
                episodes.append(TextEpisode(request.group, i, [turn], terminated=True))
        return episodes

    algorithm.sample = sample


@pytest.fixture
def dapo(ray_cluster: None, model_folder: str) -> Any:
    config = small_config(model_folder, "DAPO", max_sampling_rounds=3)
    algorithm = config.build_algo()
    yield algorithm
    algorithm.stop()


def test_dynamic_sampling_fills_the_batch(dapo: GRPO) -> None:
    asked: list[list[GroupRequest]] = []
    scripted(
        dapo, lambda group: group % 2 == 0, asked
    )  # 0 and 2 of the first four, 4 of the next two, 6 at last
    result = dapo.train()
    assert [[request.group for request in round_] for round_ in asked] == [[0, 1, 2, 3], [4, 5], [6]]
    seeds = [request.seed for round_ in asked for request in round_]
    assert len(set(seeds)) == 7  # no task twice
    assert {episode.group for episode in dapo.usable(dapo.last_episodes)} == {0, 2, 4, 6}
    assert result["rollout"]["effective_batch"] == 16
    assert result["rollout"]["num_episodes"] == 28  # what is told of the policy is told of all its samples
    assert result["rollout"]["groups_without_signal"] == pytest.approx(3 / 7)


def test_a_refill_that_is_invalid_as_a_whole_is_left_out(dapo: GRPO) -> None:
    """Refills are of a group or two: one prompt that is too long must not end the run."""
    asked: list[list[GroupRequest]] = []
    scripted(dapo, lambda group: group < 3, asked)
    sample = dapo.sample

    def some_lost(requests: Any) -> list[TextEpisode]:
        for episode in (episodes := sample(requests)):
            episode.error = "PromptTooLong: 900 tokens" if episode.group >= 4 else None
        return episodes

    dapo.sample = some_lost
    result = dapo.train()
    assert [[request.group for request in round_] for round_ in asked] == [[0, 1, 2, 3], [4], [5]]
    assert {episode.group for episode in dapo.usable(dapo.last_episodes)} == {0, 1, 2}
    assert result["rollout"]["num_dropped_groups"] == 2 and result["rollout"]["num_invalid"] == 8


def test_dynamic_sampling_stops_at_its_limit(dapo: GRPO, caplog: pytest.LogCaptureFixture) -> None:
    asked: list[list[GroupRequest]] = []
    scripted(dapo, lambda group: group == 1, asked)
    with caplog.at_level(logging.WARNING):
        result = dapo.train()
    assert [len(round_) for round_ in asked] == [4, 3, 3]
    assert "only 1 of 4 groups have signal after 3 rounds of sampling (10 groups)" in caplog.text
    assert result["rollout"]["effective_batch"] == 4
    asked.clear()
    scripted(dapo, lambda group: False, asked)
    weights = dapo.num_updates
    assert dapo.train()["rollout"]["effective_batch"] == 0  # and goes on
    assert dapo.num_updates == weights + 1


def test_refills_take_rows_of_their_own(dapo: GRPO) -> None:
    """Rows of an epoch stay where they are, whatever was refilled, so that a resumed run meets the same ones."""
    dapo.curriculum.sources = [Source(None, 1.0, 1000)]
    asked: list[list[GroupRequest]] = []
    scripted(dapo, lambda group: group % 2 == 0, asked)
    dapo.train()
    refilled = [[request.options["index"] for request in round_] for round_ in asked]
    assert [len(rows) for rows in refilled] == [4, 2, 1]
    assert len(set(refilled[1] + refilled[2])) == 3
    asked.clear()
    scripted(dapo, lambda group: True, asked)
    dapo.train()
    ((*second,),) = asked
    walk = [row_at(position, 1000, TRAIN_ROWS_STREAM, 0) for position in range(8)]
    assert refilled[0] + [request.options["index"] for request in second] == walk


def test_truncated_samples_are_left_out_of_the_update(ray_cluster: None, model_folder: str) -> None:
    algorithm = small_config(model_folder, mask_length_cap=True).build_algo()
    scripted(algorithm, lambda group: True, [])
    plans: list[Any] = []
    update = algorithm.learner_group.update
    algorithm.learner_group.update = lambda plan, **kwargs: (plans.append(plan), update(plan, **kwargs))[1]
    algorithm.train()
    algorithm.stop()
    ((minibatch,),) = plans[0]
    assert minibatch.num_sequences == 12  # one of each four was cut
    # Of rewards 0, 1, 0, 1 the first, which was cut, still counts in its group: the others are as far from the mean.
    advantages = [batch.advantages[batch.response_mask] for batch in minibatch.micro_batches]
    assert len({round(abs(float(value)), 5) for value in torch.cat(advantages)}) == 1


def test_the_overlong_penalty_is_in_the_rewards(model_folder: str) -> None:
    algorithm = object.__new__(GRPO)
    algorithm.config = small_config(
        model_folder, "DAPO", advantage_scale="none"
    )  # 24 tokens, the last 4.8 cost

    def turn(length: int, reward: float = 0.0) -> Turn:
        return Turn(prompt_ids=[1], response_ids=[2] * length, logps=[-1.0] * length, reward=reward)

    # The cap is on a response: three short ones together are not too long.
    episodes = [
        TextEpisode(0, i, turns)
        for i, turns in enumerate([[turn(12), turn(12), turn(12, 1.0)], [turn(24, 1.0)]])
    ]
    np.testing.assert_allclose(algorithm.assign_credit(episodes), [0.5, -0.5])


@pytest.mark.parametrize(
    ("key", "with_signal"),
    [("correct", [0, 5, 7]), (None, [0, 1, 2, 5, 7]), ("well_formed", [1, 5, 7])],
)
def test_signal_is_what_the_environment_judges(
    model_folder: str, key: str | None, with_signal: list[int]
) -> None:
    algorithm = object.__new__(GRPO)
    algorithm.config = small_config(model_folder, "DAPO", signal_key=key)

    def turn(reward: float, info: dict[str, Any], length: int) -> Turn:
        return Turn(
            prompt_ids=[1], response_ids=[2] * length, logps=[-1.0] * length, reward=reward, info=info
        )

    right, wrong = {"correct": True, "well_formed": True}, {"correct": False, "well_formed": True}
    groups = [
        [(1.0, right, 4), (0.0, wrong, 4)],  # one of two is right
        [
            (0.1, wrong, 4),
            (0.0, {"correct": False, "well_formed": False}, 4),
        ],  # both wrong, a bonus for form apart
        [(1.0, right, 4), (0.6, right, 4)],  # both right, a penalty for length apart
        [(0.5, right, 4), (0.5, wrong, 4)],  # paid alike: no advantage
        [(1.0, right, 24), (0.0, wrong, 4)],  # the same once the overlong penalty of 1 is off
        [(0.2, {}, 4), (0.0, {}, 4)],  # not judged: by the reward
        [(0.2, {}, 4), (0.2, {}, 4)],
        [(0.2, {}, 4), (0.0, wrong, 4)],  # nor are all of these
    ]
    episodes = [
        TextEpisode(group, i, [turn(*sample)])
        for group, samples in enumerate(groups)
        for i, sample in enumerate(samples)
    ]
    assert [episode.group for episode in algorithm.usable(episodes)[::2]] == with_signal


@pytest.mark.parametrize("name", [name for name in METHODS if name not in (*IMITATE, *TAUGHT)])
def test_every_method_takes_a_step(ray_cluster: None, model_folder: str, name: str) -> None:
    config = small_config(model_folder, name, minibatch_size=8, num_epochs=2, kl_coeff=0.01)
    config.environment("support:NoDigit-v0").sampling(max_new_tokens=1)
    algorithm = config.build_algo()
    result = algorithm.train()
    algorithm.stop()
    learned = result["learners"]["default_policy"]
    assert learned["gradient_norm"] > 0
    assert np.isfinite(learned["total_loss"])
    if config.kl_in == "reward":  # measured before the first step
        assert learned["kl_reference"] == pytest.approx(0.0, abs=1e-5)
    else:
        assert learned["kl_reference"] > 1e-4
