"""The Ray that a run is on: one of this machine's own, or the cluster that RAY_ADDRESS names; what is sent there."""

from __future__ import annotations

import importlib.util
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.common.own_packages import PACKAGES, ROOT

if TYPE_CHECKING:
    from algorithms.config import LLMConfig

ADDRESS = "RAY_ADDRESS"
TOO_SLOW = "timed out during startup"  # Ray's own words; nothing sets how long it waits
NAME = re.compile(r"([A-Za-z_]\w*)[\w.]*:[\w.-]+")  # module:Id-v0 or module:Class


def name_cluster(address: str) -> None:
    """Has this process, and what it starts, join a cluster.

    Args:
        address: "auto" for the one that this machine is a node of, or HOST:PORT of its head.

    Raises:
        ValueError: If it is neither.
    """
    if "://" in address:
        raise ValueError(
            f"--address (or {ADDRESS}) {address}: the driver must be on a node of the cluster, since it asks runners "
            "and learners by themselves. Start run.py there (by ssh, or ray job submit) with --address auto"
        )
    if address != "auto" and not re.fullmatch(r"\S+:\d+", address):
        raise ValueError(
            f"--address (or {ADDRESS}) {address}: must be auto, or HOST:PORT of the head such as 10.0.0.1:6379"
        )
    os.environ[ADDRESS] = address


def join(config: LLMConfig) -> None:
    """Starts Ray on this machine, or joins the cluster, whose nodes get our code and environments of this directory.

    Raises:
        ValueError: If that is none, or no cluster answers.
    """
    import ray

    quiet = {"logging_level": logging.ERROR, "log_to_driver": False}
    if (address := os.environ.get(ADDRESS) or "local") == "local":
        start_alone(**quiet)
        return
    name_cluster(address)
    try:
        ray.init(runtime_env={"py_modules": sent(config, Path.cwd())}, **quiet)
    except ConnectionError as error:
        raise ValueError(
            f"no Ray cluster answers at {address} ({error}): start its head with `ray start --head`, or leave out "
            f"--address and {ADDRESS}"
        ) from error


def start_alone(**settings: Any) -> None:
    """Starts a Ray of this process's own, and does not join one that happens to be on this machine.

    Raises:
        ValueError: If it does not come up; that is tried twice.
    """
    import ray

    for last in (False, True):
        try:
            ray.init(address="local", include_dashboard=False, **settings)
            return
        except Exception as error:  # that class is all that it has
            ray.shutdown()
            if TOO_SLOW not in str(error):
                raise
            if last:
                load, cores = os.getloadavg()[0], len(os.sched_getaffinity(0))
                raise ValueError(
                    f"Ray did not start within the 30 s that it gives itself, twice: this machine is too busy (load "
                    f"{load:.0f} on {cores} cores). Try again when it is less so"
                ) from error


def sent(config: LLMConfig, directory: Path) -> list[str]:
    """The Python code that nodes are sent: our packages, and the modules of a directory that a config names."""
    ours = [str(ROOT / name) for name in PACKAGES]
    named = _names([config.env, config.env_config, config.evaluation_config])
    found = [importlib.util.find_spec(name) for name in dict.fromkeys(named) if name not in PACKAGES]
    files = [
        Path(spec.origin).resolve() for spec in found if spec and spec.origin and spec.origin != "built-in"
    ]
    theirs = [file.parent if file.name == "__init__.py" else file for file in files]
    return ours + [str(path) for path in theirs if path.parent == directory.resolve()]


def _names(value: Any) -> Iterator[str]:
    """The first part of each module that is named."""
    if isinstance(value, dict):
        value = [*value, *value.values()]
    if isinstance(value, list | tuple):
        for inner in value:
            yield from _names(inner)
    elif isinstance(value, str) and (match := NAME.fullmatch(value)):
        yield match[1]
