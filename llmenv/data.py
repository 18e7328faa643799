"""Rows of data sets, read from parquet, JSONL or the hub.

Knows files and columns; which task a row is, and how its answers are judged, is for environments to say.

A source is a file, a folder, or a hub id: `owner/name`, `owner/name:config`, and with `@split` behind it one split of
the hub's, whatever its name. Its splits, "train" and "test", are:

- of a folder, the file named as the split (train.parquet, train.jsonl), else its shards (train-00000-of-00002.parquet),
  else all files whose names begin with it, unless they have rows in common;
- of a file with the word "train" or "test" in its name, itself and the file beside it that has the other word;
- of any file with a column "split", the rows that say so. A row of which nothing says so is training data.

Files and folders may be on any filesystem that pyarrow knows, by their URI (`llmenv.remote`).

Parquet goes before JSONL. `Question` is read as the column `question`.
"""

from __future__ import annotations

import json
import logging
import re
from bisect import bisect_right
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import accumulate, combinations
from pathlib import Path
from typing import Any, NamedTuple

from llmenv.remote import is_uri, local_copy

logger = logging.getLogger(__name__)

_HUB_ID = re.compile(r"([\w.-]+/[\w.-]+)(?::([\w.-]+))?(?:@([\w.-]+))?")
_SPLIT_WORD = re.compile(r"(?<![a-z])(train|test)(?![a-z])")
_SHARD = re.compile(
    r"[-_.]?[0-9]+(?P<of>-of-[0-9]+)?(-[0-9a-f]+)?"
)  # what follows the split in a shard's name
SUFFIXES = (".parquet", ".jsonl")
WANTED = tuple(f"*{suffix}" for suffix in SUFFIXES)  # of a folder on another filesystem
_ASKING = ("question", "problem", "prompt")  # two files that have these in common hold the same tasks


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

    def where(self, index: int) -> str:
        """Which row that is, for an error: "row 3 of FOLDER, row 1 of FILE"."""
        return f"row {index} of {self.origin}{self._table.where(index)}"


class _Table(NamedTuple):
    columns: tuple[str, ...]
    length: int
    get: Callable[[int], dict[str, Any]]
    where: Callable[[int], str] = lambda index: ""  # of a table of several files, the one that has a row


def load_rows(
    source: str | Path, split: str | None, columns: Sequence[str], unnamed_split: str = "train"
) -> Rows:
    """Load one split of a source.

    Args:
        source: a file, a folder, a URI of one, or a hub id (see the head of this module).
        split: "train", "test", or None for all that the source holds.
        columns: names to load; those that the source does not have are left out.
        unnamed_split: the split of rows of which neither they themselves nor the name of their file say one.

    Raises:
        ValueError: the source is missing or cannot be read, or it has no such split, no rows or none of the columns.
    """
    path, wanted = _here(source, split), tuple(columns)
    hub_id = _HUB_ID.fullmatch(str(source))
    if hub_id and path.suffix not in SUFFIXES and not path.exists():
        origin = str(source)
        table = _read_hub(hub_id[1], hub_id[2], hub_id[3] or split or "all", wanted)
    else:
        origin = str(source if is_uri(source) else path.absolute())
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


def _here(source: str | Path, split: str | None) -> Path:
    """Where a source is on this machine, which a URI's are brought to first; that of the split, of two files."""
    if not is_uri(source):
        return Path(source).expanduser()
    place, mark, query = str(source).partition("?")
    folder, _, name = place.rpartition("/")
    name = _SPLIT_WORD.sub(split, name) if split and name.endswith(SUFFIXES) else name
    return local_copy(f"{folder}/{name}{mark}{query}", WANTED)


def split_files(folder: Path, split: str) -> list[Path]:
    """The files of a folder that hold a split; none where there is no such folder.

    What stands beside the file of that very name, or beside its shards, are variants of the same rows, such as
    train_socratic.jsonl.
    """
    kinds: list[Callable[[str], Any]] = [lambda stem: True]
    if split:
        kinds = [lambda stem: stem == split, lambda stem: _SHARD.fullmatch(stem, len(split)), *kinds]
    for is_of_kind in kinds:
        for suffix in SUFFIXES:
            files = sorted(file for file in folder.glob(f"{split}*{suffix}") if is_of_kind(file.stem))
            if files:
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
    if file.suffix not in SUFFIXES:
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
    if files[0].suffix == ".parquet":
        _refuse_different_types(files, wanted)
        tables = [_read_parquet(file, split, unnamed_split, wanted) for file in files]
    else:
        tables = [_read_jsonl(file, split, unnamed_split, wanted) for file in files]
    if len(files) == 1:
        return tables[0]
    if split is not None:
        _refuse_variants(files, split, tables)
    return _join(files, tables, wanted)


def _join(files: Sequence[Path], tables: Sequence[_Table], wanted: Sequence[str]) -> _Table:
    ends = list(accumulate(table.length for table in tables))

    def find(index: int) -> tuple[int, int]:
        if not 0 <= index < ends[-1]:
            raise IndexError(f"there is no row {index} of {ends[-1]}")
        part = bisect_right(ends, index)
        return part, index - (ends[part] - tables[part].length)

    def get(index: int) -> dict[str, Any]:
        part, number = find(index)
        return tables[part].get(number)

    def where(index: int) -> str:
        part, number = find(index)
        return f", row {number} of {files[part].name}"

    columns = tuple(name for name in wanted if any(name in table.columns for table in tables))
    return _Table(columns, ends[-1], get, where)


def _refuse_variants(files: Sequence[Path], split: str, tables: Sequence[_Table]) -> None:
    """Files that are no numbered parts of one whole may be the same tasks told twice."""
    shards = [_SHARD.fullmatch(file.stem, len(split)) for file in files]
    if all(shards) and len({shard["of"] for shard in shards if shard} - {None}) == 1:
        return
    for (file, table), (other, its) in combinations(zip(files, tables, strict=True), 2):
        if table.columns != its.columns:
            logger.warning(
                "%s and %s are read as one, and have other columns (%s; %s): if they are no parts of one data set, "
                "give one of them as data=",
                *(file, other.name, ", ".join(table.columns), ", ".join(its.columns)),
            )
        asking = [name for name in _ASKING if name in table.columns and name in its.columns]
        if asking and (common := _asked(table, asking) & _asked(its, asking)):
            raise ValueError(
                f"{file} and {other.name} have {len(common)} of the same {asking[0]}s, such as "
                f"{min(common)[1:80]}, so that one is a variant of the other: give one of them as data="
            )


def _asked(table: _Table, asking: Sequence[str]) -> set[str]:
    rows = (table.get(index) for index in range(table.length))
    return {json.dumps([row.get(name) for name in asking], default=str, ensure_ascii=False) for row in rows}


def _refuse_different_types(files: Sequence[Path], wanted: Sequence[str]) -> None:
    """A column that is a text in one file and a number in another would be read as two kinds of tasks."""
    import pyarrow as pa

    first: dict[str, tuple[Path, pa.Field]] = {}
    for file in files:
        schema = _parquet_schema(file)
        for name, own in _spelled(wanted, schema.names).items():
            field = schema.field(own).with_name(name).remove_metadata()
            other, its = first.setdefault(name, (file, field))
            try:
                pa.unify_schemas([pa.schema([its]), pa.schema([field])], promote_options="permissive")
            except (pa.ArrowTypeError, pa.ArrowInvalid):
                raise ValueError(
                    f"the column {name} is {its.type} in {other} and {field.type} in {file.name}: write it with one "
                    "type, or put the files into folders of their own"
                ) from None


def _parquet_schema(file: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_schema(file)
    except pa.ArrowInvalid as error:
        raise ValueError(
            f"{file} is no parquet file, or only part of one ({error}): write it again"
        ) from None


def _spelled(wanted: Sequence[str], names: Sequence[str]) -> dict[str, str]:
    """How a source spells those of the wanted columns that it has: as they are; or, if in lower case, in another."""
    by_case = {name.lower(): name for name in reversed(names)}
    spelled = {name: name if name in names else by_case.get(name) for name in wanted}
    return {name: own for name, own in spelled.items() if own}


def _read_parquet(
    file: Path, split: str | None, unnamed_split: str | None, wanted: tuple[str, ...]
) -> _Table:
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    names = _parquet_schema(file).names
    spelled = _spelled(wanted, names)
    keep = [name for name in dict.fromkeys((*spelled.values(), "split")) if name in names]
    table = pq.read_table(file, columns=keep, memory_map=True)
    if split is not None and "split" in table.column_names:
        table = table.filter(pc.equal(pc.fill_null(table["split"], unnamed_split), split))
    elif split != unnamed_split and split is not None:
        table = table.slice(0, 0)
    columns = {name: table[own] for name, own in spelled.items()}

    def get(index: int) -> dict[str, Any]:
        return {name: column[index].as_py() for name, column in columns.items()}

    return _Table(tuple(columns), len(table), get)


def _read_jsonl(file: Path, split: str | None, unnamed_split: str | None, wanted: tuple[str, ...]) -> _Table:
    """Keep the lines as they are, which takes far less memory than the objects in them."""
    lines: list[bytes] = []
    columns: dict[str, None] = {}
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
        return {name: row[own] for name, own in _spelled(wanted, list(row)).items()}

    return _Table(tuple(_spelled(wanted, list(columns))), len(lines), get)


@lru_cache(maxsize=8)
def _read_hub(name: str, config: str | None, split: str, wanted: tuple[str, ...]) -> _Table:
    missing = f"there is no file or folder {name}, looked for from {Path.cwd()}"
    try:
        from datasets import load_dataset
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{missing}; and if that is a data set of the hub, reading it needs the package datasets: "
            "pip install 'llmenv[datasets]'"
        ) from error
    try:
        dataset = load_dataset(name, config, split=split)
    except Exception as error:  # of many kinds, of several libraries
        raise ValueError(
            f"{missing}; and no data set of that name could be loaded from the hub ({type(error).__name__}: {error}): "
            "check the name and the network"
        ) from error
    spelled = _spelled(wanted, dataset.column_names)
    chosen = dataset.select_columns(list(spelled.values()))

    def get(index: int) -> dict[str, Any]:
        row = chosen[index]
        return {name: row[own] for name, own in spelled.items()}

    return _Table(tuple(spelled), len(dataset), get)
