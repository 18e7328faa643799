"""Calls within a time limit: what hangs costs its own call alone, and a bounded number of threads."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from llmenv import limited_calls
from llmenv.limited_calls import CallTimeoutError, LimitedCalls, TooManyStuckError


@pytest.fixture
def never() -> Iterator[threading.Event]:
    """What a hanging call waits for; set at the end of the test."""
    event = threading.Event()
    yield event
    event.set()


def wait_until(is_so) -> None:
    for _ in range(500):
        if is_so():
            return
        time.sleep(0.01)
    raise AssertionError("it never was")


def test_results_and_errors_are_those_of_the_call() -> None:
    with LimitedCalls(2, 60.0) as calls:
        squares = [calls.submit(lambda i=i: i * i) for i in range(50)]
        assert [calls.result(call) for call in reversed(squares)] == [i * i for i in reversed(range(50))]
        with pytest.raises(KeyError, match="'x'"):
            calls.result(calls.submit(lambda: {}["x"]))
        for ending in (SystemExit(3), KeyboardInterrupt()):  # neither ends whoever asks, nor the thread

            def end(ending: BaseException = ending) -> None:
                raise ending

            with pytest.raises(RuntimeError, match=type(ending).__name__):
                calls.result(calls.submit(end))
        assert calls.result(calls.submit(lambda: "on")) == "on"


def test_the_limit_counts_from_when_a_call_runs() -> None:
    """Six calls of 0.1 s in one thread: the last one waits for 0.5 s, longer than the limit."""
    with LimitedCalls(1, 0.4) as calls:
        queued = [calls.submit(lambda: time.sleep(0.1)) for _ in range(6)]
        assert [calls.result(call) for call in queued] == [None] * 6


def test_one_that_hangs_is_given_up_and_others_go_on(never: threading.Event) -> None:
    closed: list[str] = []
    with LimitedCalls(1, 0.2) as calls:
        hangs = calls.submit(never.wait, if_late=lambda: closed.append("closed"))
        after = calls.submit(lambda: "on")
        assert calls.result(after) == "on"
        with pytest.raises(CallTimeoutError, match=r"^no answer in 0\.2 s$"):
            calls.result(hangs)
    assert not closed, "it is in use still"
    never.set()
    wait_until(lambda: closed == ["closed"])


def test_one_that_computes_for_ever_is_ended() -> None:
    """In Python, without a system call: it would slow down all else."""
    ended: list[str] = []

    def compute() -> None:
        try:
            while True:
                pass
        finally:
            ended.append("ended")

    with LimitedCalls(1, 0.1) as calls, pytest.raises(CallTimeoutError):
        calls.result(calls.submit(compute))
    wait_until(lambda: ended == ["ended"])
    wait_until(lambda: not limited_calls._stuck)


def test_a_process_bears_so_many(never: threading.Event, monkeypatch: pytest.MonkeyPatch) -> None:
    wait_until(lambda: not limited_calls._stuck)  # those of other tests have ended
    monkeypatch.setattr(limited_calls, "MOST_STUCK", 3)
    for _ in range(3):  # a pool of its own each: they count together
        with LimitedCalls(1, 0.05) as calls, pytest.raises(CallTimeoutError):
            calls.result(calls.submit(never.wait))
    with LimitedCalls(1, 0.05) as calls, pytest.raises(TooManyStuckError, match="more than 3 calls hang"):
        calls.result(calls.submit(never.wait))


STUCK = """
import time
from llmenv.limited_calls import CallTimeoutError, LimitedCalls

with LimitedCalls(1, 0.1) as calls:
    try:
        calls.result(calls.submit(lambda: time.sleep(1000)))
    except CallTimeoutError:
        print("given up")
"""


def test_a_stuck_thread_does_not_hold_up_the_end_of_the_process() -> None:
    out = subprocess.check_output([sys.executable, "-c", STUCK], text=True, timeout=60)
    assert out == "given up\n"
