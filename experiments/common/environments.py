"""How a command line names environments and their options."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from experiments.common.settings import parse_assignment


def env_id(env: str) -> str:
    """`module:Id-v0`, so that whoever makes it imports the module that registers the environment."""
    if ":" in env:
        return env
    import gymnasium

    import envs  # noqa: F401 (registers)

    ours = sorted(
        name for name, spec in gymnasium.registry.items() if str(spec.entry_point).startswith("envs.")
    )
    if env not in ours:
        raise ValueError(
            f"there is no environment {env!r}: one of {', '.join(ours)}, or module:Id-v0 of your own"
        )
    return f"envs:{env}"


def env_options(assignments: Sequence[str]) -> dict[str, Any]:
    """An environment's arguments from `key=value`, with the value in YAML."""
    options: dict[str, Any] = {}
    for text in assignments:
        name, equals, _ = text.partition("=")
        if not equals or not name.strip().isidentifier():
            raise ValueError(f"--env-set {text!r} must have the form key=value, such as digits=2")
        options.update(parse_assignment(f"environment.env_config.{text}")["environment"]["env_config"])
    return options
