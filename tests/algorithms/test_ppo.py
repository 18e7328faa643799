"""Credit by token and the critic: against a slow reference, and the same however the work is cut and dealt."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_advantages import gae_by_definition

from algorithms.losses import kl_k1
from algorithms.ppo import PPO
from llmenv.episode import TextEpisode, Turn
from llmenv.policy.batch import TokenRow
from support import critic_weights, flat_weights, plain_logps, small_config
from updates import Update, assert_same_update, make_group, make_plan, make_ppo, make_ppo_rows, metric

pytestmark = pytest.mark.usefixtures("ray_cluster")  # RLlib would start a Ray of its own


def test_a_row_has_the_rewards_where_they_were_earned() -> None:
    turns = [
        Turn(prompt_ids=[5, 6], response_ids=[7, 8], logps=[-1.0, -2.0], reward=0.25),
        Turn(prompt_ids=[9], response_ids=[10], logps=[-3.0], reward=1.0),
    ]
    row = TokenRow.from_episode(TextEpisode(group=0, sample=0, turns=turns))
    assert row.rewards.tolist() == [0, 0, 0, 0.25, 0, 1.0]
    cut = TokenRow.from_episode(TextEpisode(group=0, sample=0, turns=turns), bootstrapped=True)
    assert cut.rewards.tolist() == [0, 0, 0, 0.25, 0, 1.0, 0]
    assert cut.response_mask.tolist() == [False, False, True, True, False, True, False]


@pytest.mark.parametrize("critic", ["separate", "shared", None])
def test_credit_is_that_of_the_slow_reference(model_folder: str, critic: str | None) -> None:
    """Row by row, unpadded: values, a KL in each token's reward, GAE term by term; then whitened over all."""
    settings = {"kl_coeff": 0.3, "gamma": 0.98, "lambda_": 0.9}
    learner = make_ppo(model_folder, critic=critic, **settings)._learner
    reference = make_group(model_folder)._learner.policy.model
    with torch.no_grad():  # the policy is no longer the reference
        learner.policy.model.model.layers[0].mlp.down_proj.weight.mul_(1.5)
    rows = [replace(row, bootstrapped=False) if critic is None else row for row in make_ppo_rows()]
    ((minibatch,),) = make_plan(rows, 1, tokens=150)
    prepared = learner._prepare(minibatch, fixed_old_logps=True).micro_batches
    learner.prepare(prepared)
    learner.assign_token_credit(prepared)

    head = learner.policy.value_head if critic == "shared" else critic and learner.critic.head
    trunk = learner.policy.model.model if critic == "shared" else critic and learner.critic.trunk
    expected: dict[tuple[int, ...], tuple[list[float], list[float]]] = {}
    for row in rows:
        ids, mask = row.token_ids.tolist(), torch.from_numpy(row.response_mask)
        with torch.no_grad():
            logps, ref_logps = (plain_logps(m, ids, 1.0)[0] for m in (learner.policy.model, reference))
            values = torch.zeros(len(ids))
            if critic:
                hidden = trunk(input_ids=torch.tensor([ids])).last_hidden_state[0]
                values[1:] = head.linear(hidden)[:-1, 0]
        rewards = torch.from_numpy(row.rewards)[1:] - 0.3 * kl_k1(logps, ref_logps)
        own, last = values[mask].tolist(), float(values[-1]) if row.bootstrapped else 0.0
        credit = gae_by_definition(rewards[mask[1:]].tolist(), own, last, 0.98, 0.9)
        expected[tuple(ids)] = credit, [a + v for a, v in zip(credit, own, strict=True)]
    everything = np.concatenate([credit for credit, _ in expected.values()])

    for batch in prepared:
        tokens = batch.tokens
        for i, length in enumerate(tokens.lengths):
            credit, targets = expected[tuple(tokens.input_ids[i, :length].tolist())]
            white = (np.array(credit) - everything.mean()) / everything.std()
            mask = tokens.response_mask[i]
            np.testing.assert_allclose(tokens.advantages[i][mask], white, atol=2e-4)
            np.testing.assert_allclose(batch.value_targets[i][mask], targets, atol=2e-4)
            assert (tokens.advantages[i][~mask] == 0).all()


@pytest.mark.parametrize("critic", ["separate", "shared", None])
def test_the_update_does_not_depend_on_how_it_is_cut(model_folder: str, critic: str | None) -> None:
    rows = [replace(row, bootstrapped=False) if critic is None else row for row in make_ppo_rows()]
    settings = {"critic": critic, "kl_coeff": 0.05, "entropy_coeff": 0.01, "value_clip": 10.0}
    whole, cut, padded = (
        Update(make_ppo(model_folder, shared_prompts=shared, **settings), make_plan(rows, 1, tokens=tokens))
        for shared, tokens in ((True, 100_000), (True, 150), (False, 150))
    )
    assert_same_update(cut, whole)
    assert_same_update(padded, whole)


def test_a_critic_of_its_own_has_its_own_learning_rate(model_folder: str) -> None:
    # AdamW's first step moves a weight with a gradient by the learning rate, whatever the gradient's size.
    group = make_ppo(model_folder, critic_lr=3e-3)
    policy, critic = flat_weights(group._learner), critic_weights(group._learner)
    group.update(make_plan(make_ppo_rows(), 1))
    assert float((flat_weights(group._learner) - policy).abs().max()) == pytest.approx(1e-3, rel=1e-2)
    assert float((critic_weights(group._learner) - critic).abs().max()) == pytest.approx(3e-3, rel=1e-2)


def test_a_critics_learning_rate_is_ten_times_the_policys(model_folder: str) -> None:
    assert small_config(model_folder, "PPO", lr=1e-6).critic_learning_rate == pytest.approx(1e-5)
    schedule = small_config(model_folder, "PPO", lr=[[0, 1e-6], [100, 0.0]])
    assert schedule.critic_learning_rate == [[0, pytest.approx(1e-5)], [100, 0.0]]


@pytest.mark.parametrize(("critic", "updates"), [("separate", 13), ("shared", 25)])
def test_the_critic_learns(model_folder: str, critic: str, updates: int) -> None:
    group = make_group(model_folder, "PPO", critic=critic, value_clip=None, vf_loss_coeff=100.0)
    plan = make_plan(make_ppo_rows(), 1)
    first = group.update(plan)
    assert metric(first, "explained_variance") == pytest.approx(0.0, abs=1e-6)  # all values are 0
    for _ in range(updates):
        last = group.update(plan)
    assert metric(last, "explained_variance") > 0.2
    assert metric(last, "value_loss") < 0.7 * metric(first, "value_loss")


@pytest.mark.parametrize("critic", ["separate", "shared"])
def test_the_value_warm_up_leaves_the_policy_unchanged(model_folder: str, critic: str) -> None:
    group = make_group(model_folder, "PPO", critic=critic, value_warmup_iterations=2)
    learner, plan = group._learner, make_plan(make_ppo_rows(), 1)

    def policy() -> torch.Tensor:
        return torch.cat([p.detach().flatten().clone() for p in learner.policy.model.parameters()])

    head = learner.policy.value_head if critic == "shared" else learner.critic.head
    before = policy()
    for _ in range(2):
        values = head.linear.weight.clone()
        results = group.update(plan)
        assert torch.equal(policy(), before)
        assert not torch.equal(head.linear.weight, values)
        assert metric(results, "value_loss") > 0
    group.update(plan)
    assert not torch.equal(policy(), before)


@pytest.mark.slow
@pytest.mark.parametrize("start", [0.5, 30.0])
def test_an_adaptive_kl_moves_to_its_target(model_folder: str, start: float) -> None:
    """From a coefficient that lets the policy run away, and from one that holds it fast."""
    settings = {"critic": None, "kl_in": "loss", "kl_estimator": "k3", "kl_coeff": start}
    plan, target = make_plan(make_ppo_rows(), 1), 0.05
    held, left = (
        make_group(model_folder, "PPO", kl_target=target, kl_horizon=16, **settings),
        make_group(model_folder, "PPO", **settings),
    )
    for _ in range(24):
        reached, otherwise = (metric(group.update(plan), "kl_reference") for group in (held, left))
    assert abs(math.log(reached / target)) < 0.5 * abs(math.log(otherwise / target))
    assert left._learner.kl_coeff == start


def test_the_adaptive_coefficient_by_hand(model_folder: str) -> None:
    # The first KL is 0, an error of -1, which counts as -0.2: 0.5 * (1 - 0.2 * 16 samples / 64) = 0.475.
    group = make_group(model_folder, "PPO", kl_coeff=0.5, kl_target=0.1, kl_horizon=64)
    group.update(make_plan(make_ppo_rows(), 1))
    assert group._learner.kl_coeff == pytest.approx(0.475)


def test_steps_end_when_they_have_gone_far_enough(model_folder: str) -> None:
    plan = make_plan(make_ppo_rows(), 1, minibatch_size=5)
    free = make_group(model_folder, "PPO", critic=None).update(plan, num_epochs=3)
    assert metric(free, "num_steps") == 9
    held = make_group(model_folder, "PPO", critic=None, kl_stop=1e-4).update(plan, num_epochs=3)
    # The first minibatch of the first epoch has no KL yet; after a step of 1e-3 the next one is beyond the limit.
    assert metric(held, "num_steps") == 2
    assert metric(held, "kl_behaviour") > 0.5e-4


def test_the_bonus_raises_the_entropy(model_folder: str) -> None:
    rows = [replace(row, rewards=np.zeros_like(row.rewards)) for row in make_ppo_rows()]
    plan = make_plan(rows, 1)
    group = make_group(model_folder, "PPO", critic=None, entropy_coeff=0.1)
    entropy = [metric(group.update(plan), "entropy") for _ in range(4)]
    assert entropy == sorted(entropy) and entropy[3] > entropy[0] + 0.01


def test_a_checkpoint_brings_back_the_critic_and_the_coefficient(model_folder: str, tmp_path: Path) -> None:
    settings = {"kl_coeff": 0.5, "kl_target": 0.1}
    group, other = (make_group(model_folder, "PPO", **settings) for _ in range(2))
    plan = make_plan(make_ppo_rows(), 1)
    group.update(plan)
    other.restore_from_path(group.save_to_path(tmp_path))
    assert other._learner.kl_coeff == group._learner.kl_coeff != 0.5
    for each in (group, other):
        each.update(plan)
    assert torch.equal(critic_weights(other._learner), critic_weights(group._learner))
    assert torch.equal(flat_weights(other._learner), flat_weights(group._learner))


def test_a_fixed_coefficient_is_the_configs_after_a_restore(model_folder: str, tmp_path: Path) -> None:
    group, other = (make_group(model_folder, "PPO", kl_coeff=value) for value in (0.5, 0.1))
    other.restore_from_path(group.save_to_path(tmp_path))
    assert other._learner.kl_coeff == 0.1
    with pytest.raises(ValueError, match="saved with critic='separate', and this run has 'shared'"):
        make_group(model_folder, "PPO", critic="shared").restore_from_path(tmp_path)


@pytest.mark.parametrize("how", ["warm-up", "nothing to learn from"])
def test_the_coefficient_stays_where_no_kl_was_measured(model_folder: str, how: str) -> None:
    warm_up = int(how == "warm-up")
    group = make_group(model_folder, "PPO", kl_coeff=0.5, kl_target=0.1, value_warmup_iterations=warm_up)
    group.update(make_plan(make_ppo_rows() if warm_up else [], 1))
    assert group._learner.kl_coeff == 0.5


@pytest.mark.parametrize(
    ("ends", "reason", "option", "bootstrapped"),
    [
        ({"terminated": True}, "stop", False, False),
        ({"truncated": True}, "stop", False, True),
        (
            {"terminated": True, "truncated": True},
            "stop",
            False,
            False,
        ),  # the last step that there was time for
        (
            {"terminated": True},
            "length",
            False,
            False,
        ),  # as in TinyZero, a response that is too long has had its chance
        ({"terminated": True}, "length", True, True),
    ],
)
def test_what_is_bootstrapped(ends: dict[str, bool], reason: str, option: bool, bootstrapped: bool) -> None:
    algorithm = object.__new__(PPO)
    algorithm.config = small_config("tiny", "PPO", bootstrap_length_cap=option)
    turn = Turn(prompt_ids=[1], response_ids=[2], logps=[-1.0], finish_reason=reason)
    episode = TextEpisode(group=0, sample=0, turns=[turn], **ends)
    assert algorithm.row(episode, 0.0).bootstrapped == bootstrapped
    algorithm.config.training(critic=None)
    assert not algorithm.row(episode, 0.0).bootstrapped


@pytest.mark.parametrize(
    "settings", [pytest.param({}, marks=pytest.mark.slow), {"critic": "shared"}], ids=["separate", "shared"]
)
def test_ppo_learns_an_easy_task(model_folder: str, settings: dict[str, Any]) -> None:
    config = small_config(model_folder, "PPO", prompts_per_iteration=64, group_size=1, lr=1e-2, **settings)
    config.environment("support:NoDigit-v0").sampling(max_new_tokens=2)
    algorithm = config.build_algo()
    curve = [algorithm.train()["rollout"]["accuracy"] for _ in range(20)]
    algorithm.stop()
    assert np.mean(curve[:2]) < 0.4
    assert np.mean(curve[-3:]) > 0.9


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"critic": "twin"}, "critic must be one of"),
        ({"lambda_": 1.5}, "lambda_ must be from 0 to 1"),
        ({"critic": "shared", "critic_lr": 1e-3}, "critic_lr is of a separate critic"),
        ({"critic": None, "bootstrap_length_cap": True}, "need a critic"),
        ({"critic": "shared", "value_warmup_iterations": 1, "weight_decay": 0.1}, "would move the policy"),
        ({"value_clip": 0.0}, "value_clip must be above 0"),
        ({"kl_target": 0.1}, "kl_target needs a kl_coeff"),
        ({"kl_target": 0.1, "kl_coeff": 0.1, "kl_horizon": 8}, "must be at least the 16 samples"),
        ({"critic_lr": 0.0}, "critic_lr must be above 0"),
    ],
)
def test_a_wrong_setting_fails_in_words(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small_config("tiny", "PPO", **settings).validate()
