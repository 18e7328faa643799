"""Scores completions that are there already, over the one rollout loop: no model is asked. Knows no model.

A file, parquet or JSON lines, has a row a completion, in one of two forms:

- an evaluation's records (its folder, or one file of them): scored by the verifiers of today, which tells whose
  verdicts they change. Of several turns, `turns` stays as it was;
- what other tools wrote: the text in `completion`, and the task: `task`, the number of a held-out one as an evaluation
  counts them, from 0; or `seed`, `index` or `options`, what the environment's `reset` takes. `options` is an object,
  such as {"numbers": [1, 2, 3], "target": 6}, or its JSON. `finish_reason` "length" says that the text was cut, `env`
  names another environment. A text that ends reasoning which it did not begin is taken to go on with `<think>`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from operator import index
from pathlib import Path
from typing import Any, NamedTuple

from llmenv.episode import derive_seed
from llmenv.evaluation.records import KEY, NO_INDEX, Records
from llmenv.evaluation.run import Asking, Plan, held_out
from llmenv.evaluation.scores import score
from llmenv.evaluation.tasks import count_tasks, evaluation_requests
from llmenv.evaluation.text_models import FAILED, Reply, TextSampler, text_subject
from llmenv.rollout import GroupRequest
from llmenv.text import with_think
from llmenv.versions import versions

OF_RECORDS = {
    "env",
    "env_options",
    "seed",
    "index",
    "sample",
    "completion",
    "turns",
    "finish_reason",
    "messages",
}
JUDGED = (
    "reward",
    "reward_parts",
    "correct",
    "well_formed",
    "answer",
    "right_answer",
    "failure",
    "error",
    "versions",
)
MOST_TASKS = 1_000_000  # of which `task` may be one
GONE = Reply("", f"{FAILED}: the file has no turn more")


class _Said(NamedTuple):
    """A row: where it is asked, what its turns said, and the record that it is of, if it is."""

    env: str
    options: str
    request: GroupRequest
    turns: list[Reply]
    record: dict[str, Any] | None


def score_completions(
    file: str | Path,
    env: str,
    output: str | Path,
    *,
    env_options: Mapping[str, Any] | None = None,
    seed: int = 0,
    batch_size: int = 256,
) -> dict[str, Any]:
    """Scores a file's completions, and records that as an evaluation of them.

    Args:
        file: See the module.
        env: Where rows are asked that do not say where.
        output: A folder of records: a new one, or that of the same file.
        env_options: Arguments of the environments, over those that records have.
        seed: Of the tasks that `task` counts.
        batch_size: Completions that are judged at a time.

    Returns:
        summary.json's content: as of `llmenv.evaluation.run.evaluate`, and "changed": of records whose verdict is
        another one now, env, task, sample, then, now ("right", "wrong" or "error"), answer, right_answer, failure.

    Raises:
        ValueError: If a row lacks something, or its environment asks another question than the record has.
    """
    path = Path(file)
    rows = read_rows(path)
    given = dict(env_options or {})
    if not rows:
        raise ValueError(f"{path} has no rows")
    said = [*(_recorded(rows, given) if rows[0].keys() >= OF_RECORDS else _written(rows, env, given, seed))]
    fingerprint = hashlib.sha256(json.dumps([one.turns for one in said]).encode()).hexdigest()[:16]
    settings = {"completions": str(path), "fingerprint": fingerprint, "env_options": given}
    records = Records(Path(output), settings)
    told = {turn_seed: reply for one in said for turn_seed, reply in _by_seed(one)}
    replay = TextSampler(lambda conversations, params, seeds: [told.get(each, GONE) for each in seeds])
    subject = text_subject(path.stem, fingerprint, replay, settings)
    changed: list[dict[str, Any]] = []
    for (each, options), group in groupby(sorted(said, key=_where), _where):
        asked = [*group]
        with Asking(subject, Plan([each], max_new_tokens=0, seed=seed), each, json.loads(options)) as asking:
            for start in range(0, len(asked), batch_size):
                batch = asked[start : start + batch_size]
                judged = asking.rows([one.request for one in batch])
                records.append([*map(_merged, batch, judged)])
                changed += filter(None, map(_change, batch, judged))
    frame = records.read()
    figures = {
        each: score(frame[frame["env"] == each], sum(row.get("env", env) == each for row in rows))
        for each in dict.fromkeys(one.env for one in said)
    }
    summary = {"settings": settings, "versions": versions(), "environments": figures, "changed": changed}
    records.write_summary(summary)
    return summary


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a parquet file, of an evaluation's folder, or of a file of JSON lines.

    Raises:
        ValueError: If it is none of these.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if path.suffix == ".jsonl":
            rows = [json.loads(line) for line in path.read_bytes().splitlines() if line.strip()]
            if all(isinstance(row, dict) for row in rows):
                return rows
        elif path.is_file():
            return pq.ParquetFile(path).read().to_pylist()
        elif files := sorted((path / "records").glob("part_*.parquet")):
            rows = [row for file in files for row in pq.ParquetFile(file).read().to_pylist()]
            return [*{tuple(row[name] for name in KEY): row for row in rows}.values()]
    except (pa.ArrowInvalid, ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    raise ValueError(f"{path} is no parquet file, no .jsonl of objects, and no evaluation's folder")


def _recorded(rows: Sequence[Mapping[str, Any]], given: Mapping[str, Any]) -> Iterator[_Said]:
    """Rows of records; one whose model gave no response has nothing to score."""
    for number, row in enumerate(rows):
        if row["finish_reason"] not in ("stop", "length"):
            continue
        options = None if row["index"] == NO_INDEX else {"index": row["index"]}
        request = GroupRequest(number, 1, row["seed"], number, options, first=row["sample"])
        turns = json.loads(row["turns"]) if row["turns"] else []
        texts = [(turn["text"], turn["finish_reason"]) for turn in turns]
        replies = [Reply(*said) for said in texts or [(row["completion"], row["finish_reason"])]]
        where = json.dumps({**json.loads(row["env_options"]), **given}, sort_keys=True)
        yield _Said(row["env"], where, request, replies, dict(row))


def _written(
    rows: Sequence[Mapping[str, Any]], env: str, given: dict[str, Any], seed: int
) -> Iterator[_Said]:
    """Rows of other tools. A task's samples are numbered in their order."""
    options = {each: held_out(each, given) for each in {row.get("env", env) for row in rows}}
    most = 1 + max((row["task"] for row in rows if _is_number(row.get("task"))), default=-1)
    held = {
        each: evaluation_requests(most, count_tasks(each, where), seed=seed)
        for each, where in options.items()
    }
    tasks: dict[str, int] = {}
    samples: dict[int, int] = {}
    for number, row in enumerate(rows):
        if not isinstance(text := row.get("completion"), str):
            raise ValueError(f"row {number} has no text in `completion`: it has {', '.join(map(str, row))}")
        each = row.get("env", env)
        try:
            request = _task_of(row, held[each])
        except (TypeError, ValueError) as error:
            raise ValueError(f"row {number}: {error}") from error
        key = json.dumps([each, request.seed, request.options], sort_keys=True)
        task = tasks.setdefault(key, len(tasks))
        samples[task] = samples.get(task, -1) + 1
        if "seed" not in row and "task" not in row:  # records tell tasks apart by their seeds
            request = replace(request, seed=task)
        request = replace(request, group=task, sampling_seed=number, first=samples[task])
        where = json.dumps(options[each], sort_keys=True)
        reason = "length" if row.get("finish_reason") == "length" else "stop"
        yield _Said(each, where, request, [Reply(with_think(text), reason)], None)


def _is_number(task: Any) -> bool:
    return isinstance(task, int) and 0 <= task < MOST_TASKS


def _task_of(row: Mapping[str, Any], held: Sequence[GroupRequest]) -> GroupRequest:
    task = row.get("task")
    if task is not None:
        if not _is_number(task) or task >= len(held):
            raise ValueError(f"there is no held-out task {task!r}: they are numbered from 0")
        return held[task]
    options = row.get("options")
    options = json.loads(options) if isinstance(options, str) else options
    if options is None and row.get("index") is not None:
        options = {"index": index(row["index"])}
    if options is None and row.get("seed") is None:
        raise ValueError("it names no task: give it one of `task`, `seed`, `index` and `options`")
    return GroupRequest(0, 1, index(row.get("seed") or 0), 0, options)


def _where(one: _Said) -> tuple[str, str]:
    return one.env, one.options


def _by_seed(one: _Said) -> Iterator[tuple[int, Reply]]:
    """Each turn's reply by what the loop seeds it with."""
    seed = derive_seed(one.request.sampling_seed, one.request.first)
    for turn, reply in enumerate(one.turns, 1):  # the one that is being answered counts
        yield derive_seed(seed, turn), reply


def _merged(one: _Said, judged: Mapping[str, Any]) -> dict[str, Any]:
    """A record as it was, with the verdict of today.

    Raises:
        ValueError: If it is no longer the same question.
    """
    if one.record is None:
        return dict(judged)
    then, now = (_question(row["messages"]) for row in (one.record, judged))
    if now is not None and then != now:
        raise ValueError(
            f"the environment {one.env} asks another question now for task {one.record['task']} ({now[:80]!r}; the "
            f"record has {(then or '')[:80]!r}): completions of other tasks cannot be scored, evaluate again"
        )
    return {**one.record, **{name: judged[name] for name in JUDGED}}


def _question(messages: str) -> str | None:
    return next((each["content"] for each in json.loads(messages) if each["role"] == "user"), None)


def _change(one: _Said, judged: Mapping[str, Any]) -> dict[str, Any] | None:
    if one.record is None or (then := _verdict(one.record)) == (now := _verdict(judged)):
        return None
    told = {name: one.record[name] for name in ("env", "task", "sample")} | {"then": then, "now": now}
    return told | {name: judged[name] for name in ("answer", "right_answer", "failure")}


def _verdict(row: Mapping[str, Any]) -> str:
    return "error" if row["error"] is not None else "right" if row["correct"] else "wrong"
