"""What a value may be: functions of a name and a value, which raise `ValueError` with both and the remedy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any


def choice(name: str, value: Any, allowed: Sequence[Any]) -> None:
    """One of a few."""
    if not any(value is one or (type(value) is type(one) and value == one) for one in allowed):
        raise ValueError(f"{name} must be one of {', '.join(map(str, allowed))}, got {value!r}")


def whole(name: str, value: Any, at_least: int = 1, otherwise: str = "") -> None:
    """An integer from a bound on. `otherwise` says what else there is, such as what None means."""
    if type(value) is not int or value < at_least:
        raise ValueError(f"{name} must be a whole number of at least {at_least}{otherwise}, got {value!r}")


def positive(name: str, value: Any, otherwise: str = "") -> None:
    """A finite number above 0."""
    if not (_is_number(value) and value > 0):
        raise ValueError(f"{name} must be above 0 and finite{otherwise}, got {value!r}")


def not_negative(name: str, value: Any, otherwise: str = "") -> None:
    """A finite number, 0 or above."""
    if not (_is_number(value) and value >= 0):
        raise ValueError(f"{name} must not be negative, and a finite number{otherwise}, got {value!r}")


def share(name: str, value: Any) -> None:
    """A number from 0 to 1."""
    if not (_is_number(value) and 0 <= value <= 1):
        raise ValueError(f"{name} must be from 0 to 1, got {value!r}")


def mapping(name: str, value: Any) -> None:
    """Names and their values."""
    if not isinstance(value, Mapping):
        raise ValueError(f"{name} must map names to values ({{}} for none), got {value!r}")


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
