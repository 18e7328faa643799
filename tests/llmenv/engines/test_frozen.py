"""Frozen modules between and in their passes: where their tensors are, and that they compute the same.

(`test_deepspeed.py` has one in parts.)
"""

from __future__ import annotations

from typing import Any

import torch

from llmenv.engines.frozen import WholeModule

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
