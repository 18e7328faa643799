"""The policy that a checkpoint holds, taken out as a Hugging Face folder. Needs no learner, no engine and no GPU."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from llmenv.models.names import (
    ADAPTERS_IN_CHECKPOINT,
    POLICY_IN_CHECKPOINT,
    load_causal_lm,
)

# Beside the adapters: what makes a policy of them.
BASE = "base.json"


def has_policy(checkpoint: Path) -> bool:
    """Whether a folder is an algorithm's checkpoint."""
    return any((checkpoint / part).is_dir() for part in (POLICY_IN_CHECKPOINT, ADAPTERS_IN_CHECKPOINT))


def write_policy(checkpoint: Path, out: Path) -> None:
    """Writes a checkpoint's policy: weights, configurations and tokenizer.

    Adapters are merged into their base model, which is loaded by the name that the run knew it by.

    Args:
        checkpoint: What `save_to_path` wrote.
        out: A folder that is not there yet.

    Raises:
        ValueError: If the base model of adapters is not to be found by its name.
    """
    adapters = checkpoint / ADAPTERS_IN_CHECKPOINT
    if not adapters.is_dir():
        shutil.copytree(checkpoint / POLICY_IN_CHECKPOINT, out)
        return
    from llmenv.models import lora  # and with it torch, which the other kind does not need
    from llmenv.models.trained_prompt import TrainedPrompt

    base = json.loads((adapters / BASE).read_text())
    model = load_causal_lm(base["model"], dtype=base["dtype"])
    lora.merge_adapters(model, adapters)
    model.save_pretrained(out)
    TrainedPrompt(**base["prompt"]).save(out)
