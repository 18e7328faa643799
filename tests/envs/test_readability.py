"""Whether people can read a text, by hand."""

from __future__ import annotations

import time

import pytest

from envs.readability import foreign_letters, repetition, tags_are_sound, target_words, why_unreadable
from llmenv.env import make_env


@pytest.mark.parametrize(
    ("text", "script", "letters", "words"),
    [
        ("", "LATIN", 0.0, 1.0),
        ("12 + 3 = 15", "LATIN", 0.0, 1.0),  # no letters, no words
        ("so x is 5", "LATIN", 0.0, 1.0),
        ("déjà vu", "LATIN", 0.0, 1.0),
        ("so 我们 x", "LATIN", 2 / 5, 2 / 4),  # s o 我 们 x; so, 我, 们, x
        ("so 我们 x", "CJK", 3 / 5, 2 / 4),
        ("да, yes", "LATIN", 2 / 5, 1 / 2),
        ("mиx of", "LATIN", 1 / 5, 1 / 2),  # a word of two scripts is of none
        ("angle α = π/2", "LATIN", 0.0, 1.0),  # mathematics says nothing
        ("γειά so", "GREEK", 2 / 6, 1 / 2),
    ],
)
def test_scripts(text: str, script: str, letters: float, words: float) -> None:
    assert foreign_letters(text, script) == pytest.approx(letters)
    assert target_words(text, script) == pytest.approx(words)


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("a b c", 0.0),
        ("a b c d", 0.0),
        ("a b c d a b c d", 1 - 4 / 5),
        ("A b, a b,", 1 - 3 / 3),
        ("x " * 13, 1 - 1 / 10),
    ],
)
def test_repetition(text: str, share: float) -> None:
    assert repetition(text) == pytest.approx(share)


@pytest.mark.parametrize(
    ("text", "sound"),
    [
        ("no tags, 1 < 2 > 0", True),
        ("<think>a</think><answer>1</answer>", True),
        ("<answer>1</answer> or <answer>2</answer>", True),
        ("<think>a", False),
        ("a</think>", False),
        ("<think>a<answer>1</answer></think>", False),
        ("<think>a<think>b</think></think>", False),
        ("<think>a</answer>", False),
    ],
)
def test_tags(text: str, sound: bool) -> None:
    assert tags_are_sound(text) is sound


def test_why_a_text_is_unreadable() -> None:
    limits = {"most_foreign": 0.2, "fewest_words": 0.7, "most_repeated": 0.5}
    texts = {
        "so it is 5": None,
        "<think>so": "broken tags",
        "so 我们 x": "another script",
        "and so on " * 5: "repetition",  # 12 4-grams, 3 of them distinct
    }
    assert {text: why_unreadable(text, **limits) for text in texts} == texts


@pytest.mark.parametrize("text", ["我 a" * 100_000, "<think>" * 100_000, "x " * 50_000, "\ud800" * 100_000])
def test_hostile_texts_take_linear_time(text: str) -> None:
    start = time.perf_counter()
    why_unreadable(text, most_foreign=1.0, fewest_words=0.0, most_repeated=1.0)
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize(
    ("wrapper", "score"), [("ScriptBonus", 2 / 3), ("ForeignLettersPenalty", -2 / 9), ("TagsPenalty", -1.0)]
)
def test_rewards(wrapper: str, score: float) -> None:
    env = make_env("envs:Countdown-v0", {"wrappers": [{f"envs.rewards:{wrapper}": {"weight": 2.0}}]})
    env.reset(options={"numbers": [1, 2], "target": 3})
    assert env.step("</think> ab да")[1] == pytest.approx(2 * score)
