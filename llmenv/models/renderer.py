"""Chat templates: messages in, token ids out. The only module that knows how a model wants to be spoken to.

A template turns an environment's observation (and the `system` and `assistant_prefix` of its info) into prompt
tokens. It also knows what it has already put into the assistant's mouth: `response_prefix` is given back to
the environment in front of the completion, which is scored as one message. What a chat template opens by itself, such
as `<think>`, belongs to it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from transformers import AutoConfig, GenerationConfig, PreTrainedTokenizerBase

from llmenv.models.chat_template import RAW, ChatTemplate, still_to_open
from llmenv.models.names import is_trusted, load_tokenizer, resolve_model
from llmenv.schema import R1_PREAMBLE

TEMPLATES = ("auto", "r1", "chat", "raw")
_MARKER = re.compile(r"<.+>|\[.+\]")


@dataclass(frozen=True)
class RenderedPrompt:
    """A prompt as the sampler takes it, and the part of it that the environment counts as the model's."""

    token_ids: list[int]
    response_prefix: str


class Renderer:
    """Renders prompts for one model.

    Args:
        tokenizer: The model's own.
        stop_token_ids: Tokens that end a response. The one that a chat template writes after an assistant's message is
            added.
        template: "r1" for base models (the prompt of DeepSeek-R1-Zero and TinyZero), "chat" for the tokenizer's
            own chat template, "raw" for the observation alone, "auto" for "chat" where the tokenizer has a chat
            template and "r1" where not. An exported policy's is what it was trained with, in any environment.
        template_kwargs: Arguments of the chat template, such as {"enable_thinking": False}.

    Raises:
        ValueError: For an unknown template, "chat" without a chat template, arguments without one, no stop token, or
            see `ChatTemplate`.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        stop_token_ids: frozenset[int],
        template: str = "auto",
        template_kwargs: dict[str, Any] | None = None,
    ):
        if template not in TEMPLATES:
            raise ValueError(f"unknown template {template!r}: choose one of {', '.join(TEMPLATES)}")
        if template == "auto":
            template = _own_template(tokenizer)
        if template == "chat" and not tokenizer.chat_template:
            raise ValueError("template 'chat' needs a tokenizer with a chat template: use 'r1' or 'raw'")
        if template_kwargs and template != "chat":
            raise ValueError(
                f"template_kwargs are for a chat template, and the template is {template!r}: leave them out"
            )
        self.tokenizer = tokenizer
        self.template = template
        self.chat = ChatTemplate(tokenizer, template_kwargs or {}) if template == "chat" else None
        # A chat template writes the begin-of-sequence token itself.
        self.lead = [] if self.chat else _lead(tokenizer)
        self.stop_token_ids = stop_token_ids | frozenset(self._end_of_message())
        if not self.stop_token_ids:
            raise ValueError("the model names no end-of-sequence token, so no response could ever end")

    @classmethod
    def from_model(
        cls, model: str, template: str = "auto", template_kwargs: dict[str, Any] | None = None
    ) -> Renderer:
        """The renderer of a model name, folder or hub id; the stop ids are all that its files name."""
        tokenizer = load_tokenizer(model)
        ids = set(_end_tokens(resolve_model(model)))
        if tokenizer.eos_token_id is not None:
            ids.add(tokenizer.eos_token_id)
        return cls(tokenizer, frozenset(ids), template, template_kwargs)

    def encode(
        self, observation: str, system: str | None = None, assistant_prefix: str = ""
    ) -> RenderedPrompt:
        """The first turn's prompt."""
        opened = ""
        if self.chat:
            text, opened = self.chat.first(system, observation)
        elif self.template == "r1":
            text = f"{R1_PREAMBLE}{system or ''}\nUser: {observation}\nAssistant: "
        else:
            text = observation
        prefix = still_to_open(opened, assistant_prefix)
        return RenderedPrompt([*self.lead, *self._tokens(text + prefix)], opened + prefix)

    def next_turn(
        self, response_ids: list[int], observation: str, assistant_prefix: str = "", continues: bool = False
    ) -> RenderedPrompt:
        """The tokens to append after a response so that the model answers `observation`.

        Sequences only grow: what the model sampled is never tokenised again.

        Args:
            response_ids: What the model sampled last.
            observation: The environment's next message.
            assistant_prefix: The beginning of the assistant's next turn.
            continues: Whether the observation goes on with the assistant's message, instead of answering it.
        """
        opened = ""
        if continues or self.template == "raw":
            text = observation
        elif self.chat:
            text, opened = self.chat.later(observation)
            # The stop token is cut off again where the model itself sampled it. Llama 2's has a space before it.
            if response_ids and response_ids[-1] in self.stop_token_ids:
                end = text.lstrip()
                text = next((end[len(s) :] for s in self._stop_texts() if end.startswith(s)), text)
        else:
            text = f"\nUser: {observation}\nAssistant: "
        prefix = still_to_open(opened, assistant_prefix)
        return RenderedPrompt(self._tokens(text + prefix), opened + prefix)

    @property
    def end_token_id(self) -> int:
        """The token that ends a response which was not sampled: the chat template's own, else the tokenizer's."""
        own = [*self._end_of_message(), self.tokenizer.eos_token_id, *sorted(self.stop_token_ids)]
        return next(token for token in own if token in self.stop_token_ids)

    def decode(self, token_ids: list[int]) -> str:
        """A response's text without the stop token that ended it. Other special tokens stay visible."""
        if token_ids and token_ids[-1] in self.stop_token_ids:
            token_ids = token_ids[:-1]
        return self.tokenizer.decode(token_ids, skip_special_tokens=False)

    def _tokens(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False))

    def _end_of_message(self) -> list[int]:
        """The token that the chat template writes after an assistant's message, if that is what a message ends with.

        A template may write a mere line break there, which many a message has within.
        """
        first = self._tokens(self.chat.end.lstrip())[:1] if self.chat else []
        known = self.tokenizer.get_added_vocab().values()
        return [i for i in first if i in known or _MARKER.fullmatch(self.tokenizer.decode([i]).strip())]

    def _stop_texts(self) -> list[str]:
        return self.tokenizer.convert_ids_to_tokens(sorted(self.stop_token_ids))


def _own_template(tokenizer: PreTrainedTokenizerBase) -> str:
    source = tokenizer.chat_template
    if isinstance(source, str) and source.startswith(RAW):
        return "raw"
    return "chat" if source else "r1"


def _lead(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """What a tokenizer puts before a text. What some put behind it would be the end of the response."""
    text, whole = (tokenizer.encode("a", add_special_tokens=special) for special in (False, True))
    starts = [i for i in range(len(whole)) if whole[i : i + len(text)] == text]
    return list(whole[: starts[0]]) if starts else []


def _end_tokens(folder: str) -> Iterator[int]:
    """The end-of-sequence tokens that a model's own files name, which need not agree."""
    sources: list[Any] = []
    with suppress(OSError):  # a model without generation_config.json
        sources.append(GenerationConfig.from_pretrained(folder))
    config = AutoConfig.from_pretrained(folder, trust_remote_code=is_trusted())
    for source in (*sources, config, config.get_text_config()):
        eos = getattr(source, "eos_token_id", None)
        yield from () if eos is None else (eos,) if isinstance(eos, int) else eos
