"""What the learners' loads are balanced by, against costs worked out by hand."""

from __future__ import annotations

import numpy as np

from llmenv.episode import TextEpisode, Turn
from llmenv.policy.batch import TokenRow
from llmenv.policy.plan import TOKENS, Costs, plan_update


def dealt(sizes: list[tuple[int, int]], costs: Costs) -> list[list[int]]:
    """Which of some rows, by the tokens of their prompts and responses, each of two learners has."""
    turns = [
        Turn(prompt_ids=[1] * prompt, response_ids=[2] * response, logps=[-1.0] * response)
        for prompt, response in sizes
    ]
    plan = plan_update(
        [TokenRow.from_episode(TextEpisode(i, 0, [turn]), 1.0) for i, turn in enumerate(turns)],
        minibatch_size=len(sizes),
        micro_batch_tokens=1000,
        num_learners=2,
        rng=np.random.default_rng(0),
        costs=costs,
    )
    return sorted(
        sorted(row for batch in share.micro_batches for row in batch.groups.tolist()) for (share,) in plan
    )


def test_learners_are_balanced_by_attention() -> None:
    sizes = [(1, 80), (1, 60), (1, 40), (1, 40)]
    assert dealt(sizes, TOKENS) in ([[0, 2], [1, 3]], [[0, 3], [1, 2]])
    # Each token costs 1, and 1 for every token before it: 81 + 3,240 against 61 + 1,830 + 2 * (41 + 820).
    assert dealt(sizes, Costs(attention=1.0)) == [[0], [1, 2, 3]]


def test_learners_are_balanced_by_the_output_layer() -> None:
    sizes = [(90, 10), (10, 70), (40, 20), (20, 10)]
    assert dealt(sizes, TOKENS) == [[0, 3], [1, 2]]  # 100 + 30 and 80 + 60
    # A response token costs 3 more: 290, and 130 + 120 + 60.
    assert dealt(sizes, Costs(response=3.0)) == [[0, 2, 3], [1]]
