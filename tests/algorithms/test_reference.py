"""The KL to a reference that is named: that of log-probabilities which are computed by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ray.rllib.core import DEFAULT_MODULE_ID

from llmenv.env import TextSpace
from llmenv.models.names import load_causal_lm, load_tokenizer
from llmenv.policy.batch import TokenRow
from llmenv.rllib.learner import LLMLearner
from support import make_teacher_folder, plain_logps, small_config
from updates import make_plan, make_rows

pytestmark = pytest.mark.usefixtures("ray_cluster")  # RLlib would start a Ray of its own

TEMPERATURE = 0.7


@pytest.fixture(scope="module")
def teacher(model_folder: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Another model with the policy's tokenizer."""
    return make_teacher_folder(model_folder, tmp_path_factory.mktemp("teacher"))


def make_learner(
    model: str,
    reference: str | None,
    algo: str = "GRPO",
    rank: int | None = None,
    stage: int | None = None,
    **training: Any,
) -> LLMLearner:
    config = small_config(model, algo, **training).policy(reference_model=reference, lora_rank=rank)
    config.deepspeed(zero_stage=stage).sampling(temperature=TEMPERATURE).validate()
    spaces = {DEFAULT_MODULE_ID: (TextSpace(), TextSpace())}
    return config.build_learner_group(spaces=spaces)._learner


def log_ratios(rows: list[TokenRow], policy: str, reference: str) -> np.ndarray:
    """log policy - log reference of all response tokens, row by row through whole logits."""
    models, ratios = [load_causal_lm(name) for name in (policy, reference)], []
    with torch.no_grad():
        for row in rows:
            ours, theirs = (plain_logps(model, row.token_ids.tolist(), TEMPERATURE)[0] for model in models)
            ratios.append((ours - theirs).numpy()[row.response_mask[1:]])
    return np.concatenate(ratios)


@pytest.mark.parametrize(("rank", "stage"), [(None, None), (4, None), (None, 3)])
def test_the_kl_is_to_the_model_that_is_named(
    model_folder: str, teacher: str, rank: int | None, stage: int | None
) -> None:
    """Before the first step the policy is its base model, with adapters too: k3 is e^-x - 1 + x of the log-ratio x."""
    if stage is not None:
        pytest.importorskip("deepspeed")
    rows = make_rows()
    learner = make_learner(model_folder, teacher, rank=rank, stage=stage, kl_coeff=0.05)
    assert learner.reference is not None and learner.reference.model is not None
    shared = {hasattr(p, "ds_id") for p in learner.reference.model.parameters()}
    assert shared == {stage == 3}
    metrics = learner.update(make_plan(rows, 1)[0])[DEFAULT_MODULE_ID]
    ratios = log_ratios(rows, model_folder, teacher)
    expected = float((np.expm1(-ratios) + ratios).mean())
    assert expected > 0.01
    assert metrics["kl_reference"].peek() == pytest.approx(expected, rel=1e-4)


def test_a_critic_that_warms_up_learns_what_the_policy_loses_to_it(model_folder: str, teacher: str) -> None:
    """With gamma = lambda = 1 and values of 0, a target is what is left of the row's rewards, each less 0.5 x."""
    rows = make_rows()
    settings = {"kl_coeff": 0.5, "kl_target": 0.1, "value_warmup_iterations": 1}
    learner = make_learner(model_folder, teacher, "PPO", **settings)
    seen: list[Any] = []
    assign = learner.assign_token_credit
    learner.assign_token_credit = lambda batches: (assign(batches), seen.extend(batches))
    metrics = learner.update(make_plan(rows, 1)[0])[DEFAULT_MODULE_ID]
    ratios = log_ratios(rows, model_folder, teacher)
    assert metrics["kl_reference"].peek() == pytest.approx(float(ratios.mean()), rel=1e-4)
    assert learner.kl_coeff == 0.5
    first = float(sum(batch.value_targets.sum() for batch in seen))
    lost = 0.0
    for row in rows:
        (ratio,) = [log_ratios([row], model_folder, teacher)]
        rewards = row.rewards[row.response_mask] - 0.5 * ratio
        lost += float(np.cumsum(rewards[::-1]).sum())
    assert first == pytest.approx(lost, rel=1e-4)


def test_another_vocabulary_is_refused(model_folder: str, teacher: str, tmp_path: Path) -> None:
    load_causal_lm(teacher).save_pretrained(tmp_path)
    tokenizer = load_tokenizer(teacher)
    tokenizer.add_tokens(["<more>"])
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"another vocabulary .*name a model with the same tokenizer"):
        make_learner(model_folder, str(tmp_path), kl_coeff=0.05)


def test_a_reference_without_a_kl_is_refused(model_folder: str, teacher: str) -> None:
    with pytest.raises(ValueError, match="set a kl_coeff above 0"):
        make_learner(model_folder, teacher)
