"""Files of other filesystems, by URIs that pyarrow knows: s3://, gs://, ... Knows nothing about what is in them."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Collection, Iterable, Mapping
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from typing import Any

from llmenv.files import cache, put_in_place

CHUNK = 16 * 2**20  # bytes of a file that are under way at a time
# Filesystems in which an object is there whole, once all of it has been sent, or not at all.
OBJECT_STORES = ("s3", "gcs", "abfs")


def is_uri(name: str | os.PathLike[str]) -> bool:
    """Whether a name is one of a filesystem, and no path of this machine's."""
    return "://" in str(name)


def joined(uri: str, *names: str) -> str:
    """The URI, or the path, of what is below a folder."""
    place, mark, query = uri.partition("?")
    return "/".join([place.rstrip("/"), *names]) + mark + query


def opened(uri: str) -> tuple[Any, str]:
    """The filesystem that a URI is of, pyarrow's, and the path there.

    Raises:
        ValueError: If there is no such filesystem, or no such bucket, or it cannot be reached; with the remedy.
    """
    import pyarrow as pa
    import pyarrow.fs

    try:
        filesystem, path = pyarrow.fs.FileSystem.from_uri(uri)
    except (pa.ArrowInvalid, ValueError) as error:
        raise ValueError(
            f"{uri}: pyarrow knows no such filesystem ({error}). It knows s3://, gs://, hdfs://, abfs:// and file://; "
            "fsspec's are fsspec+NAME://, with their package installed"
        ) from error
    except (OSError, ImportError) as error:
        raise _unreachable(uri, error) from error
    if filesystem.type_name in OBJECT_STORES:
        bucket = path.partition("/")[0]
        try:
            there = bucket and filesystem.get_file_info(bucket).type != pyarrow.fs.FileType.NotFound
        except OSError as error:
            raise _unreachable(uri, error) from error
        if not there:
            raise ValueError(
                f"{uri}: there is no bucket {bucket!r}, or not for these credentials: make it first"
            )
    return filesystem, path.rstrip("/")


def _unreachable(uri: str, error: Exception) -> ValueError:
    reason = " ".join(str(error).split())
    return ValueError(
        f"{uri} cannot be reached ({reason}). Of S3 the environment has the credentials (AWS_ACCESS_KEY_ID and "
        "AWS_SECRET_ACCESS_KEY, or AWS_PROFILE), AWS_DEFAULT_REGION and, of a server of one's own, AWS_ENDPOINT_URL; "
        "gs:// takes GOOGLE_APPLICATION_CREDENTIALS, hdfs:// needs libhdfs, abfs:// the account in the URI"
    )


def listed(filesystem: Any, path: str) -> dict[str, Any]:
    """What files there are below a path, by their names from there: pyarrow's FileInfo of each. Empty of no folder."""
    import pyarrow.fs

    below = pyarrow.fs.FileSelector(path, recursive=True, allow_not_found=True)
    infos = filesystem.get_file_info(below)
    start = path.rstrip("/") + "/"
    files = [info for info in infos if info.type == pyarrow.fs.FileType.File]
    # fsspec's paths may begin with a slash where the one asked for does not
    return {("/" + info.path.lstrip("/")).removeprefix("/" + start.lstrip("/")): info for info in files}


def fetch(filesystem: Any, path: str, names: Iterable[str], folder: Path) -> None:
    """Brings files below a path into a folder of this machine's, under the same names."""
    for name in names:
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        with filesystem.open_input_stream(f"{path}/{name}") as stream, file.open("wb") as local:
            while data := stream.read(CHUNK):
                local.write(data)


def put(filesystem: Any, path: str, file: Path) -> None:
    """Brings a file of this machine's there: it is whole, or, where that is interrupted, not there."""
    whole = filesystem.type_name in OBJECT_STORES
    folder, _, name = path.rpartition("/")
    if not whole:
        filesystem.create_dir(folder, recursive=True)
    there = path if whole else f"{folder}/.partial_{name}"
    with file.open("rb") as local:
        stream = filesystem.open_output_stream(there)
        try:
            while data := local.read(CHUNK):
                stream.write(data)
        except BaseException:
            with contextlib.suppress(OSError):
                stream.close()  # which makes an object of what had been sent; where it fails, what was there is still
                filesystem.delete_file(there)
            raise
        stream.close()
    if not whole:
        filesystem.move(there, path)


@lru_cache  # a runner has hundreds of environments with the same rows
def local_copy(uri: str, wanted: Collection[str]) -> Path:
    """A file, or the files of a folder, brought into this machine's cache once: what has changed is brought anew.

    A process looks once. Of `file://` it is the place itself.

    Args:
        uri: Of a file or a folder.
        wanted: Of a folder, the files whose names from there match one of these patterns, such as "*.parquet".

    Raises:
        ValueError: If there is nothing, or see `opened`.
    """
    import pyarrow.fs

    filesystem, path = opened(uri)
    if isinstance(filesystem, pyarrow.fs.LocalFileSystem):
        return Path(path)
    above, _, own = path.rpartition("/")
    info = filesystem.get_file_info(path)
    if info.type == pyarrow.fs.FileType.File:
        found = {own: info}
    else:
        above, there = path, listed(filesystem, path)
        found = {name: there[name] for name in there if any(fnmatchcase(name, each) for each in wanted)}
    if not found:
        raise ValueError(
            f"there is nothing of that kind at {uri}: name a file, or a folder with {' or '.join(wanted)} in it"
        )
    target = cache() / f"data-{_digest(uri, found)}"
    if not target.exists():
        with tempfile.TemporaryDirectory(prefix=".data-", dir=target.parent) as temporary:
            made = Path(temporary) / "made"
            fetch(filesystem, above, found, made / own)
            put_in_place(made, target)
    return target / own / own if own in found else target / own


def _digest(uri: str, found: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(uri.encode())
    for name, info in sorted(found.items()):
        digest.update(f"\n{name} {info.size} {info.mtime_ns}".encode())
    return digest.hexdigest()[:16]
