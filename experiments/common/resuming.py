"""What `--resume` goes on with: the run's own settings, but for where things run.

What is learned stays as it was, or it would be another run. How many processes share the work, on what, and how much of
it each takes at a time, changes speed and memory: a run may go on on another machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from experiments.common import settings
from experiments.common.run_folder import checkpoints, read_config

# All that a resumed run may be given anew, by section.
PLACEMENT = {
    "env_runners": (
        "num_env_runners",
        "num_cpus_per_env_runner",
        "num_gpus_per_env_runner",
        "sample_timeout_s",
    ),
    "learners": ("num_learners", "num_cpus_per_learner", "num_gpus_per_learner"),
    "deepspeed": ("offload_optimizer", "offload_parameters"),
    "policy": ("gradient_checkpointing",),
    "training": ("micro_batch_tokens",),
    "sampling": ("max_rows_per_sampler", "sampler", "sampler_kwargs", "weight_transfer"),
    "run": tuple(field.name for field in fields(settings.RunSettings)),
}


def resumed(
    folder: Path, assignments: Sequence[str], options: settings.Sections
) -> tuple[str, settings.Sections]:
    """The recorded algorithm and settings, with what is given anew.

    Args:
        folder: The run's.
        assignments: Of `--set`.
        options: The command line's own; they win.

    Raises:
        ValueError: If the folder has no run or no checkpoint, or a setting is given anew that may not be.
    """
    recorded = read_config(folder)
    anew = settings.merge(settings.from_assignments(assignments), options)
    refused = sorted(
        key for section, values in anew.items() for key in values if key not in PLACEMENT.get(section, ())
    )
    if refused:
        known = ", ".join(name for names in PLACEMENT.values() for name in names)
        raise ValueError(
            f"--resume goes on with the settings of {folder}; it cannot take {', '.join(refused)}. It takes where "
            f"things run and for how long: {known}. A new run with others can start from its weights: "
            f"python experiments/export.py {folder} OUT, then --model OUT"
        )
    if not checkpoints(folder):
        raise ValueError(f"{folder} holds no checkpoint to resume from: start a new run")
    sampling = recorded.get("sampling", {})
    if (sampler := anew.get("sampling", {}).get("sampler")) and sampler != sampling.get("sampler"):
        for name in ("sampler_kwargs", "weight_transfer"):  # they were the other sampler's
            sampling.pop(name, None)
    algo = recorded.pop("algo")
    return algo, settings.merge(recorded, anew)
