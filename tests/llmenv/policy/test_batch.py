"""From episodes to rows, minibatches and micro-batches: nothing is lost, doubled or divided by a local count."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from llmenv.episode import TextEpisode, Turn
from llmenv.policy.batch import Minibatch, TokenBatch, TokenRow, shared_prefix
from llmenv.policy.plan import plan_update
from support import random_episodes


def make_rows(num_groups: int = 5, group_size: int = 3, seed: int = 0) -> list[TokenRow]:
    """Rows that can be told apart by their advantage: 1, 2, 3, ..."""
    episodes = random_episodes(num_groups, group_size, seed)
    return [TokenRow.from_episode(episode, i + 1.0) for i, episode in enumerate(episodes)]


def make_plan(
    rows: list[TokenRow],
    minibatch_size: int,
    *,
    tokens: int = 120,
    learners: int = 1,
    seed: int = 0,
    shared: bool = True,
) -> list[list[Minibatch]]:
    return plan_update(
        rows,
        minibatch_size=minibatch_size,
        micro_batch_tokens=tokens,
        num_learners=learners,
        rng=np.random.default_rng(seed),
        shared_prompts=shared,
    )


def computed(batch: TokenBatch, *, shared: bool) -> int:
    """Tokens that one forward pass takes, whether they are worth something or not."""
    if not shared:
        return batch.input_ids.numel()
    groups = [batch.groups == group for group in batch.groups.unique()]
    prompts = sum(int(batch.prefix_lengths[group][0]) for group in groups)
    return prompts + int((batch.lengths - batch.prefix_lengths).sum())


def equal_rows(num_groups: int, group_size: int) -> list[TokenRow]:
    """Prompts of 10 tokens, responses of 5."""
    episodes = [
        TextEpisode(g, s, [Turn(prompt_ids=[g] * 10, response_ids=[s] * 5, logps=[-1.0] * 5)])
        for g in range(num_groups)
        for s in range(group_size)
    ]
    return [TokenRow.from_episode(episode, i + 1.0) for i, episode in enumerate(episodes)]


def groups_of(minibatch: Minibatch) -> list[list[int]]:
    return [batch.groups.tolist() for batch in minibatch.micro_batches]


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
    assert row.rewards.tolist() == [0.0] * 6


@pytest.mark.parametrize("bootstrapped", [False, True])
def test_rows_are_to_the_bit_what_lists_would_make_of_them(bootstrapped: bool) -> None:
    for episode in random_episodes(4, 3):
        ids, mask, logps, rewards = [], [], [], []
        for turn in episode.turns:
            prompt, response = turn.prompt_ids.tolist(), turn.response_ids.tolist()
            ids += prompt + response
            mask += [False] * len(prompt) + [True] * len(response)
            logps += [0.0] * len(prompt) + turn.logps.tolist()
            rewards += [0.0] * (len(prompt) + len(response) - 1) + [turn.reward]
        lists = {
            "token_ids": (ids, np.int64),
            "response_mask": (mask, np.bool_),
            "sampling_logps": (logps, np.float32),
            "advantages": ([0.1 * in_response for in_response in mask], np.float32),
            "rewards": (rewards, np.float32),
        }
        row = TokenRow.from_episode(episode, 0.1, bootstrapped=bootstrapped)
        for name, (values, dtype) in lists.items():
            column, expected = getattr(row, name), np.array(values + [0] * bootstrapped, dtype=dtype)
            assert (column.dtype, column.tobytes()) == (expected.dtype, expected.tobytes()), name


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


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("learners", [1, 2, 3, 20])
@pytest.mark.parametrize("minibatch_size", [4, 15])
def test_every_row_is_dealt_once_with_global_denominators(
    minibatch_size: int, learners: int, shared: bool
) -> None:
    rows = make_rows()
    plan = make_plan(rows, minibatch_size, learners=learners, shared=shared)
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


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("budget", [1, 60, 10_000])
def test_micro_batches_keep_to_their_budget(budget: int, shared: bool) -> None:
    rows = make_rows()
    ((minibatch,),) = make_plan(rows, 15, tokens=budget, shared=shared)
    for batch in minibatch.micro_batches:
        assert computed(batch, shared=shared) <= budget or len(batch) == 1
        assert batch.input_ids.shape[1] == batch.lengths.max()  # no column of padding alone
    expected = {1: 15, 10_000: 1}
    assert len(minibatch.micro_batches) == expected.get(budget, len(minibatch.micro_batches))


def test_idle_rows_make_up_the_number_of_micro_batches() -> None:
    """Three rows one by one on two learners: the second gets the two shorter ones."""
    shares = [share.micro_batches for (share,) in make_plan(make_rows()[:3], 3, tokens=1, learners=2)]
    assert [[bool(b.response_mask.any()) for b in share] for share in shares] == [[True, False], [True, True]]
    idle = shares[0][1]
    assert idle.lengths.tolist() == [2] and not idle.advantages.any()


def test_a_shared_prompt_counts_once_against_the_budget() -> None:
    # A group of 4 takes 10 + 4 x 5 = 30 tokens, or 4 x 15 = 60 without sharing.
    rows = equal_rows(2, 4)
    assert len(groups_of(make_plan(rows, 8, tokens=60)[0][0])) == 1
    assert sorted(groups_of(make_plan(rows, 8, tokens=59)[0][0])) == [[0] * 4, [1] * 4]
    assert len(groups_of(make_plan(rows, 8, tokens=60, shared=False)[0][0])) == 2


def test_a_group_is_cut_only_where_it_is_larger_than_the_budget() -> None:
    # 10 + 5 n tokens: 3 rows are within 25, and the fourth has the prompt to itself.
    sizes = [len(groups) for groups in groups_of(make_plan(equal_rows(2, 4), 8, tokens=25)[0][0])]
    assert sizes == [3, 3, 1, 1]


def test_what_rows_begin_with_in_common() -> None:
    def row(prompt: list[int], response: list[int]) -> TokenRow:
        turns = [Turn(prompt_ids=prompt, response_ids=response, logps=[-1.0] * len(response))]
        return TokenRow.from_episode(TextEpisode(0, 0, turns), 1.0)

    assert shared_prefix([row([1, 2, 3], [4])]) == 3
    assert shared_prefix([row([1, 2, 3], [4]), row([1, 2, 3], [4, 5])]) == 3  # responses are never shared
    assert shared_prefix([row([1, 2, 3], [4]), row([1, 2], [3])]) == 2
    assert shared_prefix([row([1, 2, 3], [4]), row([1, 5, 3], [4])]) == 1
    assert shared_prefix([row([1, 2], [4]), row([3, 2], [4])]) == 0
    batch = TokenBatch.from_rows([*make_rows(2, 3)])
    assert batch.prefix_lengths.tolist() == [int(row.response_mask.argmax()) for row in make_rows(2, 3)]


@pytest.mark.parametrize("shared", [True, False])
def test_learners_get_about_the_same_number_of_tokens(shared: bool) -> None:
    rows = make_rows(num_groups=8, group_size=8)
    loads = [
        sum(
            computed(batch, shared=True) if shared else int(batch.lengths.sum())
            for batch in share.micro_batches
        )
        for (share,) in make_plan(rows, 64, tokens=10_000, learners=2, shared=shared)
    ]
    # Else a row, with its prompt at most, would have gone to the other.
    assert abs(loads[0] - loads[1]) <= max(map(len, rows))


def test_a_group_is_torn_between_learners_only_where_that_balances_them() -> None:
    def dealt(num_groups: int) -> list[list[int]]:
        """For each learner, how many rows of each group it has."""
        plan = make_plan(equal_rows(num_groups, 4), 4 * num_groups, tokens=1000, learners=2)
        groups = [[group for batch in groups_of(share) for group in batch] for (share,) in plan]
        return sorted(sorted(map(one.count, range(num_groups))) for one in groups)

    assert dealt(4) == [[0, 0, 4, 4], [0, 0, 4, 4]]
    # 30 tokens a group. 60 and 30 become 50 (30 + 20) and 50 (30 + 20): the third group's prompt is computed twice.
    assert dealt(3) == [[0, 2, 4], [0, 2, 4]]
    assert dealt(1) == [[2], [2]]


def test_a_group_is_not_torn_where_its_prompt_costs_more_than_it_saves() -> None:
    # 14 + 10 and 10 + 10 tokens: one response of 5 moved would bring a prompt of 10 along, 35 in all.
    rows = equal_rows(2, 2)
    rows[1] = TokenRow.from_episode(
        TextEpisode(0, 1, [Turn(prompt_ids=[0] * 10, response_ids=[1] * 9, logps=[-1.0] * 9)]), 2.0
    )
    for (share,) in make_plan(rows, 4, learners=2):
        assert len({group for batch in groups_of(share) for group in batch}) == 1


def test_a_group_stays_in_its_minibatch_where_the_sizes_let_it() -> None:
    for minibatch in make_plan(make_rows(num_groups=6, group_size=4), 8)[0]:
        groups = torch.cat([batch.groups for batch in minibatch.micro_batches])
        assert torch.bincount(groups)[groups.unique()].tolist() == [4, 4]


@pytest.mark.parametrize(
    ("num_rows", "sizes"),
    [
        (0, []),
        (3, [3]),  # less than half a minibatch is a step still
        (65, [65]),  # round(65 / 64) = 1: no step of a lone row
        (97, [48, 49]),  # round(97 / 64 = 1.52) = 2
        (120, [60, 60]),
        (128, [64, 64]),
        (161, [53, 54, 54]),  # round(2.52) = 3
    ],
)
def test_rows_are_spread_evenly_over_the_steps(num_rows: int, sizes: list[int]) -> None:
    (shares,) = make_plan(equal_rows(num_rows, 1), 64, tokens=10_000)
    assert [share.num_sequences for share in shares] == sizes


def test_rows_that_fill_their_minibatches_stand_in_the_order_drawn() -> None:
    rows = make_rows(num_groups=6, group_size=2)  # names 1 and 2 are group 0, 3 and 4 are group 1, ...
    order = np.random.default_rng(3).permutation(6)
    expected = [sorted(name for g in pair for name in (2 * g + 1, 2 * g + 2)) for pair in order.reshape(3, 2)]
    assert [sorted(names(minibatch)) for minibatch in make_plan(rows, 4, seed=3)[0]] == expected


def test_a_group_is_torn_between_steps_only_where_a_step_ends_within_it() -> None:
    # 23 rows are 3 steps, which end after 7, 15 and 23 rows: at most two of the 6 groups are in two of them.
    (shares,) = make_plan(equal_rows(6, 4)[:-1], 8, tokens=10_000)
    groups = [sorted({group for batch in groups_of(share) for group in batch}) for share in shares]
    assert [share.num_sequences for share in shares] == [7, 8, 8]
    assert sum(map(len, groups)) <= 6 + 2


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
