"""Calls of code that may never return, each in a thread and within a time limit. Knows nothing about what is called.

Python cannot end a thread. One that is over its limit is left to itself, and another takes its place; it is asked to
end by an exception, which it meets as soon as it is back in Python, and in the end of the process it is no obstacle. A
process bears so many of them, and no more.
"""

from __future__ import annotations

import ctypes
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

MOST_STUCK = 32  # threads of a process that are left to themselves, and still there

_stuck: set[threading.Thread] = set()


class CallTimeoutError(TimeoutError):
    """A call took longer than it may."""


class TooManyStuckError(RuntimeError):
    """So many threads are stuck that the process is of no use any more."""


class _GivenUp(SystemExit):
    """What a stuck thread meets where it is back in Python. Of this kind alone nothing is printed."""


class Call:
    """A call that waits, runs or is over. Made by `LimitedCalls.submit`."""

    def __init__(self, function: Callable[[], Any], if_late: Callable[[], None]):
        self.function, self.if_late = function, if_late
        self.deadline: float | None = None  # of one that runs
        self.thread: threading.Thread | None = None
        self.is_over = self.is_late = False
        self.value: Any = None
        self.error: BaseException | None = None


class LimitedCalls:
    """Some threads, for as long as the `with` lasts. Calls begin in the order in which they are submitted.

    Args:
        num_threads: How many calls run at the same time.
        limit_s: What each may take, in seconds, from when it runs.
    """

    def __init__(self, num_threads: int, limit_s: float):
        self._num_threads, self._limit_s = num_threads, limit_s
        lock = threading.Lock()
        self._work_is_there, self._changed = threading.Condition(lock), threading.Condition(lock)
        self._waiting: deque[Call] = deque()
        self._running: set[Call] = set()
        self._is_closed = False

    def __enter__(self) -> LimitedCalls:
        for _ in range(self._num_threads):
            self._start_thread()
        return self

    def __exit__(self, *exception: Any) -> None:
        with self._work_is_there:
            self._is_closed = True
            self._waiting.clear()
            self._work_is_there.notify_all()

    def submit(self, function: Callable[[], Any], if_late: Callable[[], None] = lambda: None) -> Call:
        """Has a function called.

        Args:
            function: What it returns or raises, `result` does.
            if_late: Called in the same thread, should the function come back when nobody waits for it any more.
        """
        call = Call(function, if_late)
        with self._work_is_there:
            self._waiting.append(call)
            self._work_is_there.notify()
        return call

    def result(self, call: Call) -> Any:
        """Waits for a call.

        Raises:
            Exception: What it raised. `SystemExit` and the like, which would end this thread, as a `RuntimeError`.
            CallTimeoutError: If it took too long.
            TooManyStuckError: If this is one too many of those that hang.
        """
        with self._changed:
            while not call.is_over:
                now = time.monotonic()
                for late in [each for each in self._running if (each.deadline or now) < now]:
                    self._give_up(late)
                left = [each.deadline - now for each in self._running if each.deadline is not None]
                if not call.is_over:
                    self._changed.wait(max(0.0, min(left, default=self._limit_s)))
        if isinstance(call.error, Exception):
            raise call.error
        if call.error is not None:
            raise RuntimeError(f"{type(call.error).__name__}: {call.error}") from call.error
        return call.value

    def _give_up(self, call: Call) -> None:
        assert call.thread is not None and call.thread.ident is not None
        self._running.discard(call)
        call.is_over = call.is_late = True
        call.error = CallTimeoutError(f"no answer in {self._limit_s:g} s")
        _stuck.add(call.thread)
        ctypes.pythonapi.PyThreadState_SetAsyncExc(
            ctypes.c_ulong(call.thread.ident), ctypes.py_object(_GivenUp)
        )
        if sum(thread.is_alive() for thread in [*_stuck]) > MOST_STUCK:
            raise TooManyStuckError(
                f"more than {MOST_STUCK} calls hang, and Python cannot end them: the last one gave no answer in "
                f"{self._limit_s:g} s"
            )
        self._start_thread()

    def _start_thread(self) -> None:
        threading.Thread(target=self._live, daemon=True, name="limited calls").start()

    def _live(self) -> None:
        call: Call | None = None
        try:
            while (call := self._next()) is not None and not call.is_late:
                value: Any = None
                error: BaseException | None = None
                try:
                    value = call.function()
                except BaseException as raised:  # nothing that is called ends a thread
                    error = raised
                with self._changed:
                    if call.is_late:
                        break
                    self._running.discard(call)
                    call.value, call.error, call.is_over = value, error, True
                    self._changed.notify_all()
        except _GivenUp:
            pass
        finally:
            _stuck.discard(threading.current_thread())
            if call is not None and call.is_late:
                call.if_late()

    def _next(self) -> Call | None:
        """The call whose turn it is; None at the end."""
        with self._work_is_there:
            while not self._waiting and not self._is_closed:
                self._work_is_there.wait()
            if not self._waiting:
                return None
            call = self._waiting.popleft()
            call.thread, call.deadline = threading.current_thread(), time.monotonic() + self._limit_s
            self._running.add(call)
            self._changed.notify_all()
            return call
