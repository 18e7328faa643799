"""A conversation in a model's tokens, and which of them are its own words. Knows no environment and no loss."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from llmenv.conversations import Conversation
from llmenv.models.renderer import Renderer


class Demonstration(NamedTuple):
    """A conversation of T tokens.

    Attributes:
        token_ids: int32 [T].
        response_mask: bool [T], where the assistant speaks, the token that ends its turn included.
    """

    token_ids: np.ndarray
    response_mask: np.ndarray


def demonstrate(conversation: Conversation, renderer: Renderer) -> Demonstration:
    """The tokens that a policy would have been asked with, and those it is to answer with, turn by turn.

    Prompt and response are cut where they are in sampling. A response ends with `renderer.end_token_id`, unless the
    environment goes on with it.

    Raises:
        ValueError: If a response does not begin as its prompt ends, or the tokenizer cannot spell it.
    """
    exchanges, ids, is_response = conversation.exchanges, list[int](), list[bool]()
    response: list[int] = []
    for i, exchange in enumerate(exchanges):
        if i:
            prompt = renderer.next_turn(response, exchange.asked, exchange.prefix, exchange.continues)
        else:
            prompt = renderer.encode(exchange.asked, conversation.system, exchange.prefix)
        text = _rest(exchange.answered, prompt.response_prefix)
        response = renderer.tokenizer.encode(text, add_special_tokens=False)
        if not text.strip() or not response:
            raise ValueError(f"response {i + 1} is no longer than its beginning: leave the row out")
        unknown = renderer.tokenizer.unk_token_id
        if unknown in response and unknown not in renderer.stop_token_ids:
            raise ValueError(f"the tokenizer cannot spell response {i + 1}: leave the row out")
        if i + 1 == len(exchanges) or not exchanges[i + 1].continues:
            response = [*response, renderer.end_token_id]
        ids += [*prompt.token_ids, *response]
        is_response += [False] * len(prompt.token_ids) + [True] * len(response)
    return Demonstration(np.array(ids, dtype=np.int32), np.array(is_response))


def _rest(answered: str, begun: str) -> str:
    """An answer without what its prompt ends with; the template's own white space need not be in it."""
    if answered.startswith(begun):
        return answered[len(begun) :]
    if answered.lstrip().startswith(begun.strip()):
        return answered.lstrip()[len(begun.strip()) :].lstrip()
    raise ValueError(
        f"its prompt ends with {begun!r}, and the response begins with {answered[:40]!r}: begin it so, or render "
        "prompts otherwise (policy.template, policy.template_kwargs)"
    )
