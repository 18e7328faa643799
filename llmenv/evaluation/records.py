"""The records of an evaluation: a folder of parquet files, a row a sample. They are the truth; figures come from them.

evaluation.json   the settings that all records have in common; others are refused
records/          part_000000.parquet, ...: each is whole, or not there (pandas.read_parquet reads the folder)
summary.json      what came of it
starts.jsonl      by which commands, if it was by one: not looked into

Knows nothing about models: what a setting means is the business of whoever evaluates.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmenv.episode import TextEpisode, Turn
from llmenv.files import replaced

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)

# The column of each figure, and its type in the files.
TEXTS = [
    "task",
    "env",
    "env_options",
    "messages",
    "prompt",
    "completion",
    "finish_reason",
    "turns",
    "reward_parts",
    "answer",
    "right_answer",
    "failure",
    "error",
    "model",
    "fingerprint",
    "sampler",
    "versions",
]
NUMBERS = {
    "seed": "int64",
    "index": "int64",
    "sample": "int64",
    "reward": "double",
    "seconds": "double",
    **dict.fromkeys(("correct", "well_formed", "truncated", "again"), "bool"),
}
ARRAYS = {"prompt_ids": "int32", "response_ids": "int32", "logps": "float"}
KEY = ("env", "seed", "index", "sample")
Key = tuple[str, int, int, int]
NO_INDEX = -1  # of a task that is drawn
STARTS = "starts.jsonl"


class Records:
    """An evaluation's folder.

    Args:
        path: The folder; made if needed.
        settings: What all its records have in common, of JSON's types.

    Raises:
        ValueError: If the folder holds records of other settings; the message names what differs.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]):
        self.path, self.parts = path, path / "records"
        settings = json.loads(json.dumps(settings))
        file = path / "evaluation.json"
        if file.is_file():
            _refuse_others(path, json.loads(file.read_text()), settings)
        elif path.exists() and (not path.is_dir() or any(file.name != STARTS for file in path.glob("[!.]*"))):
            raise ValueError(f"{path} holds something that is no evaluation: name another folder")
        self.parts.mkdir(parents=True, exist_ok=True)
        for left_behind in (*path.glob(".partial_*"), *self.parts.glob(".partial_*")):
            left_behind.unlink()
        if not file.is_file():
            self._write_json(file, settings)

    def read(self, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """All records, in the order in which they were written; of two of one sample, the later.

        A file that is none of parquet's is put aside as NAME.broken: what it held is owed again.

        Raises:
            OSError: If the system cannot read a file now, as where too many are open: it may be whole.
            ValueError: If a file has other columns.
        """
        import pandas as pd
        import pyarrow as pa
        import pyarrow.parquet as pq

        wanted = None if columns is None else [*dict.fromkeys((*KEY, *columns))]
        tables = [schema().empty_table().select(wanted or schema().names)]
        for file in sorted(self.parts.glob("part_*.parquet")):
            try:
                tables.append(_table(pq.ParquetFile(file).read(columns=wanted), tables[0].column_names))
            except (pa.ArrowInvalid, OSError) as error:
                if getattr(error, "errno", None) is not None:
                    raise
                logger.warning("%s is broken, its samples are made again: %s", file, error)
                file.rename(file.with_suffix(".broken"))
            except KeyError as error:
                raise ValueError(f"{file} has no column {error}: another version wrote it") from error
        frame = pa.concat_tables(tables).to_pandas(types_mapper={pa.bool_(): pd.BooleanDtype()}.get)
        return frame.drop_duplicates([*KEY], keep="last", ignore_index=True)

    def done(self) -> set[Key]:
        """The samples that need not be made again."""
        frame = self.read(["again"])
        return set(frame.loc[~frame["again"], [*KEY]].itertuples(index=False, name=None))

    def append(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Writes a file of records; after a kill it is there whole, or not at all."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        last = max((int(file.stem[5:]) for file in self.parts.glob("part_*.parquet")), default=-1)
        with replaced(self.parts / f"part_{last + 1:06d}.parquet") as partial:
            pq.write_table(pa.Table.from_pylist([*rows], schema=schema()), partial, compression="zstd")

    def read_summary(self) -> dict[str, Any]:
        """What was written last; empty where nothing was."""
        file = self.path / "summary.json"
        return json.loads(file.read_text()) if file.is_file() else {}

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        self._write_json(self.path / "summary.json", summary)

    @staticmethod
    def _write_json(file: Path, content: Mapping[str, Any]) -> None:
        with replaced(file) as partial:
            partial.write_text(json.dumps(content, indent=2) + "\n")


def _table(table: Any, names: Sequence[str]) -> Any:
    """With these columns alone. Records of before rewards had parts have no column of them."""
    import pyarrow as pa

    for name in {*names} & {"reward_parts"} - {*table.column_names}:
        table = table.append_column(name, pa.nulls(len(table), pa.string()))
    return table.select(names)


def schema() -> Any:
    """Of the files, pyarrow's."""
    import pyarrow as pa

    return pa.schema(
        [(name, pa.string()) for name in TEXTS]
        + [(name, pa.type_for_alias(kind)) for name, kind in NUMBERS.items()]
        + [(name, pa.list_(pa.type_for_alias(kind))) for name, kind in ARRAYS.items()]
    )


def record(episode: TextEpisode, env: str, env_options: Mapping[str, Any], prompt: str) -> dict[str, Any]:
    """What an episode says of itself, as a row.

    Args:
        episode: One sample.
        env: The environment's id.
        env_options: Its arguments.
        prompt: The first prompt as text.
    """
    turns = [turn for turn in episode.turns if len(turn.response_ids) or turn.text or turn.info]
    last = turns[-1] if turns else None
    info = last.info if last else {}
    options = json.dumps(env_options, sort_keys=True, default=str)
    task = [env, options, episode.observation, as_text(episode.right_answer)]
    if not episode.observation:  # it failed before it asked anything
        task += [str(episode.seed), str(episode.index)]
    row = {
        "task": hashlib.sha256(json.dumps(task).encode()).hexdigest()[:16],
        "env": env,
        "env_options": options,
        "seed": episode.seed,
        "index": NO_INDEX if episode.index is None else episode.index,
        "sample": episode.sample,
        "messages": json.dumps(_messages(episode)),
        "prompt": prompt,
        "prompt_ids": episode.turns[0].prompt_ids if episode.turns else [],
        "completion": episode.transcript,
        "response_ids": [int(token) for turn in turns for token in turn.response_ids],
        "logps": [float(logp) for turn in turns for logp in turn.logps],
        "finish_reason": last.finish_reason if last else "",
        "turns": json.dumps([_turn(turn) for turn in turns], default=str) if len(turns) > 1 else None,
        "reward": episode.total_reward,
        "reward_parts": None if episode.reward_parts is None else json.dumps(episode.reward_parts),
        "correct": _verdict(info, "correct"),
        "well_formed": _verdict(info, "well_formed"),
        "answer": info.get("answer"),
        "right_answer": episode.right_answer,
        "failure": info.get("failure"),
        "truncated": episode.truncated or episode.hit_length_cap,
        "error": episode.error,
        "again": False,
    }
    return {name: as_text(value) if name in TEXTS else value for name, value in row.items()}


def as_text(value: Any) -> str | None:
    """As UTF-8 can hold it: half a surrogate pair, which a model may write, it cannot."""
    return None if value is None else str(value).encode(errors="replace").decode()


def _verdict(info: Mapping[str, Any], name: str) -> bool | None:
    return bool(info[name]) if info.get(name) is not None else None


def _messages(episode: TextEpisode) -> list[dict[str, str]]:
    """The first prompt's, as the environment has them; the last is how the answer begins."""
    parts = (
        ("system", episode.system),
        ("user", episode.observation),
        ("assistant", episode.assistant_prefix),
    )
    return [{"role": role, "content": content} for role, content in parts if content]


def _turn(turn: Turn) -> dict[str, Any]:
    return {
        "prompt_ids": turn.prompt_ids.tolist(),
        "response_ids": turn.response_ids.tolist(),
        "text": turn.text,
        "finish_reason": turn.finish_reason,
        "reward": turn.reward,
        "info": turn.info,
        "observation": turn.observation,
    }


def _refuse_others(path: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    differ = [
        f"{name} was {old.get(name)!r} and is {new.get(name)!r}"
        for name in {**old, **new}
        if old.get(name) != new.get(name)
    ]
    if differ:
        raise ValueError(
            f"{path} holds records of other settings: {'; '.join(differ)}. Name another --output, or give the settings "
            "that it has (more tasks, samples and environments may be asked for)"
        )
