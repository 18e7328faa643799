"""A cluster of two nodes on this machine, and a run on it: the learner on one, the runner on the other, which is lost.

Started by tests/experiments/test_cluster.py as a process of its own, with a folder for the run and a model's. Prints
JSON.
"""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Any

import ray
from ray.cluster_utils import Cluster
from typer.testing import CliRunner

from experiments.common.training import Training
from experiments.run import app
from support import contents, flat_weights
from written import PAGES, commands

ITERATIONS = 3
found: dict[str, Any] = {}


def states(algorithm: Any) -> list[Any]:
    weights = algorithm.learner_group.on_all(flat_weights)[0]
    return [contents(algorithm.last_episodes), weights.tolist()]


def twice(self: Training, cluster: Cluster, start: Path) -> int:
    """Undisturbed; then from the start again by the run's own loop, with the runner's node lost after an iteration."""
    algorithm, undisturbed, disturbed = self.algorithm, [], []
    runner = algorithm.env_runner_group._worker_manager.actors()[1]
    found["nodes"] = [
        ray.get(actor.apply.remote(lambda _: ray.get_runtime_context().get_node_id()))
        for actor in (runner, algorithm.learner_group._workers[0])
    ]
    found["sent"] = ray.get(
        runner.apply.remote(lambda _: [path for path in sys.path if Path(path, "own_env.py").exists()])
    )
    algorithm.save_to_path(str(start))
    for _ in range(ITERATIONS):
        algorithm.train()
        undisturbed.append(states(algorithm))
    algorithm.restore_from_path(str(start))
    train = algorithm.train

    def training() -> Any:
        if len(disturbed) == 1:
            cluster.remove_node(cluster.sampling, allow_graceful=False)
            add_sampling(cluster)  # the driver hears of the loss when it asks for samples
        result = train()
        disturbed.append(states(algorithm))
        return result

    algorithm.train = training
    status = run(self)
    found["equal"] = [a == b for a, b in zip(undisturbed, disturbed, strict=True)]
    found["moved"] = undisturbed[0][1] != undisturbed[-1][1]
    return status


def add_sampling(cluster: Cluster) -> None:
    cluster.sampling = cluster.add_node(num_cpus=1, resources={"sampling": 1})


run = Training.run

if __name__ == "__main__":
    output, model = sys.argv[1:]
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 1, "resources": {"learning": 1}, "include_dashboard": False},
    )
    add_sampling(cluster)
    Training.run = lambda self: twice(self, cluster, Path(output, "start"))  # type: ignore[method-assign]
    (documented,) = (command for command in commands(PAGES["docs/cluster.md"]) if "--address" in command)
    instead = {"auto": cluster.address, "GSM8K-v0": "own_env:Own-v0", "s3://bucket/run": f"{output}/run"}
    arguments = [
        *(instead.get(word, word) for word in shlex.split(documented)[2:]),
        f"--model={model}",
        "--num-env-runners=1",
        "--set=env_runners.num_cpus_per_env_runner=0.5",
        "--set=learners.num_cpus_per_learner=0.5",
        f"--iterations={ITERATIONS}",
        "--sampler=transformers",
        "--prompts-per-iteration=8",
        "--group-size=4",
        "--max-new-tokens=2",
        "--lr=1e-3",
        "--eval-tasks=2",
        "--set=evaluation.evaluation_config=null",
    ]
    done = CliRunner().invoke(app, arguments)
    found |= {"exit_code": done.exit_code, "error": done.stderr}
    cluster.shutdown()
    print(json.dumps(found))
