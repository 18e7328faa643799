"""What a learner writes for a resumed run, and how it is taken back.

engine.pt, engine/   the engine's state: what is trained and its optimizer, whole or in shards
critic/              that of a critic of its own
policy/              the policy as a Hugging Face folder; with LoRA, adapters/ in peft's format, and no base model
learner.pt           counters, and the settings that a restored learner must have in common
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from llmenv.engines.engine import is_first
from llmenv.models.names import ADAPTERS_IN_CHECKPOINT, POLICY_IN_CHECKPOINT

if TYPE_CHECKING:
    from llmenv.rllib.learner import LLMLearner

CRITIC, LEARNER = "critic", "learner.pt"
# What a learner writes and does not read.
FOR_OTHERS = (POLICY_IN_CHECKPOINT.name, ADAPTERS_IN_CHECKPOINT.name)


def save(learner: LLMLearner, folder: Path) -> None:
    """Writes what a resumed run needs, and the policy. Collective: called on every learner.

    There are no random states: nothing in a learner draws from one (see `LLMLearner.update`'s `seed`).
    """
    learner.engine.save(folder)
    if learner.critic_engine is not None:
        learner.critic_engine.save(folder / CRITIC)
    # The engine's state need not be the policy's (shards, a wider dtype). With this copy, what takes the policy out of
    # a checkpoint knows no engine, and needs none.
    if learner.config.lora:
        learner.outbox.export_adapters(folder / ADAPTERS_IN_CHECKPOINT.name)
    else:
        learner.outbox.export(folder / POLICY_IN_CHECKPOINT.name)
    if is_first():
        config = learner.config
        saved = {
            "num_learners": max(1, config.num_learners),
            "lora": config.lora,
            "base_model": config.base_model,
            "critic": config.critic,
            "counters": learner.counters(),
        }
        torch.save(saved, folder / LEARNER)


def load(learner: LLMLearner, folder: Path) -> None:
    """Takes over what `save` wrote. Collective.

    Raises:
        ValueError: If the state is in shards of another number of learners, or its adapters are not this learner's.
    """
    saved, config = torch.load(folder / LEARNER, weights_only=True), learner.config
    there, here = saved["num_learners"], max(1, config.num_learners)
    if learner.engine.sharded and there != here:
        raise ValueError(
            f"the checkpoint is in shards of {there} learners, and here are {here}: restore it "
            f"with num_learners={there}, or start a new run from its policy: experiments/export.py (`llmenv export`) "
            "takes it out, for --model"
        )
    if (theirs := saved["lora"]) != config.lora:
        raise ValueError(
            f"the checkpoint was saved with LoRA {theirs or 'off'}, and this run has it {config.lora or 'off'}: "
            "restore it with the policy settings it was made with, or start from its exported weights"
        )
    if config.lora and saved["base_model"] != config.base_model:
        raise ValueError(
            f"the checkpoint holds adapters of {saved['base_model']!r}, and this run's model is {config.base_model!r}: "
            "restore it with policy(model=...) as it was made, or start from its exported weights"
        )
    if saved["critic"] != config.critic:
        raise ValueError(
            f"the checkpoint was saved with critic={saved['critic']!r}, and this run has {config.critic!r}: "
            "restore it with the settings it was made with, or start from its exported weights"
        )
    learner.engine.load(folder)
    if learner.critic_engine is not None:
        learner.critic_engine.load(folder / CRITIC)
    learner.set_counters(saved["counters"])
