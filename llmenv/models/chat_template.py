"""A tokenizer's chat template, and what it does, found out by rendering with it. Knows texts, and nothing about tokens.

Templates are programs of their authors: some refuse a system message, some open the model's thinking for it, some print
the date. None of that is declared anywhere, so that each is tried with marks in the place of messages.
"""

from __future__ import annotations

import logging
import re
from functools import lru_cache
from itertools import takewhile
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

# What stands for a message where a template is tried: no template has them, and none strips them.
_USER, _ASSISTANT, _SYSTEM, _CLOCK = "\x01", "\x02", "\x03", "\x04"
# Between the first two comments an export's template has what is its training environment's; one that begins with the
# third is of no form at all (`llmenv.models.trained_prompt`).
OWN, OWN_END, RAW = "{#llmenv: the environment's#}", "{#llmenv: end#}", "{#llmenv: raw#}"
_OURS = ("messages", "conversation", "tokenize", "add_generation_prompt", "chat_template", "return_dict")
THINK, END_OF_THINK = "<think>", "</think>"


class ChatTemplate:
    """What a chat template makes of messages.

    Args:
        tokenizer: Has one.
        arguments: Given to the template each time, such as `enable_thinking`.

    Attributes:
        takes_system: Whether a system message arrives in the prompt; where not, it goes before the user's.
        end: What the template writes after an assistant's message that is the last.

    Raises:
        ValueError: If the template fails on a user's message, or does not know one of the arguments.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, arguments: dict[str, Any]):
        self._tokenizer = tokenizer
        self._arguments = arguments
        self.source = without_environment(tokenizer.get_chat_template())
        for name in arguments:
            if name in _OURS or not re.search(rf"\b{re.escape(name)}\b", self.source):
                raise ValueError(
                    f"the chat template of {tokenizer.name_or_path!r} has no argument {name!r}: leave it out of "
                    "template_kwargs"
                )
        try:
            self._render([_user(_USER)])
        except TemplateError as error:
            raise ValueError(
                f"the chat template of {tokenizer.name_or_path!r} fails on a user's message ({error}): give the "
                "arguments that it needs as template_kwargs, or set template='r1' or 'raw'"
            ) from error
        self.takes_system = _SYSTEM in self._try([_message("system", _SYSTEM), _user(_USER)])
        self.end = self._try([_user(_USER), _message("assistant", _ASSISTANT)], False).partition(_ASSISTANT)[
            2
        ]
        dialogue = [_user(_USER), _message("assistant", _ASSISTANT), _user(_USER)]
        # Between a question and its answer where both are past: nothing is opened there.
        before, answered, _ = self._try(dialogue).partition(_ASSISTANT)
        self._head = before.partition(_USER)[2] if answered else None
        self._opening = lru_cache(maxsize=16)(self._find_opening)
        if _CLOCK in self._render([_user(_USER)], strftime_now=lambda _: _CLOCK):
            logger.warning(
                "the chat template of %s prints the clock: prompts of another day are others, and a run cannot be "
                "repeated. If the template has an argument for the date, set it by template_kwargs",
                tokenizer.name_or_path,
            )

    def first(self, system: str | None, user: str) -> tuple[str, str]:
        """A conversation's first prompt, and the end of it that the template has put into the assistant's mouth."""
        return self._render(self._messages(system, user)), self._opening(system, False)

    def later(self, user: str) -> tuple[str, str]:
        """The same of a later turn: what follows an assistant's message, its end included."""
        dialogue = [_user(""), _message("assistant", _ASSISTANT), _user(user)]
        return self._render(dialogue).split(_ASSISTANT, 1)[1], self._opening(None, True)

    def _messages(self, system: str | None, user: str) -> list[dict[str, str]]:
        if not system:
            return [_user(user)]
        if self.takes_system:
            return [_message("system", system), _user(user)]
        return [_user(f"{system}\n\n{user}")]

    def _find_opening(self, system: str | None, later: bool) -> str:
        """What a generation prompt has beyond the beginning of any assistant's message: "", or such as "<think>"."""
        messages = self._messages(system, _USER)
        if later:
            messages = [_user(""), _message("assistant", _ASSISTANT), _user(_USER)]
        behind = self._render(messages).rpartition(_USER)[2]
        start = len(behind)
        if self._head is not None:
            start = sum(
                1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(behind, self._head, strict=False))
            )
        # Templates that write a closed block before every answer have it in both.
        thinking = behind.find(THINK)
        opened = behind[start if thinking < 0 else min(start, thinking) :]
        return opened if opened.strip() else ""

    def _try(self, messages: list[dict[str, str]], prompt: bool = True) -> str:
        """What the template makes of messages that it may refuse; "" then."""
        try:
            return self._render(messages, prompt)
        except TemplateError:
            return ""

    def _render(self, messages: list[dict[str, str]], prompt: bool = True, **more: Any) -> str:
        arguments = {**self._arguments, **more, "tokenize": False, "add_generation_prompt": prompt}
        return self._tokenizer.apply_chat_template(messages, chat_template=self.source, **arguments)


def without_environment(source: str) -> str:
    """A template without the texts of the environment that its policy was trained in: each brings its own."""
    return re.sub(f"{re.escape(OWN)}.*?{re.escape(OWN_END)}\n?", "", source, flags=re.DOTALL)


def still_to_open(opened: str, prefix: str) -> str:
    """What is to be written of an environment's prefix behind what the template has opened.

    Thinking is begun once. Where the template has ended it as well, nothing leads up to it any more.
    """
    if opened.endswith(prefix):
        return ""
    lead, begins, rest = prefix.partition(THINK)
    if not begins or THINK not in opened:
        return prefix
    missing = rest if END_OF_THINK in opened.rpartition(THINK)[2] else lead + rest
    return "" if opened.endswith(missing) else missing


def _message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _user(content: str) -> dict[str, str]:
    return _message("user", content)
