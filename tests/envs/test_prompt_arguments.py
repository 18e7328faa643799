"""System message and beginning of the answer as arguments, and chat templates that open thinking by themselves."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest

import envs  # noqa: F401
from llmenv.models.names import load_tokenizer
from llmenv.models.renderer import Renderer

TURNS = "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content | trim }}<|stop|>\n{% endfor %}"
ASK = "{% if add_generation_prompt %}<|assistant|>\n"
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
TEMPLATES = {
    "plain": TURNS + ASK + "{% endif %}",
    "opens": TURNS + ASK + "<think>\n{% endif %}",
    "opens without a line's end": TURNS + ASK + "<think>{% endif %}",
    "opens, no system": NO_SYSTEM + TURNS + ASK + "<think>\n{% endif %}",
    "no system": NO_SYSTEM + TURNS + ASK + "{% endif %}",
    "last message alone": "{{ messages[-1].content }}<|assistant|><think>\n",
}
SWITCH = (
    TURNS + ASK + "{% if not enable_thinking | default(true) %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
ARGUMENTS: dict[str, dict[str, Any]] = {
    "Countdown-v0": {},
    "CountdownTool-v0": {},
    "GuessNumber-v0": {},
    "Multiplication-v0": {},
    "ReasoningGym-v0": {"dataset": "chain_sum"},
    "GSM8K-v0": {"data": "sample"},
    "MATH-v0": {"data": "sample"},
}


def own_rows(tmp_path: Path) -> str:
    """A row that has a system message and a beginning of the answer itself."""
    messages = [("system", "Row's."), ("user", "1?"), ("assistant", "Well,")]
    row = {
        "data_source": "math",
        "prompt": [{"role": role, "content": text} for role, text in messages],
        "reward_model": {"ground_truth": "1"},
    }
    (tmp_path / "train.jsonl").write_text(json.dumps(row))
    return str(tmp_path / "train.jsonl")


@pytest.mark.parametrize("env_id", [*ARGUMENTS, "Dataset-v0"])
def test_arguments_have_the_last_word(env_id: str, tmp_path: Path) -> None:
    if env_id == "ReasoningGym-v0" and find_spec("reasoning_gym") is None:
        pytest.skip("reasoning-gym is not installed")
    arguments = ARGUMENTS.get(env_id) if env_id in ARGUMENTS else {"data": own_rows(tmp_path)}
    _, usual = gym.make(env_id, **arguments).reset(seed=0)
    if env_id == "Dataset-v0":
        assert usual == {"system": "Row's.", "assistant_prefix": "Well,"}
    for given in (
        {"system": "Be brief."},
        {"assistant_prefix": ""},
        {"system": "", "assistant_prefix": "So:\n<think>"},
    ):
        env = gym.make(env_id, **arguments, **given)
        assert env.reset(seed=0)[1] == usual | given
        assert env.unwrapped.spec.kwargs == arguments | given  # a spec makes the same again
    with pytest.raises(ValueError, match='system must be a text, or "" for none, not 5'):
        gym.make(env_id, **arguments, system=5)


def test_later_turns_begin_as_the_first_was_told_to() -> None:
    for given, later in (({}, "<think>"), ({"assistant_prefix": ""}, ""), ({"assistant_prefix": "Hm"}, "Hm")):
        env = gym.make("GuessNumber-v0", **given)
        env.reset(options={"low": 1, "high": 15, "number": 7})
        assert env.step("<think>a</think><answer>3</answer>")[4]["assistant_prefix"] == later


@pytest.fixture
def tokenizer(model_folder: str) -> Any:
    tokenizer = load_tokenizer(model_folder)
    tokenizer.add_tokens(["<|stop|>"], special_tokens=True)
    return tokenizer


def pay(
    tokenizer: Any, template: str, said: str, arguments: dict[str, Any], **template_kwargs: Any
) -> tuple[str, float]:
    """The prompt of a row of GSM8K, and what a response in which {gold} is the right answer earns."""
    tokenizer.chat_template = template
    renderer = Renderer(tokenizer, frozenset({tokenizer.eos_token_id}), "chat", template_kwargs)
    env = gym.make("GSM8K-v0", data="sample", **arguments)
    question, info = env.reset(seed=0)
    prompt = renderer.encode(question, info["system"], info["assistant_prefix"])
    gold = env.unwrapped.task.answer
    text = renderer.tokenizer.decode(prompt.token_ids)
    return text, env.step(prompt.response_prefix + said.replace("{gold}", gold))[1]


@pytest.mark.parametrize(
    "arguments", [{}, {"assistant_prefix": ""}, {"assistant_prefix": "<think>"}, {"system": ""}]
)
@pytest.mark.parametrize("name", TEMPLATES)
def test_thinking_is_opened_once_and_may_be_opened_again(
    tokenizer: Any, name: str, arguments: dict[str, str]
) -> None:
    answer = "so {gold}</think>\n<answer>{gold}</answer>"
    again, reward = pay(tokenizer, TEMPLATES[name], f"<think>{answer}", arguments)
    opened = again.rpartition("<|assistant|>")[2].count("<think>")
    opens = name not in ("plain", "no system")
    assert opened == (opens or arguments.get("assistant_prefix") != "")
    assert reward == 1.0
    text, reward = pay(tokenizer, TEMPLATES[name], answer, arguments)
    assert text == again
    assert reward == (1.0 if opened else 0.1)
    # A second repetition is one too many; a wrong answer in good form is a wrong answer.
    assert pay(tokenizer, TEMPLATES[name], "<think>" * (3 - opened) + answer, arguments)[1] == 0.1
    assert pay(tokenizer, TEMPLATES[name], "<think>a</think><answer>no</answer>", arguments)[1] == 0.1
    if name != "last message alone":
        assert ("The assistant first thinks" in text) == (arguments.get("system") != "")


def test_a_thinking_switch(tokenizer: Any) -> None:
    off, reward = pay(tokenizer, SWITCH, "<answer>{gold}</answer>", {}, enable_thinking=False)
    assert off.endswith("<think>\n\n</think>\n\n") and reward == 1.0
    on, reward = pay(tokenizer, SWITCH, "so</think><answer>{gold}</answer>", {}, enable_thinking=True)
    assert on.endswith("Let me solve this step by step.\n<think>") and reward == 1.0
