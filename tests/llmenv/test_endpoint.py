"""A model behind a server that misbehaves: what is tried again, what ends, and what is recorded."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from llmenv.evaluation import evaluate
from llmenv.evaluation.endpoint import Endpoint, EndpointError, endpoint_subject, read_reply
from llmenv.evaluation.text_models import Reply

ENV = "envs:Countdown-v0"
SMALL: dict[str, Any] = {"num_tasks": 4, "samples": 2, "max_new_tokens": 7}


def body(text: str | None = "<think>x</think><answer>1</answer>", reason: str = "stop", **more: Any) -> bytes:
    choice = {"message": {"role": "assistant", "content": text, **more}, "finish_reason": reason}
    return json.dumps({"choices": [choice]}).encode()


class Server(ThreadingHTTPServer):
    """Answers request number i as `act(i)` says: a status, a body, and headers; or None: silence."""

    daemon_threads = True

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.act: Callable[[int], tuple[int, bytes, dict[str, str]] | None] = lambda i: (200, body(), {})
        self.asked: list[dict[str, Any]] = []
        self.times: list[float] = []
        self.lock = threading.Lock()
        self.url = f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        sent = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            i = len(self.server.asked)
            self.server.asked.append({**sent, "path": self.path, "key": self.headers.get("Authorization")})
            self.server.times.append(time.monotonic())
        answer = self.server.act(i)
        if answer is None:
            time.sleep(2)
            return
        status, content, headers = answer
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def endpoint(server: Server, deadline: float = 10.0) -> Endpoint:
    return Endpoint(server.url, "m", deadline=deadline, pause=0.02)


def test_what_is_asked(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    evaluate(endpoint_subject(endpoint(server)), ENV, tmp_path, temperature=0.5, **SMALL)
    first, row = server.asked[0], pd.read_parquet(tmp_path / "records").iloc[0]
    assert (first["path"], first["key"]) == ("/v1/chat/completions", "Bearer secret")
    assert (first["model"], first["temperature"], first["max_tokens"]) == ("m", 0.5, 7)
    assert len({asked["seed"] for asked in server.asked}) == len(server.asked) == 8
    assert json.loads(row["messages"]) in [asked["messages"] for asked in server.asked]
    assert bool(row["well_formed"])
    assert "secret" not in "".join(file.read_text() for file in tmp_path.glob("*.json"))


BAD = {
    "too many": (429, b"", {}),
    "failure": (500, b"oops", {}),
    "garbage": (200, b"<html>", {}),
    "list": (200, b"[1]", {}),
    "nested": (200, b"[" * 100_000, {}),
    "no choice": (200, b'{"choices": []}', {}),
    "error inside": (200, b'{"error": {"message": "overloaded"}}', {}),
    "no text": (200, body([1]), {}),  # type: ignore[arg-type]
    "half a body": (200, body()[:20], {"Content-Length": "500", "Connection": "close"}),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_may_pass_is_tried_again(server: Server, tmp_path: Path, kind: str) -> None:
    server.act = lambda i: BAD[kind] if i < 5 else (200, body(), {})
    asking = endpoint(server)
    summary = evaluate(endpoint_subject(asking), ENV, tmp_path, **SMALL)
    figures = summary["environments"][ENV]
    assert (figures["scored"], figures["errored"]) == (8, 0)
    assert asking.sent == len(server.asked) == 8 + 5


def test_retry_after_is_honoured(server: Server, tmp_path: Path) -> None:
    server.act = lambda i: (200, body(), {}) if i else (429, b"", {"Retry-After": "1"})
    evaluate(endpoint_subject(endpoint(server)), ENV, tmp_path, num_tasks=1, samples=1)
    assert 1 <= server.times[1] - server.times[0] < 3


def test_a_sample_without_response_fails_alone_and_is_owed(server: Server, tmp_path: Path) -> None:
    silent: list[Any] = []

    def act(i: int) -> tuple[int, bytes, dict[str, str]] | None:
        silent[:] = silent or [server.asked[i]["seed"]]
        return None if server.asked[i]["seed"] == silent[0] else (200, body(), {})

    server.act = act
    start = time.monotonic()
    figures = evaluate(endpoint_subject(endpoint(server, 0.5)), ENV, tmp_path, **SMALL)["environments"][ENV]
    assert time.monotonic() - start < 5
    assert (figures["scored"], figures["errored"]) == (7, 1)
    assert (figures["lower_bound"], figures["upper_bound"]) == (0.0, 1 / 8)
    server.act, asked = (lambda i: (200, body(), {})), len(server.asked)
    figures = evaluate(endpoint_subject(endpoint(server)), ENV, tmp_path, **SMALL)["environments"][ENV]
    assert (figures["scored"], figures["errored"], len(server.asked) - asked) == (8, 0, 1)


def test_a_server_that_dies_ends_it_in_seconds_and_resumably(server: Server, tmp_path: Path) -> None:
    def die(done: int, _: int) -> None:
        if done == 4:
            server.shutdown()
            server.server_close()

    asking = endpoint(server)
    start = time.monotonic()
    with pytest.raises(EndpointError, match=r"nobody answers at .*give the same command again"):
        evaluate(endpoint_subject(asking), ENV, tmp_path, batch_size=4, on_batch=die, **SMALL)
    assert time.monotonic() - start < 10
    back = Server(server.server_address[1])
    threading.Thread(target=back.serve_forever, daemon=True).start()
    figures = evaluate(endpoint_subject(asking), ENV, tmp_path, **SMALL)["environments"][ENV]
    back.shutdown()
    back.server_close()
    assert (figures["scored"], len(server.asked), len(back.asked)) == (8, 4, 4)


@pytest.mark.parametrize("status", [400, 401, 404])
def test_what_cannot_pass_ends_at_once(server: Server, tmp_path: Path, status: int) -> None:
    server.act = lambda i: (status, b"no such model", {})
    with pytest.raises(EndpointError, match=f"status {status}: 'no such model'"):
        evaluate(endpoint_subject(endpoint(server)), ENV, tmp_path, **SMALL)
    assert len(server.asked) <= 8


def test_replies() -> None:
    assert read_reply(body("a", "length")) == Reply("a", "length")
    assert read_reply(body("a", reasoning_content="why")) == Reply("<think>why</think>\na")
    assert read_reply(body(None, "length", reasoning_content="why")) == Reply("<think>why", "length")
    assert read_reply(body(None, "content_filter")) == Reply("")
