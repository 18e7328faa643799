"""Worker processes: limits that hold from any thread and process, workers that are replaced, calls that run at once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from envs.verify import workers
from envs.verify.workers import MemoryLimit, TimeLimit, WorkerPool

ACT = "acts:act"  # beside this file


@pytest.fixture(scope="module")
def pool() -> WorkerPool:
    return WorkerPool(ACT, max_workers=2, cpu_seconds=1)


TEXTS = ["", "a\nb", '{"result": 1}\n', "\x00\x1b[2J", "é🙂\u202e", "\ud800 lone surrogate", "x" * 1_000_000]


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_any_text_arrives_as_it_is(pool: WorkerPool, text: str) -> None:
    assert pool.call("echo", text, "") == [text, ""]


def test_a_worker_serves_many_calls(pool: WorkerPool) -> None:
    assert len({pool.call("pid") for _ in range(20)}) == 1
    assert pool.call("pid") != os.getpid()


@pytest.mark.parametrize("what", ["loop", "power"])
def test_the_time_limit(pool: WorkerPool, what: str) -> None:
    before = pool.call("pid")
    with pytest.raises(TimeLimit):
        pool.call(what)
    assert pool.call("pid") != before  # another one took its place


def test_a_worker_that_only_waits_is_stuck(pool: WorkerPool, monkeypatch: pytest.MonkeyPatch) -> None:
    pool.call("pid")
    monkeypatch.setattr(workers, "WALL_SECONDS", 0.2)
    with pytest.raises(TimeLimit):
        pool.call("sleep", "60")
    assert pool.call("echo", "on") == ["on"]


@pytest.mark.parametrize("how", ["ignored", "blocked"])
def test_the_time_limit_holds_where_its_signal_is(how: str) -> None:
    pool = WorkerPool(ACT, cpu_seconds=1)
    handler = signal.getsignal(signal.SIGXCPU)
    try:
        if how == "ignored":
            signal.signal(signal.SIGXCPU, signal.SIG_IGN)
        else:
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGXCPU])
        pool.call("pid")  # the worker inherits it
    finally:
        signal.signal(signal.SIGXCPU, handler)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGXCPU])
    start = time.monotonic()
    with pytest.raises(TimeLimit):
        pool.call("loop")
    assert time.monotonic() - start < workers.WALL_SECONDS


def test_limits_stay_below_those_of_the_parent() -> None:
    """Only root may raise a limit: elsewhere a worker that tried would not start."""
    code = (
        "import resource; from envs.verify.workers import WorkerPool\n"
        "resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))\n"
        "resource.setrlimit(resource.RLIMIT_CPU, (99, 99))\n"
        "print(WorkerPool('acts:act').call('limits'))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    memory, cpu = json.loads(
        subprocess.check_output([sys.executable, "-c", code], text=True, env=environment)
    )
    assert memory == [1 << 30, 1 << 30]
    assert cpu[0] < 99 and cpu[1] == 99


@pytest.mark.parametrize("what", ["allocate", "recurse", "die"])
def test_the_memory_limit(pool: WorkerPool, what: str) -> None:
    with pytest.raises(MemoryLimit):
        pool.call(what)
    assert pool.call("echo", "on") == ["on"]


def test_a_worker_that_died_between_calls_is_replaced(pool: WorkerPool) -> None:
    pid = pool.call("pid")
    os.kill(pid, signal.SIGKILL)
    for _ in range(50):  # until the kernel has done so
        time.sleep(0.02)
        if not pool._idle or not pool._idle[-1].alive:
            break
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        assert pool.call("pid") != pid
    assert not [
        warning.message for warning in seen if warning.category is ResourceWarning
    ]  # its pipes are closed


def test_what_a_worker_prints_is_no_reply(pool: WorkerPool) -> None:
    assert pool.call("print") == "honest"
    assert pool.call("echo", "next") == ["next"]


def test_an_exception_names_the_function_and_spares_the_worker(pool: WorkerPool) -> None:
    pid = pool.call("pid")
    with pytest.raises(RuntimeError, match="acts:act failed in its worker: ValueError: unknown: nonsense"):
        pool.call("nonsense")
    assert pool.call("pid") == pid


def test_a_function_that_is_not_there() -> None:
    with pytest.raises(
        RuntimeError, match=r"does not start: try `python -m envs\.verify\.workers acts:nothing 2`"
    ):
        WorkerPool("acts:nothing").call()


def test_threads_call_at_once(pool: WorkerPool) -> None:
    together = threading.Barrier(2, timeout=60)

    def call(_: int) -> int:
        together.wait()
        pool.call("sleep", "0.3")  # so that neither is served by the worker of the other
        return pool.call("pid")

    with ThreadPoolExecutor(2) as executor:
        assert len(set(executor.map(call, range(2)))) == 2
    with ThreadPoolExecutor(8) as executor:  # more threads than workers wait their turn
        pids = list(executor.map(lambda _: pool.call("pid"), range(40)))
    assert len(set(pids)) <= 2


def test_a_time_limit_holds_in_a_thread(pool: WorkerPool) -> None:
    with ThreadPoolExecutor(1) as executor, pytest.raises(TimeLimit):
        executor.submit(pool.call, "loop").result()


# Forks in an interpreter of its own: this one may have grown too large to be doubled. Prints what the child found.
FORK = f"""
import json, multiprocessing, sys
from envs.verify.workers import WorkerPool

pool = WorkerPool({ACT!r})
before = pool.call("pid")
here, there = multiprocessing.Pipe()
in_child = lambda: there.send((pool.call("pid"), pool.call("echo", "child")))
child = multiprocessing.get_context("fork").Process(target=in_child, daemon=sys.argv[1] == "daemon")
child.start()
there.close()
pid, echo = here.recv()
child.join()
print(json.dumps((before, pid, echo, pool.call("pid"))))
"""


def _fork(how: str) -> tuple[int, int, list[str], int]:
    """The worker's process before the fork, in the child (and what it echoed there), and in the parent after it."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    out = subprocess.check_output([sys.executable, "-c", FORK, how], text=True, env=environment, timeout=60)
    before, pid, echo, after = json.loads(out)
    return before, pid, echo, after


def test_a_forked_daemon_has_workers_of_its_own() -> None:
    """As in Gymnasium's asynchronous vector environments, whose processes may have no children by multiprocessing."""
    before, in_child, echo, after = _fork("daemon")
    assert in_child != before and echo == ["child"]
    assert after == before


def test_workers_end_with_their_parent() -> None:
    _, pid, _, _ = _fork("child")
    for _ in range(100):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        if Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z":  # ended; nobody has asked how
            return
        time.sleep(0.05)
    raise AssertionError(f"worker {pid} lives on")


# In a process of its own: environments are forked, which one that has grown as the tests' has may not be.
VECTOR = r"""
import sys

import gymnasium as gym
import psutil

async_ = {"vectorization_mode": "async", "vector_kwargs": {"shared_memory": False}}
vector = gym.make_vec("envs:GSM8K-v0", num_envs=2, data=sys.argv[1], **async_)
vector.reset(seed=0)
vector.step(["<answer>\frac{7}{2}</answer>"] * 2)
made = psutil.Process().children(recursive=True)
assert sum("envs.verify.workers" in process.cmdline() for process in made) == 2
vector.close()
assert not psutil.wait_procs(made, timeout=30)[1]
"""


def test_the_workers_of_vector_environments_end_with_them(tmp_path: Path) -> None:
    """Each environment is a process, and has a verifier in another one."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"question": "1/2 + 3?", "answer": "#### 3.5"}) + "\n")
    subprocess.run([sys.executable, "-c", VECTOR, rows], check=True, timeout=120)
