"""Watches a model write, token by token, and shows the verdict; or lets a human answer in its place.

    python experiments/play.py --model tiny --env Countdown-v0
    python experiments/play.py --model human --env Countdown-v0 --seed 7

What a model writes reaches the terminal as text alone: no escape sequence of it does.
"""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from llmenv.episode import TextEpisode
    from llmenv.evaluation.subject import Subject

HERE = Path(__file__).resolve().parent
if sys.path and Path(sys.path[0]).resolve() == HERE:
    sys.path[0] = str(HERE.parent)  # as in run.py


def main(
    model: Annotated[
        str, typer.Option(help="As of evaluate.py: a model of any kind, module:function, or human.")
    ] = "tiny",
    env: Annotated[
        str, typer.Option(help="Gymnasium id; `module:Id-v0` for one of your own.")
    ] = "Countdown-v0",
    env_set: Annotated[
        list[str] | None, typer.Option(help="key=value, an argument of the environment; repeatable.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of the task. (default: drawn, and shown)")] = None,
    task: Annotated[
        str | None,
        typer.Option(
            help="In place of a drawn one, what `reset` takes, in YAML: {numbers: [1, 2, 3], target: 6}"
        ),
    ] = None,
    temperature: Annotated[float, typer.Option(min=0, max=2, help="0: the most likely completion.")] = 1.0,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Cap on a response.")] = 512,
    template: Annotated[str, typer.Option(help="Of prompts: auto, r1, chat or raw.")] = "auto",
) -> None:
    """Shows one episode as it goes."""
    from experiments.common.errors import told

    with told():
        from experiments.common.own_packages import import_ours

        import_ours()
        sys.path.append(os.getcwd())  # environments and models of one's own
        from experiments.common.environments import env_id, env_options
        from experiments.common.subjects import maker

        name, options = env_id(env), env_options(env_set or [])
        make = maker(model, "transformers", "float32", template, False)
        from llmenv.evaluation.run import held_out

        options = held_out(name, options)  # what it refuses is told before the model is loaded
        seed = random.randrange(2**31) if seed is None else seed
        print(f"{name} --seed {seed}")
        play(make(), name, options, seed, _options(task), temperature, max_new_tokens)


def _options(task: str | None) -> dict[str, Any] | None:
    if task is None:
        return None
    from experiments.common.yaml_text import load_text

    options = load_text(task, f"--task {task!r}")
    if not isinstance(options, dict):
        raise ValueError(f"--task {task!r} must be a mapping, such as {{numbers: [1, 2, 3], target: 6}}")
    return options


def play(
    subject: Subject,
    env: str,
    env_options: dict[str, Any],
    seed: int,
    options: dict[str, Any] | None = None,
    temperature: float = 1.0,
    max_new_tokens: int = 512,
) -> TextEpisode:
    """One episode over the one rollout loop, shown as it goes, with the verdict behind it."""
    from experiments.common.plain import printable
    from experiments.common.streamed import Streamed
    from llmenv.env import make_env
    from llmenv.rollout import EnvPool, GroupRequest, rollout
    from llmenv.samplers.sampler import SamplingParams
    from llmenv.samplers.transformers import TransformersSampler

    sampler: Any = subject.sampler
    streams = isinstance(sampler, TransformersSampler)
    if streams:
        sampler = Streamed(sampler.model, subject.renderer.tokenizer)
    subject.begin()
    params = SamplingParams(max_new_tokens, subject.renderer.stop_token_ids, temperature)
    pool = EnvPool(lambda: make_env(env, env_options))
    (episode,) = rollout(pool, subject.renderer, sampler, [GroupRequest(0, 1, seed, seed, options)], params)
    pool.close()
    if episode.error is not None:
        raise RuntimeError(f"the environment failed: {printable(episode.error)}")
    if not streams:
        print(f"\n{printable(episode.observation)}\n\n{printable(episode.transcript)}")
    for line in verdict(episode):
        print(printable(line))
    return episode


def verdict(episode: TextEpisode) -> Sequence[str]:
    """The reward and its parts, a line each."""
    told = dict(episode.turns[-1].info)
    told |= {"right answer": episode.right_answer, "reward": episode.total_reward}
    told |= {"ended": episode.turns[-1].finish_reason, "tokens": episode.response_length}
    return ["", *(f"{name:>12}  {value}" for name, value in told.items() if value is not None)]


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
app.command()(main)

if __name__ == "__main__":
    app()
