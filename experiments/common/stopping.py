"""How a run is asked to stop from outside: by Ctrl-C, SIGTERM and SIGHUP. Knows nothing about what the run does."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

ENDINGS = (signal.SIGTERM, signal.SIGHUP)


class CutShortError(Exception):
    """SIGTERM or SIGHUP came in the middle of something that may be given up."""


class StopSignals:
    """Remembers the signals that ask for an end; within it they do nothing else.

    The first Ctrl-C asks for an end after the iteration at hand; the second one raises `KeyboardInterrupt` at once.

    SIGTERM comes from a machine that is to be taken away within half a minute, or a few minutes. What may be given up
    (`cutting_short`) ends where it stands. What may not is waited for, however often the signal comes: should that take
    longer than there is time, what is on the disk is what remains. SIGHUP, of a terminal that is gone, is one too,
    unless it is ignored, as under `nohup`.

    Attributes:
        received: The last of them; None while there was none.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._may_cut: Callable[[], bool] = lambda: False
        self._cut = False

    def __enter__(self) -> StopSignals:
        self._previous = {
            number: signal.signal(number, self._handle)
            for number in (signal.SIGINT, *ENDINGS)
            if number == signal.SIGINT or signal.getsignal(number) != signal.SIG_IGN
        }
        return self

    def __exit__(self, *exception: Any) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    @property
    def exit_status(self) -> int:
        """As a shell has it of a process that a signal ended: 130, 143 or 129; 0 without one."""
        return 0 if self.received is None else 128 + self.received

    @contextlib.contextmanager
    def cutting_short(self, allowed: Callable[[], bool]) -> Iterator[None]:
        """Within it SIGTERM and SIGHUP end what is going on.

        Args:
            allowed: Whether it may at this moment.

        Raises:
            CutShortError: If one of them came, now or before.
        """
        if self.received in ENDINGS:
            raise CutShortError
        self._may_cut = allowed
        try:
            yield
        except KeyboardInterrupt:
            if self._cut:
                raise CutShortError from None
            raise
        finally:
            self._may_cut = lambda: False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        again, self.received = self.received is not None, signal.Signals(number)
        if number in ENDINGS:
            _tell("terminated: the run ends as soon as there is a whole checkpoint (Ctrl-C: at once)")
            if self._may_cut():
                self._cut = True
                raise KeyboardInterrupt  # the one exception that Ray's own waiting lets through
        elif again:
            raise KeyboardInterrupt
        else:
            _tell("stopping after this iteration (Ctrl-C again: at once)")


def _tell(message: str) -> None:
    with contextlib.suppress(OSError):  # whoever read it may have got the signal too
        print(f"\n{message}", file=sys.stderr)
