"""How far a policy is from a teacher over a whole vocabulary, in chunks: no tensor [M, V] of either ever exists.

KL(p, q) = sum_v p_v (log p_v - log q_v) at each position, p the policy's distribution and q the teacher's, and by the
policy's logits z, at a temperature T, dKL / dz_v = p_v (log p_v - log q_v - KL) / T. Both distributions are over the
tokens that a tokenizer has: rows that pad an output layer to a rounder number are left out, so that two models of a
family may be padded differently. Knows nothing about models, batches or losses.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch.autograd.function import once_differentiable

from llmenv.policy.compiling import fused
from llmenv.policy.head import Shaping, TokenHead, gradients, logits, logits_by_chunk


class Teacher(NamedTuple):
    """What a teacher makes of some positions: its states there and its output layer, from which logits are made.

    Attributes:
        hidden: [M, D], perhaps in another memory than that of the weight.
        weight: [V, D], V the tokens of the tokenizer.
        bias: [V], or None.
        shaping: What the model does to the layer's results.
    """

    hidden: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor | None
    shaping: Shaping

    @classmethod
    def of(cls, hidden: torch.Tensor, head: TokenHead, num_tokens: int) -> Teacher:
        """Without what pads the head to more rows than there are tokens."""
        bias = None if head.bias is None else head.bias.detach()[:num_tokens]
        return cls(hidden, head.weight.detach()[:num_tokens], bias, head.shaping)

    def logits(self, chunk: slice) -> torch.Tensor:
        """[C, V]."""
        states = self.hidden[chunk].to(self.weight.device)
        return logits(states, self.weight, self.bias, self.shaping)


def reverse_kl(hidden: torch.Tensor, head: TokenHead, temperature: float, teacher: Teacher) -> torch.Tensor:
    """KL(policy, teacher) [M] in nats, with gradient for the policy.

    Args:
        hidden: [M, D], the policy's states.
        head: The policy's.
        temperature: What the logits of both are divided by.
        teacher: Of the same positions.
    """
    num_tokens = len(teacher.weight)
    weight: torch.Tensor = head.weight
    bias: torch.Tensor | None = head.bias
    if len(weight) > num_tokens:
        weight, bias = weight[:num_tokens], None if bias is None else bias[:num_tokens]
    return _ReverseKL.apply(hidden, weight, bias, temperature, head.shaping, teacher)


class _ReverseKL(torch.autograd.Function):
    """The forward pass keeps the divergence of each position; the backward pass computes a chunk's logits again."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        temperature: float,
        shaping: Shaping,
        teacher: Teacher,
    ) -> torch.Tensor:
        compare = fused(_compare, hidden.device)
        found = [
            compare(z, teacher.logits(chunk), temperature)
            for chunk, z in logits_by_chunk(hidden, weight, bias, shaping)
        ]
        kl = torch.cat(found) if found else hidden.new_zeros(0, dtype=torch.float32)
        ctx.save_for_backward(hidden, weight, bias, kl)
        ctx.temperature, ctx.shaping, ctx.teacher = temperature, shaping, teacher
        return kl

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        hidden, weight, bias, kl = ctx.saved_tensors
        differentiate = fused(_differentiate, hidden.device)

        def of_logits(chunk: slice, z: torch.Tensor) -> torch.Tensor:
            theirs = ctx.teacher.logits(chunk)
            return differentiate(z, theirs, ctx.temperature, kl[chunk, None], grad[chunk, None])

        found = gradients(hidden, weight, bias, ctx.shaping, of_logits, ctx.needs_input_grad[1:3])
        return *found, None, None, None


def _compare(z: torch.Tensor, theirs: torch.Tensor, temperature: float) -> torch.Tensor:
    """KL [C] from logits [C, V] of the policy and of the teacher."""
    probs, log_ratio = _ratio(z, theirs, temperature)
    return _without_nothing(probs * log_ratio).sum(-1)


def _differentiate(
    z: torch.Tensor, theirs: torch.Tensor, temperature: float, kl: torch.Tensor, of_kl: torch.Tensor
) -> torch.Tensor:
    """The gradient of the policy's logits [C, V]; kl and its gradient are [C, 1]."""
    probs, log_ratio = _ratio(z, theirs, temperature)
    return _without_nothing(log_ratio.sub_(kl).mul_(probs)).mul_(of_kl / temperature)


def _ratio(z: torch.Tensor, theirs: torch.Tensor, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The policy's probabilities, and the logarithms of what they are to the teacher's; [C, V] each."""
    if temperature != 1:
        z, theirs = z / temperature, theirs / temperature
    log_probs = z.log_softmax(-1)
    log_ratio = theirs.log_softmax(-1).neg_().add_(log_probs)
    return log_probs.exp_(), log_ratio


def _without_nothing(products: torch.Tensor) -> torch.Tensor:
    """A token of probability 0 adds nothing, whatever its logarithm is; what the teacher never says costs infinity."""
    return products.nan_to_num_(0.0, float("inf"), float("-inf"))
