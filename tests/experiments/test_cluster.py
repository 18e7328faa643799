"""A run on a cluster: what its nodes are sent, and two of them on this machine, one of which is lost."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd
import pytest

from experiments.common.cluster import join, name_cluster, sent
from experiments.common.own_packages import PACKAGES, ROOT
from support import small_config

OWN_ENV = """
import gymnasium as gym
from support import NoDigitEnv

gym.register("Own-v0", entry_point=NoDigitEnv)
"""


@pytest.fixture(scope="module")
def lost_node(tmp_path_factory: pytest.TempPathFactory, model_folder: str) -> tuple[dict, Path]:
    """What `two_nodes.py` has found out with docs/cluster.md's command, and the run's folder."""
    folder = tmp_path_factory.mktemp("cluster")
    (folder / "own_env.py").write_text(OWN_ENV)
    script = ROOT / "tests" / "two_nodes.py"
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    with (
        tempfile.TemporaryDirectory() as own
    ):  # else whoever starts Ray here meanwhile would join this cluster
        done = subprocess.run(
            [sys.executable, str(script), str(folder), model_folder],
            capture_output=True,
            text=True,
            cwd=folder,
            env={**environment, "RAY_TMPDIR": own, "RAY_raylet_start_wait_time_s": "120"},
            check=False,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1]), folder / "run"


@pytest.mark.slow
def test_a_node_lost_and_come_back_changes_nothing(lost_node: tuple[dict, Path]) -> None:
    found, folder = lost_node
    assert found["exit_code"] == 0, found["error"]
    assert len({*found["nodes"]}) == 2  # the runner on one, the learner on the other
    assert found["equal"] == [True] * 3  # episodes and weights, to the bit
    assert found["moved"]
    assert pd.read_csv(folder / "progress.csv")["num_episodes"].tolist() == [32] * 3


@pytest.mark.slow
def test_a_node_gets_environments_of_the_directory(lost_node: tuple[dict, Path]) -> None:
    # On this machine the directory itself is there too.
    assert [path for path in lost_node[0]["sent"] if "py_modules" in path]


@pytest.mark.parametrize("address", ["ray://10.0.0.1:10001", "10.0.0.1", "head"])
def test_addresses_that_cannot_be_are_refused(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    refused = re.escape(f"--address (or RAY_ADDRESS) {address}: ") + ".*(--address auto|HOST:PORT)"
    with pytest.raises(ValueError, match=refused):
        name_cluster(address)
    assert "RAY_ADDRESS" not in os.environ
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(ValueError, match=refused):
        join(small_config("tiny"))
    name_cluster("10.0.0.1:6379")
    assert os.environ["RAY_ADDRESS"] == "10.0.0.1:6379"


def test_what_nodes_are_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Our packages, and what is named of the directory: a module for an environment, a package for a wrapper."""
    (tmp_path / "sent_env.py").write_text("")
    (tmp_path / "sent_package").mkdir()
    (tmp_path / "sent_package" / "__init__.py").write_text("")
    (tmp_path / "unnamed.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    wrappers = {"wrappers": [{"sent_package.deep:Wrapper": {"amount": 1}}, {"json:JSONDecoder": {}}]}
    config = small_config("tiny").environment("sent_env:Own-v0", env_config=wrappers)
    ours = [str(ROOT / name) for name in PACKAGES]
    assert sent(config, tmp_path) == [*ours, str(tmp_path / "sent_env.py"), str(tmp_path / "sent_package")]
    assert sent(small_config("tiny"), tmp_path) == ours
