"""A run folder's run of Weights & Biases: figures under the names that TensorBoard has, samples, the curve."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

SHOWN = 64  # samples of each table: the run folder has all of them


class WandbRun:
    """What a run logs to Weights & Biases.

    Args:
        run: wandb's own.
    """

    def __init__(self, run: Any):
        self._run = run

    def plot(self, table: str, row: dict[str, float]) -> None:
        """Logs a row of `progress` or `evaluations`, each figure as `table/figure`."""
        figures = {f"{table}/{key}": value for key, value in row.items() if key != "iteration"}
        self._run.log(figures, step=int(row["iteration"]))

    def look(self, table: str, row: dict[str, float]) -> None:
        """Logs a row as `plot` does, as the step after the last."""
        self._run.log({f"{table}/{key}": value for key, value in row.items()})

    def end(self, status: int) -> None:
        """Says that it is over, with a process's exit status."""
        self._run.finish(exit_code=status)

    def samples(self, name: str, iteration: int, frame: pd.DataFrame) -> None:
        """Logs the first samples of a table of the run folder's `samples/`."""
        import wandb

        texts = frame.head(SHOWN).astype(object).where(frame.head(SHOWN).notna(), None)
        self._run.log({f"samples/{name}": wandb.Table(dataframe=texts)}, step=iteration)

    def curve(self, file: Path, iteration: int) -> None:
        import wandb

        self._run.log({"curve": wandb.Image(str(file))}, step=iteration)


def start_wandb(
    config: dict[str, Any], output: Path, group: str | None = None, job_type: str | None = None
) -> WandbRun:
    """The run of wandb's that belongs to a folder, the same one however often it is resumed.

    Args:
        config: What it was started with.
        output: The folder.
        group: Of the runs of a sweep, several of which are in this process at a time.
        job_type: What such a run is in the group.

    Raises:
        RuntimeError: If wandb has no key, or does not reach its server.
    """
    import wandb

    file = output / "wandb_id"
    if not file.exists():
        file.write_text(secrets.token_hex(4))
    try:
        run = wandb.init(
            project="llmenv",
            name=output.resolve().name,
            id=file.read_text(),
            resume="allow",
            config=config,
            allow_val_change=True,  # where things run may be another place
            dir=str(output),
            group=group,
            job_type=job_type,
            reinit="create_new" if group else None,
        )
    except wandb.Error as error:
        # Such as that there is no key. Where nobody can be asked for one, that is no reason to be offline unasked.
        raise RuntimeError(
            f"Weights & Biases cannot be logged to ({error}): run `wandb login`, set WANDB_MODE=offline to log into "
            f"{output} alone, or leave --wandb out"
        ) from error
    return WandbRun(run)
