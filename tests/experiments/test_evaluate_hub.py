"""A hub id as `--model`: a model that a hub on this machine serves is downloaded, evaluated, and found again."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ID, COMMIT = "Some-Org/a-model", "c0ffee" * 6 + "c0ff"


class Hub(ThreadingHTTPServer):
    """Has one model, in the form that huggingface_hub asks for it."""

    daemon_threads = True

    def __init__(self, folder: str):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = {file.name: file.read_bytes() for file in Path(folder).iterdir()}
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.sent: list[str] = []


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path.startswith(f"/api/models/{ID}/tree/"):
            files = [
                {"type": "file", "path": name, "oid": "0" * 40, "size": len(content)}
                for name, content in self.server.files.items()
            ]
            self.reply(200, json.dumps(files).encode())
        elif path.startswith(f"/api/models/{ID}"):
            names = [{"rfilename": name} for name in self.server.files]
            self.reply(200, json.dumps({"id": ID, "sha": COMMIT, "siblings": names}).encode())
        elif path.startswith(f"/{ID}/resolve/"):
            name = path.split("/", 5)[5]
            if name in self.server.files:
                self.reply(200, self.server.files[name], name)
            else:
                self.reply(404, b"", error="EntryNotFound")
        else:
            self.reply(404, b"", error="RepoNotFound")

    do_HEAD = do_GET

    def reply(self, status: int, content: bytes, name: str = "", error: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("X-Repo-Commit", COMMIT)
        if error:
            self.send_header("X-Error-Code", error)
        if name:
            self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
        self.end_headers()
        if self.command == "GET":
            self.server.sent += [name] if name else []
            self.wfile.write(content)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def hub(model_folder: str) -> Iterator[Hub]:
    hub = Hub(model_folder)
    threading.Thread(target=hub.serve_forever, daemon=True).start()
    yield hub
    hub.shutdown()
    hub.server_close()


# Each line that it reads is one command: it says how that ended. The hub's address is read when it imports.
EVALUATE = """
import json, sys
from typer.testing import CliRunner
from experiments.evaluate import app

for line in sys.stdin:
    done = CliRunner().invoke(app, json.loads(line))
    print(json.dumps([done.exit_code, done.stdout, done.stderr]), flush=True)
"""


@pytest.fixture
def run(hub: Hub, tmp_path: Path) -> Iterator[Callable[[str], tuple[int, str, str]]]:
    """Evaluates a model: the exit status, and what was said."""
    home = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hub"), "HF_HUB_DISABLE_XET": "1"}
    with subprocess.Popen(
        [sys.executable, "-c", EVALUATE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env={**os.environ, **home},
    ) as process:

        def run(model: str) -> tuple[int, str, str]:
            options = ["--num-tasks=2", "--samples=1", "--max-new-tokens=4"]
            print(json.dumps([f"--model={model}", *options]), file=process.stdin, flush=True)
            return json.loads(process.stdout.readline())

        yield run


def test_a_hub_id_is_evaluated(hub: Hub, run: Callable[[str], tuple[int, str, str]], tmp_path: Path) -> None:
    status, output, errors = run(ID)
    assert status == 0, output + errors
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {*hub.sent}
    settings = json.loads((tmp_path / "evaluations" / "a-model-Countdown-v0" / "evaluation.json").read_text())
    assert (settings["model"], settings["fingerprint"]) == (ID, COMMIT)
    # What is not there ends in a sentence, before anything is downloaded.
    sent = len(hub.sent)
    status, _, errors = run("Some-Org/a-modle")
    assert status == 2 and len(hub.sent) == sent
    told = " ".join(errors.split())
    assert "the Hugging Face hub did not give a model of that id" in told and "Check the spelling" in told
