"""Where a run or an evaluation leaves its files: a folder here, or one of another filesystem. Knows no run's contents.

One that is elsewhere is worked on in a copy, in this machine's cache. What has changed there is brought to its place
now and then: first all else, then checkpoints, of each its SHA256SUMS at last, and in the end what is to be deleted. So
a checkpoint with that file is whole, and the tables reach as far as any checkpoint does, whatever is killed, and when.
What is in the place is the truth: whoever goes on begins with a fresh copy of it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from experiments.common.checksums import SUMS
from experiments.common.ownership import LOCK, claim, refuse_others
from llmenv.files import cache
from llmenv.remote import fetch, is_uri, listed, opened, put

# Of a run that is not gone on with yet: what says how it would be.
GLIMPSED = ("config.yaml", "progress.csv", SUMS)


class Place:
    """A folder of this machine's. Made by `held`.

    Attributes:
        name: By which it is gone on with.
        folder: Where files are written.
    """

    def __init__(self, name: str, folder: Path):
        self.name = name
        self.folder = folder

    def bring(self) -> None:
        """Brings what has changed to where it belongs."""


class Elsewhere(Place):
    """A folder of another filesystem, and its copy here.

    Args:
        uri: Of the folder.
    """

    def __init__(self, uri: str):
        self._filesystem, self._path = opened(uri)
        own = f"{PurePosixPath(self._path).name}-{hashlib.sha256(uri.encode()).hexdigest()[:12]}"
        super().__init__(uri, cache() / "runs" / own)
        self._brought: dict[str, tuple[int, int]] = {}  # as `_here` had them

    def take(self, *, resuming: bool) -> None:
        """Makes the place this process's, as far as a filesystem without locks allows, and brings what it holds.

        Raises:
            ValueError: As `claim` does.
        """
        there = listed(self._filesystem, self._path)
        if LOCK in there:
            with self._filesystem.open_input_stream(f"{self._path}/{LOCK}") as lock:
                refuse_others(self.name, lock.read().decode(errors="replace"), take_over=resuming)
        others = sorted(name for name in there if not _is_hidden(name))
        if others and not resuming:
            holds = f"a run already: go on with it by --resume {self.name}"
            raise ValueError(
                f"{self.name} holds {holds if 'config.yaml' in others else repr(others[0])}; or name another place"
            )
        self.clear()
        put(self._filesystem, f"{self._path}/{LOCK}", self.folder / LOCK)
        try:
            fetch(self._filesystem, self._path, whole(others), self.folder)
        except BaseException:
            self.release()
            raise
        self._brought = dict.fromkeys(others, (-1, -1)) | self._here()

    def bring(self) -> None:
        """Brings what has changed to the place, in the order that the head of this module gives.

        Raises:
            OSError: If that fails. The next call goes on where this one ended.
        """
        here = self._here()
        changed = [name for name in here if self._brought.get(name) != here[name]]
        for name in sorted(changed, key=lambda name: (_is_of_checkpoint(name), name.endswith(SUMS), name)):
            put(self._filesystem, f"{self._path}/{name}", self.folder / name)
            self._brought[name] = here[name]
        self._delete({*self._brought} - {*here})

    def clear(self) -> None:
        """Empties the copy."""
        for old in self.folder.iterdir():
            if old.name != LOCK:
                shutil.rmtree(old) if old.is_dir() else old.unlink()

    def discard(self) -> None:
        """Takes away what has been brought."""
        self._delete({*self._brought})

    def release(self) -> None:
        """Gives the place back, where it can be reached; an error that is on its way is not to be lost."""
        with contextlib.suppress(OSError):
            self._filesystem.delete_file(f"{self._path}/{LOCK}")

    def _delete(self, names: set[str]) -> None:
        """Of a checkpoint, first what says that it is whole; folders that are empty then, too."""
        left = {*self._brought} - names
        above = {str(folder) for name in names for folder in PurePosixPath(name).parents} - {"."}
        emptied = {folder for folder in above if not any(name.startswith(f"{folder}/") for name in left)}
        outermost = {f for f in emptied if not emptied & {*map(str, PurePosixPath(f).parents)}}
        in_them = {name for name in names for folder in outermost if name.startswith(f"{folder}/")}
        for name in sorted(n for n in names if n.endswith(SUMS) or n not in in_them):
            with contextlib.suppress(FileNotFoundError):
                self._filesystem.delete_file(f"{self._path}/{name}")
        for folder in sorted(outermost):
            self._filesystem.delete_dir(f"{self._path}/{folder}")
        for name in names:
            del self._brought[name]

    def _here(self) -> dict[str, tuple[int, int]]:
        """Size and time of each file of the copy."""
        found = {}
        for file in self.folder.rglob("*"):
            name = file.relative_to(self.folder).as_posix()
            if file.is_file() and not _is_hidden(name):
                found[name] = (file.stat().st_size, file.stat().st_mtime_ns)
        return found


def whole(names: list[str]) -> list[str]:
    """Of the files of a run, those that are of no checkpoint which was cut short."""
    return [name for name in names if not _is_of_checkpoint(name) or f"{_checkpoint(name)}/{SUMS}" in names]


def _is_hidden(name: str) -> bool:
    """What is being written, or is a lock."""
    return any(part.startswith(".") for part in name.split("/"))


def newest(names: list[str]) -> str | None:
    """The newest checkpoint of which a run's files are there; None where there is none."""
    return max((_checkpoint(name) for name in whole(names) if _is_of_checkpoint(name)), default=None)


def _is_of_checkpoint(name: str) -> bool:
    return name.startswith("checkpoints/iteration_")


def _checkpoint(name: str) -> str:
    return "/".join(name.split("/")[:2])


@contextlib.contextmanager
def held(output: str | Path, *, resuming: bool) -> Iterator[Place]:
    """A place that is this process's until the end, when everything has been brought there.

    A new run's that failed before anything came of it is given back as it was found. Where the last files cannot be
    brought to their place, the copy stays, and the error says where.

    Args:
        output: A folder, or a URI of one.
        resuming: Whether it may hold what this process goes on with.

    Raises:
        ValueError: If another process has it, or a new run's holds something; or see `opened`.
    """
    if (folder := _here(output)) is not None:
        with _held_here(Place(str(output), folder), resuming) as here:
            yield here
        return
    place = Elsewhere(str(output))
    with contextlib.ExitStack() as stack:
        stack.callback(
            claim(place.folder, resuming=True).release
        )  # of this host's processes one has the copy
        place.take(resuming=resuming)
        stack.callback(place.release)
        try:
            yield place
            place.bring()
        except Exception as error:
            if resuming or not _is_bare(place.folder):
                _bring_the_rest(place, error)
            else:
                place.discard()
            raise
        place.clear()
    with contextlib.suppress(OSError):  # another process has it by now
        place.folder.rmdir()


@contextlib.contextmanager
def _held_here(place: Place, resuming: bool) -> Iterator[Place]:
    claimed = claim(place.folder, resuming=resuming)
    try:
        yield place
    except BaseException:
        # What has neither been evaluated nor trained has failed at its start, and nobody misses its folder.
        if not resuming and _is_bare(place.folder):
            claimed.discard()
        raise
    finally:
        claimed.release()


@contextlib.contextmanager
def glimpse(run: str | Path) -> Iterator[Path]:
    """A run folder, or of one that is elsewhere a copy with what says how it would be gone on with.

    Raises:
        ValueError: See `opened`.
    """
    if (folder := _here(run)) is not None:
        yield folder
        return
    filesystem, path = opened(str(run))
    with tempfile.TemporaryDirectory() as temporary:
        copy = Path(temporary, PurePosixPath(path).name)
        names = whole(sorted(listed(filesystem, path)))
        fetch(filesystem, path, [name for name in names if name.endswith(GLIMPSED)], copy)
        try:
            yield copy
        except ValueError as error:  # which is about the place
            raise ValueError(str(error).replace(str(copy), str(run))) from error


def _here(name: str | Path) -> Path | None:
    """The folder of this machine's that a name is of; None of a URI of another filesystem."""
    if not is_uri(name):
        return Path(name)
    filesystem, path = opened(str(name))
    return Path(path) if filesystem.type_name == "local" else None


def _is_bare(folder: Path) -> bool:
    from experiments.common.run_folder import is_bare  # and with it pandas

    return is_bare(folder)


def _bring_the_rest(place: Elsewhere, error: Exception) -> None:
    """After an error: what could not be brought stays under a name that no later process clears."""
    try:
        place.bring()
    except OSError as unsent:
        kept = place.folder.rename(place.folder.with_name(f"{place.folder.name}-{os.getpid()}"))
        error.add_note(
            f"Not all of it could be brought to {place.name} ({unsent}); it is in {kept}: go on with that folder"
        )
