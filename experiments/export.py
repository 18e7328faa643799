"""Takes the policy out of a checkpoint, as a Hugging Face folder.

    python experiments/export.py runs/Countdown-v0-GRPO-tiny-20261122-120000 /models/mine

Nothing is started for it, no environment, sampler or learner: every checkpoint holds its policy in that format, or with
LoRA the adapters, which are merged into their base model. What is added is the model card.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Annotated

import typer

from experiments.common.checksums import damage
from experiments.common.commands import called
from experiments.common.errors import told
from experiments.common.here import folder
from experiments.common.model_card import model_card
from experiments.common.run_folder import checkpoints
from experiments.common.saved_models import brought
from llmenv.models.names import ADAPTERS_IN_CHECKPOINT, POLICY_IN_CHECKPOINT, trust_remote_code
from llmenv.models.saved_policy import has_policy, write_policy


def main(
    checkpoint: Annotated[
        str,
        typer.Argument(
            help="A run folder, for its newest checkpoint, or a checkpoint's own; here or elsewhere."
        ),
    ],
    out: Annotated[Path, typer.Argument(parser=folder, help="The folder to write: a new or an empty one.")],
    trusted: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run the Python code that comes with the model.")
    ] = False,
) -> None:
    """Writes the policy of a checkpoint as a Hugging Face folder.

    It holds the weights as safetensors, configuration, tokenizer, generation configuration, and a model card that says
    how the policy was trained and what came of it.
    """
    trust_remote_code(trusted)
    with told():
        export(Path(brought(checkpoint)), out)
    typer.echo(f"{out}: load it with transformers, or train on with --model {out}; its card is README.md")


def export(checkpoint: Path, out: Path) -> None:
    """Writes a checkpoint's policy, and its model card, to `out`: whole or not at all.

    Args:
        checkpoint: A checkpoint, or a run folder, of which the newest is taken.
        out: A folder that is not there yet, or empty.

    Raises:
        ValueError: If `checkpoint` is neither, or damaged, or `out` holds something.
    """
    if newest := checkpoints(checkpoint):
        checkpoint = newest[-1]
    if not has_policy(checkpoint):
        raise ValueError(
            f"{checkpoint} is neither a checkpoint nor a run folder that has one: give a folder that run.py left, one "
            "of its checkpoints/iteration_*, or what save_to_path wrote"
        )
    for part in (POLICY_IN_CHECKPOINT, ADAPTERS_IN_CHECKPOINT):
        if (checkpoint / part).is_dir() and (wrong := damage(checkpoint, part)):
            raise ValueError(
                f"{checkpoint} is damaged ({wrong}): name another checkpoint, or have a run go on from one "
                f"({called('train')} --resume)"
            )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} holds something already: name a new folder, or delete it first")
    partial = out.with_name(f".partial_{out.name}")
    shutil.rmtree(partial, ignore_errors=True)  # a kill may have left it
    try:
        write_policy(checkpoint, partial)
        card = partial / "README.md"
        card.write_text(model_card(checkpoint, partial))
        for file in partial.iterdir():  # safetensors' own are for their owner alone
            shutil.copymode(card, file)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    os.replace(partial, out)


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
app.command()(main)

if __name__ == "__main__":
    app()
