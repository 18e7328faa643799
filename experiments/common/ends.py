"""Both ends of a run for whoever watches it: the first completions, and what to try next. Changes nothing of it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from experiments.common.commands import called
from experiments.common.display import duration
from llmenv.remote import is_uri

if TYPE_CHECKING:
    from algorithms.base import LLMAlgorithm
    from experiments.common.display import Display
    from llmenv.episode import TextEpisode

FIRST = 2  # completions: they take as long as the longest of them, and the evaluation that follows far longer


def first_completions(algorithm: LLMAlgorithm) -> list[TextEpisode]:
    """What the policy writes of the first held-out tasks, before anything is measured.

    The evaluation samples them again, to the same: what is drawn depends on seed, task and sample alone.
    """
    count = min(FIRST, algorithm.config.evaluation_duration)
    episodes = algorithm.evaluation_episodes(algorithm.evaluation_config.temperature, count=count)
    return [episode for episode in episodes if episode.valid][:FIRST]


def show(episodes: Sequence[TextEpisode], display: Display) -> None:
    for episode in episodes:
        display.sample(episode)


def next_steps(run: str, env: str, env_config: dict[str, Any], iterations: int) -> list[str]:
    """Commands to try after a run.

    Args:
        run: The run's folder or URI.
        env: Its environment's id, "envs:Countdown-v0" or "my_module:MyEnv-v0".
        env_config: The environment's arguments.
        iterations: That it has had; without any there is nothing to compare or to go on with.

    Returns:
        Watch the policy write, see which tasks it has won and lost (of a folder alone), go on for as long again.
    """
    quoted, before = shlex.quote(run), shlex.quote(f"{run}/samples/eval_sampled_000000.parquet")
    play = f"{called('play')} --model {quoted} --env {shlex.quote(env.removeprefix('envs:'))}"
    for name, value in env_config.items():
        play += f" --env-set {shlex.quote(f'{name}={json.dumps(value, default=str)}')}"  # JSON is YAML
    if not iterations:
        return [play]
    compare = [] if is_uri(run) else [f"{called('compare')} {before} {quoted}"]
    return [play, *compare, f"{called('train')} --resume {quoted} --iterations {2 * iterations}"]


def say_what_is_there(display: Display, run: str, algorithm: LLMAlgorithm, seconds: float) -> None:
    """Where report and policy are, and what to try next; `run` is the run's folder or URI."""
    display.say(f"took {duration(seconds)}; policy, summary and all to look at (report.html) are in")
    display.say(run)
    display.say(f"next, open {run}/report.html, load {run}/policy, or try")
    config = algorithm.config
    for command in next_steps(run, config.env, dict(config.env_config), algorithm.iteration):
        display.say(f"  {command}")
