"""Relative paths in settings: absolute from where they are set on, since Ray Tune changes the directory later."""

from __future__ import annotations

from pathlib import Path
from typing import Any

PATHS = ("data", "model")  # what the arguments are called that may be paths, in `env_config` at any depth


def absolute(value: Any) -> Any:
    """A path of something that is there, or that can only be a path, made absolute; anything else as it is.

    Args:
        value: Text, or whatever holds some: lists, and mappings such as `tune.grid_search`'s.
    """
    if isinstance(value, dict):
        return {key: absolute(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(absolute, value))
    if not isinstance(value, str) or not value:
        return value
    path = Path(value).expanduser()
    return str(path.absolute()) if path.exists() or value[0] in ".~" else value


def absolute_paths(config: Any) -> Any:
    """An `env_config` in which the values of PATHS are absolute, in those of wrappers too."""
    if isinstance(config, dict):
        return {
            key: absolute(value) if key in PATHS else absolute_paths(value) for key, value in config.items()
        }
    if isinstance(config, list | tuple):
        return type(config)(map(absolute_paths, config))
    return config
