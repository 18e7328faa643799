"""A process of its own that updates a model twice, and prints the most memory that tensors took, and what was planned.

    python tests/algorithms/update_memory.py tiny 2048 160 NAME=VALUE ...

The arguments: model, `micro_batch_tokens`, `max_new_tokens`, and settings of `policy` and `training`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import yaml

ROOT = Path(__file__).parents[2]
sys.path += [str(ROOT), str(ROOT / "tests")]

from algorithms import footprint, make_config  # noqa: E402
from algorithms.config import LLMConfig  # noqa: E402
from llmenv.policy.batch import TokenRow  # noqa: E402
from llmenv.policy.plan import plan_update  # noqa: E402
from updates import SPACES  # noqa: E402

PROMPT = 64  # tokens, in groups of 8


def resident(field: str) -> int:
    """Bytes of this process in memory: "VmRSS" now, "VmHWM" at most."""
    status = Path("/proc/self/status").read_text()
    return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith(field))


def full_rows(config: LLMConfig, vocabulary: int) -> list[TokenRow]:
    """Groups whose responses all reach the limit."""
    rng = np.random.default_rng(0)
    rows = []
    for group in range(config.prompts_per_iteration):
        prompt = rng.integers(vocabulary, size=PROMPT)
        for _ in range(config.group_size):
            mask = np.repeat([False, True], [PROMPT, config.max_new_tokens])
            rows.append(
                TokenRow(
                    token_ids=np.concatenate([prompt, rng.integers(vocabulary, size=config.max_new_tokens)]),
                    response_mask=mask,
                    sampling_logps=np.zeros(len(mask), dtype=np.float32),
                    advantages=np.where(mask, np.float32(rng.normal()), np.float32(0)),
                    rewards=np.zeros(len(mask), dtype=np.float32),
                    group=group,
                )
            )
    return rows


def update(group, config: LLMConfig, rows: list[TokenRow]) -> None:
    plan = plan_update(
        rows,
        minibatch_size=len(rows),
        micro_batch_tokens=config.micro_batch_tokens,
        num_learners=1,
        rng=np.random.default_rng(0),
    )
    group.update(plan)


def held_bytes(learner: Any) -> int:
    """Of weights and Adam's moments, counted: what is there before an update beside PyTorch's code."""
    engine = learner.engine
    moments = [t for state in engine.optimizer.state.values() for t in state.values()]
    return sum(t.numel() * t.element_size() for t in [*engine.module.parameters(), *moments])


def main(model: str, micro_batch_tokens: str, max_new_tokens: str, *settings: str) -> None:
    config = make_config("GRPO").environment("envs:Countdown-v0").policy(model=model)
    config.sampling(max_new_tokens=int(max_new_tokens), max_prompt_tokens=PROMPT)
    config.training(
        prompts_per_iteration=2, group_size=8, lr=1e-6, micro_batch_tokens=int(micro_batch_tokens)
    )
    for setting in settings:
        section, name, value = setting.replace("=", ".").split(".", 2)
        getattr(config, section)(**{name: yaml.safe_load(value)})
    config.validate()
    group = config.build_learner_group(spaces=SPACES)
    rows = full_rows(config, footprint.shape_of(model).vocabulary)
    update(group, config, rows[:2])  # Adam has its moments now, and PyTorch its code
    held = group.on_all(held_bytes)[0]
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    idle = resident("VmRSS") - held
    update(group, config, rows)
    actor = footprint.learner(config)
    planned, phase = footprint.peak(actor.device + actor.host)
    print(json.dumps({"measured": resident("VmHWM") - idle, "planned": planned, "phase": phase}))


if __name__ == "__main__":
    main(*sys.argv[1:])
