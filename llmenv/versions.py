"""What a result comes from beside its settings: Python and the packages that sample, learn and judge."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("llmenv", "torch", "transformers", "ray", "gymnasium", "numpy", "math-verify", "sympy")


def versions() -> dict[str, str]:
    """By name; "not installed" of what is not there."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found
