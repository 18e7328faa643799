"""What episodes say about a policy, and the evaluation of any model in any environment.

Importing the package loads nothing heavy: what is asked for by name loads it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmenv.evaluation.episodes import summarize, warn_if_cut
    from llmenv.evaluation.run import evaluate

__all__ = ["evaluate", "summarize", "warn_if_cut"]

_MODULES = {
    "evaluate": "run",
    "summarize": "episodes",
    "warn_if_cut": "episodes",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
