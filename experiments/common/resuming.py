"""What `--resume` goes on with: the run's own settings, but for where things run.

What is learned stays as it was, or it would be another run. How many processes share the work, on what, and how much of
it each takes at a time, changes speed and memory: a run may go on on another machine. It makes no difference whether a
setting is given anew on the command line or by an edit of config.yaml, which the checkpoint's own is compared with.
"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

from experiments.common import settings
from experiments.common.checksums import damage
from experiments.common.commands import called
from experiments.common.run_folder import checkpoints, read_config

# All that a resumed run may be given anew, by section.
PLACEMENT = {
    "env_runners": (
        "num_env_runners",
        "num_cpus_per_env_runner",
        "num_gpus_per_env_runner",
        "custom_resources_per_env_runner",
        "sample_timeout_s",
    ),
    "learners": (
        "num_learners",
        "num_cpus_per_learner",
        "num_gpus_per_learner",
        "custom_resources_per_learner",
    ),
    "deepspeed": ("offload_optimizer", "offload_parameters"),
    "policy": ("gradient_checkpointing",),
    "training": ("micro_batch_tokens",),
    "sampling": ("max_rows_per_sampler", "sampler", "sampler_kwargs", "weight_transfer", "env_timeout_s"),
    "run": tuple(field.name for field in fields(settings.RunSettings)),
}


def resumed(
    folder: Path, assigned: settings.Sections, options: settings.Sections
) -> tuple[str, settings.Sections]:
    """The recorded algorithm and settings, with what is given anew.

    Args:
        folder: The run's.
        assigned: By `--set`.
        options: The command line's own; they win.

    Raises:
        ValueError: If the folder has no run or no checkpoint, or a setting is given anew that may not be.
    """
    recorded = read_config(folder)
    kept = checkpoints(folder)
    if not kept:
        raise ValueError(f"{folder} holds no checkpoint to resume from: start a new run")
    # All hold the same but for where things run; which of them are whole is seen when one is loaded.
    for checkpoint in reversed(kept):
        if (checkpoint / "config.yaml").is_file() and damage(checkpoint, "config.yaml") is None:
            _refuse_edits(folder, recorded, read_config(checkpoint))
            break
    algo = recorded.pop("algo")
    anew = settings.merge(assigned, options)
    refused = sorted(
        key for section, values in anew.items() for key in values if not _is_placement(section, key)
    )
    if refused:
        raise ValueError(
            f"--resume goes on with the settings of {folder}; it cannot take {', '.join(refused)}. It takes where "
            f"things run and for how long: {_takes()}. A new run with others can start from its weights: "
            f"{called('export')} {folder} OUT, then --model OUT"
        )
    sampling = recorded.get("sampling", {})
    if (sampler := anew.get("sampling", {}).get("sampler")) and sampler != sampling.get("sampler"):
        for name in ("sampler_kwargs", "weight_transfer"):  # they were the other sampler's
            sampling.pop(name, None)
    return algo, settings.merge(recorded, anew)


def _is_placement(section: str, key: str) -> bool:
    return key in PLACEMENT.get(section, ())


def _takes() -> str:
    return ", ".join(name for names in PLACEMENT.values() for name in names)


def _refuse_edits(folder: Path, now: settings.Sections, saved: settings.Sections) -> None:
    """Raises `ValueError` where config.yaml has been edited in what is learned."""
    edited = []
    for path in sorted({*_flat(now), *_flat(saved)}):
        before, after = (_flat(side).get(path, "left out") for side in (saved, now))
        if before != after and not _is_placement(*path):
            edited.append(f"{'.'.join(filter(None, path))} (was {before!r}, is {after!r})")
    if edited:
        raise ValueError(
            f"{folder / 'config.yaml'} was edited after the checkpoint: {', '.join(edited)}. What is learned stays as "
            f"it was: undo that. Where things run and for how long may be edited: {_takes()}"
        )


def _flat(sections: settings.Sections) -> dict[tuple[str, str], Any]:
    """Settings by section and name; what is no section, such as `algo`, has no section."""
    flat: dict[tuple[str, str], Any] = {}
    for section, values in sections.items():
        if isinstance(values, dict):
            flat |= {(section, key): value for key, value in values.items()}
        else:
            flat["", section] = values
    return flat
