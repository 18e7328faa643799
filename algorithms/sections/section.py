"""What the sections of a config have in common."""

from __future__ import annotations

from typing import Any, Self

from ray.rllib.algorithms.algorithm_config import AlgorithmConfig, NotProvided


class Section(AlgorithmConfig):
    """Some settings of RLlib's config: their setter, their defaults, and in `validate` what must hold between them."""

    def _set(self, **values: Any) -> Self:
        """Sets what was provided."""
        for name, value in values.items():
            if value is not NotProvided:
                setattr(self, name, value)
        return self
