"""What environments and prompts can do to samples: they fail alone, and the iteration says so."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ray.rllib.core import DEFAULT_MODULE_ID

from algorithms.config import LLMConfig
from algorithms.groups import MOST_ERRORS, SampleErrors, comparable, refuse_unusable, rollout_metrics
from llmenv.episode import TextEpisode, Turn
from support import (
    flat_weights,
    small_config,
)

pytestmark = pytest.mark.usefixtures("ray_cluster")  # RLlib would start a Ray of its own


def test_over_long_prompts_are_dropped_and_counted_or_refused() -> None:
    algorithm = small_config("tiny", prompts_per_iteration=8).build_algo()
    algorithm.train()
    lengths = sorted({len(episode.turns[0].prompt_ids) for episode in algorithm.last_episodes})
    algorithm.stop()
    assert len(lengths) > 1  # questions with three and with four numbers
    config = small_config("tiny", prompts_per_iteration=8).sampling(max_prompt_tokens=lengths[0])
    algorithm = config.build_algo()
    result = algorithm.train()
    valid = [episode for episode in algorithm.last_episodes if episode.valid]
    assert 0 < len(valid) < 32
    assert result["rollout"]["num_episodes"] == len(valid)
    assert result["rollout"]["num_invalid"] == 32 - len(valid)
    algorithm.stop()
    algorithm = config.copy(copy_frozen=False).sampling(overlong_prompts="error").build_algo()
    with pytest.raises(ValueError, match=r"PromptTooLong: \d+ tokens, over max_prompt_tokens=.*drop"):
        algorithm.train()
    algorithm.stop()


def test_when_no_sample_is_valid_the_iteration_says_why() -> None:
    algorithm = small_config("tiny").sampling(max_prompt_tokens=1).build_algo()
    with pytest.raises(RuntimeError, match=r"every sample of the iteration is invalid.*PromptTooLong"):
        algorithm.train()
    algorithm.stop()


def test_a_failing_environment_does_not_stop_the_run(
    model_folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import support

    steps = iter(range(10**6))

    def step(self: Any, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        if next(steps) % 5 == 0:
            raise RuntimeError("lost")
        return "", len(action) / 100, True, False, {}

    monkeypatch.setattr(support.NoDigitEnv, "step", step)
    config = small_config(model_folder, minibatch_size=4).environment("support:NoDigit-v0")
    algorithm = config.build_algo()
    result = algorithm.train()
    assert result["rollout"]["num_invalid"] == 4  # steps 0, 5, 10 and 15
    assert result["rollout"]["num_episodes"] == 12
    assert np.isfinite(result["learners"][DEFAULT_MODULE_ID]["total_loss"])
    algorithm.stop()


def test_an_environment_that_hangs_is_counted_and_the_iteration_complete(
    model_folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import support

    steps, over = iter(range(10**6)), threading.Event()

    def step(self: Any, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        if next(steps) == 5:
            over.wait()
        return "", len(action) / 100, True, False, {}

    monkeypatch.setattr(support.NoDigitEnv, "step", step)
    config = small_config(model_folder).environment("support:NoDigit-v0").sampling(env_timeout_s=1.0)
    algorithm = config.build_algo()
    rollout = algorithm.train()["rollout"]
    over.set()
    assert (rollout["num_env_timeouts"], rollout["num_invalid"], rollout["num_episodes"]) == (1, 1, 15)
    assert algorithm.train()["rollout"]["num_env_timeouts"] == 0
    algorithm.stop()


def test_advantages_that_are_not_numbers_cost_their_step_alone(
    model_folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    algorithm = small_config(model_folder).environment("support:NoDigit-v0").build_algo()
    before = flat_weights(algorithm.learner_group._learner)
    with monkeypatch.context() as patch:
        patch.setattr(algorithm, "assign_credit", lambda episodes: np.full(len(episodes), np.nan))
        result = algorithm.train()["learners"][DEFAULT_MODULE_ID]
    assert result["num_steps_skipped"] == 1
    assert torch.equal(flat_weights(algorithm.learner_group._learner), before)
    monkeypatch.setattr(algorithm, "assign_credit", lambda episodes: np.ones(len(episodes)))
    result = algorithm.train()["learners"][DEFAULT_MODULE_ID]
    assert result["num_steps_skipped"] == 0
    assert np.isfinite(result["gradient_norm"]) and np.isfinite(result["total_loss"])
    assert not torch.equal(flat_weights(algorithm.learner_group._learner), before)
    algorithm.stop()


def test_groups_are_compared_by_their_valid_samples(
    model_folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One step in ten raises, and of the last group all but one: it is dropped, and the step goes on."""
    import support

    class Failing(support.NoDigitEnv):
        steps = 0

        def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
            Failing.steps += 1
            if Failing.steps % 10 == 0 or Failing.steps in (38, 39):
                raise RuntimeError("lost")
            return "", Failing.steps / 7, True, False, {}

    monkeypatch.setattr("llmenv.rollout.MAX_STEP_THREADS", 1)  # steps in the order of the samples
    monkeypatch.setattr(support.gym.registry["NoDigit-v0"], "entry_point", Failing)
    config = small_config(model_folder, prompts_per_iteration=10).environment("support:NoDigit-v0")
    algorithm = config.build_algo()
    seen: list[tuple[list[TextEpisode], np.ndarray]] = []
    make_rows = algorithm.make_rows
    monkeypatch.setattr(algorithm, "make_rows", lambda *given: (seen.append(given), make_rows(*given))[1])
    result = algorithm.train()
    algorithm.stop()

    # Steps 1 to 40 are samples of groups 0 to 9 in fours; 10, 20, 30, 38, 39 and 40 are lost. Of group 9 (37 to 40)
    # one is left.
    kept = [n for n in range(1, 37) if n % 10]
    ((episodes, advantages),) = seen
    assert [(e.group, e.sample) for e in episodes] == [divmod(n - 1, 4) for n in kept]
    for group in range(9):
        rewards = [n / 7 for n in kept if (n - 1) // 4 == group]
        mean = sum(rewards) / len(rewards)
        deviation = (sum((r - mean) ** 2 for r in rewards) / (len(rewards) - 1)) ** 0.5
        expected = [(r - mean) / (deviation + 1e-6) for r in rewards]
        got = [a for e, a in zip(episodes, advantages, strict=True) if e.group == group]
        assert got == pytest.approx(expected)
    assert result["rollout"]["num_invalid"] == 6
    assert result["rollout"]["num_episodes"] == 34
    assert result["rollout"]["num_dropped_groups"] == 1
    assert np.isfinite(result["learners"][DEFAULT_MODULE_ID]["total_loss"])


def test_without_a_group_to_compare_in_the_iteration_says_why(
    model_folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import support

    steps = iter(range(10**6))

    def step(self: Any, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        if next(steps) % 4:
            raise RuntimeError("lost")
        return "", 1.0, True, False, {}

    monkeypatch.setattr("llmenv.rollout.MAX_STEP_THREADS", 1)
    monkeypatch.setattr(support.NoDigitEnv, "step", step)
    algorithm = small_config(model_folder).environment("support:NoDigit-v0").build_algo()
    with pytest.raises(RuntimeError, match=r"no group of the iteration has two valid samples.*lost"):
        algorithm.train()
    algorithm.stop()


def test_a_group_of_one_is_no_group_too_small() -> None:
    episodes = [TextEpisode(0, 0), TextEpisode(1, 0), TextEpisode(1, 1), TextEpisode(2, 0, error="lost")]
    assert comparable(episodes, compared=1) == episodes[:3]
    assert comparable(episodes, compared=2) == episodes[1:3]
    alone = [episodes[0], TextEpisode(0, 1, error="lost")]
    refuse_unusable(alone, LLMConfig(), compared=1)
    with pytest.raises(
        RuntimeError, match=r"no group of the iteration has two valid samples; the first: lost"
    ):
        refuse_unusable(alone, LLMConfig(), compared=2)
    alone[0].turns.append(Turn(prompt_ids=[1], response_ids=[2], logps=[-1.0]))
    assert rollout_metrics(alone, 1, 0)["num_dropped_groups"] == 0
    assert rollout_metrics(alone, 2, 0)["num_dropped_groups"] == 1


def test_each_error_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Row 2 of three has no answer: four samples of each iteration fail, and one line says which row it is."""
    rows = [{"question": f"{i}?", "answer": "" if i == 2 else "1"} for i in range(3)]
    (tmp_path / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    config = small_config("tiny", prompts_per_iteration=3)
    config = config.environment("envs:GSM8K-v0", env_config={"data": str(tmp_path / "rows.jsonl")})
    algorithm = config.build_algo()
    for _ in range(2):
        assert algorithm.train()["rollout"]["num_invalid"] == 4
    algorithm.stop()
    told = [record.getMessage() for record in caplog.records if "a sample is invalid" in record.getMessage()]
    assert len(told) == 1
    assert f"row 2 of {tmp_path / 'rows.jsonl'}: it has no right answer" in told[0]


def test_of_many_errors_the_first_are_told(caplog: pytest.LogCaptureFixture) -> None:
    errors = SampleErrors()
    failed = [TextEpisode(0, i, error=f"ValueError: row {i}") for i in range(50)]
    overlong = [TextEpisode(0, i, error=f"PromptTooLong: {i} tokens") for i in range(5)]
    errors.tell([TextEpisode(0, 0), *overlong, *failed[:5], *failed])
    errors.tell(failed)
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == MOST_ERRORS
    assert "PromptTooLong: 0 tokens" in told[0] and "row 0" in told[1]
    assert told[-1].endswith(f"row {MOST_ERRORS - 2}; further ones are only counted")
