"""What a policy is worth: evaluated in each environment of a recipe, and what its records say beside accuracy."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmenv.files import replaced

if TYPE_CHECKING:
    import pandas as pd

SCORES = "scores.json"
KEPT_FIGURES = ("accuracy", "accuracy_low", "accuracy_high", "tasks", "scored", "pass_at_k", "format_rate")


def folder_of(stage: Path, evaluation: Mapping[str, Any], environments: Mapping[str, Any]) -> Path:
    """Of a policy's evaluation under these settings, in its stage's folder."""
    text = json.dumps([evaluation, environments], sort_keys=True)
    return stage / f"evaluation-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def evaluate_policy(
    model: str, name: str, folder: Path, evaluation: Mapping[str, Any], environments: Mapping[str, Any]
) -> dict[str, Any]:
    """By environment its figures; what is there is not done again.

    Args:
        model: As `--model` takes it.
        name: What the records call it.
        folder: See `folder_of`.
        evaluation: The recipe's.
        environments: The recipe's.
    """
    if (found := read_scores(folder)) is not None:
        return found
    from experiments.common.page.reports import write_report
    from llmenv.evaluation import evaluate
    from llmenv.evaluation.records import Records
    from llmenv.evaluation.subject import load_subject

    subject = load_subject(model, evaluation["sampler"], name=name, template=evaluation["template"])
    found = {}
    for env, section in environments.items():
        asked = {key: value for key, value in evaluation.items() if key not in ("sampler", "template")}
        summary = evaluate(
            subject, section["env"], folder / env, env_options=section.get("env_config", {}), **asked
        )
        (figures,) = summary["environments"].values()
        records = Records(folder / env, json.loads((folder / env / "evaluation.json").read_text()))
        found[env] = {key: figures[key] for key in KEPT_FIGURES} | beside(records.read())
        found[env] |= {"seconds": figures["seconds"], "response_tokens": figures["response_tokens"]}
        write_report(folder / env)
    with replaced(folder / SCORES) as file:
        file.write_text(json.dumps(found, indent=2) + "\n")
    return found


def read_scores(folder: Path) -> dict[str, Any] | None:
    """What `evaluate_policy` found; None where it has not come to its end."""
    return json.loads((folder / SCORES).read_text()) if (folder / SCORES).is_file() else None


def beside(frame: pd.DataFrame) -> dict[str, Any]:
    """Of records: the share that is readable, the policy's entropy, and a right and a wrong completion.

    The entropy, in nats a token, is the mean of -log p over the tokens that were sampled: without bias at temperature
    1, since E[-log p(y_t)] over the policy's own y_t is its entropy there.
    """
    from experiments.common.keeping import Wanted

    scored = frame[frame["error"].isna()]
    readable = [Wanted().why_unreadable(text) is None for text in scored["completion"]]
    logps = [float(logp) for row in scored["logps"] for logp in row]
    samples = {}
    for name, right in (("right", True), ("wrong", False)):
        texts = scored.loc[scored["correct"].fillna(False) == right, "completion"]
        samples[name] = texts.iloc[0] if len(texts) else None
    return {
        "readable": sum(readable) / len(readable) if readable else None,
        "entropy": -sum(logps) / len(logps) if logps else None,
        "samples": samples,
    }
