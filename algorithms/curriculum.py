"""From which part of an environment the groups of an iteration come, and how a curriculum moves that.

Shares are exact: after any number of groups a part has had its share of them, to about one. They are dealt by
Webster's method: the k-th group of a part with share w is due at (k + 1/2) / w, k = 0, 1, ..., and whoever is due first
comes next (M. L. Balinski and H. P. Young, "Fair Representation", 1982). Knows no episodes and no configuration.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from llmenv.evaluation.tasks import Source


def dealt(shares: Sequence[float], start: int, count: int) -> list[tuple[int, int]]:
    """What places `start` to `start + count - 1` of an endless sequence go to.

    Args:
        shares: Positive, and 1 together.
        start: The first place.
        count: How many.

    Returns:
        For each place an index into `shares`, and how many places before it went to the same one.
    """
    # Nobody has had more than this fewer than its share, so that the sequence need not be told from its beginning.
    taken = [max(0, math.floor(share * start) - len(shares)) for share in shares]
    places = []
    for place in range(sum(taken), start + count):
        first = min(range(len(shares)), key=lambda i: ((taken[i] + 0.5) / shares[i], i))
        if place >= start:
            places.append((first, taken[first]))
        taken[first] += 1
    return places


@dataclass(frozen=True)
class Levels:
    """What a curriculum does: a level up where the policy does well for a while, one down where it does badly.

    Attributes:
        levels: Each by part its weight; a part that a level does not name is not trained on there.
        raise_at: A mean accuracy over the window from which on the next level begins.
        lower_at: One up to which the level before begins again. The gap between the two is the hysteresis.
        window: Iterations; the window begins anew with each level.
    """

    levels: Sequence[Mapping[str, float]]
    raise_at: float = 0.8
    lower_at: float = 0.2
    window: int = 10

    def __post_init__(self) -> None:
        if len(self.levels) < 2:
            raise ValueError(f"a curriculum needs two levels or more, not {self.levels!r}")
        if not 0 <= self.lower_at < self.raise_at <= 1:
            raise ValueError(
                f"lower_at={self.lower_at!r} must be below raise_at={self.raise_at!r}, both from 0 to 1"
            )
        if not (isinstance(self.window, int) and self.window > 0):
            raise ValueError(f"window must be a number of iterations, not {self.window!r}")

    def check(self, parts: Sequence[str | None]) -> None:
        """Refuses levels of other parts than these.

        Raises:
            ValueError: If a level is empty, names another part, or has a weight that is not above 0.
        """
        for level in self.levels:
            if not isinstance(level, Mapping) or not level or not all(w > 0 for w in level.values()):
                raise ValueError(
                    f"a curriculum's level must map parts to weights above 0, and one is {level!r}"
                )
            if unknown := sorted(level.keys() - set(parts)):
                known = ", ".join(map(str, parts)) if parts != [None] else "none: take envs:Mixture-v0"
                raise ValueError(f"a curriculum's level names {unknown}; the environment's parts are {known}")


def read_levels(settings: Mapping[str, Any] | None) -> Levels | None:
    """The setting `curriculum`.

    Raises:
        ValueError: If it is none.
    """
    if settings is None:
        return None
    try:
        return Levels(**settings)
    except TypeError as error:
        raise ValueError(
            f"curriculum must have levels, and may have raise_at, lower_at and window, not {settings!r}"
        ) from error


@dataclass
class Curriculum:
    """Where the groups of an iteration come from. Without levels a pure function of how many updates there were.

    Attributes:
        sources: The environment's parts, or it alone.
        size: Groups an iteration.
        levels: None: the sources' own weights, always.
        level: The present one.
        since: The update that it began with.
        walked: By part, how many of its tasks were asked for before that.
        window: Accuracies of the level's last iterations.
    """

    sources: Sequence[Source]
    size: int
    levels: Levels | None = None
    level: int = 0
    since: int = 0
    walked: dict[str, int] = field(default_factory=dict)
    window: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.levels is not None:
            self.levels.check([source.part for source in self.sources])

    @property
    def parts(self) -> list[str]:
        """Their names; none where the environment has no parts."""
        return [source.part for source in self.sources if source.part is not None]

    def told(self) -> str:
        """What is said of a new level."""
        assert self.levels is not None
        levels = self.levels.levels
        return f"the curriculum's level is {self.level + 1} of {len(levels)} now: {dict(levels[self.level])}"

    def weighted(self) -> list[Source]:
        """The sources of the present level, with shares for weights."""
        sources = self.sources
        if self.levels is not None:
            weights = self.levels.levels[self.level]
            sources = [replace(s, weight=weights[str(s.part)]) for s in sources if s.part in weights]
        total = sum(source.weight for source in sources)
        return [replace(source, weight=source.weight / total) for source in sources]

    def deal(self, update: int) -> list[tuple[Source, int]]:
        """For each group of an iteration its source, and the place of its task in the source's walk."""
        return self._dealt((update - self.since) * self.size, self.size)

    def refill(self, start: int, count: int) -> list[tuple[Source, int]]:
        """The same for groups of a walk of their own, from any place of it."""
        sources = self.weighted()
        return [(sources[i], place) for i, place in dealt([s.weight for s in sources], start, count)]

    def _dealt(self, start: int, count: int) -> list[tuple[Source, int]]:
        return [
            (source, self.walked.get(str(source.part), 0) + place)
            for source, place in self.refill(start, count)
        ]

    def learn(self, accuracy: float, update: int) -> bool:
        """Takes down how an iteration went; gives whether the next one is of another level.

        Args:
            accuracy: Of its samples; NaN where none was valid, which counts for nothing.
            update: How many updates there were before it.
        """
        if self.levels is None or math.isnan(accuracy):
            return False
        self.window = [*self.window, accuracy][-self.levels.window :]
        mean = sum(self.window) / len(self.window)
        step = (mean >= self.levels.raise_at) - (mean <= self.levels.lower_at)
        level = min(max(0, self.level + step), len(self.levels.levels) - 1)
        if len(self.window) < self.levels.window or level == self.level:
            return False
        for source, place in self._dealt(0, (update + 1 - self.since) * self.size):
            self.walked[str(source.part)] = place + 1
        self.level, self.since, self.window = level, update + 1, []
        return True

    def get_state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {name: getattr(self, name) for name in ("level", "since", "walked", "window")}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Goes on where `get_state` was.

        Raises:
            ValueError: If that had more levels.
        """
        if (level := state.get("level", 0)) and level >= len(self.levels.levels if self.levels else ()):
            raise ValueError(
                f"the curriculum stood at level {level}, and training.curriculum has no such level any more: leave its "
                "levels as they were"
            )
        for name, value in state.items():
            setattr(self, name, value)
