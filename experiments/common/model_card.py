"""The model card of a policy: what it was trained from, in which environment, how, and what came of it.

All of it is read from the run folder around the checkpoint; of a checkpoint that stands alone there is less to say.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from algorithms.names import IMITATE
from experiments.common.run_folder import last_question, read_config, read_table
from llmenv.models import smollm2
from llmenv.models.names import is_trusted
from llmenv.versions import versions

HUB_IDS = {smollm2.NAME: "HuggingFaceTB/SmolLM2-135M-Instruct"}  # of models that have a short name here


def model_card(checkpoint: Path, policy: Path) -> str:
    """The card (README.md) of a checkpoint's policy, in Markdown with the front matter that the hub reads.

    Args:
        checkpoint: Where it lies in a run folder (`RUN/checkpoints/iteration_N`), that folder is reported on.
        policy: The policy's own folder, whose chat template renders the prompt that is shown.
    """
    run = checkpoint.resolve().parent.parent
    if not (run / "config.yaml").is_file():
        body = [
            f"# {checkpoint.resolve().name}",
            "A language model trained by reinforcement learning with llmenv.",
        ]
        parts = [_front_matter(["llmenv"], None), *body, *_prompt(policy, "(a question)"), *_versions()]
        return "\n\n".join(parts) + "\n"
    config = read_config(run)
    iteration = int(checkpoint.resolve().name.removeprefix("iteration_"))
    algo, env, model = config["algo"].upper(), config["environment"]["env"], config["policy"]["model"]
    env_name = env.rpartition(":")[2]
    kind = "reinforcement learning" if algo not in IMITATE else "learned by imitation, and evaluated"
    parts = [
        _front_matter(["llmenv", "gymnasium", algo.lower(), env_name], model),
        f"# {Path(model).name} trained on {env_name} with {algo}",
        f"`{model}` after {iteration} iterations of {algo}, {kind} in the Gymnasium environment `{env}`, by llmenv.",
        *_result(read_table(run, "evaluations"), iteration),
        *_prompt(policy, last_question(run) or "(a question)"),
        "## Settings",
        f"```yaml\n{yaml.safe_dump(config, sort_keys=False)}```",
        *_versions(),
    ]
    return "\n\n".join(parts) + "\n"


def _front_matter(tags: list[str], model: str | None) -> str:
    """The license is the user's to choose, within that of the model it came from."""
    fields: dict[str, Any] = {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["reinforcement-learning", *tags],
    }
    # The hub takes a hub id only, no folder and no short name.
    base = HUB_IDS.get(model or "", model)
    if base and re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", base) and not Path(base).exists():
        fields["base_model"] = base
    return f"---\n{yaml.safe_dump(fields, sort_keys=False)}# license: add yours\n---"


def _result(evaluations: pd.DataFrame, iteration: int) -> list[str]:
    """Accuracy before training and at the last evaluation up to the checkpoint."""
    if len(evaluations):
        evaluations = evaluations[evaluations["iteration"] <= iteration]
    if evaluations.empty:
        return []
    lines = ["| iteration | sampled | 95 % | greedy | 95 % |", "|---|---|---|---|---|"]
    for _, row in evaluations.iloc[sorted({0, len(evaluations) - 1})].iterrows():
        cells = [f"{row['iteration']:.0f}"]
        for name in ("sampled", "greedy"):
            value, low, high = (row[f"{name}_accuracy{end}"] for end in ("", "_low", "_high"))
            cells += [f"{value:.1%}", f"{low:.1%} to {high:.1%}"]
        lines.append(f"| {' | '.join(cells)} |")
    tasks = int(evaluations["num_tasks"].iloc[-1])
    about = f"Accuracy on {tasks} held-out tasks, with 95 % Wilson intervals."
    return ["## Result", about, "\n".join(lines)]


def _prompt(policy: Path, question: str) -> list[str]:
    """How the policy is asked: what its chat template makes of a question, which is what training made of it."""
    from transformers import AutoTokenizer  # takes a second, which a refusal need not wait for

    try:
        tokenizer = AutoTokenizer.from_pretrained(policy, trust_remote_code=is_trusted())
    except ValueError:  # code that comes with the model, which nobody said to run
        return []
    messages = [{"role": "user", "content": question}]
    prompt = str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
    fence = "`" * max(3, 1 + max(map(len, re.findall("`*", prompt))))  # longer than any in the prompt
    code = "tokenizer.apply_chat_template(messages, add_generation_prompt=True)"
    about = (
        f"The tokenizer's chat template renders what training rendered; `{code}` makes of one user's message:"
    )
    return ["## Prompt", about, f"{fence}text\n{prompt}\n{fence}"]


def _versions() -> list[str]:
    """Those of the process that writes the card, which is the run itself at its end."""
    return ["## Versions", ", ".join(f"{name} {number}" for name, number in versions().items())]
