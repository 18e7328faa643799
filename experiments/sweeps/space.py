"""What a sweep may try: a preset some of whose values are ranges. Pure: knows no config, and neither Ray nor a run.

A range is a mapping with one key: `{loguniform: [1e-6, 1e-4]}`, `{uniform: [0, 0.1]}`, `{randint: [1, 4]}` (both ends
included), `{choice: [4, 8]}` or `{grid: [4, 8]}`. A second key, `default`, is what the arm without a search has there.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from experiments.common.settings import number
from llmenv.misspelt import nearest

RANGES, LISTS = ("loguniform", "uniform", "randint"), ("choice", "grid")
KINDS = (*RANGES, *LISTS)
FACTORS = (0.8, 1.25)  # a step of exploration; the two undo each other
RESAMPLED = (
    0.25  # the share of explorations that draw anew instead, as in Jaderberg et al. (2017), 1711.09846
)
MOST_CORNERS = 256
Settings = dict[str, Any]  # by path: "training.lr", "environment.env_config.digits"
Sections = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Axis:
    """The values that one setting may have.

    Attributes:
        path: Such as "training.lr".
        kind: One of `KINDS`.
        values: Of a range its two ends, else all there are.
        default: Of the arm without a search; None where there is none.
    """

    path: str
    kind: str
    values: tuple[Any, ...]
    default: Any = None

    def draw(self, rng: np.random.Generator) -> Any:
        if self.kind in LISTS:
            return self.values[int(rng.integers(len(self.values)))]
        low, high = self.values
        if self.kind == "randint":
            return int(rng.integers(low, high, endpoint=True))
        if self.kind == "uniform":
            return float(rng.uniform(low, high))
        return self._within(math.exp(rng.uniform(math.log(low), math.log(high))))

    def explore(self, value: Any, rng: np.random.Generator) -> Any:
        """A neighbour of a value, or one drawn anew; never outside of the axis."""
        if rng.random() < RESAMPLED or not self.holds(value):
            return self.draw(rng)
        up = int(rng.integers(2))
        if self.kind in LISTS:
            place = self.values.index(value) + (1 if up else -1)
            return self.values[min(max(place, 0), len(self.values) - 1)]
        moved = value * FACTORS[up]
        if self.kind == "randint":  # at least one step
            moved = max(value + 1, round(moved)) if up else min(value - 1, round(moved))
        return self._within(moved)

    def holds(self, value: Any) -> bool:
        if self.kind in LISTS:
            return value in self.values
        return self.values[0] <= value <= self.values[1]

    def _within(self, value: float) -> float:
        low, high = self.values
        return min(max(value, low), high)


@dataclass(frozen=True)
class Space:
    """A preset and its axes.

    Attributes:
        base: The settings that are the same in all trials, by section.
        axes: What differs.
    """

    base: dict[str, dict[str, Any]]
    axes: tuple[Axis, ...]

    @property
    def grid_points(self) -> int:
        """How many combinations the grids have; 1 without one."""
        return math.prod(len(axis.values) for axis in self.axes if axis.kind == "grid")

    @property
    def only_grids(self) -> bool:
        return all(axis.kind == "grid" for axis in self.axes)

    def draws(self, seed: int) -> Iterator[Settings]:
        """Settings without end: rounds over all grid points, with the other axes drawn."""
        rng = np.random.default_rng(seed)
        grids = [axis for axis in self.axes if axis.kind == "grid"]
        while True:
            for point in itertools.product(*(axis.values for axis in grids)):
                fixed = {axis.path: value for axis, value in zip(grids, point, strict=True)}
                yield {a.path: fixed[a.path] if a.path in fixed else a.draw(rng) for a in self.axes}

    def corners(self) -> Iterator[Settings]:
        """Combinations of ends: all, or, where they are too many, each end beside the others' first and last."""
        ends = [axis.values for axis in self.axes]
        if math.prod(map(len, ends)) <= MOST_CORNERS:
            points: Any = itertools.product(*ends)
        else:
            points = (
                tuple(value if i == j else other[side] for j, other in enumerate(ends))
                for side in (0, -1)
                for i, own in enumerate(ends)
                for value in own
            )
        for point in points:
            yield {axis.path: value for axis, value in zip(self.axes, point, strict=True)}

    def explore(self, settings: Settings, rng: np.random.Generator) -> Settings:
        """Other settings near these, all within the space."""
        return {axis.path: axis.explore(settings[axis.path], rng) for axis in self.axes}

    def defaults(self) -> Settings:
        """The preset's own settings.

        Raises:
            ValueError: If an axis has none.
        """
        for axis in self.axes:
            if axis.default is None:
                raise ValueError(
                    f"{axis.path} has no default to compare with: write it beside the range, such as "
                    f"{{{axis.kind}: {list(axis.values)}, default: {axis.values[0]}}}"
                )
        return {axis.path: axis.default for axis in self.axes}


def with_settings(base: Sections, settings: Settings) -> dict[str, dict[str, Any]]:
    """A whole preset: the base with a trial's value in each place."""
    found = {section: dict(values) for section, values in base.items()}
    for path, value in settings.items():
        section, name, *entry = path.split(".")
        target = found.setdefault(section, {})
        target[name] = {**target.get(name, {}), entry[0]: value} if entry else value
    return found


def parse(sections: Sections) -> Space:
    """Reads a space.

    Args:
        sections: As a preset has them.

    Raises:
        ValueError: If it has no range, or one that means nothing.
    """
    base: dict[str, dict[str, Any]] = {}
    axes: list[Axis] = []
    for section, values in sections.items():
        base[section] = {}
        for name, value in values.items():
            path = f"{section}.{name}"
            if _is_range(path, value):
                axes.append(_axis(path, value))
                continue
            if isinstance(value, dict):
                inner = {key: entry for key, entry in value.items() if _is_range(f"{path}.{key}", entry)}
                axes += [_axis(f"{path}.{key}", entry) for key, entry in inner.items()]
                value = {key: entry for key, entry in value.items() if key not in inner}
            base[section][name] = value
    if not axes:
        raise ValueError(
            "there is nothing to search: give a value a range, such as lr: {loguniform: [1e-6, 1e-4]}"
        )
    return Space(base, tuple(axes))


def _is_range(path: str, value: Any) -> bool:
    if not isinstance(value, dict) or not value:
        return False
    found = {str(key) for key in value} - {"default"}
    if len(found) == 1 and found <= {*KINDS}:
        return True
    for name, inner in value.items():
        if name not in KINDS and isinstance(inner, list) and (near := nearest(str(name), KINDS)):
            raise ValueError(f"{path}: there is no range {name!r}{near}: one of {', '.join(KINDS)}")
    if "default" in found or found & {*KINDS}:
        raise ValueError(f"{path}: a range is one of {', '.join(KINDS)} (and default), got {sorted(found)}")
    return False


def _axis(path: str, value: Mapping[str, Any]) -> Axis:
    kind = next(key for key in value if key != "default")
    given = value[kind]
    if not isinstance(given, list) or not given:
        raise ValueError(f"{path}: {kind} takes a list, such as [{'1, 4' if kind == 'randint' else '4, 8'}]")
    values = tuple(map(number, given))
    if kind in RANGES:
        _check_range(path, kind, values)
    elif len({*map(repr, values)}) < len(values):
        raise ValueError(f"{path}: {kind} has a value twice: {list(values)}")
    axis = Axis(path, kind, values, number(value.get("default")))
    if axis.default is not None and not axis.holds(axis.default):
        raise ValueError(f"{path}: the default {axis.default!r} is not in {kind} {list(values)}")
    return axis


def _check_range(path: str, kind: str, values: Sequence[Any]) -> None:
    numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    if len(values) != 2 or len(numbers) != 2 or not all(map(math.isfinite, numbers)):
        raise ValueError(f"{path}: {kind} takes two numbers, [lowest, highest], got {list(values)}")
    low, high = values
    if not low < high:
        raise ValueError(f"{path}: {kind} must begin below its end, got {list(values)}")
    if kind == "loguniform" and low <= 0:
        raise ValueError(f"{path}: loguniform must begin above 0, got {list(values)}")
    if kind == "randint" and not (type(low) is int and type(high) is int):
        raise ValueError(f"{path}: randint takes two whole numbers, got {list(values)}")
