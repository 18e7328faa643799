"""On-policy distillation: a teacher's step by hand, its reward beside it, and what is refused."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from ray.rllib.core import DEFAULT_MODULE_ID
from tokenizers import pre_tokenizers

from algorithms.footprint import learner
from llmenv.env import TextSpace
from llmenv.models.names import load_causal_lm, load_tokenizer
from llmenv.models.shape import shape_of
from llmenv.rllib.learner import LLMLearner
from support import (
    make_teacher_folder,
    plain_logps,
    random_episodes,
    record_gradients,
    relative_gap,
    small_config,
    take_gradients,
)
from updates import make_plan, make_rows

pytestmark = pytest.mark.usefixtures("ray_cluster")


@pytest.fixture(scope="module")
def teacher(model_folder: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_teacher_folder(model_folder, tmp_path_factory.mktemp("teacher"))


def config(model: str, teacher: str | None, **training: Any) -> Any:
    return small_config(model, "Distill", **training).policy(reference_model=teacher)


def make_learner(model: str, teacher: str, **training: Any) -> LLMLearner:
    made = config(model, teacher, grad_clip=None, **training)
    made.validate()
    return made.build_learner_group(spaces={DEFAULT_MODULE_ID: (TextSpace(), TextSpace())})._learner


def test_the_step_is_that_of_the_log_ratio_to_the_teacher(model_folder: str, teacher: str) -> None:
    """-sum_t (A + c (log q - log p)) d log p / N, with the driver's A of each row, c = 0.5, and N response tokens."""
    rows = make_rows()
    learner = make_learner(model_folder, teacher, kl_coeff=0.5, tis_cap=None)
    record_gradients(learner)
    metrics = learner.update(make_plan(rows, 1, has_gradient=lambda row: True)[0])[DEFAULT_MODULE_ID]
    (ours,) = take_gradients(learner)
    student, judge = load_causal_lm(model_folder), load_causal_lm(teacher)
    loss, kl, count = torch.zeros(()), 0.0, 0
    for row in rows:
        ids, mask = row.token_ids.tolist(), torch.as_tensor(row.response_mask[1:])
        logps = plain_logps(student, ids, 1.0)[0][mask]
        with torch.no_grad():
            theirs = plain_logps(judge, ids, 1.0)[0][mask]
        advantages = torch.as_tensor(row.advantages[1:])[mask] + 0.5 * (theirs - logps.detach())
        loss = loss - (advantages * logps).sum()
        kl += float((logps.detach() - theirs).sum())
        count += len(logps)
    gradients = torch.autograd.grad(loss / count, [*student.parameters()])
    assert relative_gap(ours, torch.cat([gradient.flatten() for gradient in gradients])) < 1e-4
    assert metrics["kl_teacher"].peek() == pytest.approx(kl / count, rel=1e-4) and abs(kl / count) > 0.01


def test_over_the_vocabulary_the_step_is_that_of_the_whole_kl(
    model_folder: str, teacher: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """sum_t (c KL_t - A log p_t) / N, c = 0.5, whatever the micro-batches are; the KL of whole distributions."""
    rows = make_rows()
    learner = make_learner(model_folder, teacher, kl_coeff=0.5, tis_cap=None, divergence="vocabulary", lr=0.0)
    # A tokenizer may know more than the model has rows of.
    larger = SimpleNamespace(get_vocab=lambda: {"<image>": 10**6})
    monkeypatch.setattr("algorithms.distill.load_tokenizer", lambda name: larger)
    record_gradients(learner)
    for tokens in (150, 70):
        plan = make_plan(rows, 1, tokens=tokens, has_gradient=lambda row: True)[0]
        assert len(plan[0].micro_batches) > 1
        metrics = learner.update(plan)[DEFAULT_MODULE_ID]
    ours = take_gradients(learner)
    student, judge = load_causal_lm(model_folder), load_causal_lm(teacher)
    loss, total, count = torch.zeros(()), 0.0, 0
    for row in rows:
        mask = torch.as_tensor(row.response_mask[1:])
        ids = torch.as_tensor(row.token_ids)[None]
        own, theirs = (one(input_ids=ids).logits[0, :-1].double().log_softmax(-1) for one in (student, judge))
        kl = (own.exp() * (own - theirs.detach())).sum(-1)[mask]
        logps = own.gather(-1, ids[0, 1:, None]).squeeze(-1)[mask]
        loss = loss + (0.5 * kl - torch.as_tensor(row.advantages[1:])[mask] * logps).sum()
        total, count = total + float(kl.detach().sum()), count + len(kl)
    gradients = torch.autograd.grad(loss / count, [*student.parameters()])
    expected = torch.cat([gradient.flatten() for gradient in gradients])
    assert [relative_gap(one, expected) < 1e-4 for one in ours] == [True, True]
    assert metrics["kl_teacher"].peek() == pytest.approx(total / count, rel=1e-4) and total / count > 0.01


def test_what_the_environment_adds(model_folder: str, teacher: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing, unless it is asked for: then rewards less their group's mean; and a whole iteration with both."""
    algorithm = config(model_folder, teacher, reward_coeff=2.0).build_algo()
    episodes = random_episodes(2, 2, 0)
    rewards = np.array([episode.total_reward for episode in episodes]).reshape(2, 2)
    expected = 2.0 * (rewards - rewards.mean(1, keepdims=True)).ravel()
    np.testing.assert_allclose(algorithm.assign_credit(episodes), expected, atol=1e-6)
    assert np.abs(expected).max() > 0
    result = algorithm.train()
    assert result["learners"]["default_policy"]["num_steps"] == 1
    assert result["rollout"]["effective_batch"] == 16  # equal rewards leave none out
    monkeypatch.setattr(algorithm.config, "_is_frozen", False)
    algorithm.config.reward_coeff = 0.0
    assert not algorithm.assign_credit(episodes).any()
    assert len(algorithm.usable(episodes[:1])) == 1
    algorithm.stop()


def test_a_tokenizer_that_cuts_otherwise_is_refused(model_folder: str, teacher: str, tmp_path: Path) -> None:
    load_causal_lm(teacher).save_pretrained(tmp_path)
    tokenizer = load_tokenizer(teacher)
    backend = tokenizer.backend_tokenizer  # the same tokens, and no groups of digits any more
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(
        ValueError, match=r"cuts texts into others of them.*name a model with the same tokenizer"
    ):
        make_learner(model_folder, str(tmp_path))


@pytest.mark.parametrize(
    ("teacher", "training", "says"),
    [
        (None, {}, "Distill needs a teacher: set policy.reference_model"),
        ("tiny-zero", {"kl_coeff": 0.0}, "set a kl_coeff above 0"),
        ("tiny-zero", {"kl_in": "loss"}, "leave kl_in, kl_estimator and kl_target as they are"),
        ("tiny-zero", {"reward_coeff": 0.5, "group_size": 1}, "group_size must be at least 2"),
        (
            "tiny-zero",
            {"divergence": "forward"},
            "divergence must be one of sampled, vocabulary, got 'forward'",
        ),
        ("tiny-zero", {"reward_coeff": -1.0}, "reward_coeff must not be negative"),
    ],
)
def test_what_is_refused(teacher: str | None, training: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        config("tiny", teacher, **training).validate()


def test_a_teacher_that_is_shared_out_has_no_whole_distribution(teacher: str) -> None:
    made = config("tiny", teacher, divergence="vocabulary").deepspeed(zero_stage=3)
    with pytest.raises(
        ValueError, match="needs a whole teacher on each learner, and zero_stage=3 shares it out"
    ):
        made.validate()


def test_memory_of_whole_distributions_by_hand(teacher: str) -> None:
    """Four chunks of 512 float32 rows of logits, and the states of 16 responses of 24 tokens."""
    made = config(teacher, teacher).training(divergence="vocabulary", micro_batch_tokens=4096)
    shape = shape_of(teacher)
    counted = learner(made)
    found = {item.what: item.bytes for item in (*counted.device, *counted.host)}
    assert found["teacher: chunks of logits"] == 4 * 4 * 512 * shape.vocabulary
    assert found["teacher: states"] == 16 * 24 * shape.hidden * 4
    assert "teacher: output layer" not in found  # on a CPU it is the teacher's own
    plain = learner(config(teacher, teacher))
    assert not [item for item in (*plain.device, *plain.host) if item.what.startswith("teacher")]
