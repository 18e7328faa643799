"""Evaluates a model on the held-out tasks of environments.

    python experiments/evaluate.py --model tiny --env Countdown-v0 --num-tasks 64 --samples 4

The same command goes on where it was interrupted, and with more --samples, --num-tasks or --env it adds to what is
there. --suite evaluates several by one file, --completions scores a file without a model. Records are the files of the
folder's records/ (pandas.read_parquet reads them), figures its summary.json.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from experiments.common.places import Place
    from llmenv.evaluation.subject import Subject

    Job = tuple[list[str], str, dict[str, Any]]  # environments, folder, settings

HERE = Path(__file__).resolve().parent
if sys.path and Path(sys.path[0]).resolve() == HERE:
    sys.path[0] = str(HERE.parent)  # as in run.py

# As the modules have them that import torch.
SAMPLERS, DTYPES = ("transformers", "vllm"), ("float32", "bfloat16", "float16")
TEMPLATES = ("auto", "r1", "chat", "raw")


def main(
    model: Annotated[
        str,
        typer.Option(
            help="A model's name, a Hugging Face folder or hub id, a run folder, a checkpoint, a folder of adapters, "
            "module:function of your own (text in, text out), or human."
        ),
    ] = "tiny",
    base_url: Annotated[
        str | None,
        typer.Option(
            help="An OpenAI-compatible server's, such as http://localhost:8000/v1; --model is its name there, the "
            "key is in OPENAI_API_KEY."
        ),
    ] = None,
    env: Annotated[
        list[str] | None,
        typer.Option(
            help="Gymnasium id; `module:Id-v0` for one of your own; repeatable. (default: Countdown-v0)"
        ),
    ] = None,
    env_set: Annotated[
        list[str] | None, typer.Option(help="key=value, an argument of the environments; repeatable.")
    ] = None,
    suite: Annotated[
        str | None,
        typer.Option(
            help="In place of --env, --env-set and --seed: one of experiments/suites/, such as arithmetic, or a .yaml "
            "of your own; a folder for each of its evaluations."
        ),
    ] = None,
    completions: Annotated[
        Path | None,
        typer.Option(
            help="A file to score without a model: an evaluation's records, or a .parquet or .jsonl with `completion` "
            "and `task`, `seed`, `index` or `options` (llmenv/evaluation/rescoring.py)."
        ),
    ] = None,
    num_tasks: Annotated[int, typer.Option(min=1, help="Held-out tasks of each environment.")] = 512,
    samples: Annotated[int, typer.Option(min=1, help="Of each task.")] = 8,
    until_width: Annotated[
        float | None,
        typer.Option(
            min=0.001,
            max=1,
            help="Ends once 95 % intervals are no wider, such as 0.02: looked at after 64 tasks, 128, 256, ...",
        ),
    ] = None,
    parity: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="No evaluation: so many tasks, greedily, by transformers and by vLLM (or the --base-url), and the "
            "first token where they part.",
        ),
    ] = None,
    temperature: Annotated[float, typer.Option(help="0: the most likely completion.")] = 1.0,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Cap on a response.")] = 512,
    max_prompt_tokens: Annotated[int | None, typer.Option(min=1, help="Longer prompts are errors.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="0: the tasks of the evaluations in training.")] = 0,
    sampler: Annotated[str, typer.Option(help="transformers or vllm.")] = "transformers",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    template: Annotated[str, typer.Option(help="Of prompts: auto, r1, chat or raw.")] = "auto",
    batch_size: Annotated[
        int, typer.Option(min=1, help="Samples at a time; a kill loses these at most.")
    ] = 256,
    timeout: Annotated[float, typer.Option(min=1, help="A server's seconds for a response.")] = 300.0,
    price_in: Annotated[
        float | None, typer.Option(min=0, help="A server's, of a million tokens of prompts.")
    ] = None,
    price_out: Annotated[
        float | None, typer.Option(min=0, help="A server's, of a million tokens that it writes.")
    ] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run the Python code that comes with the model.")
    ] = False,
    output: Annotated[
        str | None,
        typer.Option(
            help="Folder, here or elsewhere (s3://bucket/folder). (default: one under evaluations/, by model and "
            "environments)"
        ),
    ] = None,
) -> None:
    """Evaluates a model on the held-out tasks of environments."""
    from experiments.common.errors import told

    with told():
        from experiments.common.own_packages import import_ours

        import_ours()
        sys.path.append(os.getcwd())  # environments and models of one's own
        _refuse("temperature", 0 <= temperature <= 2, "from 0 to 2", temperature)
        for name, value, choices in (
            ("sampler", sampler, SAMPLERS),
            ("dtype", dtype, DTYPES),
            ("template", template, TEMPLATES),
        ):
            _refuse(name, value in choices, f"one of {', '.join(choices)}", value)
        from experiments.common.environments import env_id, env_options

        if suite is not None and (env or env_set):
            raise ValueError("--suite takes the place of --env and --env-set: leave them out")
        if suite is not None and (completions is not None or parity is not None):
            other = "--parity" if completions is None else "--completions"
            raise ValueError(f"{other} is no evaluation of a suite: leave out it or --suite")
        envs = [*dict.fromkeys(env_id(each) for each in env or ["Countdown-v0"])]
        options = env_options(env_set or [])
        if completions is not None:
            _score(completions, envs, output, options, seed, batch_size)
            return
        from experiments.common.subjects import HUMAN, maker, server

        make = (
            server(model, base_url, timeout, price_in, price_out)
            if base_url
            else maker(model, sampler, dtype, template, trust_remote_code)
        )
        if parity is not None:
            here = maker(model, "transformers", dtype, template, trust_remote_code)
            there = make if base_url else maker(model, "vllm", dtype, template, trust_remote_code)
            _compare_samplers(here, there, envs, options, seed, parity, max_new_tokens)
            return
        settings = {
            "samples": samples,
            "temperature": temperature,
            "max_new_tokens": max_new_tokens,
            "max_prompt_tokens": max_prompt_tokens,
            "batch_size": 1 if model == HUMAN else batch_size,  # each of their answers is recorded
        }
        name = Path(model).name.replace(":", ".")
        if suite is None:
            folder = output or "-".join([f"evaluations/{name}", *(each.rpartition(":")[2] for each in envs)])
            asked = {"env_options": options, "num_tasks": num_tasks, "seed": seed}
            jobs = [(envs, folder, {**settings, **asked})]
        else:
            jobs = _jobs(suite, output or f"evaluations/{name}-{Path(suite).stem}", num_tasks, settings)
        _evaluate(make, jobs, until_width, is_shown=model != HUMAN)


def _refuse(option: str, is_right: bool, must_be: str, value: Any) -> None:
    if not is_right:
        raise ValueError(f"--{option} must be {must_be}, got {value}")


def _score(
    file: Path, envs: list[str], output: str | None, options: dict[str, Any], seed: int, batch_size: int
) -> None:
    from rich.console import Console

    if not file.exists():
        raise ValueError(f"there is no {file}: give --completions a file, or an evaluation's folder")
    if len(envs) > 1:
        raise ValueError("--completions takes one --env: rows of others say so in their `env`")
    from experiments.common.evaluation_shown import show, show_changes
    from experiments.common.page.reports import write_report
    from experiments.common.places import held
    from experiments.common.starts import record_start
    from llmenv.evaluation.rescoring import score_completions

    console = Console(highlight=False)
    output = output or f"evaluations/scored-{file.stem}"
    try:
        with held(output, resuming=True) as place:
            summary = score_completions(
                file, envs[0], place.folder, env_options=options, seed=seed, batch_size=batch_size
            )
            record_start(place.folder)
            show(summary, console)
            show_changes(summary["changed"], console)
            write_report(place.folder)
    finally:
        with suppress(OSError):
            Path(output).rmdir()  # where nothing was written
    console.print(f"records, summary.json, report.html: {output}", markup=False, soft_wrap=True)


def _jobs(suite: str, folder: str, num_tasks: int, settings: dict[str, Any]) -> list[Job]:
    """A suite's evaluations, of as many tasks as were asked for; one whose tasks have changed is refused."""
    from experiments.common.suites import check_tasks, read_suite
    from llmenv.remote import joined

    jobs: list[Job] = []
    for part in read_suite(suite):
        check_tasks(part)
        asked = {
            "env_options": part.env_config,
            "num_tasks": min(num_tasks, part.num_tasks),
            "seed": part.seed,
        }
        jobs.append(([part.env], joined(folder, part.name), {**settings, **asked}))
    return jobs


def _evaluate(
    make: Callable[[], Subject], jobs: list[Job], until_width: float | None, is_shown: bool
) -> None:
    from rich.console import Console

    from experiments.common.display import quieten
    from experiments.common.evaluation_shown import progress, show

    console = Console(highlight=False)
    quieten()
    from experiments.common.page.reports import write_report
    from experiments.common.places import held
    from experiments.common.starts import record_start
    from llmenv.evaluation import evaluate
    from llmenv.evaluation.run import held_out
    from llmenv.evaluation.stopping import evaluate_until

    for envs, _, settings in jobs:
        for env in envs:
            held_out(env, settings["env_options"])  # what it refuses is told before the model is loaded
    act = evaluate if until_width is None else partial(evaluate_until, until_width)
    subject = make()
    for envs, output, settings in jobs:
        with held(output, resuming=True) as place:  # what is no evaluation is refused by its records
            record_start(place.folder)

            def on_batch(done: int, all_of_them: int, place: Place = place) -> None:
                tell(done, all_of_them)
                with suppress(OSError):  # the next batch brings it, or the end does
                    place.bring()

            with progress(console) if is_shown else nullcontext(lambda *counts: None) as tell:
                summary = act(subject, envs, place.folder, on_batch=on_batch, **settings)
            show(summary, console)
            write_report(place.folder)
        console.print(f"records, summary.json, report.html: {output}", markup=False, soft_wrap=True)


def _compare_samplers(
    here: Callable[[], Subject],
    there: Callable[[], Subject],
    envs: list[str],
    options: dict[str, Any],
    seed: int,
    num_tasks: int,
    max_new_tokens: int,
) -> None:
    from rich.console import Console

    from experiments.common.display import quieten
    from experiments.common.evaluation_shown import show_parting

    quieten()
    from llmenv.evaluation.parity import partings

    console = Console(highlight=False)
    first, second = here(), there()
    for env in envs:
        parted = partings(first, second, env, options, num_tasks, max_new_tokens, seed)
        console.print(f"{env}: {num_tasks - len(parted)} of {num_tasks} tasks alike, greedily", markup=False)
        show_parting(parted, console)


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
app.command()(main)

if __name__ == "__main__":
    app()
