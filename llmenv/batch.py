"""From episodes to what a learner's forward pass eats: rows, micro-batches, minibatches.

Token ids only: knows nothing about text, losses or engines. Everything that must be global is decided here, on
the driver, before rows are dealt out: which rows form a minibatch, what its denominators are, and which learner
gets which rows. A loss therefore does not depend on the micro-batch budget or on the number of learners.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np
import torch

from llmenv.episode import TextEpisode
from llmenv.packed import PackedRow


@dataclass
class TokenRow:
    """One valid episode as arrays of length T.

    Attributes:
        token_ids: int64 [T], prompt and response tokens of all turns.
        response_mask: bool [T], True where the model itself sampled the token.
        sampling_logps: float32 [T], the sampler's log-probabilities; 0 outside the mask.
        advantages: float32 [T]; 0 outside the mask.
        rewards: float32 [T]; a turn's reward at its last response token, 0 elsewhere.
        group: Rows of one group share their task and their first prompt.
        bootstrapped: The row was cut short: what its critic expects after the last token counts as earned. Its last
            entry is then no token, but the place of that value.
    """

    token_ids: np.ndarray
    response_mask: np.ndarray
    sampling_logps: np.ndarray
    advantages: np.ndarray
    rewards: np.ndarray
    group: int
    bootstrapped: bool = False

    @classmethod
    def from_episode(
        cls, episode: TextEpisode, advantage: float = 0.0, *, bootstrapped: bool = False
    ) -> TokenRow:
        """A row whose every response token carries the episode's `advantage`."""
        mask: list[bool] = []
        logps: list[float] = []
        rewards: list[float] = []
        for turn in episode.turns:
            size = len(turn.prompt_ids) + len(turn.response_ids)
            mask += [False] * len(turn.prompt_ids) + [True] * len(turn.response_ids)
            logps += [0.0] * len(turn.prompt_ids) + turn.logps
            rewards += [0.0] * (size - 1) + [turn.reward]
        extra = int(bootstrapped)
        response_mask = np.array(mask + [False] * extra, dtype=bool)
        return cls(
            token_ids=np.array(episode.token_ids + [0] * extra, dtype=np.int64),
            response_mask=response_mask,
            sampling_logps=np.array(logps + [0.0] * extra, dtype=np.float32),
            advantages=np.where(response_mask, np.float32(advantage), np.float32(0.0)),
            rewards=np.array(rewards + [0.0] * extra, dtype=np.float32),
            group=episode.group,
            bootstrapped=bootstrapped,
        )

    def __len__(self) -> int:
        return len(self.token_ids)

    @property
    def num_response_tokens(self) -> int:
        return int(self.response_mask.sum())


def shared_prefix(rows: Sequence[TokenRow]) -> int:
    """How many leading tokens rows have in common, before the first response token of any of them."""
    # The last token of a row predicts nothing, and counts for none.
    limit = min(int(row.response_mask.argmax()) or len(row) - 1 for row in rows)
    starts = np.stack([row.token_ids[:limit] for row in rows])
    same = (starts == starts[0]).all(axis=0)
    return limit if same.all() else int(same.argmin())


def _by_group(rows: Sequence[TokenRow]) -> list[list[TokenRow]]:
    groups: dict[int, list[TokenRow]] = {}
    for row in rows:
        groups.setdefault(row.group, []).append(row)
    return list(groups.values())


@dataclass
class TokenBatch:
    """Rows of whole sequences, padded on the right to the longest.

    Attributes:
        input_ids: int64 [B, T].
        lengths: int64 [B], tokens that are not padding. Padding is known by position, never by a token id.
        response_mask: bool [B, T].
        sampling_logps: float32 [B, T].
        advantages: float32 [B, T].
        rewards: float32 [B, T].
        bootstrapped: bool [B].
        groups: int64 [B]; rows with equal numbers share their first prompt.
        prefix_lengths: int64 [B], `shared_prefix` of the rows of each one's group that are in this batch.
    """

    input_ids: torch.Tensor
    lengths: torch.Tensor
    response_mask: torch.Tensor
    sampling_logps: torch.Tensor
    advantages: torch.Tensor
    rewards: torch.Tensor
    bootstrapped: torch.Tensor
    groups: torch.Tensor
    prefix_lengths: torch.Tensor

    @classmethod
    def from_rows(cls, rows: Sequence[TokenRow]) -> TokenBatch:
        width = max(len(row) for row in rows)
        prefixes = {group[0].group: shared_prefix(group) for group in _by_group(rows)}

        def pad(column: str) -> torch.Tensor:
            first = getattr(rows[0], column)
            padded = np.zeros((len(rows), width), dtype=first.dtype)
            for i, row in enumerate(rows):
                padded[i, : len(row)] = getattr(row, column)
            return torch.from_numpy(padded)

        return cls(
            input_ids=pad("token_ids"),
            lengths=torch.tensor([len(row) for row in rows]),
            response_mask=pad("response_mask"),
            sampling_logps=pad("sampling_logps"),
            advantages=pad("advantages"),
            rewards=pad("rewards"),
            bootstrapped=torch.tensor([row.bootstrapped for row in rows]),
            groups=torch.tensor([row.group for row in rows]),
            prefix_lengths=torch.tensor([prefixes[row.group] for row in rows]),
        )

    def __len__(self) -> int:
        return len(self.lengths)

    def to(self, device: torch.device) -> TokenBatch:
        return TokenBatch(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})

    @cached_property
    def packed(self) -> PackedRow:
        """The same rows as one, made when first asked for and kept for further passes."""
        return PackedRow.from_columns(
            self.input_ids, self.lengths, self.valued_mask, self.groups, self.prefix_lengths
        )

    @cached_property
    def valued_mask(self) -> torch.Tensor:
        """Where a critic has a value, bool [B, T]: the response tokens, and the last entry of bootstrapped rows."""
        last = torch.arange(self.input_ids.shape[1], device=self.lengths.device) == self.lengths[:, None] - 1
        return self.response_mask | (last & self.bootstrapped[:, None])


@dataclass
class PreparedBatch:
    """A micro-batch on its learner's device, with what stays fixed over the steps on its batch.

    Attributes:
        tokens: The micro-batch.
        old_logps: float32 [B, T], the learner's own log-probabilities before the first step on this batch. None where
            there is but one step and nothing else asks for them: they are then the policy's own.
        ref_logps: float32 [B, T] of the reference policy, or None where no KL to it is asked for.
        old_values: float32 [B, T] of the critic, or None where there is none.
        value_targets: float32 [B, T], what the critic is to say.
    """

    tokens: TokenBatch
    old_logps: torch.Tensor | None
    ref_logps: torch.Tensor | None
    old_values: torch.Tensor | None = None
    value_targets: torch.Tensor | None = None


@dataclass
class LossBatch:
    """What a loss sees of one micro-batch beside the policy's output.

    Attributes:
        tokens: The micro-batch.
        old_logps: float32 [B, T], the learner's own log-probabilities before the first step on this batch.
        ref_logps: float32 [B, T] of the reference policy, or None where no KL to it is asked for.
        num_tokens: The loss's denominator: see `Minibatch`.
        num_sequences: The same, in sequences.
        num_learned_tokens: The denominator of metrics about tokens that went through the model.
    """

    tokens: TokenBatch
    old_logps: torch.Tensor
    ref_logps: torch.Tensor | None
    num_tokens: int
    num_sequences: int
    num_learned_tokens: int


@dataclass
class Minibatch:
    """One learner's share of the sequences of one optimizer step.

    Attributes:
        micro_batches: This learner's rows, one forward and backward each. Every learner has the same number.
        num_tokens: Response tokens of the whole minibatch, over all learners: the global denominator. It counts
            rows that are in no micro-batch because they have no gradient, too.
        num_sequences: Sequences of the whole minibatch, over all learners, counted likewise.
        num_learned_tokens: Response tokens of the rows that are in micro-batches, over all learners.
    """

    micro_batches: list[TokenBatch]
    num_tokens: int
    num_sequences: int
    num_learned_tokens: int


def plan_update(
    rows: Sequence[TokenRow],
    *,
    minibatch_size: int,
    micro_batch_tokens: int,
    num_learners: int,
    rng: np.random.Generator,
    has_gradient: Callable[[TokenRow], bool] = lambda row: True,
    shared_prompts: bool = True,
    attention_cost: float = 0.0,
) -> list[list[Minibatch]]:
    """Cuts a batch into minibatches and deals each one's rows to the learners, balanced by what they cost.

    Groups are shuffled, not rows, so that a group stays together where the sizes let it. Every row keeps its
    minibatch, learner and micro-batch through all epochs (only the order of the minibatches changes), so that
    old and reference log-probabilities are computed once, where they are used.

    Args:
        rows: The whole batch.
        minibatch_size: Sequences of one optimizer step, over all learners. The last one takes what is left.
        micro_batch_tokens: Upper bound of the tokens that one forward computes; a longer row goes alone.
        num_learners: At least 1.
        rng: Draws the order of the groups.
        has_gradient: False for rows whose gradient is known to be zero: they count, but are not computed.
        shared_prompts: Whether a forward computes what rows of a group begin with once, and no padding. A group is
            then torn between learners only where that takes work off the busiest of them, and between
            micro-batches only where it is larger than the budget.
        attention_cost: What it costs a token to look at another, in units of what else is computed for it.

    Returns:
        For each learner, its minibatches; every learner has the same number of them, and in each the same number of
        micro-batches: a forward pass is a collective where parameters are sharded. Idle rows make up the number.
    """
    groups = _by_group(rows)
    shuffled = [row for i in rng.permutation(len(groups)) for row in groups[i]]

    plan: list[list[Minibatch]] = [[] for _ in range(num_learners)]
    for start in range(0, len(shuffled), minibatch_size):
        minibatch = shuffled[start : start + minibatch_size]
        learned = [row for row in minibatch if has_gradient(row)]
        pieces = _by_group(learned) if shared_prompts else [[row] for row in learned]
        cut = _packed_chunks if shared_prompts else _padded_chunks
        shares = [cut(share, micro_batch_tokens) for share in _deal(pieces, num_learners, attention_cost)]
        most = max(map(len, shares))
        for learner, chunks in enumerate(shares):
            chunks += [[_idle_row()]] * (most - len(chunks))
            plan[learner].append(
                Minibatch(
                    micro_batches=[TokenBatch.from_rows(chunk) for chunk in chunks],
                    num_tokens=sum(row.num_response_tokens for row in minibatch),
                    num_sequences=len(minibatch),
                    num_learned_tokens=sum(row.num_response_tokens for row in learned),
                )
            )
    return plan


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


def _cost(start: int, stop: int, attention_cost: float = 0.0) -> float:
    """What a forward computes of a sequence from one token to another, in tokens."""
    looked_at = (stop * (stop - 1) - start * (start - 1)) // 2
    return stop - start + attention_cost * looked_at


def _piece_cost(piece: Sequence[TokenRow], attention_cost: float = 0.0) -> float:
    """What a forward computes of rows of one group: what they begin with, and the rest of each."""
    prefix = shared_prefix(piece)
    return _cost(0, prefix, attention_cost) + sum(_cost(prefix, len(row), attention_cost) for row in piece)


def _deal(
    pieces: Sequence[list[TokenRow]], num_learners: int, attention_cost: float
) -> list[list[list[TokenRow]]]:
    """Largest first, each piece to the learner with the least to do so far; then tears where that balances them."""
    shares: list[list[list[TokenRow]]] = [[] for _ in range(num_learners)]
    loads = [0.0] * num_learners
    for cost, _, piece in sorted(
        ((_piece_cost(piece, attention_cost), i, piece) for i, piece in enumerate(pieces)), reverse=True
    ):
        lightest = loads.index(min(loads))
        shares[lightest].append(piece)
        loads[lightest] += cost
    while True:
        heaviest, lightest = loads.index(max(loads)), loads.index(min(loads))
        torn = _tear(shares[heaviest], loads[heaviest], loads[lightest], attention_cost)
        if torn is None:
            return shares
        shares[heaviest], moved = torn
        shares[lightest].append(moved)
        for learner in (heaviest, lightest):
            loads[learner] = sum(_piece_cost(piece, attention_cost) for piece in shares[learner])


def _tear(
    share: list[list[TokenRow]], load: float, other_load: float, attention_cost: float
) -> tuple[list[list[TokenRow]], list[TokenRow]] | None:
    """The best part of a share to give to a learner with less, and what is left; None if none is worth its prompt."""
    best, least = None, load
    for i, piece in enumerate(share):
        prefix = shared_prefix(piece)
        again = _cost(0, prefix, attention_cost)
        moved = 0.0
        for cut in range(len(piece) - 1, 0, -1):
            moved += _cost(prefix, len(piece[cut]), attention_cost)
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
