"""Answers made of golds by the thousand: nothing mutated or hedged is paid, and no respelling changes a verdict."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable
from itertools import permutations

import pytest
from mutations import GOLDS, exactly_equal, hedges, mutations, real_golds, respellings

from envs.verify.verifiers import verify_math

HEDGED = [
    "18",
    "19",
    r"\frac{3}{4}",
    r"2\sqrt{3}",
    "x^2-5x+6",
    "(1,-2)",
    "[2,9)",
    "x>3",
    "x=5",
    r"12\pi",
    r"\text{Monday}",
]
# Hedges that are no hedges.
RIGHT = {
    (r"\frac{16}{5} \approx 3", r"\frac{16}{5}"),  # rightly rounded
    # A term with a unit beside others without one: the degrees go, as of any answer, and 36 / 6 is 6.
    (r"36^\circ / 6r^2-4r-24", "6r^2-4r-24"),
    ("225 / 15", "15"),  # so it is
    (r"225 / 15\mbox{ cm}^2", r"15\mbox{ cm}^2"),
}
BRACKETS = str.maketrans("[]", "()")
# Mutations that say the same, each for the reason behind it.
SAME = {
    ("50", r"50\%"),  # a unit may be left out
    (r"\sin 400^\circ", r"\sin 40^\circ"),  # a full turn
    ("f'(x)=2x+1^2", "f'(x)=2x+1"),
    ("-2,1^2", "-2,1"),
    ("5x - 7y + 11z + 4 = 0x", "5x - 7y + 11z + 4 = 0"),  # nought is nought
    ("5x - 7y + 11z + 4 = 0^2", "5x - 7y + 11z + 4 = 0"),
}


def says_the_same(mutant: str, gold: str) -> bool:
    """Whether no exact check is needed: brackets of a choice such as `\\text{(C)}` say nothing."""
    is_choice = re.fullmatch(r"\\text\{\(.\)\}", gold) is not None
    return (mutant, gold) in SAME or (is_choice and mutant.translate(BRACKETS) == gold.translate(BRACKETS))


def undeserved(golds: list[str]) -> tuple[int, list[tuple[str, str]]]:
    """How many mutations were judged, and those that were accepted though no exact check finds them equal."""
    pairs = [(mutant, gold) for gold in golds for mutant in dict.fromkeys(mutations(gold)) if mutant != gold]
    accepted = [pair for pair in pairs if verify_math(*pair) is None]
    return len(pairs), [pair for pair in accepted if not says_the_same(*pair) and not exactly_equal(*pair)]


def test_no_mutation_is_accepted() -> None:
    tried, wrong = undeserved(GOLDS)
    assert tried > 850 and wrong == []


@pytest.mark.slow
def test_no_mutation_of_real_golds_is_accepted() -> None:
    golds = real_golds() or pytest.skip("no math500/test.jsonl in $LLMENV_DATA")
    tried, wrong = undeserved(golds)
    assert tried > 5000 and wrong == []


def hedged(golds: Iterable[tuple[str, str]]) -> tuple[int, list[tuple[str, str]]]:
    """How many hedges between two golds were judged by either, and those that were accepted."""
    pairs = []
    for first, second in golds:
        if first != second and verify_math(first, second) is not None:
            pairs += [(hedge, gold) for hedge in hedges(first, second) for gold in (first, second)]
    return len(pairs), [pair for pair in pairs if pair not in RIGHT and verify_math(*pair) is None]


def test_hedging_never_pays() -> None:
    tried, wrong = hedged(permutations(HEDGED, 2))
    assert tried > 5000 and wrong == []


@pytest.mark.slow
def test_hedging_between_more_golds_never_pays() -> None:
    """Each of 48 beside four others: every form of a hedge comes with golds of many kinds.

    But for a person's name, which beside a number is read as its unit, as any word is that is not known.
    """
    golds = [g for g in random.Random(0).sample(GOLDS + real_golds(), 49) if g != r"\text{Navin}"]
    size = len(golds)
    tried, wrong = hedged(
        (golds[i], golds[(i + step) % size]) for i in range(size) for step in (1, 5, 11, 17)
    )
    assert tried > 6_000 and wrong == []


def respelt(golds: list[str], others: list[str]) -> tuple[int, list[tuple[str, str, str]]]:
    """Verdicts on golds, and on others by golds, that a respelling of either side changes."""
    changed, tried = [], 0
    for gold, other in zip(golds, others, strict=True):
        for answer in (gold, other):
            expected = verify_math(answer, gold) is None
            for spelling in respellings(answer):
                tried += 1
                if (verify_math(spelling, gold) is None) != expected:
                    changed.append((spelling, gold, "answer"))
            for spelling in respellings(gold):
                tried += 1
                if (verify_math(answer, spelling) is None) != expected:
                    changed.append((answer, spelling, "gold"))
    return tried, changed


def test_respelling_changes_no_verdict() -> None:
    tried, changed = respelt(GOLDS, GOLDS[1:] + GOLDS[:1])
    assert tried > 1500 and changed == []


def test_right_answers_of_real_data_are_right_in_any_spelling() -> None:
    real = real_golds() or pytest.skip("no math500/test.jsonl in $LLMENV_DATA")
    golds = random.Random(0).sample(real, 60)
    tried, changed = respelt(golds, golds[1:] + golds[:1])
    assert tried > 1500 and changed == []


def test_the_exact_check_tells_equal_from_unequal() -> None:
    assert exactly_equal(r"\frac{1}{2}", "0.5") and exactly_equal("(x+1)^2", "x^2+2x+1")
    assert not exactly_equal(r"\frac{1}{2}", "0.6") and not exactly_equal("(x+1)^2", "x^2+2x")
