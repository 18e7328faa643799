"""Where two samplers of one model part: the first token that they do not have in common, greedily.

Of a first message alone, since what follows depends on it. A sampler that gives texts, such as a server's, is compared
by its text in the model's tokens. Both tokens' log-probabilities are those of the first sampler's model after what they
have in common: where they are close, rounding may decide, and where not, one of the two was asked something else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from llmenv.env import make_env
from llmenv.evaluation.run import held_out
from llmenv.evaluation.subject import Subject
from llmenv.evaluation.tasks import count_tasks, evaluation_requests
from llmenv.evaluation.text_models import Characters
from llmenv.rollout import EnvPool, GroupRequest, rollout
from llmenv.samplers.sampler import SamplingParams


class Parting(NamedTuple):
    """A task where two samplers part.

    Attributes:
        task: Its number.
        position: Of the first token that differs, in the response; in the prompt -1.
        tokens: The two, as texts; "" where a response had ended.
        logps: Of both by the first sampler's model; NaN where there is no token, or the prompts differ.
    """

    task: int
    position: int
    tokens: tuple[str, str]
    logps: tuple[float, float]


def first_difference(a: Sequence[int], b: Sequence[int]) -> int | None:
    """Where two sequences part, the end of the shorter included; None where they are the same."""
    for i, (left, right) in enumerate(zip(a, b, strict=False)):
        if left != right:
            return i
    return None if len(a) == len(b) else min(len(a), len(b))


def partings(
    first: Subject,
    second: Subject,
    env: str,
    env_options: dict[str, Any],
    num_tasks: int,
    max_new_tokens: int,
    seed: int = 0,
) -> list[Parting]:
    """Runs held-out tasks through both.

    Args:
        first: Under transformers.
        second: Under another sampler.
        env: "module:Id-v0".
        env_options: Its arguments.
        num_tasks: Held-out tasks.
        max_new_tokens: Cap on a response.
        seed: Of the tasks.
    """
    options = held_out(env, env_options)
    requests = evaluation_requests(num_tasks, count_tasks(env, options), seed=seed)
    ours, theirs = (_first_turns(each, env, options, requests, max_new_tokens) for each in (first, second))
    found = []
    for task, (our, their) in enumerate(zip(ours, theirs, strict=True)):
        prompt, response = our
        their_prompt, their_response = their
        if isinstance(second.renderer, Characters):  # as texts, in the same tokens
            response, their_response = _in_tokens(first, response), _in_tokens(first, their_response, second)
        elif prompt != their_prompt:
            begin = first_difference(prompt, their_prompt) or 0
            texts = [first.renderer.decode(ids[begin : begin + 1]) for ids in (prompt, their_prompt)]
            found.append(Parting(task, -1, (texts[0], texts[1]), (float("nan"),) * 2))
            continue
        if (place := first_difference(response, their_response)) is not None:
            found.append(_parting(first, task, prompt, response, their_response, place))
    return found


def _first_turns(
    subject: Subject, env: str, options: dict[str, Any], requests: Sequence[GroupRequest], most: int
) -> list[tuple[list[int], list[int]]]:
    """Prompt and response of each task, greedily."""
    subject.begin()
    pool = EnvPool(lambda: make_env(env, options))
    params = SamplingParams(most, subject.renderer.stop_token_ids, temperature=0.0)
    episodes = rollout(pool, subject.renderer, subject.sampler, requests, params)
    pool.close()
    return [(e.turns[0].prompt_ids.tolist(), e.turns[0].response_ids.tolist()) for e in episodes]


def _in_tokens(first: Subject, response: list[int], said_by: Subject | None = None) -> list[int]:
    """A response's text in the first model's tokens, without the one that ends it."""
    text = (said_by or first).renderer.decode(response)
    return list(first.renderer.tokenizer.encode(text, add_special_tokens=False))


def _parting(
    first: Subject, task: int, prompt: list[int], ours: list[int], theirs: list[int], place: int
) -> Parting:
    import torch

    model = first.sampler.model  # type: ignore[attr-defined]
    ids = torch.tensor([[*prompt, *ours[:place]]], device=model.device)
    with torch.inference_mode():
        logps = torch.log_softmax(model(ids).logits[0, -1].float(), -1)
    texts, values = [], []
    for response in (ours, theirs):
        token = response[place] if place < len(response) else None
        texts.append("" if token is None else first.renderer.tokenizer.decode([token]))
        values.append(float("nan") if token is None else float(logps[token]))
    return Parting(task, place, (texts[0], texts[1]), (values[0], values[1]))
