"""Reinforcement learning of language models inside Gymnasium text environments, on RLlib.

Importing the package loads nothing heavy: import what you need from its modules.
"""

from typing import Any


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("llmenv")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
