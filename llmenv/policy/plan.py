"""How a batch is cut: into minibatches, dealt to the learners, and these into micro-batches.

Everything that must be global is decided here, on the driver, before rows are dealt out: which rows form a minibatch,
what its denominators are, and which learner gets which rows. A loss therefore does not depend on the micro-batch
budget or on the number of learners.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from llmenv.policy.batch import Minibatch, TokenBatch, TokenRow, by_group, shared_prefix


class Costs(NamedTuple):
    """What a forward computes for a token beside the layers' products with its hidden state, which cost 1.

    Attributes:
        attention: To look at one other token.
        response: The output layer, which is computed for response tokens alone.
    """

    attention: float = 0.0
    response: float = 0.0


TOKENS = Costs()  # so that a cost is a number of tokens


def plan_update(
    rows: Sequence[TokenRow],
    *,
    minibatch_size: int,
    micro_batch_tokens: int,
    num_learners: int,
    rng: np.random.Generator,
    has_gradient: Callable[[TokenRow], bool] = lambda row: True,
    shared_prompts: bool = True,
    costs: Costs = TOKENS,
) -> list[list[Minibatch]]:
    """Cuts a batch into minibatches and deals each one's rows to the learners, balanced by what they cost.

    Groups are shuffled, not rows, and steps take rows in that order: a group is torn only where a step ends within it.
    Every row keeps its minibatch, learner and micro-batch through all epochs (only the order of the minibatches
    changes), so that old and reference log-probabilities are computed once, where they are used.

    Args:
        rows: The whole batch.
        minibatch_size: Sequences of one optimizer step, over all learners, where that divides the n rows. Else they
            are spread over max(1, round(n / minibatch_size)) steps whose sizes differ by a row at most: a step moves
            the weights as far as any other, however few rows it has.
        micro_batch_tokens: Upper bound of the tokens that one forward computes; a longer row goes alone.
        num_learners: At least 1.
        rng: Draws the order of the groups.
        has_gradient: False for rows whose gradient is known to be zero: they count, but are not computed.
        shared_prompts: Whether a forward computes what rows of a group begin with once, and no padding. A group is
            then torn between learners only where that takes work off the busiest of them, and between
            micro-batches only where it is larger than the budget.
        costs: What the learners' loads are balanced by.

    Returns:
        For each learner, its minibatches; every learner has the same number of them, and in each the same number of
        micro-batches: a forward pass is a collective where parameters are sharded. Idle rows make up the number.
    """
    groups = by_group(rows)
    shuffled = [row for i in rng.permutation(len(groups)) for row in groups[i]]

    plan: list[list[Minibatch]] = [[] for _ in range(num_learners)]
    num_rows = len(shuffled)
    num_steps = min(num_rows, max(1, round(num_rows / minibatch_size)))
    for step in range(num_steps):
        minibatch = shuffled[step * num_rows // num_steps : (step + 1) * num_rows // num_steps]
        learned = [row for row in minibatch if has_gradient(row)]
        pieces = by_group(learned) if shared_prompts else [[row] for row in learned]
        cut = _packed_chunks if shared_prompts else _padded_chunks
        shares = [cut(share, micro_batch_tokens) for share in _deal(pieces, num_learners, costs)]
        most = max(map(len, shares))
        for learner, chunks in enumerate(shares):
            chunks += [[_idle_row()]] * (most - len(chunks))
            plan[learner].append(
                Minibatch(
                    micro_batches=[TokenBatch.from_rows(chunk) for chunk in chunks],
                    num_tokens=_num_tokens(row for row in minibatch if not row.supervised),
                    num_sequences=sum(not row.supervised for row in minibatch),
                    num_learned_tokens=_num_tokens(learned),
                    num_supervised_tokens=_num_tokens(row for row in minibatch if row.supervised),
                )
            )
    return plan


def _num_tokens(rows: Iterable[TokenRow]) -> int:
    return sum(row.num_response_tokens for row in rows)


def _idle_row() -> TokenRow:
    """The shortest row that goes through a model; nothing in it is learned."""
    return TokenRow(
        token_ids=np.zeros(2, dtype=np.int64),
        response_mask=np.zeros(2, dtype=bool),
        sampling_logps=np.zeros(2, dtype=np.float32),
        advantages=np.zeros(2, dtype=np.float32),
        rewards=np.zeros(2, dtype=np.float32),
        group=0,
    )


def _cost(start: int, stop: int, costs: Costs = TOKENS) -> float:
    """What the layers compute of a sequence from one token to another, in tokens."""
    looked_at = (stop * (stop - 1) - start * (start - 1)) // 2
    return stop - start + costs.attention * looked_at


def _rest_cost(row: TokenRow, prefix: int, costs: Costs = TOKENS) -> float:
    """What a forward computes of a row behind what it shares."""
    return _cost(prefix, len(row), costs) + costs.response * row.num_response_tokens


def _piece_cost(piece: Sequence[TokenRow], costs: Costs = TOKENS) -> float:
    """What a forward computes of rows of one group: what they begin with, and the rest of each."""
    prefix = shared_prefix(piece)
    return _cost(0, prefix, costs) + sum(_rest_cost(row, prefix, costs) for row in piece)


def _deal(pieces: Sequence[list[TokenRow]], num_learners: int, costs: Costs) -> list[list[list[TokenRow]]]:
    """Largest first, each piece to the learner with the least to do so far; then tears where that balances them."""
    shares: list[list[list[TokenRow]]] = [[] for _ in range(num_learners)]
    loads = [0.0] * num_learners
    for cost, _, piece in sorted(
        ((_piece_cost(piece, costs), i, piece) for i, piece in enumerate(pieces)), reverse=True
    ):
        lightest = loads.index(min(loads))
        shares[lightest].append(piece)
        loads[lightest] += cost
    while True:
        heaviest, lightest = loads.index(max(loads)), loads.index(min(loads))
        torn = _tear(shares[heaviest], loads[heaviest], loads[lightest], costs)
        if torn is None:
            return shares
        shares[heaviest], moved = torn
        shares[lightest].append(moved)
        for learner in (heaviest, lightest):
            loads[learner] = sum(_piece_cost(piece, costs) for piece in shares[learner])


def _tear(
    share: list[list[TokenRow]], load: float, other_load: float, costs: Costs
) -> tuple[list[list[TokenRow]], list[TokenRow]] | None:
    """The best part of a share to give to a learner with less, and what is left; None if none is worth its prompt."""
    best, least = None, load
    for i, piece in enumerate(share):
        prefix = shared_prefix(piece)
        again = _cost(0, prefix, costs)
        moved = 0.0
        for cut in range(len(piece) - 1, 0, -1):
            moved += _rest_cost(piece[cut], prefix, costs)
            greater = max(load - moved, other_load + again + moved)
            if greater < least:
                best, least = (i, cut), greater
    if best is None:
        return None
    i, cut = best
    return [*share[:i], share[i][:cut], *share[i + 1 :]], share[i][cut:]


def _packed_chunks(pieces: Sequence[list[TokenRow]], micro_batch_tokens: int) -> list[list[TokenRow]]:
    """Pieces put together within the budget, the largest first, each where there is room; one beyond it is cut."""
    fitting: list[list[TokenRow]] = []
    for piece in pieces:
        prefix, size = shared_prefix(piece), math.inf
        for row in sorted(piece, key=len, reverse=True):
            if size + len(row) - prefix > micro_batch_tokens:
                fitting.append([])
                size = prefix
            fitting[-1].append(row)
            size += len(row) - prefix
    chunks: list[list[TokenRow]] = []
    room: list[float] = []
    for piece in sorted(fitting, key=_piece_cost, reverse=True):
        size = _piece_cost(piece)
        i = next((i for i, left in enumerate(room) if left >= size), len(room))
        if i == len(room):
            chunks.append([])
            room.append(micro_batch_tokens)
        chunks[i] += piece
        room[i] -= size
    return chunks


def _padded_chunks(pieces: Sequence[list[TokenRow]], micro_batch_tokens: int) -> list[list[TokenRow]]:
    """Rows sorted by length (longest first), cut where the padded size would pass the budget."""
    chunks: list[list[TokenRow]] = []
    for row in sorted((row for piece in pieces for row in piece), key=len, reverse=True):
        if chunks and (len(chunks[-1]) + 1) * len(chunks[-1][0]) <= micro_batch_tokens:
            chunks[-1].append(row)
        else:
            chunks.append([row])
    return chunks
