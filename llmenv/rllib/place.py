"""A folder that learners write to or read from, wherever it is and wherever they run.

It is on a filesystem of pyarrow's, or on the disk of the driver's node. A learner that sees that disk works in the
folder itself. Any other works in a folder of its own node, whose files are then brought to the place, or were brought
from there. Knows nothing about what the files are.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow.fs
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

CHUNK = 64 * 2**20  # bytes that are under way at a time


@dataclass(frozen=True)
class Place:
    """Such a folder, in words that every learner understands. Made by `place_of`.

    Attributes:
        path: Of the folder, on its filesystem.
        filesystem: None: the disk of the driver's node.
        away: The learners that do not see that disk, by their index.
        disk: The actor that reads and writes there for those.
    """

    path: str
    filesystem: pyarrow.fs.FileSystem | None
    away: Collection[int] = ()
    disk: Any = None

    def __truediv__(self, name: str) -> Place:
        return replace(self, path=f"{self.path}/{name}")

    @contextlib.contextmanager
    def to_write(self, learner: int) -> Iterator[Path]:
        """A folder of a learner's node. What is in it in the end is then in the place."""
        if self._is_seen_by(learner):
            yield Path(self.path)
            return
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)
            self._bring_back(Path(folder))

    @contextlib.contextmanager
    def to_read(self, learner: int, *, without: Collection[str]) -> Iterator[Path]:
        """A folder of a learner's node with what is in the place, where need be without entries of these names."""
        if self._is_seen_by(learner):
            yield Path(self.path)
            return
        with tempfile.TemporaryDirectory() as folder:
            self._fetch(Path(folder), without)
            yield Path(folder)

    def _is_seen_by(self, learner: int) -> bool:
        return self.filesystem is None and learner not in self.away

    def _bring_back(self, folder: Path) -> None:
        files = _files(folder)
        if self.filesystem is not None and files:
            self.filesystem.create_dir(self.path, recursive=True)
            pyarrow.fs.copy_files(
                str(folder),
                self.path,
                source_filesystem=pyarrow.fs.LocalFileSystem(),
                destination_filesystem=self.filesystem,
                chunk_size=CHUNK,
                use_threads=False,  # pyarrow's uploads to S3 can hang with them (apache/arrow 32372)
            )
        elif self.filesystem is None:
            for name in files:
                with (folder / name).open("rb") as file:
                    ray.get(self.disk.write.remote(f"{self.path}/{name}", b"", append=False))
                    while data := file.read(CHUNK):
                        ray.get(self.disk.write.remote(f"{self.path}/{name}", data, append=True))

    def _fetch(self, folder: Path, without: Collection[str]) -> None:
        if self.filesystem is None:
            for name in ray.get(self.disk.files.remote(self.path)):
                if PurePosixPath(name).parts[0] in without:
                    continue
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                with (folder / name).open("wb") as file:
                    while data := ray.get(self.disk.read.remote(f"{self.path}/{name}", file.tell())):
                        file.write(data)
            return
        for entry in self.filesystem.get_file_info(pyarrow.fs.FileSelector(self.path)):
            if entry.base_name not in without:
                if entry.type == pyarrow.fs.FileType.Directory:
                    (folder / entry.base_name).mkdir()
                pyarrow.fs.copy_files(
                    entry.path,
                    str(folder / entry.base_name),
                    source_filesystem=self.filesystem,
                    destination_filesystem=pyarrow.fs.LocalFileSystem(),
                    chunk_size=CHUNK,
                )


def place_of(path: str | Path, filesystem: pyarrow.fs.FileSystem | None) -> Place:
    """The place that RLlib means by the same arguments. Called on the driver.

    Args:
        path: A folder of this node; or on the filesystem; or a URI that pyarrow knows, such as "s3://bucket/folder".
        filesystem: Where the path is.
    """
    name = str(path)
    if filesystem is None and "://" in name:
        filesystem, name = pyarrow.fs.FileSystem.from_uri(name)
    if filesystem is None or isinstance(filesystem, pyarrow.fs.LocalFileSystem):
        return Place(str(Path(name).absolute()), None)
    return Place(name, filesystem)


def sees(file: str, changed: int) -> bool:
    """Whether a file is there and was last changed then, in ns: it is that of the driver's disk, and no namesake."""
    try:
        return os.stat(file).st_mtime_ns == changed
    except OSError:
        return False


def _files(folder: Path) -> list[str]:
    return sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())


def start_disk() -> Any:
    """An actor on the driver's own node that reads and writes files for other nodes."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(_Disk).options(num_cpus=0, scheduling_strategy=here).remote()


class _Disk:
    def files(self, folder: str) -> list[str]:
        return _files(Path(folder))

    def read(self, path: str, start: int) -> bytes:
        with open(path, "rb") as file:
            file.seek(start)
            return file.read(CHUNK)

    def write(self, path: str, data: bytes, *, append: bool) -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with open(path, "ab" if append else "wb") as file:
            file.write(data)
