"""A policy is tried before it is trusted: a few tokens forward and backward, against the model's own logits.

What cannot work is said at the start, in seconds, instead of after sampling. Knows nothing about samplers.
"""

from __future__ import annotations

import numpy as np
import torch

from llmenv.policy.batch import TokenBatch, TokenRow
from llmenv.policy.policy import CausalPolicy

# Differences of log-probabilities, in nats, that are no error, by whether they come of 16 bits.
TOLERANCE = {False: 1e-3, True: 0.3}


def try_policy(policy: CausalPolicy) -> None:
    """Runs a new policy once. On a CPU, where its weights are whole; float16 is left to the GPU that it needs.

    Raises:
        ValueError: If it cannot be run, is not finite, or is not what the model itself says.
    """
    model = policy.model
    weight = model.get_input_embeddings().weight
    if weight.device.type != "cpu" or hasattr(weight, "ds_id") or model.dtype == torch.float16:
        return
    name = type(model).__name__
    sequences = torch.tensor([[1, 2, 3, 4, 5], [1, 2, 3, 6, 7]]) % len(weight)
    mask, zeros = np.arange(5) >= 3, np.zeros(5, np.float32)
    batch = TokenBatch.from_rows([TokenRow(ids.numpy(), mask, zeros, zeros, zeros, 0) for ids in sequences])
    try:
        logps, entropy, *_ = policy(batch)
        learned = [p for p in policy.model.parameters() if p.requires_grad]
        if learned:  # the smallest is enough: the backward pass goes through the layers to it
            smallest = min(learned, key=torch.Tensor.numel)
            torch.autograd.grad(logps.sum() + entropy.sum(), [smallest], allow_unused=True)
        with torch.no_grad():
            own = model(input_ids=sequences, use_cache=False).logits[:, 2:-1].float() / policy.temperature
    except Exception as error:  # whatever a model raises that is used in another way than it knows
        raise ValueError(
            f"{name} cannot be trained here: on a few tokens it fails with {type(error).__name__}: {error}. Take "
            "another model"
        ) from error
    expected = own.log_softmax(-1).gather(-1, sequences[:, 3:, None]).squeeze(-1)
    found = logps[:, 3:].detach()
    if not (expected.isfinite().all() and found.isfinite().all()):
        raise ValueError(
            f"{name} gives log-probabilities that are not finite, of the first tokens that it is asked for: its "
            f"weights are broken, or too large for {str(model.dtype).removeprefix('torch.')}. Look at the checkpoint, "
            "or set dtype='float32'"
        )
    gap = (found - expected).abs().mean().item()
    if gap > TOLERANCE[model.dtype.itemsize == 2]:
        raise ValueError(
            f"{name} makes logits of its hidden states in a way that is not known here: log-probabilities would be off "
            f"by {gap:.2g} nats. Take another model"
        )
