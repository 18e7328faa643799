"""What `--model` means to a command that trains nothing: a model's name, or whatever a run left behind."""

from __future__ import annotations

import hashlib
import tempfile
from fnmatch import fnmatchcase
from pathlib import Path

from experiments.common.checksums import SUMS
from experiments.common.places import newest
from llmenv.models import smollm2
from llmenv.models.names import ADAPTERS_IN_CHECKPOINT, POLICY_IN_CHECKPOINT, resolve_model
from llmenv.models.saved_policy import has_policy, write_policy
from llmenv.remote import is_uri, joined, listed, local_copy, opened

# Of a checkpoint that is elsewhere.
OF_POLICY = (f"{POLICY_IN_CHECKPOINT}/*", f"{ADAPTERS_IN_CHECKPOINT}/*", SUMS)


def saved_model(name: str) -> str:
    """A folder or a hub id that transformers loads.

    Args:
        name: A model's name (see `resolve_model`), a run folder (its newest checkpoint is taken, or else its
            `policy/`), or a checkpoint. A checkpoint's adapters are merged into their base once, in the user's cache.

    Raises:
        ValueError: If it is none of these.
    """
    folder = left_by_run(name)
    if folder is None:
        return resolve_model(name)
    if not has_policy(folder):
        return resolve_model(str(folder))
    adapters = folder / ADAPTERS_IN_CHECKPOINT
    return str((_merged(folder) if adapters.is_dir() else folder / POLICY_IN_CHECKPOINT).resolve())


def brought(name: str) -> str:
    """A model's name as it is; of a URI, the folder in this machine's cache that the policy has been brought to.

    Args:
        name: A model's name, or the URI of a run folder, a checkpoint or a model.

    Raises:
        ValueError: If there is nothing, or see `llmenv.remote.opened`.
    """
    if not is_uri(name):
        return name
    names = sorted(listed(*opened(name)))
    if (checkpoint := newest(names)) is not None:
        return str(local_copy(joined(name, checkpoint), OF_POLICY))
    if "config.yaml" in names and "policy/config.json" in names:
        return str(local_copy(joined(name, "policy"), ("*",)))
    is_checkpoint = any(fnmatchcase(each, wanted) for each in names for wanted in OF_POLICY[:2])
    return str(local_copy(name, OF_POLICY if is_checkpoint else ("*",)))


def left_by_run(name: str) -> Path | None:
    """The checkpoint, or the policy, that a name of a run folder or of a checkpoint means; None of other names."""
    folder = Path(name).expanduser()
    if (folder / "checkpoints").is_dir():
        from experiments.common.run_folder import checkpoints  # and with it pandas

        if newest := checkpoints(folder):
            return newest[-1]
    if (folder / "config.yaml").is_file() and (folder / "policy").is_dir():
        return folder / "policy"
    return folder if has_policy(folder) else None


def _merged(checkpoint: Path) -> Path:
    """A checkpoint's adapters in their base model, with training's prompt; the folder appears whole or not at all."""
    digest = hashlib.sha256()
    for file in sorted((checkpoint / ADAPTERS_IN_CHECKPOINT).iterdir()):
        digest.update(file.name.encode() + file.read_bytes())
    target = smollm2.cache() / f"merged-{digest.hexdigest()[:16]}"
    if not target.exists():
        with tempfile.TemporaryDirectory(prefix=".merged-", dir=target.parent) as temporary:
            made = Path(temporary) / "model"
            write_policy(checkpoint, made)
            smollm2.put_in_place(made, target)
    return target
