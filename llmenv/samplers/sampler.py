"""What a rollout asks of a sampler: token ids in; token ids, their log-probabilities and a finish reason out.

A sampler knows no environment, and no text but that of stop strings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from llmenv.episode import as_logps, as_token_ids
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


@dataclass(eq=False)
class Completion:
    """One sampled response.

    Sequences given to the constructor become arrays.

    Attributes:
        token_ids: int32 [n], at most `max_new_tokens`, the stop token included.
        logps: float32 [n], log-probability of each token under softmax(logits / temperature), the distribution it
            was drawn from (at temperature 0: of the unscaled distribution).
        finish_reason: "stop" or "length".
        weights_version: Version of the weights that sampled it.
    """

    token_ids: np.ndarray
    logps: np.ndarray
    finish_reason: str
    weights_version: int

    def __post_init__(self) -> None:
        self.token_ids, self.logps = as_token_ids(self.token_ids), as_logps(self.logps)


class NotFiniteError(RuntimeError):
    """A model gave logits that are not finite: what was drawn from them means nothing."""


def refuse_not_finite(completions: Sequence[Completion]) -> None:
    """Fails on tokens that were drawn from no distribution; a NaN among logits makes that of every token one.

    Raises:
        NotFiniteError: If there is such a token.
    """
    for completion in completions:
        if np.isfinite(completion.logps).all():
            continue
        version = completion.weights_version
        if version == 0:
            remedy = (
                "look for NaN in the model's files, or take a wider dtype (bfloat16 or float32 for float16)"
            )
        else:
            remedy = (
                "go back to a checkpoint from before, with a lower learning rate, a tighter grad_clip, or a wider "
                "dtype"
            )
        raise NotFiniteError(
            f"the weights after {version} updates give logits that are not finite, so that nothing can be drawn from "
            f"them: {remedy}"
        )


class Sampler(Protocol):
    """What a rollout asks of a sampler.

    Attributes:
        weights_version: Version of the weights that it samples with.
        max_sequence_tokens: The longest prompt and response together that it can hold; None for no limit. Of a prompt
            that leaves no room for one token more, a rollout does not ask.
    """

    weights_version: int
    max_sequence_tokens: int | None

    def generate(
        self, prompts: Sequence[Sequence[int]], params: SamplingParams, seeds: Sequence[int]
    ) -> list[Completion]:
        """One completion a prompt, in order; `seeds[i]` alone determines what is drawn for prompt i.

        (With vLLM up to rounding, which may depend on what else is in the batch.)

        Raises:
            NotFiniteError: If the model's logits are not finite.
        """
        ...

    def load_weights(self, packed: weights.Packed, version: int) -> None:
        """Takes over new weights in place; nothing computed with the old ones may be used again.

        vLLM knows them by the names of the model's files (see `llmenv.weights.names`), transformers by its own.
        """
        ...

    def sleep(self) -> None:
        """Gives memory of the accelerator back, where it can, until the next `load_weights`."""
        ...

    def close(self) -> None:
        """Gives all memory back, for good: nothing more is asked of it."""
        ...
