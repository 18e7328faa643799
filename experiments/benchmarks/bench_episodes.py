"""What an iteration's samples cost on their way from runners to the driver, as arrays and as lists of numbers.

    python experiments/benchmarks/bench_episodes.py

4,096 samples of 1,000 response tokens, in groups of 8 with a prompt of 100 tokens each (ids below 150,000; no texts,
which are the same either way). "arrays" are `TextEpisode`s as rollouts make them, where a group shares its prompt's
array; "lists" are the same numbers in plain Python lists, a prompt's own for each sample. For both: the bytes of the
message that Ray makes of them, the milliseconds to put it into the object store (a runner's part) and to get it out
(the driver's), and those to make `TokenRow`s of what came out: of processor time, medians of the rounds, in which the
two take turns.

Expect about 8 bytes a token of arrays, against 14 of lists, and half the time to put them, an eighth to get them and a
fifth to make rows of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Annotated, Any

import numpy as np
import ray
import typer
from rich.console import Console
from rich.table import Table

from llmenv.episode import TextEpisode, Turn
from llmenv.policy.batch import TokenRow

GROUP_SIZE, PROMPT_TOKENS, VOCABULARY = 8, 100, 150_000


@dataclass
class ListTurn:
    """A turn's numbers in lists."""

    prompt_ids: list[int]
    response_ids: list[int]
    logps: list[float]
    reward: float


@dataclass
class ListEpisode:
    """An episode of such turns."""

    group: int
    turns: list[ListTurn]


def as_arrays(samples: int, tokens: int) -> list[TextEpisode]:
    """Random samples, as rollouts make them."""
    rng = np.random.default_rng(0)
    episodes = []
    for i in range(samples):
        if i % GROUP_SIZE == 0:
            prompt = rng.integers(VOCABULARY, size=PROMPT_TOKENS, dtype=np.int32)
        response, logps = rng.integers(VOCABULARY, size=tokens), -rng.random(tokens)
        turn = Turn(prompt, response, logps, finish_reason="stop", reward=1.0)
        episodes.append(TextEpisode(i // GROUP_SIZE, i % GROUP_SIZE, [turn], terminated=True))
    return episodes


def as_lists(episodes: Sequence[TextEpisode]) -> list[ListEpisode]:
    """The same numbers in lists."""
    return [
        ListEpisode(
            episode.group,
            [
                ListTurn(t.prompt_ids.tolist(), t.response_ids.tolist(), t.logps.tolist(), t.reward)
                for t in episode.turns
            ],
        )
        for episode in episodes
    ]


def row_of_lists(episode: ListEpisode) -> TokenRow:
    """`TokenRow.from_episode`, number by number."""
    ids: list[int] = []
    mask: list[bool] = []
    logps: list[float] = []
    rewards: list[float] = []
    for turn in episode.turns:
        size = len(turn.prompt_ids) + len(turn.response_ids)
        ids += turn.prompt_ids + turn.response_ids
        mask += [False] * len(turn.prompt_ids) + [True] * len(turn.response_ids)
        logps += [0.0] * len(turn.prompt_ids) + turn.logps
        rewards += [0.0] * (size - 1) + [turn.reward]
    return TokenRow(
        token_ids=np.array(ids, dtype=np.int64),
        response_mask=np.array(mask, dtype=bool),
        sampling_logps=np.array(logps, dtype=np.float32),
        advantages=np.where(mask, np.float32(0.0), np.float32(0.0)),
        rewards=np.array(rewards, dtype=np.float32),
        group=episode.group,
    )


def message_bytes(value: Any) -> int:
    """The bytes that Ray makes of a value."""
    context = ray._private.worker.global_worker.get_serialization_context()
    return context.serialize(value).total_bytes


def travel(episodes: Sequence[Any], make_row: Callable[[Any], TokenRow]) -> list[float]:
    """Milliseconds to put the episodes, to get them, and to make rows of them."""
    start = time.process_time()
    reference = ray.put(episodes)
    put = time.process_time()
    arrived = ray.get(reference)
    got = time.process_time()
    rows = [make_row(episode) for episode in arrived]
    end = time.process_time()
    assert len(rows) == len(episodes)
    return [1000 * seconds for seconds in (put - start, got - put, end - got)]


def main(
    samples: Annotated[int, typer.Option(help="Of an iteration; a multiple of 8.")] = 4096,
    tokens: Annotated[int, typer.Option(help="Of each response.")] = 1000,
    rounds: Annotated[int, typer.Option(help="Turns of each.")] = 5,
) -> None:
    """Measures bytes and milliseconds of an iteration's samples, as arrays and as lists."""
    arrays = as_arrays(samples, tokens)
    ways: dict[str, tuple[Sequence[Any], Callable[[Any], TokenRow]]] = {
        "lists": (as_lists(arrays), row_of_lists),
        "arrays": (arrays, TokenRow.from_episode),
    }
    ray.init(address="local", include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    times: dict[str, list[list[float]]] = {name: [] for name in ways}
    for round_ in range(rounds + 1):
        for name, way in ways.items():
            milliseconds = travel(*way)
            if round_:  # the first turn of each warms up
                times[name].append(milliseconds)
    table = Table(
        "way", "bytes", "a token", "put, ms", "get, ms", "rows, ms", title=f"{samples} x {tokens} tokens"
    )
    for name, (episodes, _) in ways.items():
        size = message_bytes(episodes)
        figures = [f"{median(column):,.1f}" for column in zip(*times[name], strict=True)]
        table.add_row(name, f"{size:,}", f"{size / samples / tokens:.1f}", *figures)
    ray.shutdown()
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
