"""What a value may be: functions of a name and a value, which raise `ValueError` with both and the remedy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def choice(name: str, value: Any, allowed: Sequence[Any]) -> None:
    """One of a few."""
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(str, allowed))}, got {value!r}")


def whole(name: str, value: Any, at_least: int = 1, otherwise: str = "") -> None:
    """An integer from a bound on. `otherwise` says what else there is, such as what None means."""
    if type(value) is not int or value < at_least:
        raise ValueError(f"{name} must be a whole number of at least {at_least}{otherwise}, got {value!r}")


def positive(**values: float | None) -> None:
    """Above 0, or None."""
    for name, value in values.items():
        if value is not None and not value > 0:
            raise ValueError(f"{name} must be above 0, got {value!r}")


def not_negative(**values: float) -> None:
    """0 or above."""
    for name, value in values.items():
        if not value >= 0:
            raise ValueError(f"{name} must not be negative, got {value!r}")


def share(**values: float) -> None:
    """From 0 to 1."""
    for name, value in values.items():
        if not 0 <= value <= 1:
            raise ValueError(f"{name} must be from 0 to 1, got {value!r}")
