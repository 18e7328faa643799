"""Which samples are worth learning from: pure functions of what is known of each. Knows no files, models or tokens.

Rejection sampling keeps what is right (RFT: Yuan et al., 2308.01825; RAFT: Dong et al., 2304.06767, keeps the best of
each task). Deviation: `quota` lets a task have the fewer the easier it is.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from typing import NamedTuple

KEEP = ("all", "best", "shortest")
GRAM = 32  # words; as Light-R1 has it (Wen et al., 2503.10460)


class Sample(NamedTuple):
    """What is known of a sample.

    Attributes:
        task: Samples of one task compare equal in it.
        right: The verifier's word.
        reward: What the environment paid.
        length: Tokens or characters, as long as it is the same for all.
        text: What was said.
    """

    task: Hashable
    right: bool
    reward: float
    length: int
    text: str = ""


def pass_rates(samples: Sequence[Sample]) -> dict[Hashable, float]:
    """By task, the share of its samples that is right."""
    sampled = Counter(sample.task for sample in samples)
    right = Counter(sample.task for sample in samples if sample.right)
    return {task: right[task] / count for task, count in sampled.items()}


def quota(pass_rate: float, most: int) -> int:
    """How many samples a task may have: 1 / its pass rate, rounded down, and no more than `most`.

    A task that is always right has one, so that what the policy can do already does not drown what it hardly can.
    """
    # A share such as 1/3 may be a hair larger than it is.
    return min(most, int(1 / pass_rate + 1e-9)) if pass_rate else most


def kept(
    samples: Sequence[Sample],
    keep: str = "all",
    most: int | None = None,
    candidates: Iterable[int] | None = None,
) -> list[int]:
    """The numbers of samples to learn from, in order.

    Args:
        samples: All that were drawn: pass rates are of all of them.
        keep: Of each task's right samples "all", the "best" (by reward) or the "shortest" one; of equals the first.
        most: At most so many a task, and the fewer the easier it is (see `quota`); the shortest ones. None: any number.
        candidates: The numbers of those that may be kept, such as the readable ones; None: all.

    Raises:
        ValueError: If there is no such way to keep.
    """
    if keep not in KEEP:
        raise ValueError(f"keep must be one of {', '.join(KEEP)}, got {keep!r}")
    rates = pass_rates(samples)
    by_task: dict[Hashable, list[int]] = {}
    for i in range(len(samples)) if candidates is None else candidates:
        if samples[i].right:
            by_task.setdefault(samples[i].task, []).append(i)
    found: list[int] = []
    for task, right in by_task.items():
        if keep == "best":
            right = [max(right, key=lambda i: samples[i].reward)]
        elif keep == "shortest":
            right = [min(right, key=lambda i: samples[i].length)]
        if most is not None:
            right = sorted(right, key=lambda i: samples[i].length)[: quota(rates[task], most)]
        found += right
    return sorted(found)


def unique(samples: Sequence[Sample], candidates: Iterable[int]) -> list[int]:
    """Of those numbers the first of each text of a task; white space and case make no other text."""
    first: dict[Hashable, int] = {}
    for i in candidates:
        first.setdefault((samples[i].task, " ".join(samples[i].text.lower().split())), i)
    return list(first.values())


class HeldOut:
    """Tasks that nothing may be learned from, by their questions, whole and in pieces of 32 words without numbers.

    Args:
        questions: Theirs.
    """

    def __init__(self, questions: Iterable[str]):
        self.questions = {_plain(question) for question in questions}
        counts = Counter(gram for question in self.questions for gram in _grams(question))
        # What two tasks have in common is their wording, and says nothing of either; nor do numbers, which are often
        # all in which tasks of one kind differ: `has` looks at them.
        self._grams = {gram for gram, count in counts.items() if count == 1 or len(self.questions) == 1}

    def has(self, question: str) -> bool:
        """Whether this is one of them, but for white space, case and punctuation."""
        return _plain(question) in self.questions

    def shares_words(self, text: str) -> bool:
        """Whether a text has 32 words in a row that one of them alone has."""
        return not self._grams.isdisjoint(_grams(text.lower()))


def _plain(text: str) -> str:
    return " ".join(re.findall(r"\w+|[-+*/=^<>.]", text.lower()))


def _grams(text: str) -> set[str]:
    words = re.findall(r"[^\W\d]+", text)
    return {" ".join(words[i : i + GRAM]) for i in range(len(words) - GRAM + 1)}
