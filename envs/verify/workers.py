"""Worker processes for functions that cannot be trusted with time or memory, such as algebra on a model's own text.

A call runs in another process, under limits that the kernel enforces: they hold in any thread and any process, Ray's
actors and Gymnasium's daemons included, and against code that never returns to Python. A worker that breaks one is
killed, and the next call gets a new one. Knows nothing of mathematics.

A worker talks in lines of JSON over pipes: requests on its standard input, replies on a copy of its standard output.
"""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from typing import Any

CPU_SECONDS = 2  # that a call may take
WALL_SECONDS = 60.0  # after which a worker counts as stuck, whatever else the machine is doing
START_SECONDS = 120.0  # for a worker's imports, which are not the call's fault
MEMORY_BYTES = 2 << 30  # of address space
MAX_WORKERS = 8


class TimeLimit(Exception):
    """The call took longer than it may."""


class MemoryLimit(Exception):
    """The call wanted more memory than it may, or broke its worker otherwise."""


class WorkerPool:
    """Calls of one function in worker processes, as many at once as there are callers, up to a limit.

    Args:
        function: "module:function", of texts to something that JSON knows.
        max_workers: processes at once; by default one a core, at most 8. They start when they are first needed.
        cpu_seconds: that a call may take; up to a second more, since the kernel counts whole ones.
    """

    def __init__(self, function: str, max_workers: int | None = None, cpu_seconds: int = CPU_SECONDS):
        self.function = function
        self.cpu_seconds = cpu_seconds
        self.max_workers = max_workers or min(MAX_WORKERS, os.cpu_count() or 1)
        self._reset()
        os.register_at_fork(after_in_child=self._reset)  # pipes are not to be shared with a child

    def _reset(self) -> None:
        self._idle: list[_Worker] = []
        self._slots = threading.BoundedSemaphore(self.max_workers)
        self._lock = threading.Lock()

    def call(self, *arguments: str) -> Any:
        """Calls the function in a worker; waits for one to be free.

        Raises:
            TimeLimit, MemoryLimit: The call broke that limit.
            RuntimeError: No worker can be started, or the function itself raised.
        """
        with self._slots:
            with self._lock:
                worker = self._idle.pop() if self._idle else None
            if worker is not None and not worker.alive:
                worker.kill()  # closes its pipes
                worker = None
            worker = worker or _Worker(self.function, self.cpu_seconds)
            try:
                reply = worker.call(arguments)
            except BaseException:
                worker.kill()
                raise
            with self._lock:
                self._idle.append(worker)
        if "error" in reply:
            raise RuntimeError(f"{self.function} failed in its worker: {reply['error']}")
        return reply["result"]


class _Worker:
    """One process, as its parent sees it."""

    def __init__(self, function: str, cpu_seconds: int):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "envs.verify.workers", function, str(cpu_seconds)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
                "PYTHONHASHSEED": "0",  # verdicts shall not depend on the order of a set
                "OMP_NUM_THREADS": "1",
            },
        )
        self.received = b""
        if self.read(START_SECONDS) != {"ready": True}:
            self.kill()
            raise RuntimeError(
                f"a worker for {function} does not start: try `python -m envs.verify.workers {function} {cpu_seconds}`"
            )

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def call(self, arguments: tuple[str, ...]) -> dict[str, Any]:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(arguments).encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # it died; how, its exit status says
        reply = self.read(WALL_SECONDS)
        if reply is None:
            if self.process.wait() == -signal.SIGXCPU or self.timed_out:
                raise TimeLimit
            raise MemoryLimit
        if reply.get("limit") == "memory":
            raise MemoryLimit
        return reply

    def read(self, seconds: float) -> dict[str, Any] | None:
        """The next line of JSON; None, and a dead worker, if it ends or stays silent."""
        assert self.process.stdout is not None
        self.timed_out = False
        deadline = time.monotonic() + seconds
        file = self.process.stdout.fileno()
        poller = select.poll()  # unlike select(), fit for any number of open files
        poller.register(file, select.POLLIN | select.POLLHUP)
        while b"\n" not in self.received:
            left = deadline - time.monotonic()
            if left <= 0 or not poller.poll(1000 * left):
                self.timed_out = True
                self.process.kill()
                return None
            chunk = os.read(file, 1 << 16)
            if not chunk:
                return None
            self.received += chunk
        line, self.received = self.received.split(b"\n", 1)
        return json.loads(line)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            with suppress(OSError):
                assert pipe is not None
                pipe.close()


def _serve(function: Callable[..., Any], cpu_seconds: int, requests: Any, replies: Any) -> None:
    """The worker's own loop, until its parent closes the pipe or is gone."""

    def reply(**content: Any) -> None:
        replies.write(json.dumps(content).encode() + b"\n")
        replies.flush()

    reply(ready=True)
    for line in requests:
        # SIGXCPU, at this many seconds of the process's life, kills: it has no handler, and nothing can hold it up.
        used = resource.getrusage(resource.RUSAGE_SELF)
        _set_limit(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime) + cpu_seconds + 1)
        try:
            reply(result=function(*json.loads(line)))
        except (MemoryError, RecursionError):
            reply(limit="memory")
        except Exception as error:
            reply(error=f"{type(error).__name__}: {error}"[:500])


def _set_limit(what: int, value: int) -> None:
    """Sets a limit of this process, below that which it was started under, which only root may raise."""
    hard = resource.getrlimit(what)[1]
    resource.setrlimit(what, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))


def _main() -> None:
    module, _, name = sys.argv[1].partition(":")
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no reply
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business; its end closes the pipe
    function = getattr(import_module(module), name)
    signal.signal(signal.SIGXCPU, signal.SIG_DFL)  # a parent's choice to ignore or block it is inherited
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGXCPU])
    _set_limit(resource.RLIMIT_AS, MEMORY_BYTES)
    _set_limit(resource.RLIMIT_CORE, 0)
    _serve(function, int(sys.argv[2]), sys.stdin.buffer, replies)


if __name__ == "__main__":
    _main()
