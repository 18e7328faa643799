"""The figures of a run: the rows of its tables, and its summary. Reads what RLlib gives, and writes nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmenv.versions import versions

if TYPE_CHECKING:
    import pandas as pd

    from algorithms.base import LLMAlgorithm

PHASES = ("sampling", "learning", "weight_sync")  # the rest of an iteration is RLlib's and Ray's own


def progress_row(result: dict[str, Any]) -> dict[str, float]:
    """The figures of RLlib's result that are worth a column."""
    learner, rollout, timers = result["learners"]["default_policy"], result["rollout"], result["timers"]
    row = {"iteration": result["training_iteration"], "seconds": result["time_this_iter_s"]}
    row |= {f"seconds_{phase}": float(timers[phase]) for phase in PHASES}
    row["seconds_overhead"] = row["seconds"] - sum(row[f"seconds_{phase}"] for phase in PHASES)
    row["tokens_per_second"] = float(rollout["num_response_tokens"]) / row["seconds"]
    row |= {key: float(value) for key, value in rollout.items()}
    # RLlib's order is that of a set: another one in every process.
    row |= {key: float(value) for key, value in sorted(learner.items()) if not key.startswith("num_")}
    row |= {key: float(learner[key]) for key in ("num_steps", "num_steps_skipped")}  # not RLlib's own numbers
    return row


def evaluation_row(iteration: int, results: dict[str, Any]) -> dict[str, float]:
    """What `LLMAlgorithm.evaluate` found, sampled and greedy, side by side."""
    row: dict[str, float] = {"iteration": iteration}
    for name, summary in (("sampled", results["env_runners"]), ("greedy", results["greedy"])):
        row |= {f"{name}_{key}": value for key, value in summary.items() if not key.startswith("num_")}
    row["num_tasks"] = results["env_runners"]["num_episodes"]
    for part, found in results["parts"].items():
        for name, summary in found.items():
            row |= {
                f"{part}/{name}_{key}": value for key, value in summary.items() if not key.startswith("num_")
            }
    row |= {f"validation_{key}": value for key, value in results.get("validation", {}).items()}
    return row


def parts_of(row: dict[str, float]) -> list[str]:
    """What the figures of each part of a mixed environment begin with in an evaluation's row, such as "easy/"."""
    end = "sampled_accuracy"
    return [name.removesuffix(end) for name in row if name.endswith(f"/{end}")]


def summary(
    algorithm: LLMAlgorithm, progress: pd.DataFrame, evaluations: pd.DataFrame, seconds: float
) -> dict[str, Any]:
    """What `summary.json` says: before and after, and what lay between.

    Args:
        algorithm: As it is at the end.
        progress: A row an iteration; empty where there was none.
        evaluations: The first is "before", the last "after".
        seconds: How long it all took, of a resumed run its last part.
    """
    before, after = evaluations.iloc[0].to_dict(), evaluations.iloc[-1].to_dict()
    config = algorithm.config
    return {
        "env": config.env,
        "algo": config.method,
        "model": config.base_model,
        "seed": config.run_seed,
        "iterations": algorithm.iteration,
        "accuracy_before": before["sampled_accuracy"],
        "accuracy_after": after["sampled_accuracy"],
        "num_eval_tasks": int(after["num_tasks"]),
        "before": before,
        "after": after,
        "seconds": seconds,
        "samples": int(progress["num_episodes"].sum()) if len(progress) else 0,
        "tokens": int(progress["num_tokens"].sum()) if len(progress) else 0,
        "seconds_an_iteration": {
            name: round(float(progress[column].median()), 4)
            for name, column in [("all", "seconds")] + [(p, f"seconds_{p}") for p in (*PHASES, "overhead")]
            if len(progress)
        },
        "versions": versions(),
    }
