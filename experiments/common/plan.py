"""Does it fit? What runs where, how much memory it takes there by `algorithms.footprint`, and what there is.

Nothing is started and no weights are read. A plan is arithmetic: what a GPU really takes has not been measured.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from algorithms import footprint
from algorithms.footprint import GB, PHASES, Item
from algorithms.placement import check_placement
from llmenv.samplers.gpu_memory import USABLE

if TYPE_CHECKING:
    from algorithms.config import LLMConfig


@dataclass
class Place:
    """A GPU, or the host.

    Attributes:
        name: In words.
        memory: Bytes that it has; None where nobody said.
        free: The share of a GPU that no actor has been given.
        actors: Who is there.
        items: What they hold there.
    """

    name: str
    memory: int | None
    free: float = 1.0
    actors: list[str] = field(default_factory=list)
    items: list[Item] = field(default_factory=list)

    @property
    def usable(self) -> float:
        """Bytes that a plan may fill."""
        return math.inf if self.memory is None else USABLE * self.memory

    @property
    def fits(self) -> bool:
        return footprint.peak(self.items)[0] <= self.usable

    def describe(self) -> str:
        """How much of what there is it takes, and when."""
        most, phase = footprint.peak(self.items)
        of = "" if self.memory is None else f" of {self.memory / GB:.1f}"
        return f"{most / GB:.1f}{of} GB ({phase})"


@dataclass
class Plan:
    """What runs where.

    Attributes:
        gpus: Those that hold something.
        host: The memory of all processes, as if they were on one machine.
        problems: What is wrong, each with its remedy; empty where it fits.
        notes: What else there is to say.
    """

    gpus: list[Place]
    host: Place
    problems: list[str]
    notes: list[str]

    @property
    def fits(self) -> bool:
        return not self.problems

    def line(self) -> str:
        """The plan in one line."""
        parts = [f"{names(places)} {places[0].describe()}" for places in alike(self.gpus)]
        verdict = "fits" if self.fits else "may not fit: --plan says what to change"
        return f"plan: {', '.join([*parts, f'host {self.host.describe()}'])}: {verdict}"


def alike(places: Sequence[Place]) -> list[list[Place]]:
    """Places that are as large as each other and hold the same, together."""
    found: dict[tuple, list[Place]] = {}
    for place in places:
        found.setdefault((place.memory, *place.items), []).append(place)
    return list(found.values())


def names(places: Sequence[Place]) -> str:
    """Such as `GPU 0 to 3`, of places that are alike."""
    first, last = places[0].name, places[-1].name
    return first if first == last else f"{first} to {last.removeprefix('GPU ')}"


def found_gpus() -> list[int]:
    """Bytes of each GPU of this machine."""
    import torch

    return [torch.cuda.get_device_properties(i).total_memory for i in range(torch.cuda.device_count())]


def host_memory() -> int:
    """Bytes of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def given_gpus(gpus: int | None, gpu_memory: float | None) -> list[int] | None:
    """Bytes of each GPU that the command line speaks of; None where it says nothing.

    Raises:
        ValueError: If it says half of it.
    """
    if gpus is None and gpu_memory is None:
        return None
    if gpus is None or gpu_memory is None or gpus < 0 or gpu_memory <= 0:
        raise ValueError(
            "--gpus and --gpu-memory go together: how many there are, and how many GB each of them has"
        )
    return [int(gpu_memory * GB)] * gpus


def make_plan(config: LLMConfig, gpus: Sequence[int], memory: int | None) -> Plan:
    """Places a run's processes, and counts what they hold.

    Args:
        config: The run's.
        gpus: Bytes of each GPU that there is.
        memory: Bytes of the host; None where nobody said.
    """
    places = [Place(f"GPU {i}", size) for i, size in enumerate(gpus)]
    host = Place("host", memory)
    problems = _misplaced(config, driver_has_gpu=bool(gpus))
    process = footprint.CUDA_PROCESS if config.num_gpus_per_env_runner or config.num_gpus_per_learner else 0
    processes = 1 + config.num_env_runners + config.num_learners
    host.items.append(Item("processes", processes * max(process, footprint.PROCESS)))
    learners = max(1, config.num_learners)
    actors = [("sampler", config.num_gpus_per_env_runner)] * max(1, config.num_env_runners)
    actors += [("learner", config.num_gpus_per_learner)] * learners
    needed = sum(amount for _, amount in actors)
    first = True
    for role, amount in actors:
        where = _take(places, amount)
        if amount and not where:
            problems.append(
                f"{learners} learners and {config.num_env_runners} runners need {needed:g} GPUs, and there are "
                f"{len(gpus)}: give --gpus and --gpu-memory for another machine, lower num_learners or "
                "num_env_runners, or give each a fraction of a GPU (num_gpus_per_learner, num_gpus_per_env_runner)"
            )
            break
        if role == "learner":
            held, first = footprint.learner(config, first=first), False
        else:
            held = footprint.sampler(config, where[0].memory if where else None)
        for place in where or [host]:
            place.actors.append(role)
            place.items += held.device
        host.items += held.host
    used = [place for place in places if place.items]
    problems += _too_large(config, used, host)
    return Plan(used, host, problems, _notes(config, used))


def plan_here(config: LLMConfig) -> Plan | None:
    """A run's plan on this machine; None where its GPUs are on others, in a cluster of Ray's."""
    on_gpus = bool(config.num_gpus_per_env_runner or config.num_gpus_per_learner)
    gpus = found_gpus() if on_gpus else []
    if on_gpus and not gpus and "RAY_ADDRESS" in os.environ:
        return None
    return make_plan(config, gpus, None if "RAY_ADDRESS" in os.environ else host_memory())


def _take(places: Sequence[Place], amount: float) -> list[Place]:
    """The GPUs that an actor gets, as Ray deals them out: whole ones, or a part of the fullest that has room."""
    if amount >= 1:
        taken = [place for place in places if place.free == 1.0][: int(amount)]
        taken = taken if len(taken) == int(amount) else []
    else:
        room = [place for place in places if amount and place.free >= amount - 1e-6]
        taken = sorted(room, key=lambda place: place.free)[:1]
    for place in taken:
        place.free -= min(amount, 1.0)
    return taken


def _misplaced(config: LLMConfig, *, driver_has_gpu: bool) -> list[str]:
    """What no memory would mend."""
    try:
        check_placement(config, in_trial=False, driver_has_gpu=driver_has_gpu)
    except ValueError as error:
        return [str(error)]
    return []


def _too_large(config: LLMConfig, gpus: Sequence[Place], host: Place) -> list[str]:
    problems = []
    for places in alike([*gpus, host]):
        place = places[0]
        if not place.fits:
            most, phase = footprint.peak(place.items)
            problems.append(
                f"{names(places)} ({' and '.join(dict.fromkeys(place.actors)) or 'all processes'}) would hold "
                f"{most / GB:.1f} GB while {phase}, and {place.usable / GB:.1f} of its "
                f"{(place.memory or 0) / GB:.1f} GB are to be had"
            )
    for _, rows in _caches(config, gpus):
        if rows < 1:
            problems.append(
                f"vLLM's cache would hold {max(rows, 0):.2f} of the longest sequence "
                f"({footprint.longest_sequence(config)} tokens): raise "
                "sampling.sampler_kwargs.gpu_memory_utilization, or give it a GPU of its own"
            )
            break
    return problems


def _caches(config: LLMConfig, gpus: Sequence[Place]) -> list[tuple[Place, float]]:
    """GPUs with a cache of vLLM's, and how many of the longest sequences it holds."""
    return [
        (place, footprint.sequences_in_cache(config, item.bytes))
        for place in gpus
        for item in place.items
        if item.what == "vLLM: cache"
    ]


def _notes(config: LLMConfig, gpus: Sequence[Place]) -> list[str]:
    notes = [
        f"a forward pass takes up to {footprint.micro_batch(config)} tokens; a runner decodes up to "
        f"{footprint.rows(config)} sequences at a time"
    ]
    if caches := _caches(config, gpus):
        rows = min(rows for _, rows in caches)
        notes.append(
            f"vLLM's cache holds {rows:.0f} sequences of {footprint.longest_sequence(config)} tokens"
        )
    if config.max_sequence_tokens is None:
        notes.append(
            f"max_prompt_tokens is not set: prompts of {footprint.ASSUMED_PROMPT} tokens are assumed, and a longer "
            "sequence may take more"
        )
    return notes


def when(item: Item) -> str:
    """Its phases in words."""
    return "always" if item.phases == PHASES else ", ".join(item.phases)
