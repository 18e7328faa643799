"""Which architecture works with which sampler and by which path of the learner, as a table in Markdown: docs/models.md.

    python tests/table_of_models.py
    python tests/table_of_models.py llama qwen3 --columns transformers vllm

Small random models (tests/architectures.py), in float32 on a CPU, through the checks that every run starts with. What
passes them is then compared with transformers' own forward pass, row by row, and its gradients.
"""

from __future__ import annotations

import argparse
import json
import logging
import re
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
sys.path += [str(ROOT), str(ROOT / "tests")]

import numpy as np  # noqa: E402
import ray  # noqa: E402
import torch  # noqa: E402

from algorithms.config import LLMConfig  # noqa: E402
from architectures import ARCHITECTURES, make_folder  # noqa: E402
from llmenv.engines.torch import TorchEngine  # noqa: E402
from llmenv.models import lora  # noqa: E402
from llmenv.models.names import load_causal_lm  # noqa: E402
from llmenv.policy.batch import TokenBatch, TokenRow  # noqa: E402
from llmenv.rllib.learner import LLMLearner  # noqa: E402
from llmenv.rllib.probe import EXACT, MismatchError, measure  # noqa: E402
from llmenv.samplers.vllm_loading import IncompleteError  # noqa: E402
from support import random_episodes, small_config  # noqa: E402
from updates import PARTITION_ALL, SPACES  # noqa: E402

# How a learner is told to go each path.
PATHS: dict[str, Callable[[LLMConfig], Any]] = {
    "shared prompts": lambda config: config,
    "plain": lambda config: config.training(shared_prompts=False),
    "LoRA": lambda config: config.policy(lora_rank=4),
    "ZeRO 3": lambda config: config.deepspeed(zero_stage=3, config=PARTITION_ALL),
}
SAMPLERS = ("transformers", "vllm")
COLUMNS = ("architecture", *SAMPLERS, *PATHS, "why")
# What a run refuses a model with; anything else that is raised is a fault.
REFUSALS = (ValueError, MismatchError, IncompleteError)
GRADIENT_GAP = 1e-3  # relative, of float32


class Cell(NamedTuple):
    """What became of a model: "works", "slower", "in part", "refused", or "wrong", and in the program's words why."""

    state: str
    why: str = ""


def try_path(folder: str, path: str) -> Cell:
    """A learner alone: its start-up, and log-probabilities and gradients of a few rows."""
    config = small_config(folder)
    PATHS[path](config)
    config.validate()
    with Told() as told:
        try:
            learner = config.build_learner_group(spaces=SPACES)._learner
        except REFUSALS as error:
            return Cell("refused", shorten(error))
    try:
        adapters = config.lora and {**config.lora, "seed": config.root_seed}
        gaps = compare(learner, plain(folder, json.dumps(adapters)))
    except RuntimeError as error:
        if "set shared_prompts=False" not in str(error):
            raise
        return Cell(
            "refused", shorten(error)
        )  # in a run by the comparison of sampler and learner at its start
    if not (gaps[0] < EXACT and gaps[1] < GRADIENT_GAP):
        return Cell("wrong", f"log-probabilities by {gaps[0]:.1g} nats, gradients by {gaps[1]:.1%}")
    slower = config.shared_prompts and learner.policy.why_not_shared
    if told.lines:
        return Cell("slower, in part" if slower else "in part", shorten(told.lines[0]))
    return Cell("slower", shorten(slower)) if slower else Cell("works")


def try_sampler(folder: str, sampler: str) -> Cell:
    """A run's start-up, in which sampler and learner are compared, and the same again with all weights changed."""
    config = small_config(folder).environment("support:NoDigit-v0").training(shared_prompts=False)
    config.sampling(sampler=sampler)
    if sampler == "vllm":
        config.sampling(max_prompt_tokens=150, sampler_kwargs={"kv_cache_memory_bytes": 2**27})
    try:
        algorithm = config.build_algo()
    except REFUSALS as error:
        return Cell("refused", shorten(error))
    with torch.no_grad():
        for parameter in algorithm.learner_group._learner.policy.parameters():
            parameter.mul_(1.05)
    algorithm.runners.sync_weights()
    gap = measure(algorithm.runners, algorithm.learner_group, algorithm.config)
    algorithm.stop()
    assert gap is not None
    return (
        Cell("works") if gap < EXACT else Cell("wrong", f"after a sync log-probabilities by {gap:.1g} nats")
    )


class Told(logging.Handler):
    """What the program warns of meanwhile, but for prompts that are not shared."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())

    def __enter__(self) -> Told:
        logging.getLogger("llmenv").addHandler(self)
        return self

    def __exit__(self, *error: object) -> None:
        logging.getLogger("llmenv").removeHandler(self)


class Plain(NamedTuple):
    """What a model itself makes of a few rows: log-probabilities where the responses are, and gradients by name.

    The loss is the sum of all responses' log-probabilities, each times a number of its own.
    """

    batch: TokenBatch
    factors: torch.Tensor
    logps: torch.Tensor
    gradients: dict[str, torch.Tensor]


@lru_cache(maxsize=2)  # the same for all paths of an architecture, but for adapters
def plain(folder: str, adapters: str) -> Plain:
    """By transformers, row by row.

    Args:
        folder: The model's.
        adapters: As JSON, where the learner has some: arguments of `add_adapters`.
    """
    model = load_causal_lm(folder)
    if settings := json.loads(adapters):
        lora.add_adapters(model, **settings)
    vocabulary = len(model.get_input_embeddings().weight)
    rows = [
        TokenRow.from_episode(e, 1.0) for e in random_episodes(2, 3, vocab_size=vocabulary, max_response=12)
    ]
    batch = TokenBatch.from_rows(rows)
    factors = torch.linspace(-1, 2, batch.input_ids.numel()).view(batch.input_ids.shape)
    logps = torch.zeros(batch.input_ids.shape)
    for i, row in enumerate(rows):
        ids = torch.tensor(np.asarray(row.token_ids, dtype=np.int64))
        found = model(input_ids=ids[None], use_cache=False).logits[0, :-1].float().log_softmax(-1)
        logps[i, 1 : len(ids)] = found.gather(-1, ids[1:, None]).squeeze(-1)
    logps = logps.where(batch.response_mask, 0.0)
    (logps * factors).sum().backward()
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return Plain(batch, factors, logps.detach(), gradients)


def compare(learner: LLMLearner, expected: Plain) -> tuple[float, float]:
    """The mean gap of log-probabilities, in nats, and the relative gap of all gradients, to the model's own."""
    batch = expected.batch
    found = learner.engine.forward(batch, with_entropy=False).logps
    learner.engine.backward((found * expected.factors).sum(), last=True)
    gap = float((found - expected.logps).detach().abs().sum() / batch.response_mask.sum())
    ours, theirs = gradients(learner), expected.gradients
    assert theirs.keys() <= ours.keys()
    differences = [(ours[name] - gradient).norm() for name, gradient in theirs.items()]
    norm = torch.stack([gradient.norm() for gradient in theirs.values()]).norm()
    return gap, float(torch.stack(differences).norm() / norm)


def gradients(learner: LLMLearner) -> dict[str, torch.Tensor]:
    """By the model's names; what is not reached by any has 0."""
    named = [(n, p) for n, p in learner.policy.model.named_parameters() if p.requires_grad]
    if isinstance(learner.engine, TorchEngine):
        return {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in named}
    from deepspeed.utils import safe_get_full_grad

    return {name: safe_get_full_grad(p) for name, p in named}


def shorten(message: object) -> str:
    """What a message says first, without folders and amounts, which differ from run to run, and without remedies."""
    text = " ".join(str(message).split())
    text = re.sub(r"/\S*/", "", text)
    text = re.sub(r"(by|are) [(]?\d[\d.e+-]*( nats|%)", r"\1 some\2", text)
    rest = (
        r"\. (?=[A-Z])|[.:;] (?=set|give|take|leave)| \(take|, which are no linear layers| from the learner's"
    )
    text = re.split(rest, text)[0]
    return text.replace("|", "/")[:200]


def tried(what: Callable[[], Cell]) -> Cell:
    try:
        return what()
    except Exception as error:  # none of the program's own: a fault, to be seen in the table
        return Cell("fails", shorten(f"{type(error).__name__}: {error}"))


def cell_of(folder: str, column: str) -> Cell:
    return tried(partial(try_sampler if column in SAMPLERS else try_path, folder, column))


def row_of(kind: str, columns: Sequence[str]) -> dict[str, Cell]:
    """Some of the columns of an architecture's row. vLLM's is found in a process of its own."""
    with tempfile.TemporaryDirectory() as parent:
        folder = make_folder(kind, Path(parent) / kind)
        cells = {}
        for column in columns:
            if column == "vllm":
                # vLLM makes its groups with a process's first model, and what one leaves is in another's way.
                address = ray.get_runtime_context().gcs_address
                with ProcessPoolExecutor(
                    1, mp_context=get_context("spawn"), initializer=join_ray, initargs=(address,)
                ) as pool:
                    cells[column] = pool.submit(cell_of, folder, column).result()
            else:
                cells[column] = cell_of(folder, column)
        return cells


def as_markdown(kind: str, cells: dict[str, Cell]) -> str:
    """A row of the table; a cell that nobody tried has a dash."""
    states = [cells[column].state if column in cells else "-" for column in COLUMNS[1:-1]]
    return f"| {' | '.join([kind, *states, '; '.join(reasons(cells))])} |"


def reasons(cells: dict[str, Cell]) -> list[str]:
    """Why cells are not as others, the same of several columns once."""
    columns: dict[str, list[str]] = {}
    for column, cell in cells.items():
        if cell.why:
            columns.setdefault(cell.why, []).append(column)
    return [f"{', '.join(names)}: {why}" for why, names in columns.items()]


def join_ray(address: str) -> None:
    ray.init(address=address, logging_level="ERROR", log_to_driver=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("kinds", nargs="*", metavar="ARCHITECTURE", help="default: all")
    parser.add_argument(
        "--columns", nargs="+", choices=COLUMNS[1:-1], default=COLUMNS[1:-1], metavar="COLUMN"
    )
    args = parser.parse_args()
    ray.init(address="local", num_cpus=2, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    for kind in args.kinds or ARCHITECTURES:
        print(as_markdown(kind, row_of(kind, args.columns)), flush=True)


if __name__ == "__main__":
    main()
