"""What the tests of updates share: a learner group, rows, a plan, and one update with all that it did."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from ray.rllib.core import DEFAULT_MODULE_ID

from algorithms.advantages import group_relative_advantages
from llmenv.env import TextSpace
from llmenv.policy.batch import Minibatch, TokenRow
from llmenv.policy.plan import plan_update
from llmenv.rllib.learner import LLMLearner
from llmenv.rllib.learner_group import LLMLearnerGroup
from support import (
    flat_weights,
    random_episodes,
    record_gradients,
    relative_gap,
    small_config,
    take_gradients,
)

# What must take seconds where a learner fails took half an hour, the time limit of a collective.
SECONDS = 60.0
SPACES = {DEFAULT_MODULE_ID: (TextSpace(), TextSpace())}


def make_group(model: str, algo: str = "GRPO", num_learners: int = 0, **training: Any) -> LLMLearnerGroup:
    config = small_config(model, algo, num_learners=num_learners, **training)
    config.validate()
    return config.build_learner_group(spaces=SPACES)


def start_anew(group: LLMLearnerGroup, config: Any) -> None:
    """The learners begin anew by another config, from the model's folder; their processes are the same ones."""
    config.validate()
    cls, spec = config.learner_class, config.get_multi_rl_module_spec(spaces=SPACES)

    def begin(learner: Any) -> None:
        index = learner._learner_index
        learner.__class__ = cls
        learner.__init__(config=config, module_spec=spec)
        learner._learner_index = index
        learner.build()

    group.on_all(begin)


def make_rows(num_groups: int = 5, group_size: int = 3, seed: int = 0) -> list[TokenRow]:
    """15 rows of 4 to 63 tokens: they divide neither by 2 learners nor by a micro-batch."""
    episodes = random_episodes(num_groups, group_size, seed)
    rewards = np.array([episode.total_reward for episode in episodes])
    advantages = group_relative_advantages(rewards, np.array([episode.group for episode in episodes]))
    return [TokenRow.from_episode(e, a) for e, a in zip(episodes, advantages, strict=True)]


def make_plan(
    rows: Sequence[TokenRow], learners: int, minibatch_size: int = 15, tokens: int = 150, **kwargs: Any
) -> list[list[Minibatch]]:
    return plan_update(
        rows,
        minibatch_size=minibatch_size,
        micro_batch_tokens=tokens,
        num_learners=learners,
        rng=np.random.default_rng(1),
        **kwargs,
    )


def make_ppo(model: str, **training: Any) -> LLMLearnerGroup:
    """With a critic that says something: a new one's values are all 0."""
    group = make_group(model, "PPO", **training)
    group.on_all(stir_values)
    return group


def stir_values(learner: LLMLearner) -> None:
    head = learner.policy.value_head if learner.critic is None else learner.critic.head
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(1)
        if head is not None:
            head.linear.weight.normal_(std=0.2)


def make_ppo_rows() -> list[TokenRow]:
    """15 rows, some of two turns; every fourth was cut short."""
    episodes = random_episodes(5, 3)
    return [TokenRow.from_episode(e, bootstrapped=i % 4 == 0) for i, e in enumerate(episodes)]


def metric(results: list[dict[str, Any]], key: str) -> float:
    return results[0][DEFAULT_MODULE_ID][key].peek()


class Update:
    """One `LLMLearnerGroup.update` with what it did: gradients before clipping, weights before and after, metrics."""

    def __init__(self, group: LLMLearnerGroup, plan: Sequence[Sequence[Minibatch]], **kwargs: Any):
        self.before = group.on_all(flat_weights)
        group.on_all(record_gradients)
        results = group.update(plan, **kwargs)
        self.gradients = group.on_all(take_gradients)  # [learner][step]
        self.after = group.on_all(flat_weights)
        self.metrics = [
            {key: stats.peek() for key, stats in result[DEFAULT_MODULE_ID].items()} for result in results
        ]

    @property
    def change(self) -> torch.Tensor:
        return self.after[0] - self.before[0]

    def summed(self, key: str) -> float:
        """As RLlib adds up the learners: one that had nothing to report counts for nothing."""
        return float(np.nansum([metrics.get(key, 0.0) for metrics in self.metrics]))


def assert_same_update(ours: Update, theirs: Update) -> None:
    """Pre-clip gradients to 1e-5 relative, weight changes to 1e-3 relative, the loss to 1e-5 (of its terms' size)."""
    assert relative_gap(ours.before[0], theirs.before[0]) == 0.0
    for gradients in ours.gradients:  # after the all-reduce, every learner has the whole gradient
        for ours_step, theirs_step in zip(gradients, theirs.gradients[0], strict=True):
            assert relative_gap(ours_step, theirs_step) < 1e-5
    assert theirs.change.norm() > 1e-2  # AdamW at 1e-3 moved some ten thousand weights
    assert relative_gap(ours.change, theirs.change) < 1e-3
    assert ours.summed("total_loss") == pytest.approx(theirs.summed("total_loss"), abs=1e-5)


def locally_normalised(plan: Sequence[Sequence[Minibatch]]) -> list[list[Minibatch]]:
    """The classic mistake: each learner divides by the tokens of its own share (and the learners are averaged)."""
    return [
        [
            replace(
                share, num_tokens=len(plan) * sum(int(b.response_mask.sum()) for b in share.micro_batches)
            )
            for share in shares
        ]
        for shares in plan
    ]


# By default stage 3 leaves parameters of less than 100,000 elements whole: all that the test's model has.
PARTITION_ALL = {"zero_optimization": {"stage3_param_persistence_threshold": 0}}
STAGES = {
    "0": {"zero_stage": 0},
    "1": {"zero_stage": 1},
    "2": {"zero_stage": 2},
    "2-offload": {"zero_stage": 2, "offload_optimizer": True},
    "3": {"zero_stage": 3, "config": PARTITION_ALL},
    "3-offload": {
        "zero_stage": 3,
        "offload_optimizer": True,
        "offload_parameters": True,
        "config": PARTITION_ALL,
    },
}


def set_stage(config: Any, stage: str) -> Any:
    off = {"zero_stage": None, "offload_optimizer": False, "offload_parameters": False, "config": {}}
    return config.deepspeed(**{**off, **STAGES[stage]})


def uneven_plan(learners: int) -> list[list[Minibatch]]:
    """Three steps of 5 rows in micro-batches of at most 70 tokens."""
    return make_plan(make_rows(), learners, minibatch_size=5, tokens=70)


def assert_same_steps(ours: Update, theirs: Update) -> None:
    """Gradients to 1e-5, weight changes to 1e-3 (norm of the difference over norm of the change)."""
    assert relative_gap(ours.before[0], theirs.before[0]) == 0.0
    assert len(theirs.gradients[0]) == 3
    for gradients in ours.gradients:
        assert len(gradients) == 3
        for ours_step, theirs_step in zip(gradients, theirs.gradients[0], strict=True):
            assert relative_gap(ours_step, theirs_step) < 1e-5
    assert theirs.change.norm() > 1e-2
    for before, after in zip(ours.before, ours.after, strict=True):
        assert relative_gap(after - before, theirs.change) < 1e-3
    for metrics in ours.metrics:
        assert metrics["gradient_norm"] == pytest.approx(theirs.metrics[0]["gradient_norm"], rel=1e-5)
    for key in ("total_loss", "entropy", "kl_reference"):
        assert ours.summed(key) == pytest.approx(theirs.summed(key), abs=1e-5)


def plain_losses(model: str, batches: Sequence[Sequence[tuple[Any, Any]]], lr: float) -> list[float]:
    """The loss before each step of a plain loop: transformers, AdamW, cross-entropy on the response tokens alone.

    Args:
        model: Its folder.
        batches: Of each step, token ids and response mask of its rows.
        lr: Learning rate; gradients are clipped at 1.
    """
    from llmenv.models.names import load_causal_lm

    policy = load_causal_lm(model)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=lr, weight_decay=0.0)
    losses = []
    for batch in batches:
        total, count = torch.zeros(()), 0
        for ids, mask in batch:  # a row a forward: neither padding nor packing
            ids = torch.as_tensor(np.asarray(ids)).long()
            labels = ids.where(torch.as_tensor(np.asarray(mask)), torch.tensor(-100))
            logits = policy(input_ids=ids[None]).logits[0]
            total = total + torch.nn.functional.cross_entropy(logits[:-1], labels[1:], reduction="sum")
            count += int((labels[1:] != -100).sum())
        loss = total / count
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    return losses
