"""Where two samplers part: by hand, and with a model whose second sampler says another token."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

import envs  # noqa: F401
from llmenv.evaluation.parity import first_difference, partings
from llmenv.evaluation.subject import Subject, load_subject
from llmenv.evaluation.text_models import Reply, TextSampler, text_subject
from llmenv.samplers.sampler import Completion

ENV: tuple[Any, ...] = ("envs:Countdown-v0", {}, 3, 12)


@pytest.fixture(scope="module")
def subject(model_folder: str) -> Subject:
    return load_subject(model_folder)


class Changed:
    """The same sampler, but for one token of one row."""

    weights_version, max_sequence_tokens = 0, None

    def __init__(self, subject: Subject):
        self.subject = subject

    def generate(self, *args: Any) -> list[Completion]:
        completions = self.subject.sampler.generate(*args)
        self.was = int(completions[1].token_ids[4])
        completions[1].token_ids = np.array([*completions[1].token_ids[:4], 7, 8], np.int32)
        return completions


def test_first_difference() -> None:
    assert first_difference([1, 2, 3], [1, 2, 3]) is None
    assert first_difference([1, 2, 3], [1, 5, 3]) == 1
    assert first_difference([1, 2], [1, 2, 3]) == first_difference([1, 2, 3], [1, 2]) == 2


def test_a_sampler_is_like_itself_and_a_changed_token_is_found(subject: Subject) -> None:
    assert partings(subject, subject, *ENV) == []
    sampler = Changed(subject)
    other = Subject("other", "2", subject.renderer, sampler)  # type: ignore[arg-type]
    (parting,) = partings(subject, other, *ENV)
    decode = subject.renderer.tokenizer.decode
    assert (parting.task, parting.position) == (1, 4)
    assert parting.tokens == (decode([sampler.was]), decode([7]))
    assert parting.logps[0] > parting.logps[1]  # greedily it took the likelier one
    model = subject.sampler.model  # type: ignore[attr-defined]
    assert 0 < math.exp(parting.logps[0]) <= 1 and isinstance(model, torch.nn.Module)


def test_texts_are_compared_in_the_model_s_tokens(subject: Subject) -> None:
    texts = TextSampler(lambda asked, *_: [Reply("7 * 6") for _ in asked])
    found = partings(subject, text_subject("server", "3", texts, {}), *ENV)
    assert [parting.task for parting in found] == [0, 1, 2]
    assert all(parting.position == 0 and parting.tokens[1] == "7" for parting in found)
