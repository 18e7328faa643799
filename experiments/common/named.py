"""Files that come with the program, by name: presets, suites, spaces, recipes."""

from __future__ import annotations

from pathlib import Path

from llmenv.misspelt import nearest


def named_file(name_or_file: str, folder: Path, kind: str) -> Path:
    """A YAML file by its path, or by its name in a folder of ours.

    Args:
        name_or_file: A path ends in .yaml or .yml.
        folder: Of the files that have names.
        kind: What they are called in the error.

    Raises:
        ValueError: If there is no such file.
    """
    path = Path(name_or_file)
    if path.suffix not in (".yaml", ".yml"):
        path = folder / f"{name_or_file}.yaml"
    if not path.is_file():
        ours = sorted(file.stem for file in folder.glob("*.yaml"))
        meant = nearest(name_or_file, ours)
        raise ValueError(
            f"there is no {kind} {name_or_file!r}{meant}: give the path of a YAML file, or one of {', '.join(ours)}"
        )
    return path
