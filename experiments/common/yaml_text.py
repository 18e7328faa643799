"""YAML that a user wrote, in a file or on the command line; what is wrong with it is told with its place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml


def load_text(text: str, source: str) -> Any:
    """Reads YAML.

    Args:
        text: The YAML.
        source: What the error calls it: a file, or an option.

    Raises:
        ValueError: If it is malformed, with the line and column where that was noticed.
    """
    try:
        return yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        what = ", ".join(filter(None, (error.context, error.problem)))
        raise ValueError(f"{source} is not YAML{place}: {what}") from error
    except (yaml.YAMLError, ValueError) as error:  # a control character; a date that is none
        raise ValueError(f"{source} is not YAML: {' '.join(str(error).split())}") from error


def load_file(file: Path) -> Any:
    """Reads a YAML file; raises as `load_text` does."""
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is no text in UTF-8: {error}") from error
    return load_text(text, str(file))
