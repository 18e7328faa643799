"""A server of S3's protocol on this machine."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow.fs
import pytest

from llmenv.remote import opened, put
from support import free_port


@contextlib.contextmanager
def s3_bucket(cache: Path) -> Iterator[str]:
    """The URI of an empty bucket; within it this process's environment has the server's address, and this cache."""
    # Not in this process: where flask has been imported, vLLM cannot be.
    port = free_port()
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H127.0.0.1", f"-p{port}"], stderr=subprocess.DEVNULL
    )
    endpoint = f"http://127.0.0.1:{port}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", endpoint)
        patch.setenv("AWS_ACCESS_KEY_ID", "key")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("XDG_CACHE_HOME", str(cache))
        _wait_until_it_answers(server, port)
        pyarrow.fs.S3FileSystem(endpoint_override=endpoint, allow_bucket_creation=True).create_dir("bucket")
        yield "s3://bucket"
    server.kill()
    server.wait()


def _wait_until_it_answers(server: subprocess.Popen[bytes], port: int) -> None:
    while True:
        assert server.poll() is None
        with contextlib.suppress(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port)).close()
            return
        time.sleep(0.1)


def write(uri: str, text: str) -> None:
    """An object of that text."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "written")
        file.write_text(text)
        put(*opened(uri), file)
