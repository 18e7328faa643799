"""What each node of a cluster must have: the code, the environment and its data, the model. Looked at before a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

LOOK_S = 120.0  # a node may have to start a process for it


def check_nodes(config: Any) -> None:
    """Makes the environment once on every node, where there are several.

    Args:
        config: An algorithm's: `env`, `env_config` and `base_model` count here.

    Raises:
        ValueError: If a node lacks something; it names the node and the remedy.
    """
    nodes = {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}
    if len(nodes) < 2:
        return
    look = ray.remote(_look)
    asked = {
        look.options(
            num_cpus=0, max_retries=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)
        ).remote(config.env, config.env_config, config.base_model): address
        for node, address in nodes.items()
    }
    done, silent = ray.wait([*asked], num_returns=len(asked), timeout=LOOK_S)
    for call in done:
        try:
            ray.get(call)
        except RayError as error:
            cause = getattr(error, "cause", None) or error
            raise ValueError(
                f"the node {asked[call]} cannot take part in this run ({type(cause).__name__}: {cause}). Every node "
                "needs llmenv and its packages, and under the same path the model and the data, or data by a URI "
                "(s3://...); run.py sends llmenv's code, and environments of the directory that it was started in"
            ) from error
    if silent:
        raise ValueError(f"the node {asked[silent[0]]} gave no answer for {LOOK_S:g} s: see `ray status`")


def _look(env: str, env_config: dict[str, Any], model: str) -> None:
    """Raises what making the environment raises, or that the model is not there."""
    from llmenv.evaluation.tasks import sources_of

    sources_of(env, env_config)
    if model.startswith("/") and not Path(model).exists():
        raise FileNotFoundError(f"there is no {model}")
