"""Games of guessing: demonstrations of GuessNumber-v0.

Each thought is the range that the player believes the number to be in, and the guess is from that range. What varies is
whether the player narrows it by the answers, and whether the guess halves it.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from envs.guess_number import GuessNumberTask


def guess_number(rng: random.Random, task: GuessNumberTask, style: str) -> Iterator[str]:
    """A game, message by message, for as long as it goes on.

    A patient player narrows the range and halves it. A hasty one guesses anywhere in it, and in three games of five
    forgets the answers; a blind one always does.
    """
    low, high, number = task
    forgets = style == "blind" or (style == "hasty" and rng.random() < 3 / 5)
    while True:
        guess = (low + high) // 2 if style == "patient" else rng.randint(low, high)
        yield f"\n{low}, {high}\n</think>\n<answer> {guess} </answer>"
        if not forgets:
            low, high = (guess + 1, high) if guess < number else (low, guess - 1)
