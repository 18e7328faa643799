"""What a rollout asks of a sampler: token ids in; token ids, their log-probabilities and a finish reason out.

A sampler knows no environment, and no text but that of stop strings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from llmenv.weights import format as weights


@dataclass(frozen=True)
class SamplingParams:
    """How to sample.

    Attributes:
        max_new_tokens: Cap on the tokens of one response; reaching it ends the response with "length".
        stop_token_ids: Tokens that end a response; the one sampled belongs to the response.
        temperature: Divides the logits; 0 takes the most likely token.
        stop_strings: Texts that end a response; the token that completes one belongs to the response, whole, even
            where its text goes on behind the string.
    """

    max_new_tokens: int
    stop_token_ids: frozenset[int]
    temperature: float = 1.0
    stop_strings: tuple[str, ...] = ()


@dataclass
class Completion:
    """One sampled response.

    Attributes:
        token_ids: At most `max_new_tokens`, the stop token included.
        logps: Log-probability of each token under softmax(logits / temperature), the distribution it was drawn
            from (at temperature 0: of the unscaled distribution).
        finish_reason: "stop" or "length".
        weights_version: Version of the weights that sampled it.
    """

    token_ids: list[int]
    logps: list[float]
    finish_reason: str
    weights_version: int


class Sampler(Protocol):
    """What a rollout asks of a sampler."""

    weights_version: int

    def generate(
        self, prompts: Sequence[Sequence[int]], params: SamplingParams, seeds: Sequence[int]
    ) -> list[Completion]:
        """One completion a prompt, in order; `seeds[i]` alone determines what is drawn for prompt i.

        (With vLLM up to rounding, which may depend on what else is in the batch.)
        """
        ...

    def load_weights(self, packed: weights.Packed, version: int) -> None:
        """Takes over new weights in place; nothing computed with the old ones may be used again."""
        ...

    def sleep(self) -> None:
        """Gives memory of the accelerator back, where it can, until the next `load_weights`."""
        ...
