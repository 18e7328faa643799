"""Which packages are ours: those around this file. Others of the same names may lie in a user's directory."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("envs", "algorithms", "experiments", "llmenv")


def import_ours() -> None:
    """Imports our packages, before any directory joins the path that has others of these names.

    Raises:
        ValueError: If another one is found first.
    """
    for name in PACKAGES:
        module = import_module(name)
        found = [Path(path).resolve() for path in module.__path__]
        if found != [ROOT / name]:
            where = module.__file__ or found[0]
            raise ValueError(
                f"the package {name!r} is another one's: {where}. It is found before llmenv's own, {ROOT / name}: "
                "rename it, or start from another directory (and look at PYTHONPATH)"
            )


def refuse_others(directory: Path) -> None:
    """Refuses a directory that Ray's processes would find another package of ours in: they look there first.

    Raises:
        ValueError: If there is one.
    """
    if directory.resolve() == ROOT:
        return
    for name in PACKAGES:
        for other in (directory / name, directory / f"{name}.py"):
            if other.exists():
                raise ValueError(
                    f"{other} has the name of a package of llmenv's, and processes of Ray's would import it instead: "
                    "start from another directory, or rename it; or run without processes of their own "
                    "(--num-env-runners 0 --num-learners 0)"
                )
