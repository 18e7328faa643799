"""How many requests a server is sent at a time: found out by asking for more. Knows nothing about what is asked."""

from __future__ import annotations

import threading
import time

START, MOST = 16, 256  # requests at a time
SHRINK = 0.7
SMALL_STEP = 20  # a part of the limit by which it grows once the server has said where it ends


class Concurrency:
    """Lets so many threads through at a time as a server bears.

    The limit doubles with each round (as many answers as it is) until the server first says "too many". That shrinks it
    to 0.7 of what it was, once for all requests that were under way; from then on a round adds a twentieth. A failure
    of the server's own begins the round anew: no growth while it is in trouble, and no shrinking either.

    Attributes:
        limit: At a time.
        history: (requests let through before, the limit from then on) for each change, the start included.
    """

    def __init__(self, start: int = START, most: int = MOST):
        self.limit, self.most = start, most
        self.history = [(0, start)]
        self._condition = threading.Condition()
        self._under_way = self._let_through = self._round = self._shrunk = 0
        self._not_before = 0.0
        self._is_closed = False

    def enter(self, end: float) -> int | None:
        """Waits to be let through, at most until `end` (of `time.monotonic`).

        Returns:
            What `leave` is to be given; None where it did not come to that in time, or all is over.
        """
        with self._condition:
            while not self._is_closed:
                now = time.monotonic()
                pause = self._not_before - now
                if pause <= 0 and self._under_way < self.limit:
                    self._under_way += 1
                    self._let_through += 1
                    return self._shrunk
                if now >= end:
                    return None
                self._condition.wait(min(end - now, pause if pause > 0 else 1.0))
            return None

    def leave(self, ticket: int, outcome: str, pause: float = 0.0) -> None:
        """Says how a request ended.

        Args:
            ticket: Of `enter`. Requests that were under way when the limit shrank do not shrink it once more.
            outcome: "answered", "too many" or "failed".
            pause: Seconds in which the server wants no requests.
        """
        with self._condition:
            self._under_way -= 1
            if outcome == "answered":
                self._round += 1
                if self._round >= self.limit:
                    step = max(1, self.limit // SMALL_STEP) if self._shrunk else self.limit
                    self._set(min(self.most, self.limit + step))
            elif outcome == "too many" and ticket == self._shrunk:
                self._shrunk += 1
                self._set(max(1, int(SHRINK * self.limit)))
            else:
                self._round = 0
            self._not_before = max(self._not_before, time.monotonic() + pause if pause else 0.0)
            self._condition.notify_all()

    def open(self) -> None:
        """Lets requests through again."""
        self._is_closed = False

    def close(self) -> None:
        """Lets nobody through any more, who waits included."""
        with self._condition:
            self._is_closed = True
            self._condition.notify_all()

    def _set(self, limit: int) -> None:
        self._round = 0
        if limit != self.limit:
            self.limit = limit
            self.history.append((self._let_through, limit))
