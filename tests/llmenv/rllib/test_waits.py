"""How often a micro-batch asks for a value that a GPU has not computed yet: there each such question is a wait."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from llmenv.policy.batch import TokenRow
from support import random_episodes
from updates import make_group, make_plan

aten = torch.ops.aten
# What makes a number of a tensor, and what has a size that depends on values.
WAITING = {
    aten._local_scalar_dense.default,
    aten.nonzero.default,
    aten.masked_select.default,
    aten.equal.default,
}
# On a CPU these read memory, and no operation shows.
READING = ("tolist", "numpy", "cpu")


class Waits(TorchDispatchMode):
    """Counts them while it is active."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self.patches = pytest.MonkeyPatch()

    def __enter__(self) -> Waits:
        for name in READING:
            self.patches.setattr(torch.Tensor, name, self.counted(getattr(torch.Tensor, name)))
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        self.patches.undo()
        super().__exit__(*error)

    def counted(self, method: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.count += 1
            return method(*args, **kwargs)

        return call

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        by_mask = func in (aten.index.Tensor, aten.index_put.default, aten.index_put_.default) and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        self.count += func in WAITING or by_mask
        return func(*args, **(kwargs or {}))


def test_waits_are_noticed() -> None:
    x = torch.arange(3.0)
    with Waits() as waits:
        float(x[0])
        bool(x.isfinite().all())
        x[x > 1]
        x[torch.tensor([0, 1])]  # no wait
        x.masked_fill(x > 1, 0.0)  # nor this
        (x > 1).nonzero()
        x.tolist()
    assert waits.count == 5


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize(
    ("algo", "settings"),
    [
        ("GRPO", {"kl_coeff": 0.1, "entropy_coeff": 0.01, "tis_cap": 2.0}),
        ("PPO", {"critic": "separate"}),
        ("PPO", {"critic": "shared", "bootstrap_length_cap": True}),
    ],
)
def test_waits_of_a_micro_batch(model_folder: str, algo: str, settings: dict[str, Any], shared: bool) -> None:
    """Forward pass, loss and backward pass: a step of seven micro-batches beside one of the same rows at once."""
    rows = [
        TokenRow.from_episode(episode, 1.0, bootstrapped=algo == "PPO" and i % 4 == 1)
        for i, episode in enumerate(random_episodes(6, 3))
    ]
    learner = make_group(model_folder, algo, shared_prompts=shared, **settings)._learner
    counts = {}
    for tokens in (10_000, 120):
        ((minibatch,),) = make_plan(rows, 1, minibatch_size=18, tokens=tokens, shared_prompts=shared)
        prepared = learner._prepare(minibatch, fixed_old_logps=True)
        learner.prepare(prepared.micro_batches)
        learner.assign_token_credit(prepared.micro_batches)
        with Waits() as waits:
            learner._take_step(prepared)
        counts[len(prepared.micro_batches)] = waits.count
    (_, of_one), (many, of_many) = sorted(counts.items())
    assert many >= 6
    # None of ours. Without shared prompts transformers asks its mask once or twice, in every forward pass.
    forward_passes = 2 if settings.get("critic") == "separate" else 1
    assert of_many - of_one <= (0 if shared else 2 * forward_passes) * (many - 1)
