"""Trains a language model in a Gymnasium environment.

    python experiments/run.py --env Countdown-v0 --algo GRPO

Settings come from a preset, then `--set section.key=value`, then the options below; the run folder's config.yaml
records what they came to. Ctrl-C ends the run after the iteration at hand and leaves a checkpoint; a second one ends
it at once. SIGTERM, which a machine that is to be taken away sends, leaves a checkpoint of the last whole iteration as
soon as there can be one. `--resume FOLDER` goes on, on another machine too. `--plan` starts nothing: it says what would
run where, and whether it fits there (status 0) or not (status 1).
"""

from __future__ import annotations

import os
import sys
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from experiments.common.settings import Sections

Option = typer.Option


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
    plan: Annotated[bool, Option("--plan", help="Say what runs where and whether it fits, and end.")] = False,
    gpus: Annotated[int | None, Option(help="With --plan: of so many GPUs. [default: those here]")] = None,
    gpu_memory: Annotated[float | None, Option(help="With --plan: GB (10^9 bytes) of each GPU.")] = None,
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
    if (gpus, gpu_memory) != (None, None) and not plan:
        raise typer.BadParameter("--gpus and --gpu-memory are of --plan: a run takes the GPUs that it finds")
    sys.path.append(os.getcwd())  # environments of one's own; Ray looks there for its workers too
    try:
        if deepspeed is not None:
            from llmenv.engines.deepspeed import read_config

            options["deepspeed"]["config"] = read_config(deepspeed)
        if resume is not None:
            from experiments.common.resuming import resumed

            if preset:
                raise ValueError("--resume goes on with the run's own settings: leave out --preset")
            output = resume
            algo, sections = resumed(resume, set_ or [], options)
        else:
            sections = _sections(env, preset, set_ or [], options)
            from algorithms.methods import method_name

            algo = method_name(algo)
            name = f"{env.rpartition(':')[2]}-{algo}-{Path(sections['policy']['model']).name}"
            output = output or Path("runs") / f"{name}-{datetime.now():%Y%m%d-%H%M%S}"
        if plan:
            from experiments.common.plan_shown import plan_run

            status = plan_run(algo, sections, gpus, gpu_memory, run=resume)
        else:
            from experiments.common.training import start

            status = start(algo, sections, output, resuming=resume is not None, wandb=wandb)
    except (ValueError, RuntimeError, OSError) as error:
        if os.environ.get("LLMENV_TRACEBACK"):
            raise
        # What was noted on the way is how to go on.
        typer.secho(f"error: {'. '.join([str(error), *getattr(error, '__notes__', [])])}", fg="red", err=True)
        typer.echo("(LLMENV_TRACEBACK=1 shows where it came from)", err=True)
        raise typer.Exit(2) from error
    raise typer.Exit(status)


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


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
app.command()(main)

if __name__ == "__main__":
    app()
