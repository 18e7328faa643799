"""A model behind an OpenAI-compatible server: chat completions over HTTP, some at a time. Knows no environment.

What may pass is tried again, with longer and longer pauses, until a sample's deadline: 429, 5xx, a connection that
breaks, a body that means nothing, an error inside a 200. What cannot pass (a wrong key, an unknown model, nobody at the
address) ends the evaluation at once; its command goes on later from what is recorded.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from llmenv.evaluation.subject import Subject
from llmenv.evaluation.text_models import FAILED, Messages, Reply, TextSampler, text_subject
from llmenv.samplers.sampler import SamplingParams

if TYPE_CHECKING:
    import httpx

CONCURRENCY = 16
LARGEST_BODY = 2**24  # bytes
REFUSED_AT_MOST = 3  # connections, one after the other, before nobody is taken to be there


class EndpointError(RuntimeError):
    """The server cannot be evaluated."""


class _Passing(Exception):
    """May be otherwise the next time.

    Args:
        pause: Seconds that the server asks to wait.
    """

    def __init__(self, reason: str, pause: float = 0.0):
        super().__init__(reason)
        self.pause = pause


class Endpoint:
    """A server, and one of its models.

    Args:
        base_url: Such as http://localhost:8000/v1.
        model: As the server calls it.
        deadline: Seconds for one response, all its attempts together.
        pause: Seconds before the second attempt; it doubles with each, and varies by half.

    Attributes:
        sent: Requests so far.
    """

    def __init__(self, base_url: str, model: str, deadline: float = 300.0, pause: float = 0.5):
        try:
            import httpx
        except ImportError as error:
            raise ValueError("--base-url needs httpx: pip install 'llmenv[endpoint]'") from error
        self.base_url, self.model = base_url.rstrip("/"), model
        self.deadline, self.pause = deadline, pause
        self.sent = 0
        self._failed_in_a_row = 0
        key = os.environ.get("OPENAI_API_KEY")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._client = httpx.Client(headers=headers, limits=httpx.Limits(max_connections=CONCURRENCY))

    def ask(self, conversations: list[Messages], params: SamplingParams, seeds: Sequence[int]) -> list[Reply]:
        """Answers them all; one that has none in time fails alone.

        Raises:
            EndpointError: If none has, or the server refuses.
        """
        if params.stop_strings:
            raise EndpointError(
                f"the environment ends a message at {', '.join(params.stop_strings)}, which a server leaves out of its "
                "answer: evaluate the model in this process"
            )
        with ThreadPoolExecutor(CONCURRENCY) as threads:
            replies = list(
                threads.map(lambda messages, seed: self._reply(messages, params, seed), conversations, seeds)
            )
        if all(reply.finish_reason.startswith(FAILED) for reply in replies):
            raise EndpointError(
                f"{self.base_url} gave no response ({replies[0].finish_reason}): give the same command again to go on"
            )
        return replies

    def _reply(self, messages: Messages, params: SamplingParams, seed: int) -> Reply:
        end = time.monotonic() + self.deadline
        pause, refused, reason = self.pause, 0, "the ones before had no response"
        body = {
            "model": self.model,
            "messages": messages,
            "temperature": params.temperature,
            "max_tokens": params.max_new_tokens,
            "seed": seed % 2**31,
        }
        while self._failed_in_a_row < CONCURRENCY:
            try:
                reply = self._attempt(body, end)
                self._failed_in_a_row = 0
                return reply
            except ConnectionRefusedError as error:
                refused, reason, asked = refused + 1, str(error), 0.0
                if refused == REFUSED_AT_MOST:
                    raise EndpointError(
                        f"nobody answers at {self.base_url} ({error}): start the server, or correct --base-url; then "
                        "give the same command again to go on"
                    ) from error
            except _Passing as error:
                refused, reason, asked = 0, str(error), error.pause
            wait = max(asked, pause * random.uniform(0.5, 1.5))
            pause *= 2
            if time.monotonic() + wait >= end:
                self._failed_in_a_row += 1
                break
            time.sleep(wait)
        return Reply("", f"{FAILED}: {reason}")

    def _attempt(self, body: dict[str, Any], end: float) -> Reply:
        import httpx

        self.sent += 1
        url = f"{self.base_url}/chat/completions"
        try:
            timeout = max(0.1, end - time.monotonic())
            with self._client.stream("POST", url, json=body, timeout=timeout) as response:
                content = _read(response, end)
        except httpx.ConnectError as error:
            raise ConnectionRefusedError(str(error)) from error
        except httpx.InvalidURL as error:
            raise EndpointError(f"--base-url {self.base_url!r} is no address: {error}") from error
        except httpx.UnsupportedProtocol as error:
            raise EndpointError(
                f"--base-url {self.base_url!r} must begin with http:// or https://"
            ) from error
        except httpx.HTTPError as error:
            raise _Passing(f"{type(error).__name__}: {error}") from error
        if response.status_code == 429 or response.status_code >= 500 or response.status_code == 408:
            raise _Passing(f"status {response.status_code}", _retry_after(response))
        if response.status_code != 200:
            said = content[:300].decode(errors="replace")
            raise EndpointError(f"{url} refuses with status {response.status_code}: {said!r}")
        return read_reply(content)


def read_reply(content: bytes) -> Reply:
    """What a server's body says. The model's reasoning, where it comes apart, goes into <think>.

    Raises:
        _Passing: If it says nothing.
    """
    try:
        body = json.loads(content)
        if body.get("error"):
            raise _Passing(f"an error inside a 200: {str(body['error'])[:300]}")
        choice = body["choices"][0]
        message = choice["message"]
        said, thought = (message.get("content") or "", message.get("reasoning_content") or "")
        if not (isinstance(said, str) and isinstance(thought, str)):
            raise TypeError("the message is no text")
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
        raise _Passing(f"a body that means nothing ({type(error).__name__})") from error
    cut = choice.get("finish_reason") == "length"
    if thought:  # one that was cut in its thoughts has not ended them
        said = f"<think>{thought}" if cut and not said else f"<think>{thought}</think>\n{said}"
    return Reply(said, "length" if cut else "stop")


def endpoint_subject(endpoint: Endpoint) -> Subject:
    """A server's model, to be evaluated."""
    settings = {"sampler": "endpoint", "base_url": endpoint.base_url}
    source = f"{endpoint.base_url} {endpoint.model}"
    return text_subject(endpoint.model, source, TextSampler(endpoint.ask), settings)


def _read(response: httpx.Response, end: float) -> bytes:
    """The body, which may come drop by drop, or never end."""
    content = bytearray()
    for part in response.iter_bytes():
        content += part
        if len(content) > LARGEST_BODY:
            raise _Passing(f"a body of more than {LARGEST_BODY} bytes")
        if time.monotonic() > end:
            raise _Passing("the deadline passed in the middle of a body")
    return bytes(content)


def _retry_after(response: httpx.Response) -> float:
    """Seconds; 0 where the server names none, or a date."""
    text = response.headers.get("retry-after", "")
    return float(text) if text.isdecimal() and text.isascii() and len(text) < 7 else 0.0
