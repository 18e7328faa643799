"""Rewards as a user composes them: wrappers, one around the other, by hand and by name."""

from __future__ import annotations

import json
import pickle
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import pandas as pd
import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForSequenceClassification

import envs.reward_model
from algorithms import GRPOConfig
from envs.reward_model import RewardModel
from envs.rewards import FormatBonus, LengthPenalty, RepetitionPenalty, RewardFunctions
from llmenv.env import TextEnv, make_env
from llmenv.evaluation.rescoring import score_completions
from llmenv.models import tiny

# 1 + 2 = 3; the response is 38 characters long.
TASK = {"numbers": [1, 2], "target": 3}
RIGHT = "<think>a</think><answer>1 + 2</answer>"
WRONG = "<think>a</think><answer>1 - 2</answer>"


def commas(prompt: str, completion: str, info: dict[str, Any]) -> float:
    return float(completion.count(","))


def asked_for(prompt: str, completion: str, info: dict[str, Any]) -> float:
    return float("equals 3." in prompt) + 10 * info["correct"]


def letters(prompt: str, completion: str) -> float:
    return len(completion) / 100


def pay(env: gym.Env, action: str) -> float:
    env.reset(options=TASK)
    return env.step(action)[1]


def countdown(*wrappers: dict[str, Any]) -> gym.Env:
    return make_env("envs:Countdown-v0", {"wrappers": list(wrappers)})


def test_two_weighted_rewards_and_a_length_penalty() -> None:
    assert len(RIGHT) == 38
    env = countdown(
        {"envs.rewards:RewardFunctions": {"functions": {"test_rewards:commas": 0.5, asked_for: 0.25}}},
        {"envs.rewards:LengthPenalty": {"max_length": 60, "buffer": 40, "weight": 2.0}},
    )
    # 1 of the environment, 0 commas, (1 + 10) / 4, and 18 of the 40 last characters: -2 * 18 / 40.
    assert pay(env, RIGHT) == pytest.approx(1 + 0 + 2.75 - 0.9)
    # 0.1 for the form alone, 2 commas, 1 / 4; 40 characters: -2 * 20 / 40.
    assert pay(env, f"{WRONG[:8]},,{WRONG[8:]}") == pytest.approx(0.1 + 1 + 0.25 - 1)
    only = countdown(
        {"envs.rewards:RewardFunctions": {"functions": {"test_rewards:commas": 1.0}, "env_weight": 0.0}}
    )
    assert pay(only, RIGHT) == 0.0


def test_a_reward_says_what_it_is_made_of(tmp_path: Path) -> None:
    """By hand, as above, 2 commas: the bonus of 0.5 for the form; then all but the penalty is halved."""
    wrappers: list[dict[str, Any]] = [
        {"envs.rewards:RewardFunctions": {"functions": {"test_rewards:commas": 0.5, asked_for: 0.25}}},
        {"envs.rewards:FormatBonus": {"weight": 0.5}},
        {"envs.reward_model:RewardModel": {"model": "test_rewards:letters", "env_weight": 0.5}},
        {"envs.rewards:LengthPenalty": {"max_length": 60, "buffer": 40, "weight": 2.0}},
    ]
    by_hand = {
        "environment": 0.1 / 2,
        "test_rewards:commas": 1 / 2,
        "test_rewards:asked_for": 0.25 / 2,
        "FormatBonus": 0.5 / 2,
        "RewardModel": 0.4,  # 40 characters
        "LengthPenalty": -1.0,
    }
    says = f"{WRONG[:8]},,{WRONG[8:]}"
    env = countdown(*wrappers)
    env.reset(options=TASK)
    _, reward, _, _, info = env.step(says)
    assert info["reward_parts"] == pytest.approx(by_hand) and reward == pytest.approx(sum(by_hand.values()))
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"options": TASK, "completion": says}) + "\n")
    wrappers[0]["envs.rewards:RewardFunctions"]["functions"] = {
        "test_rewards:commas": 0.5,
        "test_rewards:asked_for": 0.25,
    }
    score_completions(rows, "envs:Countdown-v0", tmp_path / "e", env_options={"wrappers": wrappers})
    (record,) = pd.read_parquet(tmp_path / "e" / "records").itertuples()
    assert json.loads(record.reward_parts) == pytest.approx(by_hand)
    assert record.reward == pytest.approx(sum(by_hand.values()))


def test_wrappers_are_gymnasiums() -> None:
    """By hand, by name and by spec they make the same; `unwrapped`, spaces and pickling stay."""
    by_hand: gym.Env = LengthPenalty(FormatBonus(gym.make("Countdown-v0"), 0.5), max_length=100, buffer=100)
    by_name = countdown(
        {"envs.rewards:FormatBonus": {"weight": 0.5}},
        {"envs.rewards:LengthPenalty": {"max_length": 100, "buffer": 100}},
    )
    by_spec = gym.make(type(by_hand.spec).from_json(by_hand.spec.to_json()))
    copy = pickle.loads(pickle.dumps(by_name))
    for env in (by_hand, by_name, by_spec, copy):
        assert pay(env, RIGHT) == pytest.approx(1 + 0.5 - 0.38)
        assert pay(env, "") == 0.0
        assert env.unwrapped.assistant_prefix.endswith("<think>")
        assert env.observation_space == by_hand.observation_space


@pytest.mark.parametrize("entry", ["envs.rewards:FormatBonus", {"FormatBonus": {}}, {"a:B": {}, "c:D": {}}])
def test_a_misspelt_wrapper_names_the_remedy(entry: Any) -> None:
    with pytest.raises(ValueError, match=r'write \{"module:Class": '):
        make_env("envs:Countdown-v0", {"wrappers": [entry]})


@pytest.mark.parametrize(
    ("length", "penalty"), [(0, 0.0), (600, 0.0), (601, 0.0025), (800, 0.5), (1000, 1.0), (10**6, 1.0)]
)
def test_length_penalty(length: int, penalty: float) -> None:
    env = LengthPenalty(gym.make("Countdown-v0"), max_length=1000, buffer=400)
    assert pay(env, "x" * length) == pytest.approx(-penalty)


def test_a_length_penalty_without_a_buffer_names_the_remedy() -> None:
    with pytest.raises(ValueError, match="buffer must be above 0 and at most max_length=10"):
        LengthPenalty(gym.make("Countdown-v0"), max_length=10, buffer=11)


@pytest.mark.parametrize(
    ("text", "n", "penalty"),
    [
        ("a b c d e", 2, 0.0),
        ("a b a b a b", 2, 3 / 5),  # five pairs: ab ba ab ba ab; two of them distinct
        ("A, a, A,", 2, 3 / 5),  # a mark is a word, and case does not matter
        ("a a", 3, 0.0),
        ("", 1, 0.0),
        ("a " * 1000, 4, 996 / 997),
    ],
)
def test_repetition_penalty(text: str, n: int, penalty: float) -> None:
    assert pay(RepetitionPenalty(gym.make("Countdown-v0"), n=n), text) == pytest.approx(-penalty)


def test_hostile_text_is_scored_in_time() -> None:
    env: gym.Env = RepetitionPenalty(FormatBonus(gym.make("Countdown-v0")))
    for text in ("\x00" * 10**6, "<think>" * 10**5, "\ud800🙂é" * 10**5, "!" * 10**5, "<answer>1+2" * 10**5):
        start = time.perf_counter()
        assert -1.0 <= pay(env, text) <= 0.0
        assert time.perf_counter() - start < 10


class Brevity:
    """A reward function that is an object."""

    def __call__(self, prompt: str, completion: str, info: dict[str, Any]) -> float:
        return float("inf")


def abstains(prompt: str, completion: str, info: dict[str, Any]) -> None:
    return None


def test_a_function_that_abstains_adds_nothing() -> None:
    for functions in (
        {abstains: 5.0},
        {"test_rewards:abstains": 1.0},
        {abstains: 1.0, lambda p, c, i: None: 2.0},
    ):
        assert pay(RewardFunctions(gym.make("Countdown-v0"), functions), RIGHT) == 1.0
    both = {
        abstains: 1.0,
        lambda p, c, i: 0.5: 2.0,
        lambda p, c, i: True: 1.0,
        lambda p, c, i: torch.tensor(2): 1.0,
    }
    assert pay(RewardFunctions(gym.make("Countdown-v0"), both), RIGHT) == 1 + 2 * 0.5 + 1 + 2
    assert pay(RewardModel(gym.make("Countdown-v0"), lambda p, c: None), RIGHT) == 1.0


@pytest.mark.parametrize(
    "score", [float("nan"), float("inf"), -float("inf"), [1.0], "1.0", {}, 1j, torch.tensor([1.0, 2])]
)
def test_a_score_that_is_no_finite_number_names_the_function(score: Any) -> None:
    def gives(*args: Any) -> Any:
        return score

    for env in (
        RewardFunctions(gym.make("Countdown-v0"), {abstains: 1.0, gives: 1.0}),
        RewardModel(gym.make("Countdown-v0"), gives),
    ):
        with pytest.raises(
            ValueError, match=r"reward function test_rewards:.*gives gave .* no finite number"
        ):
            pay(env, RIGHT)
    with pytest.raises(ValueError, match=r"reward function test_rewards:Brevity gave inf"):
        pay(RewardFunctions(gym.make("Countdown-v0"), {Brevity(): 1.0}), RIGHT)


class ToolsAndTalk(TextEnv):
    """A message that a tool continues once, then a message that ends the episode."""

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        self.turn = 0
        return "one", {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        self.turn += 1
        observation = ("[r]", "two", "")[self.turn - 1]
        return observation, 1.0, self.turn == 3, False, {"continues": self.turn == 1}


def test_a_message_is_scored_once_when_it_is_complete() -> None:
    seen: list[tuple[str, str]] = []

    def record(prompt: str, completion: str, info: dict[str, Any]) -> float:
        seen.append((prompt, completion))
        return 10.0

    env = RewardFunctions(ToolsAndTalk(), {record: 1.0})
    for _ in range(2):
        env.reset(seed=0)
        assert [env.step(text)[1] for text in ("a", "b", "c")] == [1.0, 11.0, 11.0]
    assert seen == [("one", "a[r]b"), ("two", "c")] * 2


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A random Llama that scores a sequence, with the tiny model's tokenizer."""
    folder = tmp_path_factory.mktemp("classifier")
    tokenizer = tiny.build_tokenizer([])
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_labels=1,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.5,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        LlamaForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def plain_score(folder: str, text: str, last: int = 10**6) -> float:
    model = LlamaForSequenceClassification.from_pretrained(folder)
    ids = AutoTokenizer.from_pretrained(folder).encode(text)[-last:]
    with torch.no_grad():
        return float(model(torch.tensor([ids])).logits[0, 0])


def test_a_reward_model_is_the_only_reward(classifier: str, model_folder: str, ray_cluster: None) -> None:
    """In a run: every episode is paid what the classifier says of its question and its completion."""
    wrapper = {"envs.reward_model:RewardModel": {"model": classifier, "env_weight": 0.0}}
    algorithm = (
        GRPOConfig()
        .environment("envs:Countdown-v0", env_config={"wrappers": [wrapper]})
        .policy(model=model_folder)
        .sampling(max_new_tokens=8)
        .training(prompts_per_iteration=2, group_size=3, lr=1e-3)
        .build_algo()
    )
    envs.reward_model._classifier.cache_clear()
    result = algorithm.train()
    episodes = algorithm.last_episodes
    algorithm.stop()
    assert len({episode.total_reward for episode in episodes}) > 3
    for episode in episodes:
        expected = plain_score(classifier, episode.observation + episode.turns[0].text)
        assert episode.total_reward == pytest.approx(expected, abs=1e-5)
    assert result["rollout"]["groups_without_signal"] == 0.0
    # Six environments, one model.
    assert envs.reward_model._classifier.cache_info().misses == 1


def test_a_reward_model_reads_its_own_chat_template(classifier: str, tmp_path: Path) -> None:
    for file in Path(classifier).iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    tokenizer.chat_template = "{% for m in messages %}({{ m.role }}) {{ m.content }}\n{% endfor %}"
    tokenizer.save_pretrained(tmp_path)
    env = RewardModel(gym.make("Countdown-v0"), str(tmp_path), weight=2.0)
    question, _ = env.reset(options=TASK)
    dialogue = f"(user) {question}\n(assistant) {RIGHT}\n"
    assert env.step(RIGHT)[1] == pytest.approx(1 + 2 * plain_score(classifier, dialogue), abs=1e-5)
    # Of a dialogue too long for it the beginning is cut off.
    short = RewardModel(gym.make("Countdown-v0"), str(tmp_path), max_tokens=9)
    assert pay(short, RIGHT) == pytest.approx(1 + plain_score(classifier, dialogue, last=9), abs=1e-5)


def test_several_labels_must_be_chosen_from(classifier: str, tmp_path: Path) -> None:
    config = LlamaForSequenceClassification.from_pretrained(classifier).config
    config.num_labels = 3
    LlamaForSequenceClassification(config).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(classifier).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="3 labels: say by label="):
        pay(RewardModel(gym.make("Countdown-v0"), str(tmp_path)), RIGHT)
    model = LlamaForSequenceClassification.from_pretrained(tmp_path)
    env = RewardModel(gym.make("Countdown-v0"), str(tmp_path), env_weight=0.0, label=2)
    question, _ = env.reset(options=TASK)
    ids = AutoTokenizer.from_pretrained(tmp_path).encode(question + RIGHT)
    with torch.no_grad():
        assert env.step(RIGHT)[1] == pytest.approx(float(model(torch.tensor([ids])).logits[0, 2]), abs=1e-5)


@pytest.mark.parametrize("model", [letters, "test_rewards:letters"])
def test_any_callable_is_a_reward_model(model: Any) -> None:
    assert pay(RewardModel(gym.make("Countdown-v0"), model), RIGHT) == pytest.approx(1.38)
