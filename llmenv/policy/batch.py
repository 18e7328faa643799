"""From episodes to what a learner's forward pass eats: rows, micro-batches, minibatches.

Token ids only: knows nothing about text, losses or engines. How a batch is cut into these is `llmenv.policy.plan`'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np
import torch

from llmenv.episode import TextEpisode
from llmenv.policy.divergence import Teacher
from llmenv.policy.packed import PackedRow


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
        supervised: The response was not sampled for this update but is to be imitated: its advantages are the weights
            of its tokens in the likelihood, and nothing is compared with who wrote it.
    """

    token_ids: np.ndarray
    response_mask: np.ndarray
    sampling_logps: np.ndarray
    advantages: np.ndarray
    rewards: np.ndarray
    group: int
    bootstrapped: bool = False
    supervised: bool = False

    @classmethod
    def from_episode(
        cls, episode: TextEpisode, advantage: float = 0.0, *, bootstrapped: bool = False
    ) -> TokenRow:
        """A row whose every response token carries the episode's `advantage`."""
        turns = episode.turns
        # Where each turn's prompt ends, and where its response does, alternating.
        ends = np.cumsum([len(part) for turn in turns for part in (turn.prompt_ids, turn.response_ids)])
        token_ids = np.zeros(ends[-1] + bootstrapped, dtype=np.int64)
        token_ids[: ends[-1]] = episode.token_ids
        response_mask = np.zeros(len(token_ids), dtype=bool)
        for start, end in zip(ends[::2], ends[1::2], strict=True):
            response_mask[start:end] = True
        sampling_logps = np.zeros(len(token_ids), dtype=np.float32)
        sampling_logps[response_mask] = np.concatenate([turn.logps for turn in turns])
        rewards = np.zeros(len(token_ids), dtype=np.float32)
        rewards[ends[1::2] - 1] = [turn.reward for turn in turns]
        return cls(
            token_ids=token_ids,
            response_mask=response_mask,
            sampling_logps=sampling_logps,
            advantages=np.where(response_mask, np.float32(advantage), np.float32(0.0)),
            rewards=rewards,
            group=episode.group,
            bootstrapped=bootstrapped,
        )

    @classmethod
    def to_imitate(cls, token_ids: np.ndarray, response_mask: np.ndarray, group: int) -> TokenRow:
        """A supervised row whose every response token weighs 1."""
        nothing = np.zeros(len(token_ids), dtype=np.float32)
        return cls(
            token_ids=token_ids.astype(np.int64),
            response_mask=response_mask,
            sampling_logps=nothing,
            advantages=response_mask.astype(np.float32),
            rewards=nothing,
            group=group,
            supervised=True,
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


def by_group(rows: Sequence[TokenRow]) -> list[list[TokenRow]]:
    """The rows of each group, groups in the order in which they first appear."""
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
        supervised: bool [B].
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
    supervised: torch.Tensor
    groups: torch.Tensor
    prefix_lengths: torch.Tensor

    @classmethod
    def from_rows(cls, rows: Sequence[TokenRow]) -> TokenBatch:
        width = max(len(row) for row in rows)
        prefixes = {group[0].group: shared_prefix(group) for group in by_group(rows)}

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
            supervised=torch.tensor([row.supervised for row in rows]),
            groups=torch.tensor([row.group for row in rows]),
            prefix_lengths=torch.tensor([prefixes[row.group] for row in rows]),
        )

    def __len__(self) -> int:
        return len(self.lengths)

    def to(self, device: torch.device) -> TokenBatch:
        """The same on a device. What follows from the columns is found here: on a GPU each question is a wait."""
        moved = TokenBatch(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})
        moved.places, moved.packed = self.places.to(device), self.packed.to(device)
        return moved

    @property
    def sampled_mask(self) -> torch.Tensor:
        """Bool [B, T], the response tokens that were sampled for this update."""
        return self.response_mask & ~self.supervised[:, None]

    @property
    def imitated_mask(self) -> torch.Tensor:
        """Bool [B, T], those of supervised rows."""
        return self.response_mask & self.supervised[:, None]

    @cached_property
    def packed(self) -> PackedRow:
        """The same rows as one, made when first asked for and kept for further passes."""
        return PackedRow.from_columns(
            self.input_ids, self.lengths, self.places.valued, self.groups, self.prefix_lengths
        )

    @cached_property
    def places(self) -> Places:
        """Where something is to be said, found when first asked for and kept for further passes."""
        last = torch.arange(self.input_ids.shape[1]) == self.lengths[:, None] - 1
        valued = self.response_mask | (last & self.bootstrapped[:, None])
        return Places(
            responses=_places(self.response_mask),
            valued=_places(valued),
            sampled=_places(self.response_mask[valued]) if self.bootstrapped.any() else None,
        )


@dataclass
class Places:
    """Where in [B, T], flattened, a policy and a critic have something to say, in the order of these places.

    Attributes:
        responses: int64 [R], the response tokens.
        valued: int64 [M], where a critic has a value: the response tokens, and the last entry of bootstrapped rows.
        sampled: int64 [R], which of those M are response tokens. None where all are.
    """

    responses: torch.Tensor
    valued: torch.Tensor
    sampled: torch.Tensor | None

    def to(self, device: torch.device) -> Places:
        sampled = None if self.sampled is None else self.sampled.to(device)
        return Places(self.responses.to(device), self.valued.to(device), sampled)


def _places(mask: torch.Tensor) -> torch.Tensor:
    return mask.flatten().nonzero().squeeze(-1)


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
        teacher: What the reference policy says over the whole vocabulary, or None where nobody asks.
    """

    tokens: TokenBatch
    old_logps: torch.Tensor | None
    ref_logps: torch.Tensor | None
    old_values: torch.Tensor | None = None
    value_targets: torch.Tensor | None = None
    teacher: Teacher | None = None


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
        num_supervised_tokens: The denominator of the likelihood.
    """

    tokens: TokenBatch
    old_logps: torch.Tensor
    ref_logps: torch.Tensor | None
    num_tokens: int
    num_sequences: int
    num_learned_tokens: int
    num_supervised_tokens: int = 0


@dataclass
class Minibatch:
    """One learner's share of the sequences of one optimizer step.

    Attributes:
        micro_batches: This learner's rows, one forward and backward each. Every learner has the same number.
        num_tokens: Response tokens that were sampled, of the whole minibatch, over all learners: the global
            denominator. It counts rows that are in no micro-batch because they have no gradient, too.
        num_sequences: Sequences that were sampled, of the whole minibatch, over all learners, counted likewise.
        num_learned_tokens: Response tokens of the rows that are in micro-batches, over all learners.
        num_supervised_tokens: Response tokens of the supervised rows, over all learners. A kind of rows has a
            denominator of its own, so that rows of the other kind do not change its step.
    """

    micro_batches: list[TokenBatch]
    num_tokens: int
    num_sequences: int
    num_learned_tokens: int
    num_supervised_tokens: int = 0
