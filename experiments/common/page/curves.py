"""What a page draws of a training run: figures over iterations, from its two tables."""

from __future__ import annotations

from typing import Any

import pandas as pd

from experiments.common.page.samples import plain

# Of each curve the columns of progress.csv, with what the page calls them; those that are not there are left out.
DRAWN = {
    "reward": {"episode_return_mean": "training batch"},
    "accuracy": {"accuracy": "training batch"},
    "response length (tokens)": {"response_length": "training batch"},
    "entropy (nats a token)": {"entropy": "policy"},
    "KL (nats a token)": {
        "kl_reference": "to the reference",
        "kl_behaviour": "of an iteration's steps",
    },
}
HELD_OUT = {"accuracy": "accuracy", "response length (tokens)": "response_length"}
MOST_POINTS = 2000  # of a curve: more than there are pixels


def curves(progress: pd.DataFrame, evaluations: pd.DataFrame) -> list[dict[str, Any]]:
    """Curves as figures.js draws them; in place of the many points of a long run, some of them evenly."""
    every = -(-max(len(progress), 1) // MOST_POINTS)
    thinned = progress.iloc[::every]
    drawn = []
    for title, columns in DRAWN.items():
        series = [
            {"name": name, "x": plain(thinned["iteration"]), "y": plain(thinned[column])}
            for column, name in columns.items()
            if column in thinned and thinned[column].notna().any()
        ]
        if title in HELD_OUT and len(evaluations):
            series += [_held_out(evaluations, name, HELD_OUT[title]) for name in ("sampled", "greedy")]
        if series:
            drawn.append({"title": title, "series": series})
    return drawn


def _held_out(evaluations: pd.DataFrame, name: str, figure: str) -> dict[str, Any]:
    column = f"{name}_{figure}"
    series = {
        "name": f"held out, {name}",
        "x": plain(evaluations["iteration"]),
        "y": plain(evaluations[column]),
    }
    if f"{column}_low" in evaluations:
        series |= {end: plain(evaluations[f"{column}_{end}"]) for end in ("low", "high")}
    return series
