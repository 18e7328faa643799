"""A run folder's run of Weights & Biases. Knows nothing about what is logged to it."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any


def start_wandb(config: dict[str, Any], output: Path) -> Any:
    """The run of wandb's that belongs to a folder, the same one however often it is resumed."""
    import wandb

    file = output / "wandb_id"
    if not file.exists():
        file.write_text(secrets.token_hex(4))
    return wandb.init(
        project="llmenv",
        name=output.resolve().name,
        id=file.read_text(),
        resume="allow",
        config=config,
        allow_val_change=True,  # where things run may be another place
        dir=str(output),
    )
