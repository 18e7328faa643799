"""How many requests go to a server at a time: growing, shrinking, pausing."""

from __future__ import annotations

import threading
import time

from llmenv.evaluation.concurrency import Concurrency


def rounds(gate: Concurrency, outcomes: list[str]) -> None:
    """One request after the other, each with its outcome."""
    for outcome in outcomes:
        ticket = gate.enter(time.monotonic())
        assert ticket is not None
        gate.leave(ticket, outcome)


def test_it_doubles_until_the_first_refusal_and_creeps_then() -> None:
    gate = Concurrency(start=2, most=100)
    rounds(gate, ["answered"] * (2 + 4 + 8))
    assert gate.history == [(0, 2), (2, 4), (6, 8), (14, 16)]
    rounds(gate, ["too many"])
    assert gate.limit == 11  # 0.7 * 16, rounded down
    rounds(gate, ["answered"] * 11)
    assert gate.limit == 12  # one more, a twentieth of 11 being less
    assert gate.history[-2:] == [(15, 11), (26, 12)]


def test_a_failure_begins_the_round_anew() -> None:
    gate = Concurrency(start=3)
    rounds(gate, ["answered", "answered", "failed", "answered", "answered"])
    assert gate.history == [(0, 3)]
    rounds(gate, ["answered"])
    assert gate.limit == 6


def test_what_was_under_way_shrinks_it_once() -> None:
    gate = Concurrency(start=10)
    tickets = [gate.enter(time.monotonic()) for _ in range(10)]
    assert gate.enter(time.monotonic()) is None  # no eleventh
    for ticket in tickets:
        gate.leave(ticket or 0, "too many")
    assert gate.limit == 7
    rounds(gate, ["too many"])
    assert gate.limit == 4  # 4.9
    rounds(gate, ["too many"] * 9)
    assert gate.limit == 1  # and no less


def test_nobody_passes_in_a_pause_nor_when_closed() -> None:
    gate = Concurrency()
    start = time.monotonic()
    gate.leave(gate.enter(start) or 0, "too many", pause=0.2)
    assert gate.enter(start + 0.1) is None
    assert gate.enter(start + 9) is not None
    assert 0.2 <= time.monotonic() - start < 2
    gate = Concurrency(start=1)
    gate.enter(start)
    threading.Timer(0.1, gate.close).start()
    assert gate.enter(time.monotonic() + 60) is None
    assert time.monotonic() - start < 10
