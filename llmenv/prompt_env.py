"""The environment of whoever only wants a completion: it asks what it is told to, and pays nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llmenv.env import TextEnv


class PromptEnv(TextEnv):
    """One question, one answer, no verdict. `reset(options=prompt_options(prompt))` says what to ask."""

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        assert options is not None
        return options["question"], {
            "system": options["system"],
            "assistant_prefix": options["assistant_prefix"],
        }

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        return "", 0.0, True, False, {}


def prompt_options(prompt: str | Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """What `PromptEnv.reset` is told.

    Args:
        prompt: A question, or messages: a system message or none, a user message, and then perhaps how the assistant
            begins.

    Raises:
        ValueError: If messages have another form.
    """
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
    roles = [message.get("role") for message in messages]
    contents = {message.get("role"): message.get("content") for message in messages}
    if roles[roles[:1] == ["system"] :] not in (["user"], ["user", "assistant"]) or not all(
        isinstance(content, str) for content in contents.values()
    ):
        raise ValueError(
            "a prompt is a text, or messages of the roles system (or none), user, and perhaps assistant for how it "
            f"begins, each with a text as its content; got {messages!r}"
        )
    return {
        "question": contents["user"],
        "system": contents.get("system"),
        "assistant_prefix": contents.get("assistant", ""),
    }
