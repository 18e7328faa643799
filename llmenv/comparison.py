"""Whether one policy is better than another on the same tasks. Knows tables of verdicts alone (`llmenv.statistics`)."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import compress

import numpy as np

from llmenv.statistics import cluster_sums, t_quantile, task_means

PERMUTATIONS = 10_000  # drawn, the same ones every time
Z_OF_POWER = 1.959964 + 0.841621  # of 5 %, two-sided, and of 80 % power
ROUNDING = 1e-9  # differences of sums closer than this are ties


@dataclass(frozen=True)
class Comparison:
    """The second policy against the first, over the tasks that both have samples of.

    Attributes:
        difference: Of the mean over tasks of per-task means, the second's minus the first's.
        low: Where its 95 % interval begins.
        high: Where that ends.
        p_value: Two-sided, of there being no difference.
        wins: Tasks where the second is better.
        ties: Tasks where neither is.
        losses: Tasks where the first is better.
        tasks: All of them.
        tasks_for_two_points: How many would show a difference of 0.02, were their spread the same.
    """

    difference: float
    low: float
    high: float
    p_value: float
    wins: int
    ties: int
    losses: int
    tasks: int
    tasks_for_two_points: int


def compare(first: np.ndarray, second: np.ndarray, clusters: Sequence[Hashable] | None = None) -> Comparison:
    """Compares two policies on the same tasks.

    The p value is McNemar's mid-p where every task has one sample of each, else of sign flips.

    Args:
        first: Verdicts, float [tasks, samples]; NaN is missing.
        second: Verdicts [tasks, samples] of the same tasks in the same order; samples need not be as many.
        clusters: Of each task, what it has in common with others; None: nothing.

    Raises:
        ValueError: If no task has samples of both.
    """
    differences = task_means(second) - task_means(first)
    there = ~np.isnan(differences)
    if not there.any():
        raise ValueError("no task has samples of both: compare evaluations of the same tasks")
    first, second, differences = first[there], second[there], differences[there]
    groups = None if clusters is None else list(compress(clusters, there))
    numbers = [(~np.isnan(verdicts)).sum(axis=1) for verdicts in (first, second)]
    mean, error, degrees = _difference(differences, numbers, groups)
    margin = t_quantile(0.975, degrees) * error if degrees else math.inf
    wins, losses = int((differences > ROUNDING).sum()), int((differences < -ROUNDING).sum())
    if groups is None and all(number.max() == 1 for number in numbers):
        p_value = mcnemar(wins, losses)
    else:
        p_value = sign_flips(cluster_sums(differences, groups))
    difference = float(differences.mean())
    return Comparison(
        difference,
        max(-1.0, min(difference, mean - margin)),
        min(1.0, max(difference, mean + margin)),
        p_value,
        wins,
        len(differences) - wins - losses,
        losses,
        len(differences),
        math.ceil((Z_OF_POWER * error / 0.02) ** 2 * len(differences)),
    )


def _difference(
    differences: np.ndarray, numbers: Sequence[np.ndarray], clusters: Sequence[Hashable] | None
) -> tuple[float, float, int]:
    """Mean, standard error and degrees of freedom of the difference, after two more tasks, one for each policy.

    With one sample a task this is Bonett and Price's adjusted Wald interval (2012), Journal of Educational and
    Behavioral Statistics 37:479-488, with a t quantile: one pair is added that only the first gets right, and one that
    only the second does. So there is an interval where no task differs, too. Of tasks with n samples, whose means vary
    less, the added difference is 1/sqrt(n), n being the harmonic mean.
    """
    step = math.sqrt(float(np.mean([np.mean(1 / number) for number in numbers])))
    size = len(differences) + 2
    mean = float(differences.sum()) / size
    sums = cluster_sums(differences - mean, clusters)
    squares = float((sums**2).sum()) + (step - mean) ** 2 + (-step - mean) ** 2
    degrees = len(sums) - 1
    correction = len(sums) / degrees if degrees and clusters is not None else 1.0
    return mean, math.sqrt(correction * squares) / size, degrees


def mcnemar(wins: int, losses: int) -> float:
    """The two-sided mid-p value of as many tasks being won as lost: of a fair coin, what was seen counted by half.

    McNemar (1947), Psychometrika 12:153-157; Fagerland, Lydersen and Laake (2013), BMC Medical Research Methodology
    13:91, section "The McNemar mid-p test". The exact p value rejects a true null far less often than p says, since
    few values are possible; this one about as often, and less where fewer than some fifteen tasks differ.
    """
    from scipy.special import bdtr

    fewer, flipped = min(wins, losses), wins + losses
    # 2 P(X <= fewer) - P(X = fewer)
    return float(bdtr(fewer, flipped, 0.5)) + (float(bdtr(fewer - 1, flipped, 0.5)) if fewer else 0.0)


def sign_flips(differences: np.ndarray) -> float:
    """The two-sided p value of the sum of differences, each of which may as well have had the other sign.

    A permutation test whose permutations exchange the two policies within a task: Fisher (1935), The Design of
    Experiments, section 21. The observed signs count as one of the permutations, so that p is never 0 (Phipson and
    Smyth, 2010, https://doi.org/10.2202/1544-6115.1585). Permutations of the same sum count by half, as `mcnemar`'s.

    Args:
        differences: Float [tasks], or sums [clusters].
    """
    differences = differences[np.abs(differences) > ROUNDING]
    observed = abs(float(differences.sum()))
    if observed <= ROUNDING:
        return 1.0
    rng = np.random.default_rng(0)
    extreme, size = 0.5, max(1, 1_000_000 // len(differences))
    for start in range(0, PERMUTATIONS, size):
        shape = (min(size, PERMUTATIONS - start), len(differences))
        signs = 2.0 * rng.integers(2, size=shape, dtype=np.int8) - 1.0
        beyond = np.abs(signs @ differences) - observed
        extreme += (int((beyond > ROUNDING).sum()) + int((beyond >= -ROUNDING).sum())) / 2
    return extreme / (PERMUTATIONS + 1)


def holm(p_values: Sequence[float]) -> list[float]:
    """P values adjusted for there being several: Holm (1979), Scandinavian Journal of Statistics 6:65-70."""
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted
