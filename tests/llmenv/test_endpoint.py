"""A model behind a server that misbehaves: what is tried again, what ends, and what is recorded."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from endpoint_server import Server, body, serving
from llmenv.evaluation import evaluate
from llmenv.evaluation.endpoint import Endpoint, EndpointError, endpoint_subject, read_reply
from llmenv.evaluation.text_models import Reply

ENV = "envs:Countdown-v0"
SMALL: dict[str, Any] = {"num_tasks": 4, "samples": 2, "max_new_tokens": 7}


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as server:
        yield server


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
    assert (first["messages"][-1]["role"], first["continue_final_message"]) == ("assistant", True)
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
    assert len(server.asked) == 8 + 5  # five in vain
    (account,) = summary["asking"]
    assert (account["requests_sent"], account["responses"]) == (1 + 8 + 5, 1 + 8)


def test_retry_after_is_honoured(server: Server, tmp_path: Path) -> None:
    server.act = lambda i: (200, body(), {}) if i else (429, b"", {"Retry-After": "1"})
    evaluate(endpoint_subject(endpoint(server)), ENV, tmp_path, num_tasks=1, samples=1)
    assert 1 <= server.times[1] - server.times[0] < 3


def test_a_longer_pause_than_a_response_may_take_ends_it(server: Server, tmp_path: Path) -> None:
    server.act = lambda i: (429, b"", {"Retry-After": "3600"})
    with pytest.raises(EndpointError, match=r"no requests for 3600 s .* give the same command again then"):
        evaluate(endpoint_subject(endpoint(server)), ENV, tmp_path, **SMALL)


@pytest.mark.parametrize("kind", ["too many", "failure", "garbage", "silence"])
def test_what_never_passes_ends_in_bounded_time(server: Server, tmp_path: Path, kind: str) -> None:
    """Once 16 samples have found it out, the others of 100 need not."""
    server.act = lambda i: BAD.get(kind)
    start = time.monotonic()
    with pytest.raises(EndpointError, match=r"gave no response .* give the same command again"):
        evaluate(endpoint_subject(endpoint(server, 0.7)), ENV, tmp_path, num_tasks=100, samples=1)
    assert time.monotonic() - start < 8
    assert 16 <= len(server.asked) <= 100 * 7  # the shortest pauses: 0.01 s doubled six times is nearly 0.7 s


def test_it_sends_as_many_at_a_time_as_are_borne(server: Server, tmp_path: Path) -> None:
    """A server of 24 at a time: it is found out from 16, and little is sent in vain."""
    under_way = 0

    def act(i: int) -> tuple[int, bytes, dict[str, str]]:
        nonlocal under_way
        with server.lock:
            under_way += 1
            too_many = under_way > 24
        time.sleep(0.0 if too_many else 0.1)
        with server.lock:
            under_way -= 1
        return (429, b"", {}) if too_many else (200, body(), {})

    server.act = act
    summary = evaluate(
        endpoint_subject(endpoint(server)), ENV, tmp_path, num_tasks=100, samples=4, batch_size=400
    )
    (account,) = summary["asking"]
    assert (summary["environments"][ENV]["scored"], account["responses"]) == (400, 401)
    limits = [limit for _, limit in account["concurrency"]]
    assert limits[:2] == [16, 32] and limits[-1] < max(limits) <= 64
    assert 401 < account["requests_sent"] < 1.25 * 401


def test_what_it_took_is_counted(server: Server, tmp_path: Path) -> None:
    usage = {"usage": {"prompt_tokens": 100, "completion_tokens": 20}}
    odd = {"usage": {"prompt_tokens": "many"}}
    server.act = lambda i: (200, json.dumps({**json.loads(body()), **(usage if i else odd)}).encode(), {})
    asking = Endpoint(server.url, "m", prices=(2.0, 10.0))
    (account,) = evaluate(endpoint_subject(asking), ENV, tmp_path, **SMALL)["asking"]
    assert (account["prompt_tokens"], account["completion_tokens"]) == (700, 140)  # of 7 of 8
    assert account["cost"] == pytest.approx((700 * 2 + 140 * 10) / 1e6)
    again = evaluate(endpoint_subject(Endpoint(server.url, "m")), ENV, tmp_path, **SMALL)
    assert again["asking"] == [account]  # nothing was owed, nothing sent
    assert server.probes == 1


@pytest.mark.parametrize(("status", "sent"), [(200, 8), (400, 0)])
def test_how_the_answer_begins_is_sent_where_it_is_taken(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture, status: int, sent: int
) -> None:
    server.probed = status
    server.act = lambda i: (200, body("x</think><answer>1</answer>"), {})
    figures = evaluate(endpoint_subject(endpoint(server)), ENV, tmp_path, **SMALL)["environments"][ENV]
    row = pd.read_parquet(tmp_path / "records").iloc[0]
    began = "Let me solve this step by step.\n<think>" if sent else ""
    assert row["completion"] == f"{began}x</think><answer>1</answer>"
    assert {asked["messages"][-1]["content"] for asked in server.asked if sent} == (
        {began} if sent else set()
    )
    assert ["continue_final_message" in asked for asked in server.asked] == [bool(sent)] * 8
    assert (figures["prefix"], bool(row["well_formed"])) == (sent, bool(sent))
    assert sum("is not sent" in message for message in caplog.messages) == (not sent)


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
    assert read_reply(body("\ud800")) == Reply("?")
