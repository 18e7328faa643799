"""A mixture of environments: every episode is one of a part's, as that part alone would have it."""

from __future__ import annotations

from collections import Counter
from typing import Any

import gymnasium as gym
import pytest
from gymnasium.utils.env_checker import check_env

import envs  # noqa: F401 (registers)
from llmenv.env import make_env
from llmenv.evaluation.run import held_out

PARTS: dict[str, Any] = {
    "Countdown-v0": {"weight": 3},
    "products": {"env": "Multiplication-v0", "env_config": {"digits": 2}},
    "CountdownTool-v0": {"weight": 2},
}


@pytest.fixture
def mixture() -> Any:
    return gym.make("envs:Mixture-v0", disable_env_checker=True, parts=PARTS, split="test").unwrapped


def test_it_is_an_environment_of_gymnasiums(mixture: Any) -> None:
    check_env(mixture)
    other = gym.make("envs:Mixture-v0", parts=PARTS, split="test")
    mixture.reset(seed=0), other.reset(seed=0)
    assert [mixture.reset() for _ in range(9)] == [other.reset() for _ in range(9)]


def test_an_episode_is_its_parts_own(mixture: Any) -> None:
    alone = gym.make("Multiplication-v0", digits=2, split="test")
    for seed in range(5):
        observation, info = mixture.reset(seed=seed, options={"part": "products"})
        expected, expected_info = alone.reset(seed=seed)
        assert observation == expected and info == {**expected_info, "part": "products"}
        answer = alone.unwrapped.right_answer
        assert mixture.right_answer == answer
        message = f"<think>\n</think>\n<answer> {answer} </answer>"
        *rest, info = mixture.step(message)
        assert rest == [*alone.step(message)[:4]] and rest[1] == 1.0 and info["part"] == "products"


def test_options_are_the_parts_own(mixture: Any) -> None:
    options = {"part": "Countdown-v0", "numbers": [44, 19, 35], "target": 98}
    observation, _ = mixture.reset(options=options)
    assert "[44, 19, 35]" in observation and "98" in observation
    with pytest.raises(ValueError, match="there is no part 'sums': one of Countdown-v0, products"):
        mixture.reset(options={"part": "sums"})
    with pytest.raises(ValueError, match=r"call reset\(\)"):
        mixture.step("")


def test_stop_strings_are_those_of_the_part(mixture: Any) -> None:
    mixture.reset(seed=0, options={"part": "CountdownTool-v0"})
    assert mixture.stop_strings == gym.make("CountdownTool-v0").unwrapped.stop_strings != ()
    mixture.reset(seed=0, options={"part": "products"})
    assert mixture.stop_strings == ()


def test_parts_are_drawn_by_weight_from_the_seed(mixture: Any) -> None:
    drawn = [mixture.reset(seed=seed)[1]["part"] for seed in range(600)]
    assert drawn == [mixture.reset(seed=seed)[1]["part"] for seed in range(600)]
    counts = Counter(drawn)
    for name, expected in (("Countdown-v0", 300), ("CountdownTool-v0", 200), ("products", 100)):
        assert abs(counts[name] - expected) < 50  # over four standard deviations


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({}, "must map names to settings"),
        (["Countdown-v0"], "must map names to settings"),
        ({"Countdown-v0": 0.5}, "must have env, weight, env_config"),
        ({"Countdown-v0": {"weigth": 1}}, "must have env, weight, env_config"),
        ({"Countdown-v0": {"weight": 0}}, "must be above 0"),
        ({"Countdown-v0": {"weight": float("nan")}}, "must be above 0"),
        ({"Countdown-v0": {"weight": "much"}}, "must be a number"),
    ],
)
def test_what_is_no_mixture_is_refused(parts: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gym.make("envs:Mixture-v0", parts=parts)


def test_the_draw_of_a_part_does_not_decide_its_task() -> None:
    """Countdown's first draw is how many numbers there are: of all parts' tasks both kinds come."""
    for parts in (["Countdown-v0", "Multiplication-v0"], ["Multiplication-v0", "Countdown-v0"]):
        env = gym.make("envs:Mixture-v0", disable_env_checker=True, parts={part: {} for part in parts})
        found: Counter[int] = Counter()
        for seed in range(200):
            observation, info = env.reset(seed=seed)
            if info["part"] == "Countdown-v0":
                found[observation.partition("[")[2].partition("]")[0].count(",") + 1] += 1
        assert min(found[3], found[4]) > 20 and found.total() > 60, found


def test_the_split_is_that_of_every_part() -> None:
    """Or tasks that are learned from would be held out."""
    trained = {"Countdown-v0": {"env_config": {"split": "train"}}}
    env = gym.make("envs:Mixture-v0", disable_env_checker=True, split="test", parts=trained).unwrapped
    assert env._envs["Countdown-v0"].unwrapped.split == "test"
    assert held_out("envs:Mixture-v0", {"parts": trained})["split"] == "test"
    without = {"parts": {**trained, "support:NoDigit-v0": {}}}
    with pytest.raises(
        ValueError, match="part 'support:NoDigit-v0' of the mixture has no splits, and 'test' is asked"
    ):
        held_out("envs:Mixture-v0", without)
    each_its_own = held_out("envs:Mixture-v0", {**without, "split": None})
    assert (
        make_env("envs:Mixture-v0", each_its_own).unwrapped._envs["Countdown-v0"].unwrapped.split == "train"
    )
    with pytest.raises(TypeError, match="colour"):
        gym.make("envs:Mixture-v0", split="test", parts={"Countdown-v0": {"env_config": {"colour": 1}}})
