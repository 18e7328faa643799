"""Rejection sampling's second half: of an evaluation's records, those that are worth learning from, and why.

What a sample must be, in this order: right, whole and without an error; readable; unlike the others of its task; of no
task that is held out. Then so many of each task as `llmenv.selection` says, and of those what the environment calls
right when it is asked once more. Knows no model.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from envs.readability import why_unreadable
from llmenv.conversations import question_of
from llmenv.data import load_rows
from llmenv.env import make_env
from llmenv.evaluation.records import Records
from llmenv.evaluation.rescoring import score_completions
from llmenv.evaluation.tasks import count_tasks, evaluation_requests
from llmenv.files import replaced
from llmenv.selection import HeldOut, Sample, kept, pass_rates, unique

if TYPE_CHECKING:
    import pandas as pd

KEPT = "kept.parquet"
STAGES = ("sampled", "right", "readable", "unique", "not held out", "kept", "verified anew")
HELD_OUT_TASKS = 1024  # of each environment: as many as the largest evaluation of the presets


@dataclass(frozen=True)
class Wanted:
    """What is kept.

    Attributes:
        keep: See `llmenv.selection.kept`; so is `most`.
        most: At most so many samples a task.
        script: Of the letters of readable text, as Unicode names it.
        most_foreign: Share of letters that may be of other scripts.
        fewest_words: Share of words that must be of this one.
        most_repeated: Share of 4-grams that may have stood before.
    """

    keep: str = "all"
    most: int | None = None
    script: str = "LATIN"
    most_foreign: float = 0.05
    fewest_words: float = 0.95
    most_repeated: float = 0.8

    def why_unreadable(self, text: str) -> str | None:
        limits = {name: getattr(self, name) for name in ("most_foreign", "fewest_words", "most_repeated")}
        return why_unreadable(text, self.script, **limits)


def keep_records(folder: Path, wanted: Wanted, held_out: Sequence[str] = ()) -> dict[str, Any]:
    """Writes `kept.parquet` beside the records of an evaluation, and the funnel into its summary.

    A row is a record, with what it was kept for: `pass_rate` and `num_samples` of its task, and `why`.

    Args:
        folder: The evaluation's.
        wanted: What is kept.
        held_out: Sources of questions that nothing may be learned from: evaluations' folders, or data. The
            environments' own held-out tasks are among them in any case.

    Returns:
        By environment, how many samples passed each of STAGES.

    Raises:
        ValueError: If nothing is kept; the file has no row then.
    """
    records = Records(folder, json.loads((folder / "evaluation.json").read_text()))
    frame = records.read()
    samples = _samples(frame)
    others = HeldOut([*_own_questions(frame), *(text for each in held_out for text in _questions(each))])
    asked = [question_of({"messages": messages}) for messages in frame["messages"]]
    texts = frame["completion"].tolist()
    passed = [[*range(len(samples))]]
    passed.append([i for i in passed[-1] if samples[i].right])
    passed.append([i for i in passed[-1] if wanted.why_unreadable(texts[i]) is None])
    passed.append(unique(samples, passed[-1]))
    passed.append(
        [i for i in passed[-1] if not (others.has(asked[i]) or others.shares_words(f"{asked[i]} {texts[i]}"))]
    )
    passed.append(kept(samples, wanted.keep, wanted.most, passed[-1]))
    passed.append(_verified_anew(frame, passed[-1]) if passed[-1] else [])
    envs = frame["env"].tolist()
    funnel = {
        env: {
            stage: sum(envs[i] == env for i in numbers) for stage, numbers in zip(STAGES, passed, strict=True)
        }
        for env in dict.fromkeys(envs)
    }
    summary = json.loads((folder / "summary.json").read_text())
    records.write_summary({**summary, "wanted": vars(wanted), "funnel": funnel})
    # Without a row, too: what was kept before must not be learned from, nor, where there is no such file, all records.
    _write(folder / KEPT, frame, samples, passed[-1], wanted)
    if not passed[-1]:
        raise ValueError(f"nothing of {folder} is kept: its summary.json says at which stage all was lost")
    return funnel


def _samples(frame: pd.DataFrame) -> list[Sample]:
    """What was not judged is not right; what was cut short would teach never to end."""
    right = frame["correct"].fillna(False) & ~frame["truncated"].fillna(True) & frame["error"].isna()
    lengths = frame["response_ids"].map(len)
    columns = (frame["task"], right.astype(bool), frame["reward"], lengths, frame["completion"])
    return [Sample(*values) for values in zip(*columns, strict=True)]


def _verified_anew(frame: pd.DataFrame, numbers: Sequence[int]) -> list[int]:
    """Of those numbers the ones that are still right: a verdict may have been a time limit's, or of another version.

    Raises:
        ValueError: If an environment asks another question than the record has.
    """
    rows = frame.iloc[numbers]
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "rows.parquet"
        rows.to_parquet(file, index=False)
        changed = score_completions(file, rows["env"].iloc[0], Path(scratch) / "verified")["changed"]
    others = {(row["env"], row["task"], row["sample"]) for row in changed}
    keys = zip(rows["env"], rows["task"], rows["sample"], strict=True)
    return [i for i, key in zip(numbers, keys, strict=True) if key not in others]


def _write(
    file: Path, frame: pd.DataFrame, samples: Sequence[Sample], numbers: Sequence[int], wanted: Wanted
) -> None:
    rates = pass_rates(samples)
    rows = frame.iloc[numbers].copy()
    rows["pass_rate"] = [rates[task] for task in rows["task"]]
    rows["num_samples"] = [sum(sample.task == task for sample in samples) for task in rows["task"]]
    most = f", at most {wanted.most} a task by its pass rate" if wanted.most else ""
    rows["why"] = f"right, readable, unique, not held out, verified anew; {wanted.keep}{most}"
    with replaced(file) as partial:
        rows.to_parquet(partial, index=False)


def _own_questions(frame: pd.DataFrame) -> Iterator[str]:
    """What the environments ask when they ask of their split "test"."""
    for env, text in frame[["env", "env_options"]].drop_duplicates().itertuples(index=False):
        options = {**json.loads(text), "split": "test"}
        made = make_env(env, options)
        for request in evaluation_requests(HELD_OUT_TASKS, count_tasks(env, options)):
            yield made.reset(seed=request.seed, options=request.options)[0]
        made.close()


def _questions(source: str) -> Iterator[str]:
    path = Path(source).expanduser()
    place = path / "records" if (path / "records").is_dir() else path if path.exists() else source
    rows = load_rows(place, None, ("messages", "prompt", "question", "problem"))
    for i in range(len(rows)):
        yield question_of(rows[i])
