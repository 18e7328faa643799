"""Trains a language model in a Gymnasium environment.

    python experiments/run.py --env Countdown-v0 --algo GRPO

Settings come from a preset, then `--set section.key=value`, then the options below; the run folder's config.yaml
records what they came to. Ctrl-C ends the run after the iteration at hand and leaves a checkpoint; a second one ends
it at once.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import sys
import time
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from algorithms.base import LLMAlgorithm
    from experiments.common.display import Display
    from experiments.common.run_folder import RunFolder
    from experiments.common.settings import RunSettings, Sections

Option = typer.Option
PHASES = ("sampling", "learning", "weight_sync")  # the rest of an iteration is RLlib's and Ray's own


def main(
    env: Annotated[str, Option(help="Gymnasium id; `module:Id-v0` for one of your own.")] = "Countdown-v0",
    algo: Annotated[
        str, Option(help="PPO, GRPO, DrGRPO, DAPO, RLOO, REINFORCE++, REINFORCE++-baseline, GSPO or CISPO.")
    ] = "GRPO",
    model: Annotated[
        str | None,
        Option(
            help="tiny, tiny-zero, tiny-guess, smollm2-135m, a Hugging Face folder, or a hub id. [default: tiny]"
        ),
    ] = None,
    preset: Annotated[
        str | None,
        Option(help="Name in experiments/presets or a YAML file. [default: tiny or pretrained, by model]"),
    ] = None,
    set_: Annotated[
        list[str] | None, Option("--set", help="section.key=value, such as training.lr=1e-6; repeatable.")
    ] = None,
    seed: Annotated[int | None, Option(help="All tasks and samples are a function of it.")] = None,
    iterations: Annotated[int | None, Option(help="How many to train for.")] = None,
    time_limit: Annotated[float | None, Option(help="Minutes of training after which to end early.")] = None,
    prompts_per_iteration: Annotated[int | None, Option(help="Groups an iteration.")] = None,
    group_size: Annotated[int | None, Option(help="Samples a group.")] = None,
    minibatch_size: Annotated[int | None, Option(help="Sequences an optimizer step.")] = None,
    num_epochs: Annotated[int | None, Option(help="Passes over each batch.")] = None,
    shared_prompts: Annotated[
        bool | None, Option(help="Learn a group's prompt once. [default: --shared-prompts]")
    ] = None,
    lr: Annotated[float | None, Option(help="Learning rate.")] = None,
    kl_coeff: Annotated[
        float | None, Option(help="Weight of the KL to the initial policy; 0: no reference.")
    ] = None,
    critic: Annotated[str | None, Option(help="PPO's: separate or shared. [default: separate]")] = None,
    temperature: Annotated[float | None, Option(help="Of sampling and of the log-probabilities.")] = None,
    max_new_tokens: Annotated[int | None, Option(help="Cap on a response.")] = None,
    max_prompt_tokens: Annotated[int | None, Option(help="Longer prompts are dropped, and counted.")] = None,
    template: Annotated[str | None, Option(help="Prompt template: auto, r1, chat or raw.")] = None,
    dtype: Annotated[str | None, Option(help="float32, bfloat16 or float16.")] = None,
    lora_rank: Annotated[int | None, Option(help="Train LoRA adapters of this rank alone.")] = None,
    sampler: Annotated[
        str | None,
        Option(help="transformers or vllm. [default: vllm where it is installed, but for tiny models]"),
    ] = None,
    num_env_runners: Annotated[int | None, Option(help="Sampling processes; 0: in this one.")] = None,
    num_learners: Annotated[int | None, Option(help="Learning processes; 0: in this one.")] = None,
    num_gpus_per_env_runner: Annotated[float | None, Option(help="GPUs of each sampling process.")] = None,
    num_gpus_per_learner: Annotated[float | None, Option(help="GPUs of each learning process.")] = None,
    zero_stage: Annotated[
        int | None, Option(help="DeepSpeed's ZeRO, 0 to 3, over the learners. [default: without DeepSpeed]")
    ] = None,
    deepspeed: Annotated[Path | None, Option(help="JSON file of more of DeepSpeed's settings.")] = None,
    eval_tasks: Annotated[int | None, Option(help="Held-out tasks of an evaluation.")] = None,
    evaluate_every: Annotated[int | None, Option(help="Iterations between evaluations.")] = None,
    output: Annotated[Path | None, Option(help="Run folder. [default: a new one under runs/]")] = None,
    resume: Annotated[Path | None, Option(help="Go on with the run of this folder.")] = None,
    wandb: Annotated[bool, Option(help="Log to Weights & Biases too.")] = False,
) -> None:
    """Trains a language model in a Gymnasium environment by reinforcement learning."""
    options: Sections = {
        "policy": {"model": model, "dtype": dtype, "template": template, "lora_rank": lora_rank},
        "sampling": {
            "run_seed": seed,
            "temperature": temperature,
            "max_new_tokens": max_new_tokens,
            "max_prompt_tokens": max_prompt_tokens,
            "sampler": sampler,
        },
        "training": {
            "prompts_per_iteration": prompts_per_iteration,
            "group_size": group_size,
            "minibatch_size": minibatch_size,
            "num_epochs": num_epochs,
            "shared_prompts": shared_prompts,
            "lr": lr,
            "kl_coeff": kl_coeff,
            "critic": critic,
        },
        "env_runners": {
            "num_env_runners": num_env_runners,
            "num_gpus_per_env_runner": num_gpus_per_env_runner,
        },
        "learners": {"num_learners": num_learners, "num_gpus_per_learner": num_gpus_per_learner},
        "deepspeed": {"zero_stage": zero_stage},
        "evaluation": {"evaluation_duration": eval_tasks},
        "run": {"iterations": iterations, "time_limit": time_limit, "evaluate_every": evaluate_every},
    }
    options = {name: {k: v for k, v in values.items() if v is not None} for name, values in options.items()}
    sys.path.append(os.getcwd())  # environments of one's own; Ray looks there for its workers too
    try:
        if deepspeed is not None:
            from llmenv.engines.deepspeed import read_config

            options["deepspeed"]["config"] = read_config(deepspeed)
        if resume is not None:
            if set_ or preset:
                raise ValueError("--resume goes on with the run's own settings: leave out --set and --preset")
            output = resume
            algo, sections = _resumed(resume, options)
        else:
            from algorithms.methods import method_name

            algo = method_name(algo)
            sections = _sections(env, preset, set_ or [], options)
            name = f"{env.rpartition(':')[2]}-{algo}-{Path(sections['policy']['model']).name}"
            output = output or Path("runs") / f"{name}-{datetime.now():%Y%m%d-%H%M%S}"
            if (output / "progress.csv").exists():
                raise ValueError(
                    f"{output} holds a run already: go on with it by --resume {output}, or name another"
                )
        _run(algo, sections, output, resume is not None, wandb)
    except typer.Exit:
        raise
    except (ValueError, RuntimeError, OSError) as error:
        if os.environ.get("LLMENV_TRACEBACK"):
            raise
        typer.secho(f"error: {error}", fg="red", err=True)
        typer.echo("(LLMENV_TRACEBACK=1 shows where it came from)", err=True)
        raise typer.Exit(2) from error


def _sections(env: str, preset: str | None, assignments: list[str], options: Sections) -> Sections:
    from experiments.common import settings
    from llmenv.models.names import EMBEDDED

    assigned = settings.from_assignments(assignments)
    model = options["policy"].get("model") or assigned.get("policy", {}).get("model")
    if preset is None:
        preset = "tiny" if model in (None, *EMBEDDED) else "pretrained"
    sections = settings.merge(settings.load_preset(preset), assigned, options)
    sections.setdefault("environment", {})["env"] = _env_id(env)
    if sections["policy"].setdefault("model", "tiny") not in EMBEDDED and find_spec("vllm"):
        sections.setdefault("sampling", {}).setdefault("sampler", "vllm")
    return sections


def _env_id(env: str) -> str:
    """`module:Id-v0`, so that Ray's workers import the module that registers the environment."""
    if ":" in env:
        return env
    import gymnasium

    import envs  # noqa: F401 (registers)

    ours = sorted(
        name for name, spec in gymnasium.registry.items() if str(spec.entry_point).startswith("envs.")
    )
    if env not in ours:
        raise ValueError(
            f"there is no environment {env!r}: one of {', '.join(ours)}, or module:Id-v0 of your own"
        )
    return f"envs:{env}"


def _resumed(folder: Path, options: Sections) -> tuple[str, Sections]:
    """The recorded algorithm and settings; only the length may change, or it would be another run."""
    from experiments.common import settings
    from experiments.common.run_folder import checkpoints, read_config

    config = read_config(folder)
    changed = sorted({key for name, values in options.items() for key in values} - {*options["run"]})
    if changed:
        raise ValueError(
            f"--resume goes on with the settings of {folder}; it cannot take {', '.join(changed)}. "
            f"A new run with others can start from its weights: python experiments/export.py {folder} OUT, then "
            "--model OUT"
        )
    if not checkpoints(folder):
        raise ValueError(f"{folder} holds no checkpoint to resume from: start a new run")
    algo = config.pop("algo")
    return algo, settings.merge(config, {"run": options["run"]})


def _run(algo: str, sections: Sections, output: Path, resuming: bool, wandb: bool) -> None:
    """Builds everything that can fail on bad settings, then trains."""
    from experiments.common import settings
    from experiments.common.display import Display, quieten
    from experiments.common.run_folder import RunFolder, checkpoints
    from llmenv.models.names import resolve_model

    quieten()
    resolve_model(sections["policy"]["model"])
    config, run = settings.build(algo, sections)
    import ray

    ray.init(include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False)
    display = Display(run.iterations)
    display.say(f"[bold]{algo}[/bold] on {config.env} with {config.base_model}: run folder {output}")
    start = "starting"
    if config.sampler == "vllm":
        start += " vLLM, which takes half a minute or more (VLLM_LOGGING_LEVEL=INFO shows its logs)"
    algorithm = folder = None
    try:
        with display.waiting(start):
            if resuming:
                newest = checkpoints(output)[-1].absolute()
                algorithm = config.algo_class.from_checkpoint(str(newest))
            else:
                algorithm = config.build_algo()
        folder = RunFolder(output)
        if resuming:
            folder.rewind(algorithm.iteration)
            display.say(f"resumed after iteration {algorithm.iteration}")
        folder.write_config(settings.resolved(algo, sections, run))
        logger = _start_wandb(sections, output) if wandb else None
        _train(algorithm, run, folder, display, logger)
    finally:
        if folder is not None:
            folder.close()
        if algorithm is not None:
            algorithm.stop()
        ray.shutdown()


def _train(
    algorithm: LLMAlgorithm, run: RunSettings, folder: RunFolder, display: Display, logger: Any
) -> None:
    """Trains, and puts it all together. Ctrl-C and the loss of all runners leave a checkpoint too."""
    from llmenv.rllib.runner_group import RunnersLostError

    stop = _StopOnInterrupt()
    started = time.monotonic()
    try:
        _train_until(stop, algorithm, run, folder, display, logger)
        checkpoint = _save(algorithm, run, folder)
        if stop.requested:
            display.say(f"stopped after iteration {algorithm.iteration}: go on with --resume {folder.path}")
            raise typer.Exit(130)
        _finish(algorithm, folder, display, logger, checkpoint, time.monotonic() - started)
    except RunnersLostError as error:
        # Sampling changes nothing in the learners: they are as the last whole iteration left them.
        _save(algorithm, run, folder)
        raise RunnersLostError(f"{error}. Go on with --resume {folder.path}") from error


def _train_until(
    stop: _StopOnInterrupt,
    algorithm: LLMAlgorithm,
    run: RunSettings,
    folder: RunFolder,
    display: Display,
    logger: Any,
) -> None:
    """The loop: evaluate, train, evaluate now and then, save."""
    evaluations = folder.table("evaluations")
    if algorithm.iteration % run.evaluate_every == 0 and (
        evaluations.empty or evaluations["iteration"].max() < algorithm.iteration
    ):
        name = f"after {algorithm.iteration}" if algorithm.iteration else "before"
        display.evaluations({name: _evaluate(algorithm, folder, logger)})
    display.header()
    first, training_started = algorithm.iteration, time.monotonic()
    with display:
        while algorithm.iteration < run.iterations and not stop.requested:
            row = _progress_row(algorithm.train())
            elapsed = time.monotonic() - training_started
            left = elapsed / (algorithm.iteration - first) * (run.iterations - algorithm.iteration)
            if run.time_limit is not None:
                left = min(left, 60 * run.time_limit - elapsed)
            folder.log("progress", row)
            if logger:
                logger.log(row, step=algorithm.iteration)
            display.iteration(row, max(0.0, left))
            last = algorithm.iteration == run.iterations or left <= 0
            if algorithm.iteration % run.show_every == 0:
                _show_sample(algorithm, folder, display)
            if algorithm.iteration % run.evaluate_every == 0 and not last:
                evaluation = _evaluate(algorithm, folder, logger)
                display.evaluations({f"after {algorithm.iteration}": evaluation})
            if algorithm.iteration % run.checkpoint_every == 0:
                _save(algorithm, run, folder)
            if left <= 0:
                break


def _save(algorithm: LLMAlgorithm, run: RunSettings, folder: RunFolder) -> Path:
    return folder.save_checkpoint(algorithm.iteration, algorithm.save_to_path, run.keep_checkpoints)


def _finish(
    algorithm: LLMAlgorithm,
    folder: RunFolder,
    display: Display,
    logger: Any,
    checkpoint: Path,
    seconds: float,
) -> None:
    from experiments.common.model_card import versions
    from experiments.export import export

    evaluations = folder.table("evaluations")
    if evaluations["iteration"].max() < algorithm.iteration:
        _evaluate(algorithm, folder, logger)
        evaluations = folder.table("evaluations")
    before, after = evaluations.iloc[0].to_dict(), evaluations.iloc[-1].to_dict()
    policy = folder.path / "policy"
    shutil.rmtree(policy, ignore_errors=True)  # that of a shorter run, which has been resumed
    export(checkpoint, policy)
    progress = folder.table("progress")
    config = algorithm.config
    summary = {
        "env": config.env,
        "algo": config.method,
        "model": config.base_model,
        "seed": config.run_seed,
        "iterations": algorithm.iteration,
        "accuracy_before": before["sampled_accuracy"],
        "accuracy_after": after["sampled_accuracy"],
        "num_eval_tasks": int(after["num_tasks"]),
        "before": before,
        "after": after,
        "seconds": seconds,
        "samples": int(progress["num_episodes"].sum()),
        "tokens": int(progress["num_tokens"].sum()),
        "seconds_an_iteration": {
            name: round(float(progress[column].median()), 4)
            for name, column in [("all", "seconds")] + [(p, f"seconds_{p}") for p in (*PHASES, "overhead")]
        },
        "versions": versions(),
    }
    folder.write_summary(summary)
    display.evaluations({"before": before, "after": after})
    display.say(f"{seconds / 60:.1f} minutes; policy, curve and summary are in {folder.path}")


def _evaluate(algorithm: LLMAlgorithm, folder: RunFolder, logger: Any) -> dict[str, float]:
    """Evaluates on the held-out tasks, and writes what came out."""
    results = algorithm.evaluate()
    row: dict[str, float] = {"iteration": algorithm.iteration}
    for name, summary in (("sampled", results["env_runners"]), ("greedy", results["greedy"])):
        row |= {f"{name}_{key}": value for key, value in summary.items() if not key.startswith("num_")}
    row["num_tasks"] = results["env_runners"]["num_episodes"]
    folder.log("evaluations", row)
    for name, episodes in algorithm.last_evaluation.items():
        folder.write_samples(f"eval_{name}", algorithm.iteration, episodes)
    folder.draw_curve(f"{algorithm.config.method} on {algorithm.config.env}, {algorithm.config.base_model}")
    if logger:
        logger.log({f"evaluation/{key}": value for key, value in row.items()}, step=algorithm.iteration)
    return row


def _progress_row(result: dict[str, Any]) -> dict[str, float]:
    """The figures of RLlib's result that are worth a column."""
    learner, rollout, timers = result["learners"]["default_policy"], result["rollout"], result["timers"]
    row = {"iteration": result["training_iteration"], "seconds": result["time_this_iter_s"]}
    row |= {f"seconds_{phase}": float(timers[phase]) for phase in PHASES}
    row["seconds_overhead"] = row["seconds"] - sum(row[f"seconds_{phase}"] for phase in PHASES)
    row["tokens_per_second"] = float(rollout["num_response_tokens"]) / row["seconds"]
    row |= {key: float(value) for key, value in rollout.items()}
    # RLlib's order is that of a set: another one in every process.
    row |= {key: float(value) for key, value in sorted(learner.items()) if not key.startswith("num_")}
    row |= {key: float(learner[key]) for key in ("num_steps", "num_steps_skipped")}  # not RLlib's own numbers
    return row


def _show_sample(algorithm: LLMAlgorithm, folder: RunFolder, display: Display) -> None:
    episodes = algorithm.last_episodes
    folder.write_samples("train", algorithm.iteration, episodes)
    valid = [episode for episode in episodes if episode.valid]
    display.sample(valid[algorithm.iteration % len(valid)])


def _start_wandb(sections: Sections, output: Path) -> Any:
    import wandb

    return wandb.init(project="llmenv", name=output.name, config=sections, dir=str(output))


class _StopOnInterrupt:
    """The first Ctrl-C asks the loop to stop after the iteration at hand; the second one stops at once."""

    def __init__(self) -> None:
        self.requested = False
        signal.signal(signal.SIGINT, self._handle)

    def _handle(self, signum: int, frame: Any) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        print("\nstopping after this iteration (Ctrl-C again: at once)", file=sys.stderr)


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
app.command()(main)

if __name__ == "__main__":
    app()
