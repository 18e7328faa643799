"""Frozen modules between and in their passes: where their tensors are, and that they compute the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed as dist
from torch import multiprocessing

from llmenv.engines.deepspeed import build_config, deepspeed_world
from llmenv.engines.frozen import SharedModule, WholeModule, shared_config
from llmenv.models.names import load_causal_lm
from llmenv.policy.batch import TokenBatch, TokenRow
from llmenv.policy.policy import CausalPolicy
from support import random_episodes
from updates import PARTITION_ALL

CPU = torch.device("cpu")


class Elsewhere(WholeModule):
    """A device is other memory of the CPU's."""

    def _copied(self, at_home: torch.Tensor) -> torch.Tensor:
        return at_home.clone()


def places(model: Any) -> set[int]:
    return {tensor.data_ptr() for tensor in (*model.parameters(), *model.buffers())}


def test_a_whole_module_is_elsewhere_for_its_passes_alone(model: Any) -> None:
    before, ids = places(model), torch.arange(1, 9)[None]
    with torch.no_grad():
        expected = model(input_ids=ids).logits
        with Elsewhere(model, CPU).ready() as ready:
            assert len(places(model)) == len(before) and not places(model) & before
            assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
            assert torch.equal(ready(input_ids=ids).logits, expected)
            for tensor in model.parameters():
                tensor.zero_()  # what is there is not brought home
        assert places(model) == before
        assert torch.equal(model(input_ids=ids).logits, expected)


def compute_in_parts(rank: int, folder: str, rendezvous: str) -> None:
    """One of two learners, in a process of its own, with rows of its own."""
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    settings = shared_config(
        build_config(
            zero_stage=3,
            offload_optimizer=True,
            offload_parameters=False,
            dtype="float32",
            grad_clip=1.0,
            extra=PARTITION_ALL,
        )
    )
    with deepspeed_world(settings, CPU):
        shared = CausalPolicy(load_causal_lm(folder).requires_grad_(False))
    frozen = SharedModule(shared, settings)
    whole = CausalPolicy(load_causal_lm(folder))
    size = sum(p.numel() for p in whole.parameters())
    held = sum(p.ds_tensor.numel() for p in shared.parameters())
    assert held == pytest.approx(size / 2, rel=0.01)
    batch = TokenBatch.from_rows([TokenRow.from_episode(e) for e in random_episodes(2, 2, seed=rank)])
    with torch.no_grad():
        for _ in range(2):  # the second time DeepSpeed knows what comes next
            with frozen.ready() as ready:
                logps = ready(batch).logps
            torch.testing.assert_close(logps, whole(batch).logps)
            assert logps.min() < -1
            assert not any(p.numel() for p in shared.parameters())


@pytest.mark.slow
def test_learners_hold_a_part_each(model_folder: str, tmp_path: Path) -> None:
    pytest.importorskip("deepspeed")
    multiprocessing.spawn(compute_in_parts, (model_folder, str(tmp_path / "rendezvous")), nprocs=2)
