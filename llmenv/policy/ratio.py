"""How likely tokens are under one policy beside another. Knows nothing of which policies these are."""

from __future__ import annotations

import torch

LOG_RATIO_LIMIT = 20.0  # nats; verl's


def bounded(log_ratio: torch.Tensor) -> torch.Tensor:
    """A log-ratio that can be exponentiated: at most LOG_RATIO_LIMIT, and without gradient beyond it.

    In float32 e^89 is infinite, and a single such token would make the whole step's loss so. Its gradient, which grows
    with the ratio, would be all there is left of the step's after clipping: it is left out, and the other tokens teach
    what they teach. Nothing is cut below -LOG_RATIO_LIMIT, where the exponential is as good as 0, and what stands
    beside it in an estimate of the KL goes on pulling. Values within the limit stay as they are, to the bit.

    Args:
        log_ratio: log(p / q), any shape.

    Returns:
        The same shape.
    """
    return log_ratio.clamp(max=LOG_RATIO_LIMIT)
