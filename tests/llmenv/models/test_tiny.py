"""The embedded models: their tokenizer, their weights, the demonstrations behind them, the script that makes them."""

from __future__ import annotations

import random
import re
import shutil
from fractions import Fraction
from itertools import groupby, islice
from pathlib import Path

import gymnasium as gym
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from envs.guess_number import GuessNumberTask
from envs.multiplication import share_of_steps, split_of
from experiments import make_tiny
from experiments.demonstrations import DEMONSTRATIONS, Demonstrations
from experiments.demonstrations.countdown import MAX_VALUE, term_of
from experiments.demonstrations.multiplication import guess, work_out
from llmenv.evaluation import summarize
from llmenv.models import tiny
from llmenv.models.names import EMBEDDED, load_causal_lm
from llmenv.models.renderer import Renderer
from llmenv.rollout import EnvPool, GroupRequest, rollout
from llmenv.samplers.sampler import SamplingParams
from llmenv.samplers.transformers import TransformersSampler

ASSETS = Path(tiny.__file__).parent / "assets"
TOKENIZER = AutoTokenizer.from_pretrained(ASSETS / "tiny")
AWKWARD = [*tiny.REASONING_PHRASES, " ", "  ", " ,", " n't", "\n", "<", "é", "007", "12345", tiny.END_TOKEN]


def pieces(text: str) -> list[str]:
    return [TOKENIZER.decode([token]) for token in TOKENIZER.encode(text)]


@given(st.text() | st.lists(st.sampled_from(AWKWARD)).map("".join))
def test_any_text_survives_the_round_trip(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("44 + 19 = 63", ["44", " + ", "19", " = ", "63"]),
        ("\n7 * 9 = 63, 63 - 1 = 62", ["\n", "7", " * ", "9", " = ", "63", ", ", "63", " - ", "1", " = ", "62"]),
        ("\n</think>\n<answer> (8 - 2) </answer>", ["\n</think>\n<answer> ", "(", "8", " - ", "2", ")", " </answer>"]),
        ("<think></think><answer></answer>", ["<think>", "</think>", "<answer>", "</answer>"]),
        ("999 56123 1000", ["999", " ", "56", "123", " ", "1", "0", "0", "0"]),
        ("007", ["0", "0", "7"]),
        ("+5-3", ["+", "5", "-", "3"]),
    ],
)  # fmt: skip
def test_tokens(text: str, expected: list[str]) -> None:
    assert pieces(text) == expected


def test_special_tokens() -> None:
    assert TOKENIZER.eos_token_id != TOKENIZER.pad_token_id
    assert TOKENIZER.encode("") == []
    assert TOKENIZER.encode(tiny.END_TOKEN) == [TOKENIZER.eos_token_id]


@pytest.mark.parametrize("env_id", DEMONSTRATIONS)
def test_prompts_are_compact(env_id: str) -> None:
    env = gym.make(f"envs:{env_id}")
    renderer = Renderer.from_model("tiny-guess" if env_id == "GuessNumber-v0" else "tiny", template="r1")
    for seed in range(20):
        observation, info = env.reset(seed=seed)
        assert len(renderer.encode(observation, info["system"], info["assistant_prefix"]).token_ids) <= 16


@pytest.mark.parametrize("name", EMBEDDED)
def test_shipped_weights_load_in_float32(name: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(ASSETS / name)
    tokenizer = AutoTokenizer.from_pretrained(ASSETS / name)
    assert 1e6 < model.num_parameters() < 3e6
    assert model.dtype == torch.float32
    assert model.config.vocab_size == len(tokenizer)
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert model.generation_config.pad_token_id == tokenizer.pad_token_id
    if name != "tiny-guess":
        assert tokenizer.get_vocab() == TOKENIZER.get_vocab()


# A blind attempt that uses every number hits 26 % of the three-number targets and 13 % of the four-number ones.
@pytest.mark.parametrize(
    ("style", "low", "high"), [("patient", 0.88, 0.99), ("hasty", 0.5, 0.75), ("blind", 0.1, 0.3)]
)
def test_countdown_demonstrations(style: str, low: float, high: float) -> None:
    env = gym.make("envs:Countdown-v0").unwrapped
    env.reset(seed=0)
    rng = random.Random(0)
    correct = []
    for _ in range(300):
        env.reset()
        completion = next(iter(DEMONSTRATIONS["Countdown-v0"].write(rng, env.task, style)), None)
        if completion is None:
            continue
        calculations = re.findall(r"(\d+) ([-+*/]) (\d+) = (\d+)", completion)
        assert calculations
        for left, symbol, right, value in calculations:
            a, b = Fraction(left), Fraction(right)
            assert {"+": a + b, "-": a - b, "*": a * b, "/": a / b}[symbol] == int(value) <= MAX_VALUE
        *_, info = env.step(env.assistant_prefix + completion)
        assert info["well_formed"]
        assert info["failure"] in (None, "wrong value")
        correct.append(info["correct"])
    assert len(correct) > 200
    assert low < sum(correct) / len(correct) < high


def test_term_of_an_expression() -> None:
    term = term_of("3 * (10 - 4) / 2")
    assert term is not None
    assert term.value == 9
    assert term.steps == ("10 - 4 = 6", "6 * 3 = 18", "18 / 2 = 9")
    assert term.expression == "((10 - 4) * 3) / 2"
    assert term_of("5 / 2") is term_of("2 - 3") is term_of("99 * 99") is None


# Of 1000 pairs, 100 have a one-digit a and 90 more a b of 0: a guess is right for 19 %. So the patient are right for
# 5/6 + 19 %/6 = 86 %, the hasty for 2/5 + 3/5 * 19 % = 51 %; the blind where two such products happen to be equal.
@pytest.mark.parametrize(
    ("style", "low", "high"), [("patient", 0.81, 0.91), ("hasty", 0.46, 0.57), ("blind", 0.0, 0.06)]
)
def test_multiplication_demonstrations(style: str, low: float, high: float) -> None:
    demonstrations = DEMONSTRATIONS["Multiplication-v0"]
    env = gym.make("envs:Multiplication-v0", **demonstrations.env_config).unwrapped
    env.reset(seed=0)
    rng = random.Random(0)
    correct, worked_out = [], []
    for _ in range(600):
        env.reset()
        task = env.task
        (completion,) = demonstrations.write(rng, task, style)
        calculations = re.findall(r"(\d+) ([*+]) (\d+) = (\d+)", completion)
        for left, symbol, right, value in calculations:
            assert int(value) == (int(left) * int(right) if symbol == "*" else int(left) + int(right))
            if style == "blind" and symbol == "*" and len(calculations) == 1:
                assert split_of(int(left), int(right)) == "train"
        *_, info = env.step(env.assistant_prefix + completion)
        assert info["well_formed"]
        assert info["failure"] in (None, "wrong value")
        if calculations and style != "blind":
            assert info["correct"]
            assert share_of_steps(completion, *task) == (1.0 if task.a and task.b else 0.0)
        correct.append(info["correct"])
        worked_out.append(bool(calculations))
    assert low < sum(correct) / len(correct) < high
    expected = {"patient": 5 / 6, "hasty": 2 / 5, "blind": 1.0}[style]
    assert sum(worked_out) / len(worked_out) == pytest.approx(expected, abs=0.06)


# Four blind guesses find one of 15 numbers with 1 - (14/15)^4 = 24 %. Who guesses anywhere in what is left of the range
# finds it with P(15, 4) = 60 %, where P(n, k) = 1/n + 2/n^2 (sum over m < n of m P(m, k - 1)): a wrong guess leaves m
# of them on its side. So the hasty do with 3/5 * 24 % + 2/5 * 60 % = 39 %. A player who halves the range always does.
@pytest.mark.parametrize(
    ("style", "low", "high"), [("patient", 1.0, 1.0), ("hasty", 0.32, 0.45), ("blind", 0.18, 0.3)]
)
def test_guess_number_demonstrations(style: str, low: float, high: float) -> None:
    env = gym.make("envs:GuessNumber-v0").unwrapped
    env.reset(seed=0)
    rng = random.Random(0)
    correct = []
    for _ in range(600):
        _, info = env.reset()
        terminated = False
        messages = iter(DEMONSTRATIONS["GuessNumber-v0"].write(rng, env.task, style))
        while not terminated:
            _, _, terminated, _, info = env.step(info["assistant_prefix"] + next(messages))
        assert info["well_formed"]
        assert info["failure"] in (None, "wrong value")
        correct.append(info["correct"])
    assert low <= sum(correct) / len(correct) <= high


def test_a_demonstration_that_ends_too_early_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    brief = Demonstrations((), lambda rng, task, style: [f"</think><answer> {task.low - 1} </answer>"])
    monkeypatch.setitem(DEMONSTRATIONS, "GuessNumber-v0", brief)
    with pytest.raises(ValueError, match="a demonstration of GuessNumber-v0 ends before its episode"):
        make_tiny.Mixture({"GuessNumber-v0": 1.0}).block(seed=0, index=0, style="patient")


def test_a_player_narrows_the_range_by_the_answers() -> None:
    messages = DEMONSTRATIONS["GuessNumber-v0"].write(random.Random(0), GuessNumberTask(1, 15, 7), "patient")
    thoughts = [re.findall(r"\d+", message) for message in islice(messages, 4)]
    assert thoughts == [["1", "15", "8"], ["1", "7", "4"], ["5", "7", "6"], ["7", "7", "7"]]


def test_a_game_is_learned_from_the_messages_of_the_player() -> None:
    mixture = make_tiny.Mixture({"GuessNumber-v0": 1.0})
    token_ids, in_response = mixture.block(seed=0, index=0, style="patient")[-1][-1][0]
    text, learned = mixture.tokenizer.decode(token_ids), ""
    for is_response, group in groupby(zip(token_ids, in_response, strict=True), key=lambda pair: pair[1]):
        piece = mixture.tokenizer.decode([token for token, _ in group])
        learned += f"[{piece}]" if is_response else piece
    assert learned.replace("[", "").replace("]", "") == text
    assert text.startswith("A conversation")
    turn = r"\[\n\d+, \d+\n</think>\n<answer> \d+ </answer><\|end\|>\]"
    game = rf"{turn}(\nUser: (higher|lower)\nAssistant: <think>{turn})+"
    assert re.search(rf"Let me solve this step by step\.\n<think>{game}$", learned)


def test_the_shipped_player_plays() -> None:
    """Held-out games; four blind guesses find one of 15 numbers in 24 % of them."""
    renderer, model = Renderer.from_model("tiny-guess"), load_causal_lm("tiny-guess")
    requests = [GroupRequest.derive(game, 1, 0) for game in range(64)]
    pool = EnvPool(lambda: gym.make("envs:GuessNumber-v0", split="test"))
    params = SamplingParams(40, renderer.stop_token_ids, temperature=0.0)
    figures = summarize(rollout(pool, renderer, TransformersSampler(model), requests, params))
    assert figures["format_rate"] > 0.95
    assert figures["accuracy"] > 0.4


def test_a_model_for_another_tokenizer_keeps_what_it_knew() -> None:
    model = tiny.build_model(TOKENIZER, seed=0)
    other = tiny.build_tokenizer(["higher", "lower"])
    copy = tiny.with_tokenizer(model, TOKENIZER, other, seed=1)
    assert copy.lm_head.weight is copy.model.embed_tokens.weight
    text = "\n44 + 19 = 63\n</think>\n<answer> (44 + 19) </answer>"
    old_ids, new_ids = TOKENIZER.encode(text), other.encode(text)
    assert old_ids != new_ids
    with torch.inference_mode():
        old, new = model(torch.tensor([old_ids])).logits[0], copy(torch.tensor([new_ids])).logits[0]
    torch.testing.assert_close(new[:, new_ids], old[:, old_ids])


def test_products_on_paper() -> None:
    assert work_out(47, 36) == ["40 * 36 = 1440", "7 * 36 = 252", "1440 + 252 = 1692"]
    assert work_out(6, 47) == ["40 * 6 = 240", "7 * 6 = 42", "240 + 42 = 282"]
    assert work_out(111, 5) == [
        "100 * 5 = 500",
        "10 * 5 = 50",
        "1 * 5 = 5",
        "500 + 50 = 550",
        "550 + 5 = 555",
    ]
    assert work_out(305, 7) == ["300 * 7 = 2100", "5 * 7 = 35", "2100 + 35 = 2135"]
    assert work_out(40, 6) == ["40 * 6 = 240"]
    assert work_out(0, 0) == ["0 * 0 = 0"]


def test_guesses_are_near_and_end_rightly() -> None:
    rng = random.Random(0)
    assert {guess(rng, 7, 9) for _ in range(20)} == {63}
    assert {guess(rng, 47, 0) for _ in range(20)} == {0}
    assert {guess(rng, 11, 1) for _ in range(50)} == {1, 21}
    # 47 * 6 = 282, and a fiftieth of it is 5: up to five tens off
    assert {guess(rng, 47, 6) for _ in range(500)} == {*range(232, 282, 10), *range(292, 333, 10)}


def test_the_loss_of_a_batch_ignores_its_padding() -> None:
    model = tiny.build_model(TOKENIZER, seed=0)
    short = ([1, 2, 3, 4], [False, False, True, True])
    long = ([5, 6, 7, 8, 9, 10, 11], [False, True, True, False, False, True, True])
    losses = [make_tiny.response_loss(model, [[row]]) for row in (short, long)]
    for batch in ([[short, long]], [[short], [long]]):
        torch.testing.assert_close(make_tiny.response_loss(model, batch), (2 * losses[0] + 4 * losses[1]) / 6)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return AutoModelForCausalLM.from_pretrained(folder).state_dict()


def test_the_script_repeats_itself_and_goes_on_after_an_interruption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(make_tiny, "BATCH_SIZE", 2)
    monkeypatch.setattr(make_tiny, "ROWS_PER_PASS", 1)
    monkeypatch.setattr(make_tiny, "BATCHES_PER_BLOCK", 2)
    monkeypatch.setattr(make_tiny, "SAVE_EVERY_BLOCKS", 1)
    arguments = [
        "--seed",
        "3",
        "--first-steps",
        "3",
        "--steps",
        "2",
        "--last-steps",
        "1",
        "--game-steps",
        "1",
    ]
    make_tiny.main(["--out", str(tmp_path / "whole"), *arguments])

    response_loss, calls = make_tiny.response_loss, 0

    def interrupted_loss(model: torch.nn.Module, batch: list) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        return response_loss(model, batch)

    with monkeypatch.context() as context, pytest.raises(KeyboardInterrupt):
        context.setattr(make_tiny, "response_loss", interrupted_loss)
        make_tiny.main(["--out", str(tmp_path / "parts"), *arguments])
    make_tiny.main(["--out", str(tmp_path / "parts"), *arguments])

    whole, parts = weights(tmp_path / "whole/tiny"), weights(tmp_path / "parts/tiny")
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    untrained = weights(tmp_path / "whole/tiny-zero")
    assert not torch.equal(whole["lm_head.weight"], untrained["lm_head.weight"])
    assert not list(tmp_path.glob("*/*.pt"))

    # A model that is missing is made again, out of the others where it can be; none is there by halves.
    before = weights(tmp_path / "whole/tiny-guess")
    for missing in ("tiny-guess", "tiny-zero"):
        shutil.rmtree(tmp_path / "parts" / missing)
    kept = (tmp_path / "parts/tiny/model.safetensors").stat()
    with monkeypatch.context() as context, pytest.raises(OSError, match="disk full"):
        context.setattr(TOKENIZER.__class__, "save_pretrained", _full_disk)
        make_tiny.main(["--out", str(tmp_path / "parts"), *arguments])
    assert not (tmp_path / "parts/tiny-zero").exists()
    make_tiny.main(["--out", str(tmp_path / "parts"), *arguments])
    again = weights(tmp_path / "parts/tiny-guess")
    assert all(torch.equal(before[name], again[name]) for name in before)
    assert (tmp_path / "parts/tiny/model.safetensors").stat() == kept


def _full_disk(*args: object, **kwargs: object) -> None:
    raise OSError("disk full")


def test_an_environment_without_demonstrations_is_refused() -> None:
    with pytest.raises(ValueError, match="no demonstrations of Nowhere-v0"):
        make_tiny.Mixture({"Nowhere-v0": 1.0})


def test_a_mixture_draws_the_tasks_that_are_demonstrated() -> None:
    mixture = make_tiny.Mixture({"Countdown-v0": 0.0, "Multiplication-v0": 1.0})
    batches = mixture.block(seed=0, index=0, style="patient")
    assert all(len(batch) == 4 and {len(rows) for rows in batch} == {8} for batch in batches)
    for token_ids, _ in (example for batch in batches for rows in batch for example in rows):
        a, b = re.findall(r"equation: (\d+) \* (\d+) =", mixture.tokenizer.decode(token_ids))[0]
        assert int(a) < 100 and int(b) < 10
        assert split_of(int(a), int(b)) == "train"
