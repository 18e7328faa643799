"""Supervised fine-tuning: a plain loop's loss, rows that are refused, what is held out, and runs that are resumed."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from algorithms.learner import PolicyLearner
from algorithms.sft import SFT, SFTConfig, read_demonstrations
from algorithms.tasks import DEMONSTRATIONS_STREAM
from llmenv.models.names import load_tokenizer
from llmenv.policy.batch import LossBatch, TokenBatch, TokenRow
from llmenv.policy.policy import PolicyOutput
from llmenv.rollout import row_at
from llmenv.schema import R1_PREAMBLE
from support import flat_weights, small_config
from updates import Update, make_group, make_plan, make_rows, plain_losses

ROWS = [
    {
        "prompt": f"What is {i} + {i}?",
        "completion": f"<think> {i} + {i} = {2 * i} </think> {2 * i}" * (1 + i % 3),
    }
    for i in range(11)
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("data") / "demos.jsonl"
    file.write_text("".join(f"{json.dumps(row)}\n" for row in ROWS))
    return str(file)


def sft_config(model: str, data: str, **demonstrations: Any) -> SFTConfig:
    config = small_config(model, "SFT", group_size=1, micro_batch_tokens=100)
    return config.demonstrations(data=data, **demonstrations)


def learned_loss(result: dict[str, Any]) -> float:
    return result["learners"]["default_policy"]["likelihood_loss"]


@pytest.fixture(scope="module")
def ten_steps(ray_cluster: None, model_folder: str, data: str, tmp_path_factory: Any) -> Iterator[Any]:
    """Ten steps of 4 of 11 rows, in micro-batches of 100 tokens, and a checkpoint after the sixth."""
    algorithm = sft_config(model_folder, data).build_algo()
    losses, checkpoint = [], str(tmp_path_factory.mktemp("sft") / "sixth")
    for step in range(10):
        losses.append(learned_loss(algorithm.train()))
        if step == 5:
            algorithm.save_to_path(checkpoint)
    yield algorithm, losses, checkpoint
    algorithm.stop()


def test_the_losses_are_those_of_a_plain_loop(ten_steps: Any, model_folder: str) -> None:
    tokenizer, rows = load_tokenizer(model_folder), []
    for row in ROWS:
        prompt = tokenizer.encode(f"{R1_PREAMBLE}\nUser: {row['prompt']}\nAssistant: ")
        response = [*tokenizer.encode(row["completion"]), tokenizer.eos_token_id]
        rows.append((prompt + response, [False] * len(prompt) + [True] * len(response)))
    walk = [row_at(position, len(ROWS), DEMONSTRATIONS_STREAM, 0) for position in range(40)]
    assert sorted(walk[:11]) == sorted(walk[11:22]) == list(range(11)) and walk[:11] != walk[11:22]
    theirs = plain_losses(
        model_folder, [[rows[i] for i in walk[k : k + 4]] for k in range(0, 40, 4)], lr=1e-3
    )
    np.testing.assert_allclose(ten_steps[1], theirs, atol=1e-4)
    assert theirs[9] < theirs[0] - 0.1  # it moves: by far more than the tolerance


def test_a_resumed_run_is_the_uninterrupted_one(ten_steps: Any) -> None:
    algorithm, losses, checkpoint = ten_steps
    resumed = SFT.from_checkpoint(checkpoint)
    assert [learned_loss(resumed.train()) for _ in range(4)] == losses[6:]
    assert torch.equal(*(flat_weights(one.learner_group._learner) for one in (resumed, algorithm)))
    resumed.stop()


def test_a_run_is_not_resumed_with_other_rows(ten_steps: Any, data: str) -> None:
    file = Path(data)
    text = file.read_text()
    file.write_text(text.replace("10 + 10 = 20", "10 + 10 = 21", 1))
    try:
        with pytest.raises(ValueError, match=r"demos.jsonl holds other rows than those that the checkpoint"):
            SFT.from_checkpoint(ten_steps[2])
    finally:
        file.write_text(text)


def test_the_loss_by_hand() -> None:
    # Two responses, of 1 and 3 tokens at log-probabilities -1, -2, -3 and -4: their mean over the 4 tokens is -2.5, and
    # the loss's gradient by each -1/4. A mean of the rows' means would be (1 + 3) / 2 = 2.
    rows = [
        TokenRow.to_imitate(np.arange(len(mask)), np.array(mask), group=i)
        for i, mask in enumerate([[False, True], [False, True, False, True, True]])
    ]
    tokens = TokenBatch.from_rows(rows)
    logps = (
        torch.zeros(2, 5)
        .masked_scatter(tokens.response_mask, torch.tensor([-1.0, -2, -3, -4]))
        .requires_grad_()
    )
    batch = LossBatch(
        tokens,
        logps.detach(),
        None,
        num_tokens=0,
        num_sequences=0,
        num_learned_tokens=4,
        num_supervised_tokens=4,
    )

    class Learner:
        likelihood_loss = PolicyLearner.likelihood_loss

        def log_share(self, **shares: torch.Tensor) -> None:
            pass

    loss = PolicyLearner.compute_loss_for_module(
        Learner(),  # type: ignore[arg-type]
        module_id="",
        config=small_config("tiny"),
        batch=batch,
        fwd_out=PolicyOutput(logps, torch.zeros_like(logps)),
    )
    loss.backward()
    assert loss.item() == 2.5
    assert torch.equal(logps.grad, tokens.response_mask * -0.25)


def imitated(rows: list[TokenRow]) -> list[TokenRow]:
    """The same tokens, to be imitated, in groups of their own."""
    return [
        TokenRow.to_imitate(row.token_ids, row.response_mask, group=100 + i) for i, row in enumerate(rows)
    ]


def test_rows_of_one_kind_leave_the_gradient_of_the_other_as_it_was(
    ray_cluster: None, model_folder: str
) -> None:
    """The gradients of both kinds apart add up to that of both together, whatever their numbers."""
    sampled, shown = make_rows(), imitated(make_rows(num_groups=3, seed=1))
    updates = [
        Update(make_group(model_folder), make_plan(rows, 1, minibatch_size=len(rows)))
        for rows in (sampled, shown, [*sampled, *shown])
    ]
    policy, likelihood, both = (update.gradients[0][0] for update in updates)
    assert min(policy.norm(), likelihood.norm()) > 0.1
    assert (both - likelihood - policy).norm() < 1e-6 * both.norm()
    gaps = [update.summed("sampler_logp_gap_max") for update in updates]
    assert gaps[0] == pytest.approx(gaps[2]) and gaps[1] == 0.0  # nobody sampled what is shown


def test_what_is_held_out_is_not_learned_and_has_a_loss(ten_steps: Any, model_folder: str, data: str) -> None:
    config = sft_config(model_folder, data, validation=0.2)
    train, held_out = read_demonstrations(config)
    texts = [one.token_ids.tobytes() for one in (*train, *held_out)]
    assert (len(train), len(held_out), len(set(texts))) == (9, 2, 11)
    assert config.iterations_of(3) == math.ceil(27 / 4)
    other = config.copy(copy_frozen=False).sampling(run_seed=1)
    assert [one.token_ids.tobytes() for one in read_demonstrations(other)[1]] == texts[9:]
    algorithm = config.build_algo()
    loss = algorithm.evaluate()["validation"]["loss"]
    algorithm.stop()
    assert loss == pytest.approx(plain_losses(model_folder, [held_out], lr=0.0)[0], abs=1e-5)


@pytest.mark.parametrize(
    ("row", "settings", "error"),
    [
        (
            {"prompt": "What?", "completion": ""},
            {},
            r"row 11 of .*bad.jsonl: response 1 is empty.*leave the row out",
        ),
        (
            {"prompt": "What?", "completion": "é" * 300},
            {},
            r"row 11 of .* takes \d+ tokens, 601 of them responses, and 512 is the most.*overlong_rows=drop",
        ),
        (ROWS[0], {"validation": 0.01}, "of 12 rows is 0: neither may be empty"),
    ],
)
def test_a_bad_row_is_named_before_anything_starts(
    model_folder: str, tmp_path: Path, row: Any, settings: Any, error: str
) -> None:
    (tmp_path / "bad.jsonl").write_text("".join(f"{json.dumps(each)}\n" for each in [*ROWS, row]))
    with pytest.raises(ValueError, match=error):
        read_demonstrations(sft_config(model_folder, str(tmp_path / "bad.jsonl"), **settings))
    if "é" in row["completion"]:
        dropping = sft_config(model_folder, str(tmp_path / "bad.jsonl"), overlong_rows="drop")
        assert len(read_demonstrations(dropping)[0]) == 11


def test_rows_that_a_batch_would_scale_positions_of_are_refused(
    model_folder: str, data: str, tmp_path: Path
) -> None:
    shutil.copytree(model_folder, tmp_path / "model")
    file = tmp_path / "model" / "config.json"
    config = json.loads(file.read_text())
    config["rope_parameters"] = {**config["rope_parameters"], "rope_type": "dynamic", "factor": 2.0}
    file.write_text(json.dumps(config))  # of 512 positions, as the model is
    model = str(tmp_path / "model")
    assert len(read_demonstrations(sft_config(model, data, max_row_tokens=512))[0]) == 11
    with pytest.raises(ValueError, match=r"may take 513 tokens: .* at most 512; of rows to imitate, max_row"):
        read_demonstrations(sft_config(model, data, max_row_tokens=513))


@pytest.mark.parametrize(
    ("training", "error"),
    [
        ({"group_size": 4}, "no groups: set group_size=1"),
        ({"num_epochs": 2}, "demonstrations.epochs"),
        ({"kl_coeff": 0.1}, "leave kl_coeff at 0"),
    ],
)
def test_settings_that_mean_nothing_are_refused(training: dict[str, Any], error: str) -> None:
    with pytest.raises(ValueError, match=error):
        sft_config("tiny", "demos.jsonl").training(**training).validate()
    with pytest.raises(ValueError, match=r"--set data=FILE"):
        small_config("tiny", "SFT", group_size=1).validate()
    with pytest.raises(ValueError, match="leave temperature at 1"):
        sft_config("tiny", "demos.jsonl").sampling(temperature=0.5).validate()
