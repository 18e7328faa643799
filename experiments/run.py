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
from contextlib import ExitStack
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from experiments.common.settings import Sections

HERE = Path(__file__).resolve().parent
if sys.path and Path(sys.path[0]).resolve() == HERE:
    sys.path[0] = str(
        HERE.parent
    )  # a script's own folder comes first, where `experiments.run` would be `run`

PRESETS = ", ".join(sorted(file.stem for file in (HERE / "presets").glob("*.yaml")))
# The panels of --help.
TASK, LENGTH, LEARNING = "What is trained", "For how long", "Learning"
SAMPLING, MODEL, PLACES, FOLDER, PLAN = "Sampling", "The model", "Where it runs", "What it leaves", "Plan"


def option(panel: str, text: str, *names: str, default: str = "") -> Any:
    """An option, with its default where that is not in the signature: a preset's, or the config's own."""
    return typer.Option(
        *names, help=f"{text} (default: {default})" if default else text, rich_help_panel=panel
    )


# How many processes of Ray's there are.
PROCESSES = (("env_runners", "num_env_runners"), ("learners", "num_learners"))


def main(
    env: Annotated[
        list[str] | None,
        option(
            TASK,
            "Gymnasium id; `module:Id-v0` for one of your own. Several are mixed: `--env A-v0:0.7 --env B-v0:0.3`.",
            default="Countdown-v0",
        ),
    ] = None,
    algo: Annotated[
        str | None,
        option(
            TASK,
            "PPO, GRPO, DrGRPO, DAPO, RLOO, REINFORCE++, REINFORCE++-baseline, GSPO or CISPO; RFT imitates "
            "what is right, SFT --set data=FILE; Distill samples for a teacher, --set policy.reference_model=MODEL.",
            default="GRPO",
        ),
    ] = None,
    model: Annotated[
        str | None,
        option(
            TASK,
            "tiny, tiny-zero, tiny-guess, smollm2-135m, a Hugging Face folder, or a hub id.",
            default="tiny",
        ),
    ] = None,
    preset: Annotated[
        str | None,
        option(
            TASK,
            f"A YAML file, or one of {PRESETS}.",
            default="tiny or, for other models, pretrained; sft_tiny or sft for SFT",
        ),
    ] = None,
    set_: Annotated[
        list[str] | None, option(TASK, "section.key=value, such as training.lr=1e-6; repeatable.", "--set")
    ] = None,
    seed: Annotated[int | None, option(TASK, "All is a function of it.", default="0")] = None,
    iterations: Annotated[
        int | None, option(LENGTH, "0: evaluate alone.", default="tiny: 80, pretrained: 200")
    ] = None,
    time_limit: Annotated[float | None, option(LENGTH, "Minutes of training.", default="none")] = None,
    eval_tasks: Annotated[
        int | None,
        option(LENGTH, "Held-out tasks of an evaluation.", default="tiny: 1024, pretrained: 128"),
    ] = None,
    evaluate_every: Annotated[
        int | None, option(LENGTH, "Iterations; 0: never.", default="tiny: 40, pretrained: 50")
    ] = None,
    prompts_per_iteration: Annotated[
        int | None, option(LEARNING, "Groups.", default="tiny: 32, pretrained: 16")
    ] = None,
    group_size: Annotated[int | None, option(LEARNING, "Samples a group.", default="8")] = None,
    minibatch_size: Annotated[
        int | None, option(LEARNING, "Sequences an optimizer step.", default="all of an iteration")
    ] = None,
    num_epochs: Annotated[int | None, option(LEARNING, "Passes over each batch.", default="1")] = None,
    lr: Annotated[
        float | None, option(LEARNING, "Learning rate.", default="tiny: 1e-4, pretrained: 1e-6")
    ] = None,
    kl_coeff: Annotated[
        float | None,
        option(LEARNING, "Weight of the KL to the initial policy; 0: no reference.", default="0"),
    ] = None,
    critic: Annotated[str | None, option(LEARNING, "PPO's: separate or shared.", default="separate")] = None,
    temperature: Annotated[
        float | None, option(SAMPLING, "Of sampling and of the log-probabilities.", default="1")
    ] = None,
    max_new_tokens: Annotated[
        int | None, option(SAMPLING, "Cap on a response.", default="tiny: 160, pretrained: 512")
    ] = None,
    max_prompt_tokens: Annotated[
        int | None,
        option(SAMPLING, "Longer prompts are dropped.", default="tiny: none, pretrained: 1024"),
    ] = None,
    template: Annotated[
        str | None, option(SAMPLING, "Of prompts: auto, r1, chat or raw.", default="auto")
    ] = None,
    sampler: Annotated[
        str | None,
        option(SAMPLING, "transformers or vllm.", default="vllm if installed, but for tiny models"),
    ] = None,
    dtype: Annotated[str | None, option(MODEL, "float32, bfloat16 or float16.", default="float32")] = None,
    lora_rank: Annotated[
        int | None, option(MODEL, "Train LoRA adapters of this rank alone.", default="all weights")
    ] = None,
    shared_prompts: Annotated[
        bool | None, option(MODEL, "Learn a group's prompt once.", default="--shared-prompts")
    ] = None,
    trust_remote_code: Annotated[
        bool | None,
        option(MODEL, "Run the Python code that comes with the model.", "--trust-remote-code"),
    ] = None,
    num_env_runners: Annotated[
        int | None, option(PLACES, "Sampling processes; 0: in this one.", default="0")
    ] = None,
    num_learners: Annotated[
        int | None, option(PLACES, "Learning processes; 0: in this one.", default="0")
    ] = None,
    num_gpus_per_env_runner: Annotated[
        float | None, option(PLACES, "GPUs of each sampling process.", default="0")
    ] = None,
    num_gpus_per_learner: Annotated[
        float | None, option(PLACES, "GPUs of each learning process.", default="0")
    ] = None,
    address: Annotated[
        str | None,
        option(
            PLACES,
            "A Ray cluster: auto, on one of its nodes, or HOST:PORT.",
            default="RAY_ADDRESS, or this machine",
        ),
    ] = None,
    zero_stage: Annotated[
        int | None, option(PLACES, "DeepSpeed's ZeRO, 0 to 3.", default="without DeepSpeed")
    ] = None,
    deepspeed: Annotated[Path | None, option(PLACES, "JSON file of more of DeepSpeed's settings.")] = None,
    output: Annotated[
        str | None,
        option(FOLDER, "Run folder, here or elsewhere (s3://bucket/run).", default="a new one under runs/"),
    ] = None,
    resume: Annotated[str | None, option(FOLDER, "Go on with the run of this folder.")] = None,
    wandb: Annotated[bool, option(FOLDER, "Log to Weights & Biases too.", "--wandb")] = False,
    plan: Annotated[
        bool, option(PLAN, "Say what runs where and whether it fits, and end.", "--plan")
    ] = False,
    gpus: Annotated[int | None, option(PLAN, "Of so many GPUs.", default="those here")] = None,
    gpu_memory: Annotated[float | None, option(PLAN, "GB (10^9 bytes) of each GPU.")] = None,
) -> None:
    """Trains a language model in a Gymnasium environment by reinforcement learning."""
    options: Sections = {
        "policy": {
            "model": model,
            "dtype": dtype,
            "template": template,
            "lora_rank": lora_rank,
            "trust_remote_code": trust_remote_code,
        },
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
    from experiments.common.errors import told

    seen: Path | None = None  # of a run that is gone on with
    with told(), ExitStack() as stack:
        from experiments.common.own_packages import import_ours

        import_ours()
        sys.path.append(os.getcwd())  # environments of one's own; Ray looks there for its workers too
        from experiments.common import refusals, settings

        if address is not None:
            from experiments.common.cluster import name_cluster

            name_cluster(address)
        assigned = settings.from_assignments(set_ or [])
        refusals.refuse(assigned, options)
        if deepspeed is not None:
            from llmenv.engines.deepspeed import read_config

            options["deepspeed"]["config"] = read_config(deepspeed)
        if resume is not None:
            if preset or output or env or algo:
                raise ValueError(
                    "--resume goes on with the run's own settings, in its folder: leave out --env, --algo, --preset "
                    "and --output"
                )
            from experiments.common.places import glimpse
            from experiments.common.resuming import resumed

            output = resume
            seen = stack.enter_context(glimpse(resume))
            algo, sections = resumed(seen, assigned, options)
        else:
            from algorithms.names import method_name

            algo = method_name(algo or "GRPO")
            sections = _sections(env or [], preset, assigned, options, imitates=algo == "SFT")
            from experiments.common.environments import short_name

            task = short_name(sections["environment"])
            name = f"{task}-{algo}-{Path(sections['policy']['model']).name}"
            output = output or f"runs/{name}-{datetime.now():%Y%m%d-%H%M%S}"
        if plan:
            from experiments.common.plan_shown import plan_run

            status = plan_run(algo, sections, gpus, gpu_memory, run=seen)
        else:
            from experiments.common.launch import start

            status = start(algo, sections, output, resuming=resume is not None, wandb=wandb)
    raise typer.Exit(status)


def _sections(
    env: list[str], preset: str | None, assigned: Sections, options: Sections, *, imitates: bool = False
) -> Sections:
    from experiments.common import environments, refusals, settings
    from llmenv.models import names

    model = options["policy"].get("model") or assigned.get("policy", {}).get("model")
    if preset is None:
        presets = ("sft_tiny", "sft") if imitates else ("tiny", "pretrained")
        preset = presets[model not in (None, *names.EMBEDDED)]
    given = settings.load_preset(preset)
    refusals.refuse(given, {})
    if env or "env" not in settings.merge(given, assigned).get("environment", {}):
        given.get("environment", {}).get("env_config", {}).pop("parts", None)  # those of another environment
        given = settings.merge(given, {"environment": environments.environment(env or ["Countdown-v0"])})
    sections = settings.merge(given, assigned, options)
    if sections["policy"].setdefault("model", "tiny") not in names.EMBEDDED and find_spec("vllm"):
        sections.setdefault("sampling", {}).setdefault("sampler", "vllm")
    chosen = sections["policy"]["model"]
    if chosen != names.smollm2.NAME and not names.is_adapter(Path(chosen).expanduser()):
        names.resolve_model(chosen)  # those two may have to be made first
    places = [sections.get(section, {}).get(name, 0) for section, name in PROCESSES]
    if any(places):
        from experiments.common.own_packages import refuse_others

        refuse_others(Path.cwd())
    return sections


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
app.command()(main)

if __name__ == "__main__":
    app()
