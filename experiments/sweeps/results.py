"""What a sweep writes down while it runs, a line a round, and what that comes to. Knows nothing of Ray.

results.jsonl    a line a round of each trial, and one for each failure
lineage.jsonl    a line an exchange of a population
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

RESULTS, LINEAGE = "results.jsonl", "lineage.jsonl"
SEARCH = "search"  # the arm that all others stand beside
START = "start"  # the policy that training starts from
FRESH = "fresh"  # what stands where an arm does, for looks at policies on tasks that selected none
COSTS = ("round", "evaluation", "exchange")
# Of a trial's result, what is kept.
FIGURES = (
    "iterations",
    "tokens",
    "seconds",
    "round_tokens",
    "round_seconds",
    "evaluation_seconds",
    "exchange_seconds",
    "score",
    "score_low",
    "score_high",
    "verdicts",
)


def write_line(file: Path, line: dict[str, Any]) -> None:
    with file.open("a") as lines:
        lines.write(json.dumps(line) + "\n")


def read_lines(file: Path) -> list[dict[str, Any]]:
    """All whole lines; a kill may have left half of one."""
    found = []
    for line in file.read_text().splitlines() if file.exists() else []:
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def trials_of(lines: list[dict[str, Any]], arm: str) -> list[dict[str, Any]]:
    """What became of each trial of an arm, in the order of their numbers.

    Args:
        lines: Of results.jsonl. A round that was lost to a kill stands there twice: its cost counts twice, the later
            one's result counts.
        arm: Its name.

    Returns:
        For each: number, seed, settings, of (whose policy it looks at afresh, else None), state ("finished", "stopped"
        early, "failed" or "unfinished"), cause of a failure, iterations, tokens and seconds of the policy; spent_tokens
        and spent_seconds, all that the trial took to train, what it gave up at an exchange too; busy_seconds, with
        evaluations and exchanges; score, score_low, score_high, verdicts, and its curve.
    """
    found: dict[int, dict[str, Any]] = {}
    for line in lines:
        if line["arm"] != arm:
            continue
        trial = found.setdefault(
            line["number"],
            {"spent_tokens": 0, "spent_seconds": 0.0, "busy_seconds": 0.0, "score": None, "curve": []},
        )
        trial |= {"number": line["number"], "seed": line["seed"]}
        trial |= {"settings": line["settings"], "of": line["of"]}
        trial |= {"state": line["state"], "cause": line.get("cause")}
        if "score" not in line:
            continue
        trial |= {name: line[name] for name in FIGURES if name in line and not name.startswith(COSTS)}
        trial["spent_tokens"] += line.get("round_tokens", 0)
        trial["spent_seconds"] += line.get("round_seconds", 0.0)
        trial["busy_seconds"] += sum(line.get(f"{cost}_seconds", 0.0) for cost in COSTS)
        again = [point for point in trial["curve"] if point["spent_tokens"] < trial["spent_tokens"]]
        trial["curve"] = [*again, {name: trial[name] for name in ("spent_tokens", "tokens", "score")}]
    for trial in found.values():
        if trial["state"] == "running":
            trial["state"] = "unfinished"
    return [found[number] for number in sorted(found)]


def best(trials: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The trial with the highest score at its end; None where none came to one."""
    scored = [
        trial for trial in trials if trial["state"] in ("finished", "stopped") and trial["score"] is not None
    ]
    return max(scored, key=lambda trial: trial["score"], default=None)


def schedules(
    lines: list[dict[str, Any]], lineage: list[dict[str, Any]], arm: str
) -> dict[int, list[dict[str, Any]]]:
    """What each trial's policy was trained with, from when on: through its donors and theirs.

    Args:
        lines: Of results.jsonl.
        lineage: Of lineage.jsonl, in the order of the exchanges.
        arm: Its name.

    Returns:
        By trial: "iterations" and "tokens" of the policy, and the "settings" from there on.
    """
    found: dict[int, list[dict[str, Any]]] = {}
    for line in lines:
        if line["arm"] == arm:
            first = {"iterations": 0, "tokens": 0, "settings": line["settings"]}
            found.setdefault(line["number"], [first])
    for exchange in lineage:
        then = {"iterations": exchange["donor_iterations"], "tokens": exchange["donor_tokens"]}
        found[exchange["trial"]] = [*found[exchange["donor"]], {**then, "settings": exchange["settings"]}]
    return found


def lives(arm: Mapping[str, Any], lineage: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A population as a tree of policies: each exchange ends one and begins another.

    Args:
        arm: "winner" and "trials", as a summary has them.
        lineage: Of lineage.jsonl, in the order of the exchanges.

    Returns:
        For each policy: trial, start and end in its tokens, parent (a place in this list, or None), and whether the
        winner comes from it.
    """
    found: list[dict[str, Any]] = []
    newest: dict[int, int] = {}
    for trial in arm["trials"]:
        newest[trial["number"]] = len(found)
        found.append({"trial": trial["number"], "start": 0, "end": trial.get("tokens", 0), "parent": None})
    for exchange in lineage:
        before = found[newest[exchange["trial"]]]
        begun = {**before, "start": exchange["donor_tokens"], "parent": newest[exchange["donor"]]}
        before["end"] = exchange["tokens"]
        newest[exchange["trial"]] = len(found)
        found.append(begun)
    forebear = newest.get(arm["winner"])
    for life in found:
        life["forebear"] = False
    while forebear is not None:
        found[forebear]["forebear"] = True
        forebear = found[forebear]["parent"]
    return found
