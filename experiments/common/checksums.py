"""Whether a folder is as it was written: the SHA-256 of each of its files, in the form of `sha256sum`.

That tells of disks that forget and copies that were cut short. It is no signature: whoever changes a file on purpose
can change the list too. Knows nothing about what the files are.
"""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

SUMS = "SHA256SUMS"
THREADS = 4  # hashing leaves Python to others: as many files at a time


def write_sums(folder: Path) -> None:
    """Lists what is in a folder, in its file `SHA256SUMS`; `sha256sum -c SHA256SUMS` there checks it, too."""
    names = _files(folder)
    lines = [f"{digest}  {name}\n" for name, digest in zip(names, _digests(folder, names), strict=True)]
    (folder / SUMS).write_text("".join(lines))


def damage(folder: Path, part: Path | str = ".") -> str | None:
    """What is wrong with a folder, or with a part of it; None where nothing is.

    Args:
        folder: What `write_sums` listed. One without a list was written before there were any: it cannot be checked.
        part: A file or a folder in it.
    """
    there = _files(folder)
    if not (folder / SUMS).is_file():
        return None if there else "it is empty"
    listed = {}
    for line in (folder / SUMS).read_text(errors="replace").splitlines():
        digest, _, name = line.partition("  ")
        listed[name] = digest
    within = [name for name in listed if Path(name).is_relative_to(part)]
    if not within:
        return f"{SUMS} is damaged"
    if missing := sorted({*within} - {*there}):
        return f"{missing[0]} is not there"
    try:
        digests = _digests(folder, within)
    except OSError as error:
        return f"it cannot be read: {error}"
    for name, digest in zip(within, digests, strict=True):
        if digest != listed[name]:
            return f"{name} is not what was written"
    return None


def _files(folder: Path) -> list[str]:
    names = (file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
    return sorted(name for name in names if name != SUMS)


def _digests(folder: Path, names: list[str]) -> list[str]:
    def digest(name: str) -> str:
        with (folder / name).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    with ThreadPoolExecutor(THREADS) as threads:
        return list(threads.map(digest, names))
