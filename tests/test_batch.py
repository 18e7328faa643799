"""From episodes to rows, minibatches and micro-batches: nothing is lost, doubled or divided by a local count."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from llmenv.batch import Minibatch, TokenBatch, TokenRow, plan_update
from llmenv.episode import TextEpisode, Turn, derive_seed
from support import random_episodes


def make_rows(num_groups: int = 5, group_size: int = 3, seed: int = 0) -> list[TokenRow]:
    """Rows that can be told apart by their advantage: 1, 2, 3, ..."""
    episodes = random_episodes(num_groups, group_size, seed)
    return [TokenRow.from_episode(episode, i + 1.0) for i, episode in enumerate(episodes)]


def make_plan(
    rows: list[TokenRow], minibatch_size: int, *, tokens: int = 120, learners: int = 1, seed: int = 0
) -> list[list[Minibatch]]:
    return plan_update(
        rows,
        minibatch_size=minibatch_size,
        micro_batch_tokens=tokens,
        num_learners=learners,
        rng=np.random.default_rng(seed),
    )


def names(minibatch: Minibatch) -> list[int]:
    """The rows of one learner's share, by their advantage; idle ones left out."""
    return [int(row.max()) for batch in minibatch.micro_batches for row in batch.advantages if row.any()]


def test_row_of_a_two_turn_episode() -> None:
    turns = [
        Turn(prompt_ids=[5, 6], response_ids=[7, 8], logps=[-1.0, -2.0]),
        Turn(prompt_ids=[9], response_ids=[10], logps=[-3.0]),
    ]
    row = TokenRow.from_episode(TextEpisode(group=4, sample=0, turns=turns), advantage=0.5)
    assert row.token_ids.tolist() == [5, 6, 7, 8, 9, 10]
    assert row.response_mask.tolist() == [False, False, True, True, False, True]
    assert row.sampling_logps.tolist() == [0.0, 0.0, -1.0, -2.0, 0.0, -3.0]
    assert row.advantages.tolist() == [0.0, 0.0, 0.5, 0.5, 0.0, 0.5]
    assert (len(row), row.num_response_tokens, row.group) == (6, 3, 4)
    assert (row.sampling_logps.dtype, row.advantages.dtype) == (np.float32, np.float32)


def test_padding_is_on_the_right_and_known_by_position() -> None:
    episodes = [
        TextEpisode(g, 0, [Turn(prompt_ids=[0, 3], response_ids=[0] * n, logps=[-1.0] * n)])
        for g, n in enumerate((1, 3))
    ]
    batch = TokenBatch.from_rows([TokenRow.from_episode(episode, 2.0) for episode in episodes])
    assert batch.input_ids.tolist() == [[0, 3, 0, 0, 0], [0, 3, 0, 0, 0]]  # 0 is a token like any other
    assert batch.lengths.tolist() == [3, 5]
    assert batch.response_mask.tolist() == [
        [False, False, True, False, False],
        [False, False, True, True, True],
    ]
    assert batch.sampling_logps.tolist() == [[0, 0, -1, 0, 0], [0, 0, -1, -1, -1]]
    assert batch.advantages.tolist() == [[0, 0, 2, 0, 0], [0, 0, 2, 2, 2]]
    assert batch.groups.tolist() == [0, 1]
    assert len(batch) == 2


@pytest.mark.parametrize("learners", [1, 2, 3, 20])
@pytest.mark.parametrize("minibatch_size", [4, 15])
def test_every_row_is_dealt_once_with_global_denominators(minibatch_size: int, learners: int) -> None:
    rows = make_rows()
    plan = make_plan(rows, minibatch_size, learners=learners)
    assert len(plan) == learners
    assert {len(minibatches) for minibatches in plan} == {
        -(-15 // minibatch_size)
    }  # the same on every learner
    seen = []
    for step in zip(*plan, strict=True):
        dealt = [name for share in step for name in names(share)]
        tokens = sum(rows[name - 1].num_response_tokens for name in dealt)
        assert {share.num_sequences for share in step} == {len(dealt)}
        assert {share.num_tokens for share in step} == {tokens}
        assert len({len(share.micro_batches) for share in step}) == 1  # a forward pass may be a collective
        seen += dealt
    assert sorted(seen) == list(range(1, 16))


def test_columns_survive_the_dealing() -> None:
    rows = make_rows()
    for minibatches in make_plan(rows, 8, learners=2):
        for batch in (batch for minibatch in minibatches for batch in minibatch.micro_batches):
            if not batch.response_mask.any():  # an idle row
                continue
            for i, length in enumerate(batch.lengths.tolist()):
                row = rows[int(batch.advantages[i].max()) - 1]
                assert batch.groups[i] == row.group
                for column, name in (
                    (batch.input_ids, "token_ids"),
                    (batch.response_mask, "response_mask"),
                    (batch.sampling_logps, "sampling_logps"),
                    (batch.advantages, "advantages"),
                ):
                    np.testing.assert_array_equal(column[i, :length].numpy(), getattr(row, name))
                    assert not column[i, length:].any()


@pytest.mark.parametrize("budget", [1, 60, 10_000])
def test_micro_batches_keep_to_their_budget(budget: int) -> None:
    rows = make_rows()
    ((minibatch,),) = make_plan(rows, 15, tokens=budget)
    for batch in minibatch.micro_batches:
        assert batch.input_ids.numel() <= budget or len(batch) == 1
        assert batch.input_ids.shape[1] == batch.lengths.max()  # no column of padding alone
    expected = {1: 15, 10_000: 1}
    assert len(minibatch.micro_batches) == expected.get(budget, len(minibatch.micro_batches))


def test_idle_rows_make_up_the_number_of_micro_batches() -> None:
    """Three rows one by one on two learners: the second gets the two shorter ones."""
    shares = [share.micro_batches for (share,) in make_plan(make_rows()[:3], 3, tokens=1, learners=2)]
    assert [[bool(b.response_mask.any()) for b in share] for share in shares] == [[True, False], [True, True]]
    idle = shares[0][1]
    assert idle.lengths.tolist() == [2] and not idle.advantages.any()


def test_learners_get_about_the_same_number_of_tokens() -> None:
    rows = make_rows(num_groups=8, group_size=8)
    loads = [
        sum(int(batch.lengths.sum()) for batch in share.micro_batches)
        for (share,) in make_plan(rows, 64, learners=2)
    ]
    # Longest first, each to the lighter one: the difference is at most the length of one row.
    assert abs(loads[0] - loads[1]) <= max(map(len, rows))


def test_a_group_stays_in_its_minibatch_where_the_sizes_let_it() -> None:
    for minibatch in make_plan(make_rows(num_groups=6, group_size=4), 8)[0]:
        groups = torch.cat([batch.groups for batch in minibatch.micro_batches])
        assert torch.bincount(groups)[groups.unique()].tolist() == [4, 4]


@pytest.mark.parametrize("learners", [1, 2])
def test_rows_without_gradient_count_and_are_not_computed(learners: int) -> None:
    rows = make_rows()
    plan = plan_update(
        rows,
        minibatch_size=15,
        micro_batch_tokens=120,
        num_learners=learners,
        rng=np.random.default_rng(0),
        has_gradient=lambda row: row.group != 2,
    )
    dealt = [name for (share,) in plan for name in names(share)]
    assert sorted(dealt) == [1, 2, 3, 4, 5, 6, 10, 11, 12, 13, 14, 15]  # group 2 is rows 7 to 9
    learned = sum(row.num_response_tokens for row in rows if row.group != 2)
    for (share,) in plan:
        assert share.num_sequences == 15
        assert share.num_tokens == sum(row.num_response_tokens for row in rows)
        assert share.num_learned_tokens == learned


def test_the_draw_depends_on_the_seed_alone() -> None:
    rows = make_rows()
    first, again, other = (
        [names(minibatch) for minibatch in make_plan(rows, 3, seed=seed)[0]] for seed in (0, 0, 1)
    )
    assert first == again != other


def test_derived_seeds_depend_on_every_key_and_on_their_order() -> None:
    keys = [(1, 2, 3), (3, 2, 1), (1, 2, 4), (1, 3, 3), (2, 2, 3)]
    seeds = {derive_seed(*key) for key in keys}
    assert len(seeds) == len(keys)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derive_seed(1, 2, 3) == derive_seed(1, 2, 3)


def test_episode_sums_up_its_turns() -> None:
    turns = [
        Turn(prompt_ids=[1], response_ids=[2, 3], reward=0.25, finish_reason="stop"),
        Turn(prompt_ids=[4], response_ids=[5], reward=1.0, finish_reason="length"),
    ]
    episode = TextEpisode(0, 0, turns)
    assert episode.token_ids == [1, 2, 3, 4, 5]
    assert (episode.total_reward, episode.response_length, episode.hit_length_cap) == (1.25, 3, True)
    assert (episode.env_steps(), episode.agent_steps(), episode.valid) == (2, 2, True)
    assert not TextEpisode(0, 0, error="lost").valid
    assert not TextEpisode(0, 0).hit_length_cap
