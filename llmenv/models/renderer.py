"""Chat templates: messages in, token ids out. The only module that knows how a model wants to be spoken to.

A template turns an environment's observation (and the `system` and `assistant_prefix` of its info) into prompt
tokens. It also knows what it has already put into the assistant's mouth: `response_prefix` is given back to
the environment in front of the completion, which is scored as one message.
"""

from __future__ import annotations

from dataclasses import dataclass

from transformers import GenerationConfig, PreTrainedTokenizerBase

from llmenv.data import R1_PREAMBLE
from llmenv.models.names import load_tokenizer, resolve_model

TEMPLATES = ("auto", "r1", "chat", "raw")


@dataclass(frozen=True)
class RenderedPrompt:
    """A prompt as the sampler takes it, and the part of it that the environment counts as the model's."""

    token_ids: list[int]
    response_prefix: str


class Renderer:
    """Renders prompts for one model.

    Args:
        tokenizer: The model's own.
        stop_token_ids: Tokens that end a response; at least one.
        template: "r1" for base models (the prompt of DeepSeek-R1-Zero and TinyZero), "chat" for the tokenizer's
            own chat template, "raw" for the observation alone, "auto" for "chat" where the tokenizer has a chat
            template and "r1" where not.

    Raises:
        ValueError: For an unknown template, "chat" without a chat template, or no stop token.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, stop_token_ids: frozenset[int], template: str = "auto"
    ):
        if template not in TEMPLATES:
            raise ValueError(f"unknown template {template!r}: choose one of {', '.join(TEMPLATES)}")
        if template == "auto":
            template = "chat" if tokenizer.chat_template else "r1"
        if template == "chat" and not tokenizer.chat_template:
            raise ValueError("template 'chat' needs a tokenizer with a chat template: use 'r1' or 'raw'")
        if not stop_token_ids:
            raise ValueError("the model names no end-of-sequence token, so no response could ever end")
        self.tokenizer = tokenizer
        self.template = template
        self.stop_token_ids = stop_token_ids

    @classmethod
    def from_model(cls, model: str, template: str = "auto") -> Renderer:
        """The renderer of a model name, folder or hub id; the stop ids are its generation config's."""
        tokenizer = load_tokenizer(model)
        try:
            eos = GenerationConfig.from_pretrained(resolve_model(model)).eos_token_id
        except OSError:  # a model without generation_config.json
            eos = None
        ids = [] if eos is None else [eos] if isinstance(eos, int) else list(eos)
        if tokenizer.eos_token_id is not None:
            ids.append(tokenizer.eos_token_id)
        return cls(tokenizer, frozenset(ids), template)

    def encode(
        self, observation: str, system: str | None = None, assistant_prefix: str = ""
    ) -> RenderedPrompt:
        """The first turn's prompt."""
        if self.template == "raw":
            text = observation + assistant_prefix
        elif self.template == "r1":
            text = f"{R1_PREAMBLE}{system or ''}\nUser: {observation}\nAssistant: {assistant_prefix}"
        else:
            messages = [{"role": "system", "content": system}] if system else []
            text = self._chat([*messages, {"role": "user", "content": observation}]) + assistant_prefix
        # A chat template writes the begin-of-sequence token itself.
        ids = self.tokenizer.encode(text, add_special_tokens=self.template != "chat")
        return RenderedPrompt(list(ids), assistant_prefix)

    def next_turn(
        self, response_ids: list[int], observation: str, assistant_prefix: str = "", continues: bool = False
    ) -> list[int]:
        """The tokens to append after a response so that the model answers `observation`.

        Sequences only grow: what the model sampled is never tokenised again.

        Args:
            response_ids: What the model sampled last.
            observation: The environment's next message.
            assistant_prefix: The beginning of the assistant's next turn.
            continues: Whether the observation goes on with the assistant's message, instead of answering it.
        """
        if continues or self.template == "raw":
            text = observation
        elif self.template == "r1":
            text = f"\nUser: {observation}\nAssistant: "
        else:
            # What the template puts between one assistant message and the next: a sentinel marks where the
            # message ends, and the stop token is cut off again where the model itself sampled it.
            sentinel = "\x00"
            dialogue = [{"role": "user", "content": ""}, {"role": "assistant", "content": sentinel}]
            text = self._chat([*dialogue, {"role": "user", "content": observation}]).split(sentinel, 1)[1]
            if response_ids and response_ids[-1] in self.stop_token_ids:
                stop = next((s for s in self._stop_texts() if text.startswith(s)), "")
                text = text[len(stop) :]
        return list(self.tokenizer.encode(text + assistant_prefix, add_special_tokens=False))

    def decode(self, token_ids: list[int]) -> str:
        """A response's text without the stop token that ended it. Other special tokens stay visible."""
        if token_ids and token_ids[-1] in self.stop_token_ids:
            token_ids = token_ids[:-1]
        return self.tokenizer.decode(token_ids, skip_special_tokens=False)

    def _chat(self, messages: list[dict[str, str]]) -> str:
        return self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)

    def _stop_texts(self) -> list[str]:
        return self.tokenizer.convert_ids_to_tokens(sorted(self.stop_token_ids))
