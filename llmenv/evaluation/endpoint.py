"""A model behind an OpenAI-compatible server: chat completions over HTTP, some at a time. Knows no environment.

What may pass is tried again, with longer and longer pauses, until a sample's deadline: 429, 5xx, a connection that
breaks, a body that means nothing, an error inside a 200. What cannot pass (a wrong key, an unknown model, nobody at the
address) ends the evaluation at once; its command goes on later from what is recorded.

How the answer begins, where the environment says so, is sent as a last message of the assistant's, with vLLM's
`continue_final_message`. A first small request finds out whether the server takes that. One that refuses it is not sent
the beginning, and the model writes its whole message: the records' `messages` and the summary say which it was.
"""

from __future__ import annotations

import json
import logging
import math
import os
import random
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from llmenv.evaluation.concurrency import MOST, START, Concurrency
from llmenv.evaluation.subject import Subject
from llmenv.evaluation.text_models import FAILED, Messages, Reply, TextSampler, text_subject
from llmenv.samplers.sampler import SamplingParams

if TYPE_CHECKING:
    import httpx

logger = logging.getLogger(__name__)

DEADLINE = 300.0  # seconds for a response
CONNECT = 5.0  # seconds for a connection: longer, and nobody is there
LARGEST_BODY = 2**24  # bytes
CHANGES_TOLD = 100  # of how many requests it bears at a time, in the summary
REFUSED_AT_MOST = 3  # connections, one after the other, before nobody is taken to be there
GOES_ON = {"continue_final_message": True, "add_generation_prompt": False}
PROBE: Messages = [{"role": "user", "content": "1 + 1 = ?"}, {"role": "assistant", "content": "<think>"}]


class EndpointError(RuntimeError):
    """The server cannot be evaluated.

    Args:
        status: With which it refused, if that is why.
    """

    def __init__(self, reason: str, status: int | None = None):
        super().__init__(reason)
        self.status = status


class _Passing(Exception):
    """May be otherwise the next time.

    Args:
        outcome: As `Concurrency.leave` knows them.
        pause: Seconds that the server asks to wait.
    """

    def __init__(self, reason: str, outcome: str = "failed", pause: float = 0.0):
        super().__init__(reason)
        self.outcome, self.pause = outcome, pause


class Endpoint:
    """A server, and one of its models.

    Args:
        base_url: Such as http://localhost:8000/v1.
        model: As the server calls it.
        deadline: Seconds for one response, all its attempts together.
        pause: Seconds before the second attempt; it doubles with each, and varies by half.
        prices: Of a million tokens of prompts, and of a million that are written.

    Attributes:
        sent: Requests since `account` was last asked.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        deadline: float = DEADLINE,
        pause: float = 0.5,
        prices: tuple[float, float] | None = None,
    ):
        try:
            import httpx
        except ImportError as error:
            raise ValueError("--base-url needs httpx: pip install 'llmenv[endpoint]'") from error
        self.base_url, self.model = base_url.rstrip("/"), model
        self.deadline, self.pause, self.prices = deadline, pause, prices
        self.sent = self._responses = self._failed_in_a_row = 0
        self._tokens = (0, 0)
        self._lock, self._gate = threading.Lock(), Concurrency()
        key = os.environ.get("OPENAI_API_KEY")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._client = httpx.Client(headers=headers, limits=httpx.Limits(max_connections=MOST))

    def goes_on(self) -> bool:
        """Whether the server takes how an answer begins; asks it.

        Raises:
            EndpointError: If it gives no response, or refuses for another reason.
        """
        try:
            self.ask([PROBE], SamplingParams(1, frozenset(), temperature=0.0), [0])
        except EndpointError as error:
            if error.status not in (400, 422):
                raise
            logger.warning(
                "how the environment begins the answer is not sent: the server takes no %s (%s)",
                " and ".join(GOES_ON),
                error,
            )
            return False
        return True

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
        self._gate.open()
        with ThreadPoolExecutor(min(MOST, len(conversations))) as threads:
            replies = list(
                threads.map(lambda messages, seed: self._reply(messages, params, seed), conversations, seeds)
            )
        if all(reply.finish_reason.startswith(FAILED) for reply in replies):
            raise EndpointError(
                f"{self.base_url} gave no response ({replies[0].finish_reason}): give the same command again to go on"
            )
        return replies

    def account(self) -> dict[str, Any]:
        """What it took since this was last called; nothing where nothing was sent.

        Returns:
            Requests against responses, tokens as the server counts them, and how many requests at a time it bore.
        """
        if not self.sent:
            return {}
        told: dict[str, Any] = {
            "requests_sent": self.sent,
            "responses": self._responses,
            "prompt_tokens": self._tokens[0],
            "completion_tokens": self._tokens[1],
            "concurrency": [*map(list, self._gate.history[:CHANGES_TOLD])],
        }
        if self.prices is not None:
            told["cost"] = sum(n * price / 1e6 for n, price in zip(self._tokens, self.prices, strict=True))
        self.sent = self._responses = 0
        self._tokens = (0, 0)
        return told

    def _reply(self, messages: Messages, params: SamplingParams, seed: int) -> Reply:
        try:
            return self._retried(self._body(messages, params, seed))
        except EndpointError:
            self._gate.close()  # the others need not find it out for themselves
            raise

    def _body(self, messages: Messages, params: SamplingParams, seed: int) -> dict[str, Any]:
        body = {
            "model": self.model,
            "messages": messages,
            "temperature": params.temperature,
            "max_tokens": params.max_new_tokens,
            "seed": seed % 2**31,
        }
        return body | (GOES_ON if messages[-1]["role"] == "assistant" else {})

    def _retried(self, body: dict[str, Any]) -> Reply:
        pause, refused, reason = self.pause, 0, "the ones before had no response"
        end = math.inf  # waiting for others to be answered takes nothing from a sample's time
        while self._failed_in_a_row < START:
            ticket = self._gate.enter(end)
            if ticket is None:
                self._failed_in_a_row += time.monotonic() >= end
                break
            end = min(end, time.monotonic() + self.deadline)
            outcome, asked = "failed", 0.0
            try:
                reply = self._attempt(body, end)
                outcome = "answered"
                self._count(reply)
                return reply
            except ConnectionRefusedError as error:
                refused, reason = refused + 1, str(error)
                if refused == REFUSED_AT_MOST:
                    raise EndpointError(
                        f"nobody answers at {self.base_url} ({error}): start the server, or correct --base-url; then "
                        "give the same command again to go on"
                    ) from error
            except _Passing as error:
                refused, reason, outcome, asked = 0, str(error), error.outcome, error.pause
                if asked > self.deadline:
                    raise EndpointError(
                        f"{self.base_url} wants no requests for {asked:.0f} s ({error}), longer than --timeout: give "
                        "the same command again then"
                    ) from error
            finally:
                self._gate.leave(ticket, outcome, asked)
            wait = max(asked, pause * random.uniform(0.5, 1.5))
            pause *= 2
            if time.monotonic() + wait >= end:
                self._failed_in_a_row += 1
                break
            time.sleep(wait)
        return Reply("", f"{FAILED}: {reason}")

    def _count(self, reply: Reply) -> None:
        with self._lock:
            self._failed_in_a_row = 0
            self._responses += 1
            self._tokens = (self._tokens[0] + reply.tokens[0], self._tokens[1] + reply.tokens[1])

    def _attempt(self, body: dict[str, Any], end: float) -> Reply:
        import httpx

        with self._lock:
            self.sent += 1
        url = f"{self.base_url}/chat/completions"
        left = max(0.1, end - time.monotonic())
        try:
            timeout = httpx.Timeout(left, connect=min(left, CONNECT))
            with self._client.stream("POST", url, json=body, timeout=timeout) as response:
                content = _read(response, end)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise ConnectionRefusedError(str(error) or type(error).__name__) from error
        except httpx.InvalidURL as error:
            raise EndpointError(f"--base-url {self.base_url!r} is no address: {error}") from error
        except httpx.UnsupportedProtocol as error:
            raise EndpointError(
                f"--base-url {self.base_url!r} must begin with http:// or https://"
            ) from error
        except httpx.HTTPError as error:
            raise _Passing(f"{type(error).__name__}: {error}") from error
        status = response.status_code
        if status in (408, 429) or status >= 500:
            outcome = "too many" if status == 429 else "failed"
            raise _Passing(f"status {status}", outcome, _retry_after(response))
        if status != 200:
            said = content[:300].decode(errors="replace")
            raise EndpointError(f"{url} refuses with status {status}: {said!r}", status)
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
        said = message.get("content") or ""
        thought = message.get("reasoning_content") or message.get("reasoning") or ""  # as servers differ
        if not (isinstance(said, str) and isinstance(thought, str)):
            raise TypeError("the message is no text")
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
        raise _Passing(f"a body that means nothing ({type(error).__name__})") from error
    cut = choice.get("finish_reason") == "length"
    if thought:  # one that was cut in its thoughts has not ended them
        said = f"<think>{thought}" if cut and not said else f"<think>{thought}</think>\n{said}"
    said = said.encode(errors="replace").decode()  # half a surrogate pair could not be sent back
    return Reply(said, "length" if cut else "stop", _usage(body))


def endpoint_subject(endpoint: Endpoint) -> Subject:
    """A server's model, to be evaluated."""
    settings = {"sampler": "endpoint", "base_url": endpoint.base_url}
    source = f"{endpoint.base_url} {endpoint.model}"
    subject = text_subject(endpoint.model, source, TextSampler(endpoint.ask), settings)
    return replace(subject, finds_prefix=endpoint.goes_on, account=endpoint.account)


def _usage(body: dict[str, Any]) -> tuple[int, int]:
    """Tokens of prompt and completion; 0 where a server counts none."""
    usage = body.get("usage")
    counts = [
        usage.get(f"{which}_tokens") if isinstance(usage, dict) else 0 for which in ("prompt", "completion")
    ]
    prompt, completion = (n if isinstance(n, int) and 0 <= n < 2**31 else 0 for n in counts)
    return prompt, completion


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
    """Seconds, which a server may name as a date; 0 where it names none."""
    text = response.headers.get("retry-after", "")
    if text.isdecimal() and text.isascii() and len(text) < 7:
        return float(text)
    try:
        until = parsedate_to_datetime(text)
        return max(0.0, (until - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return 0.0
