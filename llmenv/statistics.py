"""How right a policy is, from verdicts by task: pass@k, accuracy and its interval. Knows no episode and no file.

The unit is the task: samples of one task are alike, so that eight of them are not eight tasks. Verdicts come as a table
float [tasks, samples] of 1 (right), 0 (wrong) and NaN (missing), which `verdict_table` makes of a list.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import compress

import numpy as np

Z = 1.959964  # of a normal distribution, 95 % lies within
# How much one task, whose samples are all alike, weighs against the tasks that show how alike samples are. Chosen by
# simulation (`tests/llmenv/test_coverage.py`): with 0, intervals of rates near 0 and 1 are too narrow, with 1 too wide.
PRIOR_TASKS = 0.25


@dataclass(frozen=True)
class Accuracy:
    """The mean over tasks of each task's share of right samples.

    Attributes:
        value: Over the samples there are; NaN where there are none.
        low: Where its 95 % interval begins.
        high: Where that ends.
        lowest: What `value` were if every missing sample was wrong.
        highest: What it were if every one was right.
        tasks: With at least one sample.
        expected: Samples, missing ones included.
        scored: Samples with a verdict.
    """

    value: float
    low: float
    high: float
    lowest: float
    highest: float
    tasks: int
    expected: int
    scored: int


def verdict_table(
    tasks: Sequence[Hashable], verdicts: Sequence[float | bool | None]
) -> tuple[list[Hashable], np.ndarray]:
    """Sorts verdicts into rows.

    Args:
        tasks: The task of each sample.
        verdicts: Of each sample: right, wrong, or None or NaN where it is missing.

    Returns:
        The tasks in the order of their first sample, and float [tasks, samples], where shorter rows end in NaN.
    """
    rows: dict[Hashable, list[float]] = {}
    for task, verdict in zip(tasks, verdicts, strict=True):
        rows.setdefault(task, []).append(math.nan if verdict is None else float(verdict))
    table = np.full((len(rows), max(map(len, rows.values()), default=0)), math.nan)
    for i, row in enumerate(rows.values()):
        table[i, : len(row)] = row
    return list(rows), table


def task_means(correct: np.ndarray) -> np.ndarray:
    """Each task's share of right samples, float [tasks]; NaN where it has none."""
    scored = (~np.isnan(correct)).sum(axis=1)
    right = np.nansum(correct, axis=1)
    return np.where(scored > 0, right / np.maximum(scored, 1), math.nan)


def pass_at_k(correct: np.ndarray, k: int) -> float:
    """The chance that at least one of `k` samples of a task is right, without bias, then the mean over tasks.

    1 - C(n - c, k) / C(n, k) for c right ones of n: Chen et al. (2021), https://arxiv.org/abs/2107.03374.

    Args:
        correct: Float [tasks, samples]; see the module.
        k: At least 1.

    Returns:
        NaN where a task has fewer than `k` samples: leaving it out would favour some tasks.
    """
    scored = (~np.isnan(correct)).sum(axis=1)
    if not len(correct) or scored.min() < k:
        return math.nan
    wrong = scored - np.nansum(correct, axis=1).astype(int)
    chances = [
        1 - math.comb(w, k) / math.comb(n, k) for w, n in zip(wrong.tolist(), scored.tolist(), strict=True)
    ]
    return float(np.mean(chances))


def accuracy(correct: np.ndarray, clusters: Sequence[Hashable] | None = None) -> Accuracy:
    """The mean over tasks of per-task means, with its 95 % interval over tasks.

    Args:
        correct: Float [tasks, samples]; see the module. A NaN is a sample that is missing.
        clusters: Of each task, what it has in common with others, such as the template that made it; None: nothing.
    """
    means = task_means(correct)
    there = ~np.isnan(means)
    scored = int((~np.isnan(correct)).sum())
    if not there.any():
        return Accuracy(math.nan, 0.0, 1.0, 0.0, 1.0, 0, correct.size, scored)
    wrong, right = (float(np.mean(task_means(np.nan_to_num(correct, nan=v)))) for v in (0.0, 1.0))
    groups = None if clusters is None else list(compress(clusters, there))
    low, high = _interval(correct[there], groups)
    value = float(means[there].mean())
    return Accuracy(value, low, high, wrong, right, int(there.sum()), correct.size, scored)


def _interval(correct: np.ndarray, clusters: Sequence[Hashable] | None) -> tuple[float, float]:
    """Wilson's interval with as many trials as the tasks' spread says that there effectively were.

    The variance v of the mean over tasks makes p(1 - p) / v effective trials: Korn and Graubard (1998), Survey
    Methodology 24:193-201, of Clopper and Pearson's interval; Dean and Pagano (2015), Journal of Survey Statistics and
    Methodology 3:484-503, compare such intervals, Wilson's among them. With one sample a task and no clusters that is
    Wilson's interval over tasks. Near 0 and 1 few tasks show how alike samples of a task are: a little is added for a
    task where they are all the same (`PRIOR_TASKS`), so that at 0 and 1 themselves every cluster is one trial.
    """
    means = task_means(correct)
    scored = (~np.isnan(correct)).sum(axis=1)
    p = float(means.mean())
    if clusters is None and scored.max() == 1:
        return wilson_interval(float(means.sum()), len(means))
    spread = cluster_sums(means - p, clusters)
    if len(spread) < 2:
        return 0.0, 1.0  # one cluster says nothing of others
    most = len(means) ** 2 / float((1 / scored).sum())  # trials, if samples of a task were independent
    least = float(len(spread))
    variance = len(spread) / (len(spread) - 1) * float((spread**2).sum()) / len(means) ** 2
    trials = min(max(p * (1 - p) / variance, 1.0), most) if variance > 0 else most
    telling = min(_count(means > 0, clusters), _count(means < 1, clusters))
    design = (telling * most / trials + PRIOR_TASKS * most / least) / (telling + PRIOR_TASKS)
    trials = most / design
    low, high = wilson_interval(p * trials, trials, t_quantile(0.975, len(spread) - 1))
    return min(p, low), max(p, high)  # p * trials / trials may round


def cluster_sums(values: np.ndarray, clusters: Sequence[Hashable] | None) -> np.ndarray:
    """The sum of values within each cluster, float [clusters]; None: every value is one."""
    if clusters is None:
        return values
    numbers: dict[Hashable, int] = {}
    places = [numbers.setdefault(cluster, len(numbers)) for cluster in clusters]
    return np.bincount(places, weights=values)


def _count(chosen: np.ndarray, clusters: Sequence[Hashable] | None) -> int:
    """How many clusters have a task that is chosen."""
    return int((cluster_sums(chosen.astype(float), clusters) > 0).sum())


def t_quantile(probability: float, degrees: int) -> float:
    """Of Student's distribution."""
    from scipy.special import stdtrit

    return float(stdtrit(degrees, probability))


def wilson_interval(successes: float, trials: float, z: float = Z) -> tuple[float, float]:
    """95 % confidence interval of a proportion; the proportion itself always lies in it.

    (p + z^2/2n +- z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n), Wilson (1927), JASA 22:209-212.

    Neither successes nor trials need be whole.
    """
    if trials == 0:
        return 0.0, 1.0
    p, correction = successes / trials, z * z / trials
    centre = (p + correction / 2) / (1 + correction)
    spread = z * math.sqrt(p * (1 - p) / trials + correction / (4 * trials)) / (1 + correction)
    # At p = 0 and p = 1 a bound is p itself, but for rounding, which may put it on either side.
    return max(0.0, min(p, centre - spread)), min(1.0, max(p, centre + spread))
