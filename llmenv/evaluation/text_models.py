"""Models that take and give texts behind what a rollout asks for: their tokens are characters, and marks of messages.

So the one loop serves a Python function too. The answer's beginning that an environment would put into the model's
mouth is sent to a server that can go on with it; any other such model writes its whole message. Knows no environment.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Sequence
from pkgutil import resolve_name
from typing import Any, NamedTuple

from llmenv.episode import as_logps, as_token_ids
from llmenv.evaluation.subject import Subject
from llmenv.models.renderer import RenderedPrompt
from llmenv.samplers.sampler import Completion, SamplingParams

# Behind Unicode's last code point: no text has them.
ROLES = {0x110000: "system", 0x110001: "user", 0x110002: "assistant"}
SYSTEM, USER, ASSISTANT = ROLES
END = 0x110003
ENDS = {"stop": (END,)}
FAILED = "no response"  # how the finish reason of a reply begins that did not come
Messages = list[dict[str, str]]


class Reply(NamedTuple):
    """What a model said, and whether it came to an end ("stop"), was cut ("length"), or did not come (see `FAILED`).

    Its tokens are those of prompt and response, where somebody counted them.
    """

    text: str
    finish_reason: str = "stop"
    tokens: tuple[int, int] = (0, 0)


class Characters:
    """The renderer of such models, and in the place of a tokenizer: a token is a character.

    Attributes:
        takes_prefix: Whether how an answer begins is sent.
    """

    stop_token_ids = frozenset({END})
    takes_prefix = False

    @property
    def tokenizer(self) -> Characters:
        return self

    def encode(
        self, observation: str, system: str | None = None, assistant_prefix: str = ""
    ) -> RenderedPrompt:
        first = [SYSTEM, *_codes(system)] if system else []
        prompt = self.next_turn([], observation, assistant_prefix)
        return RenderedPrompt([*first, *prompt.token_ids], prompt.response_prefix)

    def next_turn(
        self, response_ids: list[int], observation: str, assistant_prefix: str = "", continues: bool = False
    ) -> RenderedPrompt:
        """What goes on with the model's own message is sent as the next one's: it cannot write on in the old."""
        begun = assistant_prefix if self.takes_prefix else ""
        return RenderedPrompt([USER, *_codes(observation), ASSISTANT, *_codes(begun)], begun)

    def decode(self, token_ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """The text; without skipping, marks of messages stand there as `<|user|>`."""
        marks = {} if skip_special_tokens else {code: f"<|{role}|>" for code, role in ROLES.items()}
        return "".join(marks.get(code, "") if code >= SYSTEM else chr(code) for code in token_ids)


class TextSampler:
    """The sampler of such models.

    Args:
        ask: Answers several conversations, given how to sample and a seed each, in order.
    """

    weights_version = 0
    max_sequence_tokens: int | None = None

    def __init__(self, ask: Callable[[list[Messages], SamplingParams, Sequence[int]], list[Reply]]):
        self._ask = ask

    def generate(
        self, prompts: Sequence[Sequence[int]], params: SamplingParams, seeds: Sequence[int]
    ) -> list[Completion]:
        replies = self._ask([messages_of(prompt) for prompt in prompts], params, seeds)
        return [
            Completion(
                as_token_ids([*_codes(reply.text), *ENDS.get(reply.finish_reason, ())]),
                as_logps([]),
                reply.finish_reason,
                0,
            )
            for reply in replies
        ]

    def load_weights(self, packed: Any, version: int) -> None:
        raise ValueError("a model that takes and gives texts has no weights to load")

    def sleep(self) -> None:
        """Holds nothing."""

    def close(self) -> None:
        """Holds nothing."""


def messages_of(token_ids: Sequence[int]) -> Messages:
    """The conversation that a sequence stands for, up to the answer that is asked for, or how that begins."""
    messages: Messages = []
    parts: list[list[str]] = []
    for code in token_ids:
        if code in ROLES:
            messages.append({"role": ROLES[code], "content": ""})
            parts.append([])
        elif code != END:
            parts[-1].append(chr(code))
    for message, part in zip(messages, parts, strict=True):
        message["content"] = "".join(part)
    return messages if messages[-1]["content"] else messages[:-1]


def function_subject(name: str) -> Subject:
    """A function of one's own as a model: `module:function`.

    It is given the text of the messages, with empty lines between them, or the messages themselves where it has an
    argument `messages`; it returns a text.

    Raises:
        ValueError: If there is no such function.
    """
    try:
        function = resolve_name(name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"there is no function {name!r} ({error}): give --model module:function") from error
    if not callable(function):
        raise ValueError(f"{name!r} is a {type(function).__name__}, and no function")
    takes_messages = "messages" in inspect.signature(function).parameters

    def say(messages: Messages) -> Reply:
        if takes_messages:
            text = function(messages=messages)
        else:
            text = function("\n\n".join(message["content"] for message in messages))
        if not isinstance(text, str):
            raise ValueError(f"{name} returned a {type(text).__name__}: it must return a text")
        return Reply(text)

    sampler = TextSampler(lambda conversations, params, seeds: [*map(say, conversations)])
    return text_subject(name, _source(function), sampler, {"sampler": "function"})


def text_subject(name: str, source: str, sampler: TextSampler, settings: dict[str, Any]) -> Subject:
    """Puts together what is evaluated; another `source` is another model."""
    fingerprint = hashlib.sha256(source.encode()).hexdigest()[:16]
    characters: Any = Characters()  # has what a rollout asks of a renderer
    return Subject(name, fingerprint, characters, sampler, settings)


def _source(function: Any) -> str:
    """Of the whole module, since a function calls others; of what has no source, the name."""
    try:
        return inspect.getsource(inspect.getmodule(function) or function)
    except (OSError, TypeError):
        return repr(getattr(function, "__qualname__", type(function).__qualname__))


def _codes(text: str) -> list[int]:
    return [ord(character) for character in text]
