"""A server of OpenAI's form that answers as a test has it, however badly."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from llmenv.evaluation.endpoint import PROBE


def body(text: str | None = "<think>x</think><answer>1</answer>", reason: str = "stop", **more: Any) -> bytes:
    choice = {"message": {"role": "assistant", "content": text, **more}, "finish_reason": reason}
    return json.dumps({"choices": [choice]}).encode()


class Server(ThreadingHTTPServer):
    """Answers request number i as `act(i)` says: a status, a body, and headers; or None: silence.

    What finds out whether it goes on with a message is answered with the status `probed`, and counted apart.
    """

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.act: Callable[[int], tuple[int, bytes, dict[str, str]] | None] = lambda i: (200, body(), {})
        self.probed, self.probes = 200, 0
        self.asked: list[dict[str, Any]] = []
        self.times: list[float] = []
        self.lock = threading.Lock()
        self.url = f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        sent = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if sent["messages"] == PROBE:
            self.server.probes += 1
            return self.reply(self.server.probed, body("2"), {})
        with self.server.lock:
            i = len(self.server.asked)
            self.server.asked.append({**sent, "path": self.path, "key": self.headers.get("Authorization")})
            self.server.times.append(time.monotonic())
        answer = self.server.act(i)
        if answer is None:
            time.sleep(2)
            return None
        return self.reply(*answer)

    def reply(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args: Any) -> None:
        pass


@contextmanager
def serving() -> Iterator[Server]:
    """A server that answers meanwhile."""
    server = Server()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()
