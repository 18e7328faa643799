"""The verifiers as reward functions of other trainers, in verl's form and in TRL's. Knows neither library.

verl: its `custom_reward_function`, with this file as `path` and `compute_score` as `name`.
TRL: `GRPOTrainer(reward_funcs=envs.scores.reward, ...)`.

Both judge as `Dataset-v0` does: the last complete `<answer>` block outside the reasoning, by the verifier that a row's
`data_source` names (`envs.dataset` has the table). A right answer is 1, anything else 0: form is for others to pay.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

from envs.dataset import DatasetEnv
from llmenv.env import TaskEnv
from llmenv.text import parse_response, with_think


class _Judge(DatasetEnv):
    """Judges rows that are handed to it, and has none of its own."""

    def __init__(self, verifier: str | None) -> None:
        TaskEnv.__init__(self)
        self.verifier = verifier


_judge = cache(_Judge)


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: Any,
    extra_info: Mapping[str, Any] | None = None,
    verifier: str | None = None,
) -> float:
    """Whether an answer is right, in verl's form.

    Args:
        data_source: The row's own; its name says how to judge.
        solution_str: What the model wrote. Where it ends reasoning that it did not begin, the prompt had opened that.
        ground_truth: That of the row's `reward_model`.
        extra_info: Not looked at.
        verifier: "arithmetic", "integer" or "math", whatever the `data_source`: one of verl's
            `reward_kwargs`.

    Returns:
        1.0 or 0.0.

    Raises:
        ValueError: If no verifier is known for the source, or it cannot judge by that ground truth.
    """
    judge = _judge(verifier)
    row = {"data_source": data_source, "reward_model": {"ground_truth": _plain(ground_truth)}}
    task = judge.from_row(row | {"prompt": [{"role": "user", "content": ""}]}, 0)
    answer = parse_response(with_think(solution_str)).answer
    return float(answer is not None and judge.verify(task, answer) is None)


def _plain(value: Any) -> Any:
    """A value of pandas or numpy, as these trainers hand their rows over, as one of Python's own."""
    if isinstance(value, Mapping):
        return {name: _plain(held) for name, held in value.items()}
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


def reward(prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float]:
    """Whether answers are right, in TRL's form.

    Args:
        prompts: Texts, or lists of messages. One that ends with `<think>` has opened the reasoning.
        completions: What the model wrote to each: texts, or lists of messages, of which the last is judged.
        **columns: A value a completion of the data set's `data_source`, and of `ground_truth` or verl's `reward_model`,
            which holds it; `verifier`, one name for all (by `functools.partial`), as of `compute_score`. Others, and
            what else TRL passes, are not looked at.

    Returns:
        1.0 or 0.0 for each completion.

    Raises:
        ValueError: If a column is missing, or as `compute_score` does.
    """
    truths = columns.get("ground_truth")
    if truths is None and columns.get("reward_model") is not None:
        truths = [judged_by["ground_truth"] for judged_by in columns["reward_model"]]
    sources = columns.get("data_source")
    verifier = columns.get("verifier")
    if sources is None and verifier is not None:
        sources = [""] * len(completions)
    if truths is None or sources is None:
        raise ValueError(
            "the data set must have the columns data_source and ground_truth, or verl's reward_model in place of the "
            f"latter: it has {', '.join(sorted(columns)) or 'neither'}. Add them, or bind verifier='math' or another "
            "with functools.partial where only data_source is missing"
        )
    rows = zip(prompts, completions, sources, truths, strict=True)
    return [
        compute_score(source, _opened(prompt) + _text(completion), truth, verifier=verifier)
        for prompt, completion, source, truth in rows
    ]


def _opened(prompt: Any) -> str:
    return "<think>" if _text(prompt).rstrip().endswith("<think>") else ""


def _text(said: Any) -> str:
    """A text, or that of the last of some messages; "" where it has none, as a call of a tool may."""
    return said if isinstance(said, str) else str((said[-1] if said else {}).get("content") or "")
