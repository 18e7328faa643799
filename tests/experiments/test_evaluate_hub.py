"""A hub id as `--model`: a model that a hub on this machine serves is downloaded, evaluated, and found again."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

EVALUATE = Path(__file__).parents[2] / "experiments" / "evaluate.py"
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


def run(hub: Hub, folder: Path, model: str, **settings: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(EVALUATE), f"--model={model}", "--num-tasks=2", "--samples=1"]
    home = {"HF_ENDPOINT": hub.url, "HF_HOME": str(folder / "hub"), "HF_HUB_DISABLE_XET": "1"}
    return subprocess.run(
        [*command, "--max-new-tokens=4"],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env={**os.environ, **home, **settings},
    )


def test_a_hub_id_is_evaluated(hub: Hub, tmp_path: Path) -> None:
    done = run(hub, tmp_path, ID)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {*hub.sent}
    settings = json.loads((tmp_path / "evaluations" / "a-model-Countdown-v0" / "evaluation.json").read_text())
    assert (settings["model"], settings["fingerprint"]) == (ID, COMMIT)
    # What is not there ends in a sentence, before anything is downloaded.
    sent = len(hub.sent)
    done = run(hub, tmp_path, "Some-Org/a-modle")
    assert done.returncode == 2 and len(hub.sent) == sent
    told = " ".join(done.stderr.split())
    assert "the Hugging Face hub did not give a model of that id" in told and "Check the spelling" in told
