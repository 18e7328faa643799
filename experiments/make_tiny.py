"""Makes the embedded models: `tiny` (searches, but gives up soon), `tiny-zero` (knows the form alone), `tiny-guess`.

    python experiments/make_tiny.py --out llmenv/models/assets --seed 0

The tokenizer is built; a model with random weights learns from generated demonstrations of patient solvers: first of
Countdown alone, since a search is far harder to learn than a calculation, then of the whole mixture. From there two
short stages lead to `tiny`, which sees solvers that soon give up or guess (RL has persistence to teach it), and to
`tiny-zero`, which sees blind attempts. `tiny-guess` is `tiny`, which then saw games of GuessNumber-v0, most of them of
players who forget what they were told; the wording of the game joins its tokenizer. All tasks are of the training
split, and the loss is on the responses. What is drawn is a function of the seed and the step: started again with the
same arguments, an interrupted run goes on from its last save. A model that is there already is not made again, even if
another one that it was made from is.

Of the weights in the package, the first stage came from a loop of its own, with the same data, seed and schedule but
without the tokens of the multiplication prompt, and was rounded to float16. All that followed is this script's output,
but for one thing: the blind multiplications that `tiny-zero` saw were of held-out factors, too.
"""

from __future__ import annotations

import argparse
import copy
import math
import os
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch
import torch.nn.functional as F
from transformers import LlamaForCausalLM

from experiments.demonstrations import DEMONSTRATIONS, STYLES
from llmenv.models import tiny
from llmenv.models.names import load_causal_lm, load_tokenizer
from llmenv.models.renderer import Renderer

BATCH_SIZE = 32
ROWS_PER_PASS = 8
BATCHES_PER_BLOCK = 16  # drawn together, so that rows of about one length are found for each pass
MIXTURE = {"Countdown-v0": 2.0, "Multiplication-v0": 1.0}
# An environment of weight 0 is in the tokenizer alone.
SEARCH = {"Countdown-v0": 1.0, "Multiplication-v0": 0.0}
GAME = {"Countdown-v0": 0.0, "Multiplication-v0": 0.0, "GuessNumber-v0": 1.0}
SOLVERS = {"tiny": "hasty", "tiny-zero": "blind"}  # model: what it sees last
WARMUP_STEPS = 100
SAVE_EVERY_BLOCKS = 20

# The token ids of an episode, and which of them are of the responses.
Example = tuple[list[int], list[bool]]
# The rows of each forward pass.
Batch = list[list[Example]]


class Mixture:
    """Demonstrations of several environments, drawn in proportion to their weights and put into tokens."""

    def __init__(self, weights: dict[str, float]):
        unknown = weights.keys() - DEMONSTRATIONS.keys()
        if unknown:
            raise ValueError(
                f"no demonstrations of {', '.join(unknown)}: there are {', '.join(DEMONSTRATIONS)}"
            )
        self.envs: dict[str, Any] = {
            env_id: gym.make(f"envs:{env_id}", split="train", **DEMONSTRATIONS[env_id].env_config).unwrapped
            for env_id in weights
        }
        self.weights = weights
        self.tokenizer = tiny.build_tokenizer(self._phrases())
        self.renderer = _renderer(self.tokenizer)

    def _phrases(self) -> set[str]:
        """What never changes in the prompts: the wording of the questions and the template around them."""
        tokenizer = tiny.build_tokenizer([])
        phrases: set[str] = set()
        for env_id, env in self.envs.items():
            _, info = env.reset(seed=0)
            prompt = _renderer(tokenizer).encode("\0", info["system"], info["assistant_prefix"])
            phrases |= {*tokenizer.decode(prompt.token_ids).split("\0"), info["assistant_prefix"]}
            phrases |= set(DEMONSTRATIONS[env_id].wording)
        return phrases - {""}

    def block(self, seed: int, index: int, style: str) -> list[Batch]:
        """The batches of one block, in the order of training.

        Each has its share of all lengths: where long and short texts took turns, the few tokens of the short ones
        would weigh as much as the many of the long ones.
        """
        rng = random.Random(f"{seed} {index}")
        for env in self.envs.values():
            env.reset(seed=rng.getrandbits(31))
        env_ids = rng.choices(list(self.envs), list(self.weights.values()), k=BATCH_SIZE * BATCHES_PER_BLOCK)
        examples = [self._draw(env_id, rng, style) for env_id in env_ids]
        examples.sort(key=lambda example: len(example[0]))
        passes = [examples[i : i + ROWS_PER_PASS] for i in range(0, len(examples), ROWS_PER_PASS)]
        batches = [passes[i::BATCHES_PER_BLOCK] for i in range(BATCHES_PER_BLOCK)]
        rng.shuffle(batches)
        return batches

    def _draw(self, env_id: str, rng: random.Random, style: str) -> Example:
        env = self.envs[env_id]
        while True:
            observation, info = env.reset()
            prefix = info["assistant_prefix"]
            token_ids = self.renderer.encode(observation, info["system"], prefix).token_ids
            in_response = [False] * len(token_ids)
            for completion in DEMONSTRATIONS[env_id].write(rng, env.task, style):
                response = self.tokenizer.encode(completion + tiny.END_TOKEN)
                observation, _, terminated, truncated, info = env.step(prefix + completion)
                prefix, continues = info.get("assistant_prefix", ""), bool(info.get("continues"))
                over = terminated or truncated
                question = []
                if not over:
                    turn = self.renderer.next_turn(response, observation, prefix, continues)
                    prefix, question = turn.response_prefix, turn.token_ids
                token_ids += response + question
                in_response += [True] * len(response) + [False] * len(question)
                if over:
                    return token_ids, in_response
            if any(in_response):
                raise ValueError(f"a demonstration of {env_id} ends before its episode does")


def _renderer(tokenizer: tiny.PreTrainedTokenizerFast) -> Renderer:
    return Renderer(tokenizer, frozenset([tokenizer.eos_token_id]), "r1")


def response_loss(model: LlamaForCausalLM, batch: Batch) -> torch.Tensor:
    """Mean negative log-likelihood of the response tokens."""
    num_tokens = sum(sum(in_response) for rows in batch for _, in_response in rows)
    return torch.stack([_summed_loss(model, rows) for rows in batch]).sum() / num_tokens


def _summed_loss(model: LlamaForCausalLM, rows: Sequence[Example]) -> torch.Tensor:
    width = max(len(token_ids) for token_ids, _ in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    in_response = torch.zeros(len(rows), width, dtype=torch.bool)
    for i, (token_ids, mask) in enumerate(rows):
        ids[i, : len(token_ids)] = torch.tensor(token_ids)
        in_response[i, : len(mask)] = torch.tensor(mask)
    # Padding is on the right, where causal attention does not see it: no mask is needed.
    hidden = model.model(ids[:, :-1], use_cache=False).last_hidden_state
    logits = model.lm_head(hidden[in_response[:, 1:]])
    return F.cross_entropy(logits, ids[:, 1:][in_response[:, 1:]], reduction="sum")


def learning_rate(peak: float, step: int, steps: int) -> float:
    """Linear warm-up, then half a cosine down to a fiftieth of the peak."""
    cosine = 0.02 + 0.98 * (1 + math.cos(math.pi * step / steps)) / 2
    return peak * min(1.0, (step + 1) / WARMUP_STEPS) * cosine


@dataclass(frozen=True)
class Stage:
    """One stretch of training on one style of demonstrations."""

    style: str
    steps: int
    peak_learning_rate: float


def train(model: LlamaForCausalLM, mixture: Mixture, stage: Stage, seed: int, state_file: Path) -> None:
    """Trains the model in place, with a fresh optimizer; goes on from `state_file` where there is one."""
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98), weight_decay=0.01)
    step = 0
    if state_file.exists():
        state = torch.load(state_file)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        step = state["step"]
    first_step, start = step, time.perf_counter()
    while step < stage.steps:
        index = step // BATCHES_PER_BLOCK
        losses = []
        for batch in mixture.block(seed, index, stage.style)[: stage.steps - step]:
            optimizer.param_groups[0]["lr"] = learning_rate(stage.peak_learning_rate, step, stage.steps)
            loss = response_loss(model, batch)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            losses.append(loss.item())
            step += 1
        seconds = time.perf_counter() - start
        left = seconds / (step - first_step) * (stage.steps - step)
        mean_loss = sum(losses) / len(losses)
        print(
            f"{stage.style}: step {step}/{stage.steps}  loss {mean_loss:.3f}  {seconds:.0f} s, {left:.0f} s left",
            flush=True,
        )
        if step == stage.steps or (index + 1) % SAVE_EVERY_BLOCKS == 0:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
            torch.save(state, state_file)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write the models into")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first-steps", type=int, default=2400, help="optimizer steps on Countdown alone")
    parser.add_argument("--steps", type=int, default=800, help="optimizer steps on the mixture")
    parser.add_argument("--last-steps", type=int, default=256, help="optimizer steps of each short stage")
    parser.add_argument("--game-steps", type=int, default=1024, help="optimizer steps on games of guessing")
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    state_files = {name: args.out / f"{name}.pt" for name in ("search", *STYLES, "game")}
    for name in sorted(path.name for path in args.out.iterdir() if path.is_dir()):
        print(f"{args.out / name} is there already: delete it to have it made again")
    if not all((args.out / name).exists() for name in SOLVERS):
        make_solvers(args, state_files)
    if not (args.out / "tiny-guess").exists():
        make_player(args, state_files["game"])
    # Only now, so that a run interrupted late does not repeat what it has done.
    for file in state_files.values():
        file.unlink(missing_ok=True)


def make_solvers(args: argparse.Namespace, state_files: dict[str, Path]) -> None:
    """Writes those of `tiny` and `tiny-zero` that are not there."""
    mixture = Mixture(SEARCH)
    solver = tiny.build_model(mixture.tokenizer, args.seed)
    train(solver, mixture, Stage("patient", args.first_steps, 3e-3), args.seed, state_files["search"])
    mixture.weights = MIXTURE
    train(solver, mixture, Stage("patient", args.steps, 1e-3), args.seed, state_files["patient"])
    for name, style in SOLVERS.items():
        if not (args.out / name).exists():
            model = copy.deepcopy(solver)
            train(model, mixture, Stage(style, args.last_steps, 5e-4), args.seed, state_files[style])
            save(model, mixture, args.out / name)


def make_player(args: argparse.Namespace, state_file: Path) -> None:
    """Writes `tiny-guess`, which goes on from the `tiny` that is there."""
    mixture = Mixture(GAME)
    folder = str(args.out / "tiny")
    model = tiny.with_tokenizer(load_causal_lm(folder), load_tokenizer(folder), mixture.tokenizer, args.seed)
    train(model, mixture, Stage("hasty", args.game_steps, 1e-3), args.seed, state_file)
    save(model, mixture, args.out / "tiny-guess")


def save(model: LlamaForCausalLM, mixture: Mixture, folder: Path) -> None:
    """Writes a model's folder, which is there only once it is whole."""
    partial = folder.with_name(f".partial_{folder.name}")
    tiny.save(model, mixture.tokenizer, partial)
    os.replace(partial, folder)


if __name__ == "__main__":
    main()
