"""The guessing game: hints, bounds, what ends it; and its episodes of several lengths in one rollout."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import pytest

import envs  # noqa: F401
from envs.guess_number import split_of
from llmenv.models.renderer import Renderer
from llmenv.rollout import EnvPool, GroupRequest, rollout
from llmenv.samplers.sampler import Completion, SamplingParams

TASK = {"low": 1, "high": 15, "number": 5}
FIRST = "Let me solve this step by step.\n<think> hm </think>\n"


@pytest.fixture
def env() -> Any:
    env = gym.make("GuessNumber-v0").unwrapped
    env.reset(options=TASK)
    return env


def guess(number: object) -> str:
    return f"<think> hm </think>\n<answer> {number} </answer>"


def test_halving_the_range_finds_every_number() -> None:
    """Played by a reader of the question and the hints alone."""
    env = gym.make("GuessNumber-v0", split="test").unwrapped
    for seed in range(30):
        question, _ = env.reset(seed=seed)
        low, high = map(int, re.search(r"from (\d+) to (\d+)", question).groups())  # type: ignore[union-attr]
        assert split_of(low, high) == "test" and high - low == 14
        terminated = False
        while not terminated:
            middle = (low + high) // 2
            hint, reward, terminated, _, info = env.step(guess(middle))
            low, high = (middle + 1, high) if hint == "higher" else (low, middle - 1)
        assert (reward, info["correct"], info["failure"]) == (1.0, True, None)


def test_hints_and_the_last_guess(env: Any) -> None:
    steps = [env.step(guess(number)) for number in (8, 4, 6, 7)]
    assert [step[0] for step in steps] == ["lower", "higher", "lower", ""]
    assert [step[1:3] for step in steps] == [(0.0, False)] * 3 + [(0.1, True)]
    assert steps[0][4] == {"correct": False, "assistant_prefix": "<think>"}
    assert steps[3][4] == {"correct": False, "well_formed": True, "answer": "7", "failure": "wrong value"}
    with pytest.raises(gym.error.ResetNeeded):
        env.step(guess(5))


def test_the_guesses_are_counted_from_the_reset(env: Any) -> None:
    env.step(guess(8))
    env.reset(options=TASK)
    assert [env.step(guess(8))[2] for _ in range(4)] == [False, False, False, True]


@pytest.mark.parametrize(
    ("text", "outcome"),
    [
        (guess("-3"), "higher"),
        (guess("1,000"), "lower"),
        (guess("9" * 10**6), "lower"),
        (guess("-" + "9" * 10**6), "higher"),
        (guess("05"), "not an integer"),
        (guess("5.5"), "not an integer"),
        (guess("٥"), "not an integer"),
        (guess("4 or 5"), "not an integer"),
        (guess(""), "not an integer"),
        ("higher", "no answer"),
        ("<answer> 5", "no answer"),
        ("<think> <answer> 5 </answer> </think>", "no answer"),
        ("<answer>" * 10**5, "no answer"),
        ("\ud800\x00🙂", "no answer"),
        ("<answer> 5 </answer>", "malformed"),
    ],
)
def test_what_is_no_guess_ends_the_game(env: Any, text: str, outcome: str) -> None:
    start = time.perf_counter()
    hint, reward, terminated, _, info = env.step(text)
    assert (info["failure"] if terminated else hint) == outcome
    assert reward <= 0.1
    assert time.perf_counter() - start < 5


def test_wrong_arguments_name_the_remedy() -> None:
    for arguments in ({"max_guesses": 0}, {"size": 1}, {"number_range": (1, 14)}, {"question": "{low}"}):
        with pytest.raises(ValueError, match="must"):
            gym.make("GuessNumber-v0", **arguments)
    with pytest.raises(ValueError, match=r"no test range of 99 numbers.*widen number_range"):
        for split in ("train", "test"):  # there is but one such range
            gym.make("GuessNumber-v0", size=99, split=split).reset(seed=0)


class Player:
    """Guesses from `guesses` by turn and row; checks that ended games are asked no more."""

    weights_version = 0
    max_sequence_tokens = None

    def __init__(self, tokenizer: Any, guesses: Sequence[Sequence[int]]):
        self.tokenizer, self.guesses = tokenizer, guesses
        self.rows: list[int] = []

    def generate(
        self, prompts: Sequence[Sequence[int]], params: SamplingParams, seeds: Sequence[int]
    ) -> list[Completion]:
        asked = self.guesses[len(self.rows)]
        assert len(asked) == len(prompts)
        self.rows.append(len(prompts))
        texts = [f" so </think>\n<answer> {number} </answer><|end|>" for number in asked]
        ids = [self.tokenizer.encode(text) for text in texts]
        return [Completion(row, [-1.0] * len(row), "stop", 0) for row in ids]


@pytest.fixture
def renderer(model_folder: str) -> Renderer:
    return Renderer.from_model(model_folder)


def play(renderer: Renderer, player: Player, limit: int | None = None) -> list[Any]:
    request = GroupRequest(0, 3, seed=0, sampling_seed=1, options=TASK)
    pool = EnvPool(lambda: gym.make("GuessNumber-v0"))
    params = SamplingParams(40, renderer.stop_token_ids)
    return rollout(pool, renderer, player, [request], params, limit)


def test_games_of_different_lengths_in_one_rollout(renderer: Renderer) -> None:
    """The middle one ends at once, the last one after two turns, the first one fails after four."""
    player = Player(renderer.tokenizer, [(8, 5, 8), (4, 5), (6,), (7,)])
    episodes = play(renderer, player)
    assert player.rows == [3, 2, 1, 1]
    assert [len(episode.turns) for episode in episodes] == [4, 1, 2]
    assert [episode.total_reward for episode in episodes] == [0.1, 1.0, 1.0]
    assert all(episode.valid and episode.terminated for episode in episodes)
    # Every later turn opens with the environment's own prefix, which counts as the model's.
    second = episodes[2].turns[1]
    assert renderer.tokenizer.decode(second.prompt_ids) == "\nUser: lower\nAssistant: <think>"
    assert second.text == "<think> so </think>\n<answer> 5 </answer>"
    assert episodes[2].transcript == (
        "Let me solve this step by step.\n<think> so </think>\n<answer> 8 </answer>\n"
        "lower\n<think> so </think>\n<answer> 5 </answer>"
    )


def test_a_game_that_outgrows_the_limit_is_truncated_and_keeps_its_turns(renderer: Renderer) -> None:
    whole = play(renderer, Player(renderer.tokenizer, [(8, 5, 8), (4, 5), (6,), (7,)]))
    turns = whole[0].turns
    limit = sum(
        len(turn.prompt_ids) + len(turn.response_ids) for turn in turns[:2]
    )  # no room for a third prompt
    episodes = play(renderer, Player(renderer.tokenizer, [(8, 5, 8), (4, 5)]), limit)
    assert [len(episode.turns) for episode in episodes] == [2, 1, 2]
    assert [(episode.valid, episode.terminated, episode.truncated) for episode in episodes] == [
        (True, False, True),
        (True, True, False),
        (True, True, False),
    ]
    assert episodes[0].token_ids.tolist() == [
        token for turn in turns[:2] for token in (*turn.prompt_ids, *turn.response_ids)
    ]
    # A first prompt over the limit is invalid still.
    player = Player(renderer.tokenizer, [])
    assert not any(episode.valid for episode in play(renderer, player, len(turns[0].prompt_ids) - 1))
