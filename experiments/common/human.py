"""Whoever sits at the terminal, as a model: reads the messages there, and writes the answer."""

from __future__ import annotations

from collections.abc import Sequence

from experiments.common.plain import printable
from llmenv.evaluation.subject import Subject
from llmenv.evaluation.text_models import Messages, Reply, TextSampler, text_subject
from llmenv.samplers.sampler import SamplingParams


def human_subject() -> Subject:
    """A human, to be evaluated."""
    return text_subject("human", "human", TextSampler(_ask), {"sampler": "human"})


def _ask(conversations: list[Messages], params: SamplingParams, seeds: Sequence[int]) -> list[Reply]:
    return [Reply(_answer(messages)) for messages in conversations]


def _answer(messages: Messages) -> str:
    """The lines up to an empty one. An answer that has no tags is put into them: thinking aloud is not asked for.

    Raises:
        RuntimeError: If the terminal is closed; what was answered before is recorded.
    """
    last = max((i for i, message in enumerate(messages) if message["role"] == "assistant"), default=-1)
    for message in messages[last + 1 :]:
        print(f"\n{message['role']}: {printable(message['content'])}")
    print("\nYour answer, and an empty line:")
    lines = []
    try:
        while line := input("> "):
            lines.append(line)
    except EOFError as error:
        raise RuntimeError("nobody answers any more: give the same command again to go on") from error
    text = "\n".join(lines)
    return text if "<" in text else f"<think></think><answer>{text}</answer>"
