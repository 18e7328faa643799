"""Evaluates a model in environments: what is owed is sampled over the one rollout loop, and recorded."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from llmenv.env import make_env
from llmenv.episode import TextEpisode
from llmenv.evaluation.records import NO_INDEX, Records, record
from llmenv.evaluation.scores import score
from llmenv.evaluation.subject import Subject, load_subject
from llmenv.evaluation.tasks import count_tasks, evaluation_requests
from llmenv.evaluation.text_models import FAILED
from llmenv.rollout import EnvPool, GroupRequest, rollout
from llmenv.samplers.sampler import SamplingParams
from llmenv.versions import versions


@dataclass(frozen=True)
class Plan:
    """What is asked, of whichever model.

    Attributes:
        envs: Environments' ids, "module:Id-v0".
        env_options: Arguments of all of them. "split" is "test" unless they say otherwise, where an environment has
            one.
        num_tasks: Held-out tasks of each environment; all, where it has fewer.
        samples: Of each task.
        temperature: Of sampling; 0 takes the most likely tokens.
        max_new_tokens: Cap on a response.
        max_prompt_tokens: Longer prompts are errors.
        seed: Of tasks and samples; 0 asks what every training run is evaluated on.
        batch_size: Samples at a time; a kill loses at most these.
    """

    envs: Sequence[str]
    env_options: Mapping[str, Any] = field(default_factory=dict)
    num_tasks: int = 512
    samples: int = 8
    temperature: float = 1.0
    max_new_tokens: int = 512
    max_prompt_tokens: int | None = None
    seed: int = 0
    batch_size: int = 256

    def settings(self, subject: Subject) -> dict[str, Any]:
        """What records must have in common: neither how many there are, nor what they were made beside."""
        return {
            "model": subject.name,
            "fingerprint": subject.fingerprint,
            **subject.settings,
            **{
                name: getattr(self, name)
                for name in ("temperature", "max_new_tokens", "max_prompt_tokens", "seed")
            },
            "env_options": dict(self.env_options),
        }


def evaluate(
    model: str | Subject,
    env: str | Sequence[str],
    output: str | Path,
    *,
    sampler: str = "transformers",
    on_batch: Callable[[int, int], None] = lambda done, all_of_them: None,
    **settings: Any,
) -> dict[str, Any]:
    """Samples a model's responses in environments, as far as the folder does not have them, and sums them up.

    Args:
        model: See `llmenv.models.names.resolve_model`; or what `load_subject`, or whoever else, made of it.
        env: Gymnasium's id, "module:Id-v0", or several.
        output: A folder: a new one, or an evaluation's with these settings, of which what is missing is done.
        sampler: "transformers" or "vllm", for a model by its name.
        on_batch: Told after each batch how many samples are there, and of how many.
        **settings: See `Plan`.

    Returns:
        The content of summary.json: "settings", "versions", by environment the figures of
        `llmenv.evaluation.scores.score` and of how many samples the "prefix" was sent, how the environment begins the
        answer; and for a server "asking", an entry a command that came to its end (`Endpoint.account`).

    Raises:
        ValueError: If a name means nothing, or the folder has other settings.
    """
    plan = Plan([env] if isinstance(env, str) else [*env], **settings)
    options = {each: held_out(each, dict(plan.env_options)) for each in plan.envs}
    subject = load_subject(model, sampler) if isinstance(model, str) else model
    records = Records(Path(output), plan.settings(subject))
    asked = {
        each: evaluation_requests(plan.num_tasks, count_tasks(each, options[each]), plan.samples, plan.seed)
        for each in plan.envs
    }
    done = records.done()
    expected = sum(len(requests) * plan.samples for requests in asked.values())
    owed = {each: [*_owed(each, requests, done)] for each, requests in asked.items()}
    there = expected - sum(request.size for requests in owed.values() for request in requests)
    on_batch(there, expected)
    if there < expected:
        subject.begin()
    for each, requests in owed.items():
        with Asking(subject, plan, each, options[each]) as asking:
            for batch in _batches(requests, plan.batch_size):
                rows = asking.rows(batch)
                records.append(rows)
                there += len(rows)
                on_batch(there, expected)
    summary = summarize_records(records, plan, asked, subject)
    if accounts := [*records.read_summary().get("asking", []), *filter(None, [subject.account()])]:
        summary["asking"] = accounts
    records.write_summary(summary)
    return summary


def held_out(env: str, env_options: dict[str, Any]) -> dict[str, Any]:
    """An environment's options, with its held-out split if it has splits and no other was asked for."""
    options = {"split": "test", **env_options}
    try:
        make_env(env, options).close()
    except TypeError as error:
        if "split" in env_options or "argument 'split'" not in str(error):
            raise ValueError(f"the environment {env!r} does not take these options: {error}") from error
        return env_options
    return options


def summarize_records(
    records: Records, plan: Plan, asked: Mapping[str, Sequence[GroupRequest]], subject: Subject
) -> dict[str, Any]:
    """The figures of what was asked for; records of more tasks or samples than that are left out."""
    frame = records.read()
    figures = {}
    for env, requests in asked.items():
        seeds = {request.seed for request in requests}
        wanted = (frame["env"] == env) & frame["seed"].isin(seeds) & (frame["sample"] < plan.samples)
        figures[env] = score(frame[wanted], len(requests) * plan.samples)
        figures[env]["prefix"] = int(frame["messages"][wanted].map(_is_begun).sum())
    return {"settings": plan.settings(subject), "versions": versions(), "environments": figures}


def _is_begun(messages: str) -> bool:
    """Whether a prompt has how its answer begins."""
    return any(message["role"] == "assistant" for message in json.loads(messages))


def _owed(env: str, requests: Sequence[GroupRequest], done: set[Any]) -> Iterator[GroupRequest]:
    """What is not done of each group, as groups of samples whose numbers follow one another."""
    for request in requests:
        index = (request.options or {}).get("index", NO_INDEX)
        missing = [i for i in range(request.size) if (env, request.seed, index, i) not in done]
        while missing:
            size = next((n for n in range(1, len(missing)) if missing[n] != missing[0] + n), len(missing))
            yield replace(request, first=missing[0], size=size)
            missing = missing[size:]


def _batches(requests: Sequence[GroupRequest], size: int) -> Iterator[list[GroupRequest]]:
    """Groups with `size` samples together, or a few less, so that a task's are sampled beside one another."""
    batch: list[GroupRequest] = []
    room = size
    for request in requests:
        while request.size:
            part = replace(request, size=min(room, request.size))
            batch.append(part)
            room -= part.size
            request = replace(request, first=part.first + part.size, size=request.size - part.size)
            if not room:
                yield batch
                batch, room = [], size
    if batch:
        yield batch


class Asking:
    """One environment, asked by one model; its environments are made once and closed at the end."""

    def __init__(self, subject: Subject, plan: Plan, env: str, options: dict[str, Any]):
        self.subject, self.plan, self.env, self.options = subject, plan, env, options
        self.pool = EnvPool(lambda: make_env(env, options))
        self.params = SamplingParams(
            plan.max_new_tokens, subject.renderer.stop_token_ids, temperature=plan.temperature
        )
        self.common = {
            "model": subject.name,
            "fingerprint": subject.fingerprint,
            "sampler": json.dumps(plan.settings(subject), sort_keys=True),
            "versions": json.dumps(versions()),
        }

    def __enter__(self) -> Asking:
        return self

    def __exit__(self, *error: object) -> None:
        self.pool.close()

    def rows(self, requests: Sequence[GroupRequest]) -> list[dict[str, Any]]:
        """Records of a batch; its seconds are shared out evenly, since its samples are decoded together."""
        subject, start = self.subject, time.perf_counter()
        episodes = rollout(
            self.pool,
            subject.renderer,
            subject.sampler,
            requests,
            self.params,
            self.plan.max_prompt_tokens,
        )
        seconds = (time.perf_counter() - start) / len(episodes)
        return [{**self._row(episode), **self.common, "seconds": seconds} for episode in episodes]

    def _row(self, episode: TextEpisode) -> dict[str, Any]:
        if not self.subject.takes_prefix:
            episode.assistant_prefix = ""
        first = episode.turns[0].prompt_ids.tolist() if episode.turns else []
        prompt = self.subject.renderer.tokenizer.decode(first, skip_special_tokens=False)
        missing = next((t.finish_reason for t in episode.turns if t.finish_reason.startswith(FAILED)), None)
        if missing is not None:  # what the environment said to nothing is no verdict
            episode.error = missing
            episode.turns[-1].info = {}
        return {**record(episode, self.env, self.options, prompt), "again": missing is not None}
