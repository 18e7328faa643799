"""The sampler that decodes with plain Hugging Face modules, behind the protocol of `llmenv.samplers.sampler`.

Each distinct prompt is prefilled once and its keys and values are shared out to all of its samples, and rows that have
ended leave the batch. Rows whose prompts are more tokens than one prefill may have wait for the next batch. Every row
draws from a random stream of its own, so that a sample does not depend on what else is in its batch. On a GPU it waits
once a token, to know which rows have ended, beside what transformers itself asks.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase
from transformers.cache_utils import DynamicLayer, LinearAttentionCacheLayerMixin

from llmenv.policy.packed import trunk
from llmenv.policy.policy import token_head
from llmenv.samplers.sampler import Completion, SamplingParams, refuse_not_finite
from llmenv.weights import format as weights

logger = logging.getLogger(__name__)

# Columns by which a cache grows: a step reads all of it, so that a copy every 256 steps costs next to nothing.
CACHE_BLOCK = 256
# Tokens of a batch's distinct prompts, padding included, which one pass takes. A longer prompt goes alone.
PREFILL_TOKENS = 2**16
# Rows beyond which a GPU is worth an engine that is made for it.
MANY_ROWS = 64


class TransformersSampler:
    """A sampler on a Hugging Face causal LM.

    Args:
        model: Put into evaluation mode, on the device where it is to sample.
        max_rows: Sequences decoded at the same time; more are sampled in several rounds, as are those whose distinct
            prompts have more than `PREFILL_TOKENS` tokens.
        tokenizer: The model's own, for stop strings; without one there can be none.
    """

    def __init__(
        self, model: PreTrainedModel, max_rows: int = 512, tokenizer: PreTrainedTokenizerBase | None = None
    ):
        self.model = model.eval()
        self.max_rows = max_rows
        self.tokenizer = tokenizer
        self.weights_version = 0
        self.max_sequence_tokens: int | None = None
        self._has_warned = False

    def load_weights(self, packed: weights.Packed, version: int) -> None:
        weights.load(self.model, packed)
        self.weights_version = version

    def sleep(self) -> None:
        """Stays awake: between calls of `generate` it holds the weights alone."""

    def close(self) -> None:
        del self.model

    @torch.inference_mode()
    def generate(
        self, prompts: Sequence[Sequence[int]], params: SamplingParams, seeds: Sequence[int]
    ) -> list[Completion]:
        self._warn(len(prompts), self.model.device)
        completions = []
        for chunk in _chunks(prompts, self.max_rows):
            completions += self._generate(prompts[chunk], params, seeds[chunk])
        refuse_not_finite(completions)
        return completions

    def _warn(self, num_rows: int, device: torch.device) -> None:
        """Once, where somebody is about to wait for long."""
        if device.type == "cuda" and num_rows >= MANY_ROWS and not self._has_warned:
            self._has_warned = True
            logger.warning(
                "%d responses are sampled on a GPU by transformers, which starts each operation of each token from "
                "Python: vLLM is made for that (pip install 'llmenv[vllm]', and sampler='vllm')",
                num_rows,
            )

    def _generate(
        self, prompts: Sequence[Sequence[int]], params: SamplingParams, seeds: Sequence[int]
    ) -> list[Completion]:
        decoder = _Decoder(self.model, prompts, params.max_new_tokens)
        device = self.model.device
        stop_ids = torch.tensor(sorted(params.stop_token_ids), device=device)
        uniforms = torch.from_numpy(
            np.stack([np.random.default_rng(seed).random(params.max_new_tokens) for seed in seeds])
        ).to(device)

        num_rows = len(prompts)
        tokens = torch.zeros(num_rows, params.max_new_tokens, dtype=torch.long, device=device)
        logps = torch.zeros(num_rows, params.max_new_tokens, device=device)
        lengths = torch.full((num_rows,), params.max_new_tokens, device=device)
        stopped = torch.zeros(num_rows, dtype=torch.bool, device=device)
        rows = torch.arange(num_rows, device=device)  # the rows still decoded
        logits = decoder.prefill()
        for t in range(params.max_new_tokens):
            token, logp = _draw(logits, params.temperature, uniforms[rows, t])
            tokens[rows, t], logps[rows, t] = token, logp
            ended = torch.isin(token, stop_ids)
            if params.stop_strings:
                ended |= self._completes(params.stop_strings, tokens[rows, : t + 1])
            stopped[rows] = ended
            lengths[rows] = torch.where(ended, t + 1, params.max_new_tokens)
            if t + 1 == params.max_new_tokens:
                break
            going = (~ended).nonzero().squeeze(-1)  # here a GPU is waited for
            if not len(going):
                break
            rows = rows[going]
            logits = decoder.step(token, going)
        all_ids, all_logps = tokens.cpu().numpy(), logps.cpu().numpy()
        return [
            Completion(
                # Copies, so that a short response does not keep the arrays of the whole batch.
                token_ids=all_ids[i, :length].astype(np.int32),
                logps=all_logps[i, :length].copy(),
                finish_reason="stop" if stop else "length",
                weights_version=self.weights_version,
            )
            for i, (length, stop) in enumerate(zip(lengths.tolist(), stopped.tolist(), strict=True))
        ]

    def _completes(self, stop_strings: tuple[str, ...], responses: torch.Tensor) -> torch.Tensor:
        """Whether the last token of each unfinished response [B, T] completes one of the strings: bool [B]."""
        if self.tokenizer is None:
            raise ValueError("stop strings need a tokenizer: TransformersSampler(model, tokenizer=...)")
        # A token has a byte at least, so that so many of them hold any of the strings; one more, because decoders
        # may drop a space at the front.
        window = 1 + max(len(string.encode()) for string in stop_strings)
        texts = self.tokenizer.batch_decode(responses[:, -window:], skip_special_tokens=False)
        found = [any(string in text for string in stop_strings) for text in texts]
        return torch.tensor(found, device=responses.device)


def _chunks(prompts: Sequence[Sequence[int]], max_rows: int) -> Iterator[slice]:
    """Rows that are sampled together: so many at most, whose distinct prompts, padded, fit into `PREFILL_TOKENS`."""
    start, distinct, longest = 0, set[tuple[int, ...]](), 0
    for row, prompt in enumerate(map(tuple, prompts)):
        together = (len(distinct) + (prompt not in distinct)) * max(longest, len(prompt))
        if row > start and (row - start == max_rows or together > PREFILL_TOKENS):
            yield slice(start, row)
            start, distinct, longest = row, set(), 0
        distinct.add(prompt)
        longest = max(longest, len(prompt))
    if prompts:
        yield slice(start, len(prompts))


def _draw(
    logits: torch.Tensor, temperature: float, uniforms: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """One token a row by inverting the cumulative distribution at `uniforms` [B]; temperature 0 takes the argmax.

    Returns:
        Tokens [B] and their log-probabilities [B].
    """
    logits = logits.float()
    log_probs = torch.log_softmax(logits / temperature if temperature > 0 else logits, dim=-1)
    if temperature > 0:
        cumulative = log_probs.exp().double().cumsum(-1)
        token = torch.searchsorted(cumulative, (uniforms * cumulative[:, -1])[:, None], right=True).squeeze(
            -1
        )
        token = token.clamp_(max=logits.shape[-1] - 1)
    else:
        token = logits.argmax(-1)
    return token, log_probs.gather(-1, token[:, None]).squeeze(-1)


class _Decoder:
    """The forward passes of one batch: a prefill of the distinct prompts, then one token a step for all rows.

    Rows that have ended stay in the cache (as ballast) until they are a quarter of it: copying a cache costs
    more than computing a few rows in vain.
    """

    def __init__(self, model: PreTrainedModel, prompts: Sequence[Sequence[int]], max_new_tokens: int):
        self.model = model
        index: dict[tuple[int, ...], int] = {}
        prompt_of_row = [index.setdefault(tuple(prompt), len(index)) for prompt in prompts]
        self.prompts = list(index)
        self.prompt_of_row = torch.tensor(prompt_of_row, device=model.device)
        self.max_new_tokens = max_new_tokens
        # From 16 bits as the learner computes them; from others, or by a model of its own ways, as the model does.
        # Mamba has a name of its own for it.
        known = inspect.signature(model.forward).parameters
        self.cache_name = "cache_params" if "cache_params" in known else "past_key_values"
        self.head = token_head(model) if model.dtype.itemsize == 2 else None

    def prefill(self) -> torch.Tensor:
        """Logits [B, V] of each row's first response token."""
        device = self.model.device
        width = max(map(len, self.prompts))
        lengths = torch.tensor([len(prompt) for prompt in self.prompts], device=device)
        # Left padding, so that every row's next token has the same place in the cache.
        ids = torch.zeros(len(self.prompts), width, dtype=torch.long)
        for i, prompt in enumerate(self.prompts):
            ids[i, width - len(prompt) :] = torch.tensor(prompt)
        mask = torch.arange(width, device=device)[None, :] >= width - lengths[:, None]
        self.cache = DynamicCache(config=self.model.config)
        for i, layer in enumerate(self.cache.layers):
            if type(layer) is DynamicLayer:  # sliding-window and recurrent layers keep a bounded state
                self.cache.layers[i] = _RoomyLayer(min(self.max_new_tokens, CACHE_BLOCK))
        logits = self._forward(ids.to(device), mask.long(), (mask.long().cumsum(-1) - 1).clamp(min=0))

        self.mask = torch.cat(
            [mask[self.prompt_of_row], mask.new_ones(len(self.prompt_of_row), self.max_new_tokens)], dim=1
        ).long()
        self.positions = lengths[self.prompt_of_row]
        self._select(self.prompt_of_row)
        self.width = width
        self.alive = torch.arange(len(self.prompt_of_row), device=device)  # where in the cache
        return logits[self.prompt_of_row]

    def step(self, token: torch.Tensor, going: torch.Tensor) -> torch.Tensor:
        """Appends `token` (one for each row alive before this step) and gives the next logits.

        Args:
            token: [B] the tokens just drawn.
            going: int64 [B'], which of those B rows go on.

        Returns:
            Logits [B', V] of the rows that go on.
        """
        fed = token.new_zeros(len(self.positions))
        fed[self.alive] = token
        self.alive = self.alive[going]
        if 4 * len(self.alive) < 3 * len(fed):
            self._select(self.alive)
            self.mask, self.positions, fed = (x[self.alive] for x in (self.mask, self.positions, fed))
            self.alive = torch.arange(len(fed), device=fed.device)
        self.width += 1
        # Mamba takes a mask for one of the tokens that it is given, and these are none of padding.
        mask = None if self.cache_name == "cache_params" else self.mask[:, : self.width]
        logits = self._forward(fed[:, None], mask, self.positions[:, None])
        self.positions = self.positions + 1
        return logits[self.alive]

    def _forward(self, ids: torch.Tensor, mask: torch.Tensor | None, positions: torch.Tensor) -> torch.Tensor:
        inputs: dict[str, Any] = {
            "input_ids": ids,
            "attention_mask": mask,
            "position_ids": positions,
            self.cache_name: self.cache,
            "use_cache": True,
        }
        if self.head is None:
            return self.model(**inputs, logits_to_keep=1).logits[:, -1]
        hidden = trunk(self.model)(**inputs).last_hidden_state[:, -1]
        return self.head.logits(hidden)

    def _select(self, rows: torch.Tensor) -> None:
        """Takes these rows of the cache: keys and values, and the states of layers that are recurrent or convolve."""
        for layer in self.cache.layers:
            if isinstance(layer, LinearAttentionCacheLayerMixin):
                for states in (layer.conv_states, layer.recurrent_states):
                    states.update({i: state[rows] for i, state in states.items() if state is not None})
            if isinstance(layer, DynamicLayer):  # a hybrid layer is both
                layer.batch_select_indices(rows)


class _RoomyLayer(DynamicLayer):
    """A cache layer with room for some columns more, so that most steps write one and copy nothing."""

    keys: torch.Tensor
    values: torch.Tensor

    def __init__(self, room: int):
        super().__init__()
        self.room = room
        self.used = 0

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        end = self.used + key_states.shape[-2]
        if self.keys.numel() == 0 or end > self.keys.shape[-2]:
            self.keys = self._grown(self.keys, key_states)
            self.values = self._grown(self.values, value_states)
        self.keys[:, :, self.used : end] = key_states
        self.values[:, :, self.used : end] = value_states
        self.used = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def _grown(self, old: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
        batch, heads, length, dim = new.shape
        grown = new.new_empty(batch, heads, self.used + length + self.room, dim)
        if self.used:
            grown[:, :, : self.used] = old[:, :, : self.used]
        return grown

    def get_seq_length(self) -> int:
        return self.used

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        self.keys, self.values = self.keys[indices], self.values[indices]
