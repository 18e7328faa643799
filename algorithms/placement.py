"""Which parts of a run may be where: what would take a GPU that Ray counts as free, or leave one idle, is refused.

A driver is no process of Ray's: what it takes of a GPU, Ray gives away again. GPUs are therefore for runners and
learners in processes of their own. A trial of Ray Tune's is one, so that its learner may be in it. Knows settings
alone, and starts nothing.
"""

from __future__ import annotations

from algorithms.config import LLMConfig
from llmenv.samplers.vllm import gpus_per_engine

# On the command line, and by the same names in a config.
COMMANDS = (
    "on one GPU --num-env-runners 1 --num-gpus-per-env-runner 0.5 --num-learners 1 --num-gpus-per-learner 0.5, or with "
    "a GPU for each --num-env-runners 1 --num-gpus-per-env-runner 1 --num-learners 1 --num-gpus-per-learner 1"
)


def check_placement(config: LLMConfig, *, in_trial: bool, driver_has_gpu: bool) -> None:
    """Refuses what is in the wrong place, whatever the cluster has.

    Not a part of a config's own checks: evaluation's has no runners.

    Args:
        config: The algorithm's.
        in_trial: Whether the driver is a process that Ray has given its GPUs, as Tune's trials are.
        driver_has_gpu: Whether the driver sees one.

    Raises:
        ValueError: With the command that is right.
    """
    _check_runners(config, driver_has_gpu)
    _check_learners(config, in_trial)
    if config.weight_transfer is not None:
        _check_transfer(config)


def _check_runners(config: LLMConfig, driver_has_gpu: bool) -> None:
    gpus, runners = config.num_gpus_per_env_runner, config.num_env_runners
    if gpus and not runners:
        raise ValueError(
            f"num_gpus_per_env_runner={gpus:g} is of runners in processes of their own, and "
            "num_env_runners is 0: set it to 1 or more"
        )
    if config.num_gpus_per_learner and not gpus:
        raise ValueError(
            f"num_gpus_per_learner={config.num_gpus_per_learner:g}, and num_gpus_per_env_runner is 0: the sampler "
            f"would run on the CPU while the GPU waits. Give it one, or a part: {COMMANDS}"
        )
    if config.sampler == "vllm" and not runners and driver_has_gpu:
        raise ValueError(
            "num_env_runners is 0, and vLLM would take the driver's GPU without Ray's knowledge. Give it one through "
            f"Ray: {COMMANDS}; or with the learner on the CPU --num-env-runners 1 --num-gpus-per-env-runner 1"
        )
    engine = gpus_per_engine(config.sampler_kwargs) if config.sampler == "vllm" else 1
    if gpus and engine != max(1, gpus):
        if engine == 1:
            raise ValueError(
                f"num_gpus_per_env_runner={gpus:g}, and a runner's sampler is on one GPU: set it to 1 or to a "
                "fraction, with more runners for more GPUs; or have vLLM spread the model over several "
                '(sampler_kwargs={"tensor_parallel_size": ...})'
            )
        raise ValueError(
            f"vLLM spreads the model over tensor_parallel_size x pipeline_parallel_size = {engine} GPUs, and "
            f"num_gpus_per_env_runner is {gpus:g}: set it to {engine}"
        )


def _check_learners(config: LLMConfig, in_trial: bool) -> None:
    gpus, learners = config.num_gpus_per_learner, config.num_learners
    if gpus > 1:
        raise ValueError(
            f"num_gpus_per_learner={gpus:g}, and a learner computes on one: set it to 1, and num_learners to the "
            "number of GPUs"
        )
    if gpus and not learners and not in_trial:
        raise ValueError(
            f"num_gpus_per_learner={gpus:g} with num_learners=0 is a learner in the driver, whose GPU Ray would give "
            f"to a runner too: {COMMANDS}"
        )
    # Ray fills a GPU before it goes on to the next. Runners are placed first: where each takes more than half of one,
    # there is room for one learner beside each.
    runner, beside = config.num_gpus_per_env_runner, config.num_env_runners == learners
    apart = gpus > 0.5 or (beside and runner > 0.5 and runner + gpus < 1 + 1e-4 < runner + 2 * gpus)
    if learners > 1 and gpus and not apart:
        raise ValueError(
            f"num_gpus_per_learner={gpus:g} would put several of the {learners} learners on one GPU, between whose "
            "parts NCCL brings nothing: set it to 1; or, with a runner and a learner on each GPU, as many of both, "
            "num_gpus_per_env_runner=0.6 and num_gpus_per_learner=0.4"
        )


def _check_transfer(config: LLMConfig) -> None:
    transfer, runners, learners = config.weight_transfer, config.num_env_runners, config.num_learners
    if config.sampler != "vllm" or not (config.num_gpus_per_env_runner and config.num_gpus_per_learner):
        raise ValueError(
            f"weight_transfer={transfer!r} is from the GPUs of learners to those of vLLM: it needs "
            "sampler='vllm' and GPUs for both (num_gpus_per_env_runner, num_gpus_per_learner); or leave it at None"
        )
    if not (runners and learners):
        raise ValueError(
            f"weight_transfer={transfer!r} is between processes: num_env_runners and num_learners must be at least 1; "
            "or leave it at None"
        )
    if transfer == "nccl" and min(config.num_gpus_per_env_runner, config.num_gpus_per_learner) < 1:
        raise ValueError(
            "weight_transfer='nccl' is between GPUs, and num_gpus_per_env_runner="
            f"{config.num_gpus_per_env_runner:g} and num_gpus_per_learner={config.num_gpus_per_learner:g} may be parts "
            "of one: give each a whole one, or leave it at None (or, with one runner and one learner, 'ipc')"
        )
    if transfer == "ipc" and (runners, learners) != (1, 1):
        raise ValueError("weight_transfer='ipc' is between one learner and one runner on one GPU: use 'nccl'")
    if transfer == "ipc" and not config.shares_gpu:
        raise ValueError(
            "weight_transfer='ipc' is within one GPU: num_gpus_per_env_runner and num_gpus_per_learner must be parts "
            "of it, such as 0.5 and 0.5; between GPUs it is 'nccl'"
        )
