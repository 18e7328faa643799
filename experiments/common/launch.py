"""A training run from its settings: its place, its Ray, its algorithm, fresh or restored; then `training` has it."""

from __future__ import annotations

from pathlib import Path

from experiments.common import settings
from experiments.common.cluster import join
from experiments.common.display import Display, hidden_columns, quieten
from experiments.common.places import Place, held
from experiments.common.plan import plan_here
from experiments.common.run_folder import RunFolder, newest_whole
from experiments.common.starts import record_start
from experiments.common.training import Training
from experiments.common.wandb_run import start_wandb
from llmenv.models.names import resolve_model, trust_remote_code


def start(algo: str, sections: settings.Sections, output: str | Path, *, resuming: bool, wandb: bool) -> int:
    """Builds everything that can fail on bad settings, then trains.

    Args:
        algo: One of `algorithms.METHODS`.
        sections: All settings.
        output: The run folder, or a URI of one.
        resuming: Whether to go on from its newest checkpoint.
        wandb: Whether to log to Weights & Biases too.

    Returns:
        The exit status: 0, or 130 or 143 for a run that was stopped (see `StopSignals`).
    """
    with held(output, resuming=resuming) as place:
        record_start(place.folder)
        return _start(algo, sections, place, resuming=resuming, wandb=wandb)


def _start(algo: str, sections: settings.Sections, place: Place, *, resuming: bool, wandb: bool) -> int:
    quieten()
    config, run = settings.build(algo, sections)
    trust_remote_code(config.trust_remote_code)
    resolve_model(config.base_model)
    plan = plan_here(config)
    folder = RunFolder(place.folder, place)
    recorded = settings.resolved(algo, sections, run, config)
    if not resuming:
        folder.write_config(recorded)
    display = Display(run.iterations, hidden_columns(config))
    display.say(f"{algo} on {config.env} with {config.base_model}, seed {config.root_seed}", style="bold")
    display.say(f"run folder: {place.name}")
    if plan is not None:
        display.say(plan.line())
    if crowded := settings.crowding(config):
        display.warn(crowded)
    import ray

    starting = "starting"
    if config.sampler == "vllm":
        starting += " vLLM, which takes half a minute or more (VLLM_LOGGING_LEVEL=INFO shows its logs)"
    algorithm = None
    try:
        with display.hearing(), display.waiting(starting):
            join(config)
            if resuming:
                newest = newest_whole(place.folder, display.warn).absolute()
                # With this config instead of the checkpoint's own: it may run on another machine.
                algorithm = config.algo_class.from_checkpoint(str(newest), config=config)
            else:
                algorithm = config.build_algo()
        if resuming:
            folder.write_config(recorded, anew=True)
            folder.rewind(algorithm.iteration)
            display.say(f"resumed after iteration {algorithm.iteration}")
        logger = start_wandb(recorded, place.folder) if wandb else None
        with display.hearing():
            return Training(algorithm, run, folder, display, logger).run()
    finally:
        folder.close()
        if algorithm is not None:
            algorithm.stop()
        ray.shutdown()
