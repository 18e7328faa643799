"""The samples of a page: records of evaluations and of runs in one form, columns of JSON's types, bounded in size."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from llmenv.evaluation.records import as_text

MOST_SAMPLES = 20_000
MOST_CHARACTERS = 100_000_000  # of all completions: 53 million took a browser 3 to 6 s on two busy cores
LONGEST = 100_000  # characters of one text
FLAGS = ("right", "wrong", "malformed", "truncated", "failed")  # bit i, as in store.js

TASK = ("key", "env", "question", "system", "prompt", "right_answer")
SAMPLE = ("answer", "failure", "error", "finish_reason", "reward", "rewards", "reward_parts")
COUNTED = ("prompt_tokens", "response_tokens", "seconds")


def of_evaluation(frame: pd.DataFrame, name: str) -> pd.DataFrame:
    """An evaluation's records, as the page has samples.

    Args:
        frame: What `experiments.common.records.read_records` gave; records that others wrote may have fewer columns.
        name: Of the set that they are, such as "A".
    """
    made = frame.assign(key=frame["task"].astype(str), set=name)
    if "messages" in frame:
        messages = [_messages(text) for text in frame["messages"]]
        made["question"] = [found.get("user") for found in messages]
        made["system"] = [found.get("system") for found in messages]
    if "turns" in frame:
        made["rewards"] = [_turn_rewards(turns) for turns in frame["turns"]]
    for tokens in ("prompt", "response"):
        if f"{tokens}_ids" in frame:
            made[f"{tokens}_tokens"] = frame[f"{tokens}_ids"].map(len)
    return _completed(made)


def of_run(frame: pd.DataFrame, name: str, env: str) -> pd.DataFrame:
    """A file of a run's `samples/`, as the page has samples.

    Args:
        frame: Its content.
        name: Of the set that they are, such as "iteration 10, training".
        env: The environment's id; where it has parts, theirs are taken.
    """
    keys = [
        f"{seed}" if pd.isna(index) else f"{seed}.{int(index)}"
        for seed, index in zip(frame["seed"], frame["index"], strict=True)
    ]
    columns = {
        "key": keys,
        "set": name,
        "env": frame.get("part", env),
        "question": frame["prompt"],
        "prompt": None,
    }
    if "truncated" not in frame:
        columns["truncated"] = frame["finish_reason"] == "length"
    return _completed(frame.assign(**columns))


def embedded(frame: pd.DataFrame) -> dict[str, Any]:
    """The samples as the page embeds them: "sets", "tasks", "samples" and "completions", in columns, and "left_out".

    Where there are too many, whole tasks are left out, evenly.
    """
    kept = _bounded(frame)
    sets = list(dict.fromkeys(kept["set"]))
    tasks = kept.drop_duplicates(["env", "key"])
    numbers = {pair: i for i, pair in enumerate(zip(tasks["env"], tasks["key"], strict=True))}
    samples = {name: plain(kept[name]) for name in (*SAMPLE, *COUNTED)}
    samples["task"] = [numbers[pair] for pair in zip(kept["env"], kept["key"], strict=True)]
    samples["set"] = [sets.index(name) for name in kept["set"]]
    samples["sample"] = [int(number) for number in kept["sample"]]
    samples["flags"] = _flags(kept)
    return {
        "sets": sets,
        "tasks": {name: plain(tasks[name]) for name in TASK},
        "samples": samples,
        "completions": plain(kept["completion"]),
        "left_out": len(frame) - len(kept),
    }


def nothing() -> pd.DataFrame:
    """No samples, with the columns of some."""
    return _completed(pd.DataFrame())


def _completed(frame: pd.DataFrame) -> pd.DataFrame:
    """With all columns that the page has; what was not recorded is None."""
    judged = ("correct", "well_formed", "truncated")
    columns = [*dict.fromkeys((*TASK, "set", "sample", "completion", *judged, *SAMPLE, *COUNTED))]
    if "reward_parts" in frame:
        frame = frame.assign(reward_parts=[_parts(text) for text in frame["reward_parts"]])
    return frame.reindex(columns=columns).astype(object)


def _messages(text: str) -> dict[str, str | None]:
    # JSON can have half a surrogate pair, pandas' texts cannot.
    return {message["role"]: as_text(message["content"]) for message in json.loads(text)}


def _turn_rewards(turns: str | None) -> list[float] | None:
    return [turn["reward"] for turn in json.loads(turns)] if isinstance(turns, str) else None


def _parts(text: str | None) -> str | None:
    if not isinstance(text, str):
        return None
    return ", ".join(f"{name} {paid:.3g}" for name, paid in json.loads(text).items())


def _bounded(frame: pd.DataFrame) -> pd.DataFrame:
    characters = sum(min(len(text), LONGEST) for text in frame["completion"] if isinstance(text, str))
    share = min(1.0, MOST_SAMPLES / max(len(frame), 1), MOST_CHARACTERS / max(characters, 1))
    if share == 1:
        return frame
    task = frame.groupby(["env", "key"], sort=False).ngroup()
    kept = frame[((task + 1) * share).map(math.floor) > (task * share).map(math.floor)]
    return kept if len(kept) else frame.iloc[:: math.ceil(1 / share)]  # a few tasks of very many samples


def _flags(frame: pd.DataFrame) -> list[int]:
    failed = frame["error"].notna()
    right = frame["correct"].eq(True) & ~failed
    chosen = {
        "right": right,
        "wrong": ~right & ~failed,
        "malformed": frame["well_formed"].eq(False) & ~failed,
        "truncated": frame["truncated"].eq(True),
        "failed": failed,
    }
    return [
        int(number) for number in sum(chosen[name].astype(int) * (1 << i) for i, name in enumerate(FLAGS))
    ]


def plain(values: Iterable[Any]) -> list[Any]:
    """Of JSON's types: what is no finite number is None, and a long text is cut."""
    return [_value(value) for value in values]


def _value(value: Any) -> Any:
    if isinstance(value, str):
        return value if len(value) <= LONGEST else f"{value[:LONGEST]}\n[cut: {len(value):,} characters]"
    if isinstance(value, list | np.ndarray):
        return plain(value)
    if value is None or pd.isna(value):
        return None
    number = float(value)
    if not math.isfinite(number):
        return None
    return int(number) if number.is_integer() else float(f"{number:.6g}")
