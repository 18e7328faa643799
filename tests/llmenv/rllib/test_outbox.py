"""Weights that leave a learner tensor by tensor. (`test_deepspeed.py` has those of a policy in parts.)"""

from __future__ import annotations

from typing import Any

import pytest
import torch

import llmenv.rllib.outbox
from llmenv.engines.torch import TorchEngine
from llmenv.policy.policy import CausalPolicy
from llmenv.rllib.outbox import Outbox
from sent import ADAPTERS, Sender, assert_sent, config_with, make_model

CPU = torch.device("cpu")


@pytest.mark.parametrize("adapters", [None, ADAPTERS])
def test_a_plain_policy_is_sent_as_it_is(
    model_folder: str, adapters: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model(model_folder, adapters)
    policy = CausalPolicy(model)
    engine = TorchEngine(policy, torch.optim.AdamW(policy.parameters()), 1.0)
    asked: dict[str, int] = {}
    monkeypatch.setattr(llmenv.rllib.outbox, "WeightSender", Sender)
    monkeypatch.setattr(llmenv.rllib.outbox, "init_info_of", lambda *args, **kwargs: asked.update(kwargs))
    Sender.model = model
    Outbox(engine, policy, config_with(adapters), CPU).send(1, [], renew=True)
    assert_sent(model_folder, adapters)
    assert asked == {"buffer_bytes": 4 * max(p.numel() for p in model.parameters())}
