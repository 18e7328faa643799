"""A sampler that shows what it writes, token by token: one sequence at a time, by transformers' own loop."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TextStreamer

from experiments.common.plain import printable
from llmenv.episode import as_logps, as_token_ids
from llmenv.samplers.sampler import Completion, SamplingParams


class Streamed:
    """See `llmenv.samplers.sampler.Sampler`. Log-probabilities it has none.

    Args:
        model: A Hugging Face causal LM.
        tokenizer: Its own.
    """

    weights_version = 0
    max_sequence_tokens: int | None = None

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase):
        self.model, self.tokenizer = model, tokenizer
        self._shown: list[int] = []  # of the sequence so far

    @torch.inference_mode()
    def generate(
        self, prompts: Sequence[Sequence[int]], params: SamplingParams, seeds: Sequence[int]
    ) -> list[Completion]:
        (prompt,), (seed,) = prompts, seeds
        new = list(prompt[len(self._shown) :]) if list(prompt[: len(self._shown)]) == self._shown else prompt
        print(printable(self.tokenizer.decode(new)), end="", flush=True)
        torch.manual_seed(seed % 2**63)
        ids = torch.tensor([list(prompt)], device=self.model.device)
        drawn = {"do_sample": True, "temperature": params.temperature, "top_k": 0, "top_p": 1.0}
        output = self.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=params.max_new_tokens,
            eos_token_id=sorted(params.stop_token_ids),
            pad_token_id=min(params.stop_token_ids),
            stop_strings=list(params.stop_strings) or None,
            tokenizer=self.tokenizer,
            streamer=_Shown(self.tokenizer, skip_prompt=True),
            **(drawn if params.temperature > 0 else {"do_sample": False}),
        )[0].tolist()
        response = output[len(prompt) :]
        self._shown = output
        cut = len(response) == params.max_new_tokens and response[-1] not in params.stop_token_ids
        return [Completion(as_token_ids(response), as_logps([]), "length" if cut else "stop", 0)]


class _Shown(TextStreamer):
    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        print(printable(text), end="\n" if stream_end else "", flush=True)
