"""Rows of data sets: read from parquet, JSONL or the hub, written in the schema of TinyZero and verl.

Knows files, columns and prompts; which task a row is, and how its answers are judged, is for environments to say.

A source is a file, a folder, or a hub id: `owner/name` or `owner/name:config`. Its splits, "train" and "test", are:

- of a folder, the files whose names begin with the split, parquet before JSONL;
- of a file with the word "train" or "test" in its name, itself and the file beside it that has the other word;
- of any file with a column "split", the rows that say so. A row of which nothing says so is training data.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import pyarrow as pa

_HUB_ID = re.compile(r"([\w.-]+/[\w.-]+)(?::([\w.-]+))?")
_SPLIT_WORD = re.compile(r"(?<![a-z])(train|test)(?![a-z])")
_SUFFIXES = (".parquet", ".jsonl")
_ROW_GROUP = 10_000  # rows that are in memory at once while a file is written

R1_PREAMBLE = (  # what the template "r1" puts before the system message
    "A conversation between User and Assistant. The user asks a question, and the Assistant solves it. "
)
_FLAT_PROMPTS = (
    # TinyZero's multiplication has a space where its Countdown and our template have the end of a line.
    re.compile(rf"{re.escape(R1_PREAMBLE)}(.*?)[\n ]User: (.*)[\n ]Assistant: (.*)", re.DOTALL),
    re.compile(
        r"<\|im_start\|>system\n(.*?)<\|im_end\|>\n<\|im_start\|>user\n(.*)<\|im_end\|>\n<\|im_start\|>assistant\n(.*)",
        re.DOTALL,
    ),
)


class Rows(Sequence[dict[str, Any]]):
    """The rows of one split, each a dict.

    A process holds them once, however many environments share them, and a pickle holds only where they are from.

    Attributes:
        origin: a file, folder or hub id.
        columns: the names that a row may have.
    """

    def __init__(self, origin: str, table: _Table, *load_arguments: Any) -> None:
        self.origin = origin
        self.columns = table.columns
        self._table = table
        self._load_arguments = load_arguments

    def __len__(self) -> int:
        return self._table.length

    def __getitem__(self, index: Any) -> Any:
        return self._table.get(index)

    def __reduce__(self) -> tuple[Any, ...]:
        return load_rows, (self.origin, *self._load_arguments)


class _Table(NamedTuple):
    columns: tuple[str, ...]
    length: int
    get: Callable[[int], dict[str, Any]]


def load_rows(
    source: str | Path, split: str | None, columns: Sequence[str], unnamed_split: str = "train"
) -> Rows:
    """Load one split of a source.

    Args:
        source: a file, a folder or a hub id (see the head of this module).
        split: "train", "test", or None for all that the source holds.
        columns: names to load; those that the source does not have are left out.
        unnamed_split: the split of rows of which neither they themselves nor the name of their file say one.

    Raises:
        ValueError: the source is missing or cannot be read, or it has no such split, no rows or none of the columns.
    """
    path, wanted = Path(source).expanduser(), tuple(columns)
    hub_id = _HUB_ID.fullmatch(str(source))
    if hub_id and path.suffix not in _SUFFIXES and not path.exists():
        origin = str(source)
        table = _read_hub(hub_id[1], hub_id[2], split or "all", wanted)
    else:
        origin = str(path.absolute())
        stats = [(file, file.stat()) for file in _find_files(path.absolute(), split)]
        stamps = tuple((file, s.st_mtime_ns, s.st_size) for file, s in stats)
        named = path.is_dir() or _SPLIT_WORD.search(path.name)
        table = _read_files(stamps, split, split if named else unnamed_split, wanted)
    if not table.columns:
        raise ValueError(f"{origin} has none of the columns {', '.join(wanted)}: is it data of another kind?")
    if not table.length:
        raise ValueError(
            f"{origin} holds no rows{f' of the split {split!r}' if split else ''}: a row says its split by a column "
            '"split", a file by its name, with train or test in it'
        )
    return Rows(origin, table, split, wanted, unnamed_split)


def split_files(folder: Path, split: str) -> list[Path]:
    """The files of a folder that hold a split; none where there is no such folder."""
    for suffix in _SUFFIXES:
        if files := sorted(folder.glob(f"{split}*{suffix}")):
            return files
    return []


def _find_files(path: Path, split: str | None) -> list[Path]:
    if path.is_dir():
        if files := split_files(path, split or ""):
            return files
        names = ", ".join(sorted(file.name for file in path.iterdir())[:10]) or "nothing"
        raise ValueError(
            f"{path} has no {split or ''}*.parquet or {split or ''}*.jsonl, but {names}: name its files by their split"
        )
    file = path if split is None else path.with_name(_SPLIT_WORD.sub(split, path.name))
    if not file.is_file():
        beside = f", to be the {split} split of {path.name}" if file != path else ""
        raise ValueError(
            f"there is no file {file}{beside}: give a .parquet or .jsonl file, a folder with train* and test* files, "
            "or a hub id (owner/name)"
        )
    if file.suffix not in _SUFFIXES:
        raise ValueError(f"{file} is neither .parquet nor .jsonl: convert it to one of them")
    return [file]


@lru_cache(maxsize=8)  # a runner has hundreds of environments
def _read_files(
    stamps: tuple[tuple[Path, int, int], ...],
    split: str | None,
    unnamed_split: str | None,
    wanted: tuple[str, ...],
) -> _Table:
    """Read files, known by path, time and size so that one which changed is read again."""
    files = [file for file, _, _ in stamps]
    read = _read_parquet if files[0].suffix == ".parquet" else _read_jsonl
    return read(files, split, unnamed_split, wanted)


def _read_parquet(
    files: list[Path], split: str | None, unnamed_split: str | None, wanted: tuple[str, ...]
) -> _Table:
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    tables = []
    for file in files:
        try:
            names = pq.read_schema(file).names
            keep = [name for name in dict.fromkeys((*wanted, "split")) if name in names]
            tables.append(pq.read_table(file, columns=keep, memory_map=True))
        except pa.ArrowInvalid as error:
            raise ValueError(
                f"{file} is no parquet file, or only part of one ({error}): write it again"
            ) from None
    table = pa.concat_tables(tables, promote_options="permissive")
    if split is not None and "split" in table.column_names:
        table = table.filter(pc.equal(pc.fill_null(table["split"], unnamed_split), split))
    elif split != unnamed_split and split is not None:
        table = table.slice(0, 0)
    columns = {name: table[name] for name in wanted if name in table.column_names}

    def get(index: int) -> dict[str, Any]:
        return {name: column[index].as_py() for name, column in columns.items()}

    return _Table(tuple(columns), len(table), get)


def _read_jsonl(
    files: list[Path], split: str | None, unnamed_split: str | None, wanted: tuple[str, ...]
) -> _Table:
    """Keep the lines as they are, which takes far less memory than the objects in them."""
    lines: list[bytes] = []
    columns: dict[str, None] = {}
    for file in files:
        for number, line in enumerate(file.read_bytes().splitlines(), start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise ValueError(
                    f"line {number} of {file} is not JSON ({error}): a line must be an object"
                ) from None
            if not isinstance(row, dict):
                raise ValueError(f"line {number} of {file} is {line[:40]!r}: a line must be a JSON object")
            columns.update(dict.fromkeys(row))
            if split is None or (row.get("split") or unnamed_split) == split:
                lines.append(line)

    def get(index: int) -> dict[str, Any]:
        row = json.loads(lines[index])
        return {name: row[name] for name in wanted if name in row}

    return _Table(tuple(name for name in wanted if name in columns), len(lines), get)


@lru_cache(maxsize=8)
def _read_hub(name: str, config: str | None, split: str, wanted: tuple[str, ...]) -> _Table:
    try:
        from datasets import load_dataset
    except ModuleNotFoundError as error:
        raise ValueError(
            f"reading {name} from the hub needs the package datasets: pip install 'llmenv[datasets]'"
        ) from error
    try:
        dataset = load_dataset(name, config, split=split)
    except Exception as error:  # of many kinds, of several libraries
        raise ValueError(
            f"there is no file or folder {name}, and no data set of that name could be loaded from the hub "
            f"({type(error).__name__}: {error}): check the name and the network"
        ) from error
    columns = [column for column in wanted if column in dataset.column_names]
    return _Table(tuple(columns), len(dataset), dataset.select_columns(columns).__getitem__)


class Prompt(NamedTuple):
    """The parts of a prompt; None where a row leaves one to the environment."""

    question: str
    system: str | None = None
    assistant_prefix: str | None = None


def flat_prompt(prompt: Prompt) -> str:
    """A whole prompt in one text, as TinyZero gives it to base models; what the template "r1" makes of the parts."""
    return f"{R1_PREAMBLE}{prompt.system}\nUser: {prompt.question}\nAssistant: {prompt.assistant_prefix}"


def parse_prompt(messages: Sequence[Mapping[str, Any]]) -> Prompt:
    """Take a row's column "prompt" apart, so that a template is not applied to what one has made already.

    A last user message that is a whole prompt, of TinyZero's form for base models or its form for Qwen's instruct
    models, gives all three parts. Otherwise it is the question, and a system message, if there is one, the system.

    Raises:
        ValueError: there is no user message, or it is not a text.
    """
    last = {}
    if not isinstance(messages, str) and all(isinstance(message, Mapping) for message in messages):
        last = {message.get("role"): message.get("content") for message in messages}
    content = last.get("user")
    if not isinstance(content, str):
        raise ValueError(
            "the column prompt must be a list of {role, content}, one of the role user with a text"
        )
    for form in _FLAT_PROMPTS:
        if parts := form.fullmatch(content):
            return Prompt(parts[2], parts[1], parts[3])
    return Prompt(content, last.get("system"))


def task_schema(truth: pa.DataType, *columns: pa.Field) -> pa.Schema:
    """The columns of a file for TinyZero or verl: a task's own, then those that they read."""
    import pyarrow as pa

    message = pa.struct([("role", pa.string()), ("content", pa.string())])
    return pa.schema(
        [
            *columns,
            ("data_source", pa.string()),
            ("prompt", pa.list_(message)),
            ("ability", pa.string()),
            ("reward_model", pa.struct([("style", pa.string()), ("ground_truth", truth)])),
            ("extra_info", pa.struct([("split", pa.string()), ("index", pa.int64())])),
        ]
    )


def task_row(
    data_source: str, prompt: Sequence[Mapping[str, str]], truth: Any, split: str, index: int, **columns: Any
) -> dict[str, Any]:
    """A row of `task_schema`."""
    return {
        **columns,
        "data_source": data_source,
        "prompt": prompt,
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": truth},
        "extra_info": {"split": split, "index": index},
    }


def write_rows(file: Path, rows: Iterable[Mapping[str, Any]], schema: pa.Schema) -> None:
    """Write a parquet file, holding a row group of it in memory at a time. The same rows give the same bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = iter(rows)
    with pq.ParquetWriter(file, schema) as writer:
        while group := list(islice(rows, _ROW_GROUP)):
            writer.write_table(pa.Table.from_pylist(group, schema=schema))
