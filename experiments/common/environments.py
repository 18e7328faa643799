"""How a command line names environments and their options."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from experiments.common.settings import number
from experiments.common.yaml_text import load_text


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


def environment(chosen: Sequence[str]) -> dict[str, Any]:
    """The section `environment` of one environment, or of several, with weights ("Id-v0:0.5") or without.

    Raises:
        ValueError: If one is named twice, or is none of ours.
    """
    if len(chosen) == 1 and _weight(chosen[0]) is None:
        return {"env": env_id(chosen[0])}
    parts: dict[str, dict[str, Any]] = {}
    for text in chosen:
        weight = _weight(text)
        name = text if weight is None else text.rpartition(":")[0]
        part = name.rpartition(":")[2]
        if part in parts:
            raise ValueError(
                f"--env {part} is given twice: to have it with two kinds of arguments, name both as parts of "
                "envs:Mixture-v0 in a preset, under environment.env_config.parts"
            )
        parts[part] = {"env": env_id(name), "weight": 1.0 if weight is None else weight}
    return {"env": env_id("Mixture-v0"), "env_config": {"parts": parts}}


def short_name(section: dict[str, Any]) -> str:
    """What a run folder calls a section `environment`."""
    parts = (section.get("env_config") or {}).get("parts") or {section["env"].rpartition(":")[2]: {}}
    return "+".join(parts)


def _weight(text: str) -> float | None:
    """What stands behind the last colon, if it is a number."""
    try:
        return float(text.rpartition(":")[2]) if ":" in text else None
    except ValueError:
        return None


def env_options(assignments: Sequence[str]) -> dict[str, Any]:
    """An environment's arguments from `key=value`, with the value in YAML."""
    options: dict[str, Any] = {}
    for text in assignments:
        name, equals, value = text.partition("=")
        if not equals or not name.strip().isidentifier():
            raise ValueError(f"--env-set {text!r} must have the form key=value, such as digits=2")
        options[name.strip()] = number(load_text(value, f"the value of --env-set {name.strip()}"))
    return options
