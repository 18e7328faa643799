"""A model's output layer that gives log-probabilities and entropies, in chunks: no tensor [M, V] ever exists.

Logits, and all that is made of them, are float32 where hidden states and weight are of 16 bits: rounded to bfloat16 a
logit of 20 is off by up to 0.06, and as much then the log-probability, the sampler's one way and the learner's another
(found so by MiniMax-M1, 2506.13585). This module knows nothing about models, batches or losses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from llmenv.policy.compiling import fused

# Positions whose logits exist at the same time: 512 x 50,000 float32 are 100 MB.
CHUNK_POSITIONS = 512


class Shaping(NamedTuple):
    """What a model makes of its output layer's results x: z = cap * tanh(scale * x / cap), or scale * x without a cap.

    Attributes:
        scale: Cohere's `logit_scale`, or one over Granite's `logits_scaling`.
        cap: The soft-capping of Gemma 2 (2408.00118, section 2).
    """

    scale: float = 1.0
    cap: float | None = None

    def apply(self, x: torch.Tensor) -> torch.Tensor:
        """Logits from an output layer's results, which are overwritten."""
        if self.scale != 1:
            x.mul_(self.scale)
        return x if self.cap is None else x.div_(self.cap).tanh_().mul_(self.cap)

    def slope(self, z: torch.Tensor) -> torch.Tensor | float:
        """The derivative of logits z by x: scale * (1 - (z / cap)^2)."""
        return self.scale if self.cap is None else (z / self.cap).square_().neg_().add_(1).mul_(self.scale)


PLAIN = Shaping()


class TokenHead(nn.Module):
    """A model's output layer, giving log-probabilities and entropies [M] instead of logits.

    It holds the layer's own weight, which stays tied where it is. As a module that is called once a forward pass it is
    what DeepSpeed's ZeRO-3 gathers parameters around; every call is a collective there.

    Args:
        weight: [V, D].
        bias: [V]; None where the layer has none.
        shaping: What the model does to the layer's results.
    """

    def __init__(self, weight: nn.Parameter, bias: nn.Parameter | None = None, shaping: Shaping = PLAIN):
        super().__init__()
        self.weight = weight
        self.bias = bias
        self.shaping = shaping

    def forward(
        self, hidden: torch.Tensor, targets: torch.Tensor, temperature: float, with_entropy: bool = True
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The log-probabilities of `targets` [M] and, if it is asked for, the entropy at each of them.

        Args:
            hidden: [M, D], the hidden states before the targets.
            targets: int64 [M].
            temperature: What logits are divided by.
            with_entropy: It costs a third of the passes over the logits.
        """
        return _TokenLogProbs.apply(
            hidden, self.weight, targets, temperature, with_entropy, self.bias, self.shaping
        )

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """The logits [M, V] of hidden states [M, D], as log-probabilities are computed from."""
        return logits(hidden, self.weight, self.bias, self.shaping)


def logits(
    hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None, shaping: Shaping = PLAIN
) -> torch.Tensor:
    """The logits [M, V] of hidden states [M, D] and an output layer's weight [V, D], as the head computes them."""
    hidden, weight = _factors(hidden, weight)
    return _logits(hidden, weight, bias, shaping)


class _TokenLogProbs(torch.autograd.Function):
    """log softmax(h W^T / temperature)[target] and the entropy, chunk by chunk.

    The forward pass keeps only the log-normaliser and the entropy of each position; the backward pass computes a
    chunk's logits z again, and from them d logp / dz = one_hot(target) - p and dH / dz = -p (log p + H), times dz / dx
    where a model shapes its logits. The gradients of weight and bias are added up in float32, and rounded to their own
    precision once.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        targets: torch.Tensor,
        temperature: float,
        with_entropy: bool,
        bias: torch.Tensor | None = None,
        shaping: Shaping = PLAIN,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        wide = _wide(hidden)
        logps, normaliser = hidden.new_empty(2, len(hidden), dtype=wide)
        entropy = torch.empty_like(logps) if with_entropy else None
        on_cpu = hidden.device.type == "cpu"
        spare = _memory(hidden, weight) if on_cpu and with_entropy else None
        summarise = fused(_summarise, hidden.device)
        for chunk, z in logits_by_chunk(hidden, weight, bias, shaping):
            room = None if spare is None else spare[: len(z)]
            found = summarise(z, targets[chunk], temperature, with_entropy, on_cpu, room)
            for result, part in zip((logps, normaliser, entropy), found, strict=True):
                if result is not None:
                    result[chunk] = part
        ctx.save_for_backward(hidden, weight, targets, normaliser, entropy, bias)
        ctx.temperature, ctx.shaping = temperature, shaping
        ctx.set_materialize_grads(False)  # without an entropy bonus nothing is computed for one
        return logps, entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        hidden, weight, targets, normaliser, entropy, bias = ctx.saved_tensors
        of_logps, of_entropy = (None if grad is None else grad[:, None] / ctx.temperature for grad in grads)
        if of_logps is None:
            of_logps = torch.zeros_like(normaliser)[:, None]
        differentiate = fused(_differentiate, hidden.device)

        def of_logits(chunk: slice, z: torch.Tensor) -> torch.Tensor:
            surprises = None if of_entropy is None else (entropy[chunk, None], of_entropy[chunk])
            return differentiate(
                z,
                targets[chunk, None],
                ctx.temperature,
                normaliser[chunk, None],
                of_logps[chunk],
                surprises,
                hidden.device.type == "cpu",
            )

        learns = (ctx.needs_input_grad[1], bias is not None and ctx.needs_input_grad[5])
        grad_hidden, grad_weight, grad_bias = gradients(hidden, weight, bias, ctx.shaping, of_logits, learns)
        return grad_hidden, grad_weight, None, None, None, grad_bias, None


def _summarise(
    z: torch.Tensor,
    targets: torch.Tensor,
    temperature: float,
    with_entropy: bool,
    in_place: bool,
    spare: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Of logits [C, V]: log-probabilities [C] of the targets [C], log-normalisers [C], entropies [C].

    Fresh memory of the size of a chunk costs a CPU as much as several passes over it: there results go into the logits'
    own (`in_place`) and into `spare` [C, V]. A compiler needs none for them, and is not to be kept from it.
    """
    own = z if in_place else None
    if temperature != 1:
        z = torch.div(z, temperature, out=own)
    largest = z.amax(-1, keepdim=True)
    z = torch.sub(z, largest, out=own)
    chosen = z.gather(-1, targets[:, None]).squeeze(-1)
    exps = torch.exp(z, out=spare if with_entropy else own)
    total = exps.sum(-1)
    log_total = total.log()
    entropy = None
    if with_entropy:
        # H = -sum_v p_v log p_v = log Z - sum_v exp(z_v) z_v / Z, with z the logits less the largest and Z the sum
        # of exp(z): neither term is negative. A logit of -inf has probability 0 and adds nothing.
        products = torch.nan_to_num(torch.mul(exps, z, out=spare), 0.0, out=spare)
        entropy = log_total - products.sum(-1) / total
    return chosen - log_total, largest.squeeze(-1) + log_total, entropy


def _differentiate(
    z: torch.Tensor,
    targets: torch.Tensor,
    temperature: float,
    normaliser: torch.Tensor,
    of_logps: torch.Tensor,
    surprises: tuple[torch.Tensor, torch.Tensor] | None,
    in_place: bool,
) -> torch.Tensor:
    """The gradient of logits [C, V], from those of log-probabilities [C, 1] and, if there are any, of entropies.

    Args:
        z: [C, V]; overwritten if `in_place`, as in `_summarise`.
        targets: int64 [C, 1].
        temperature: As in `_summarise`.
        normaliser: [C, 1], of the logits over the temperature.
        of_logps: [C, 1], over the temperature.
        surprises: Entropies and their gradients over the temperature, [C, 1] each.
        in_place: As in `_summarise`.
    """
    own = z if in_place else None
    if temperature != 1:
        z = torch.div(z, temperature, out=own)
    log_probs = torch.sub(z, normaliser, out=own)
    if surprises is None:
        gradient = torch.mul(torch.exp(log_probs, out=own), -of_logps, out=own)
    else:
        entropy, of_entropy = surprises
        pull = (log_probs + entropy).mul_(of_entropy).add_(of_logps).neg_()
        gradient = pull.mul_(torch.exp(log_probs, out=own)).nan_to_num_(0.0)
    return gradient.scatter_add_(-1, targets, of_logps)


def gradients(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    shaping: Shaping,
    of_logits: Callable[[slice, torch.Tensor], torch.Tensor],
    learns: tuple[bool, bool],
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
    """The gradients of hidden states, weight and bias, from those of the logits, chunk by chunk.

    Args:
        hidden: [M, D].
        weight: [V, D].
        bias: [V], or None.
        shaping: What the model does to the layer's results.
        of_logits: Makes, from which positions these are and their logits [C, V], which it may overwrite, the gradient
            of these logits.
        learns: Whether the weight has a gradient, and the bias.
    """
    grad_hidden = torch.empty_like(hidden)
    wide = _wide(hidden)
    grad_weight = torch.zeros_like(weight, dtype=wide) if learns[0] else None
    grad_bias = torch.zeros_like(bias, dtype=wide) if bias is not None and learns[1] else None
    states, rows = _factors(hidden, weight)
    for chunk, z in logits_by_chunk(hidden, weight, bias, shaping):
        slope = shaping.slope(z)  # before the logits are overwritten
        grad_logits = of_logits(chunk, z)
        if shaping != PLAIN:
            grad_logits = grad_logits.mul_(slope)
        if grad_bias is not None:
            grad_bias += grad_logits.sum(0)
        grad_logits = grad_logits.to(states.dtype)
        grad_hidden[chunk] = grad_logits @ rows
        if grad_weight is not None:
            _add_product(grad_weight, grad_logits.T, states[chunk])
    of_weight, of_bias = (None if g is None else g.to(weight.dtype) for g in (grad_weight, grad_bias))
    return grad_hidden, of_weight, of_bias


def logits_by_chunk(
    hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, shaping: Shaping
) -> Iterator[tuple[slice, torch.Tensor]]:
    """Which positions, and their logits [C, V], to be overwritten at will: on a CPU all are in the same memory."""
    hidden, weight = _factors(hidden, weight)
    memory = _memory(hidden, weight) if hidden.device.type == "cpu" else None
    for start in range(0, len(hidden), CHUNK_POSITIONS):
        chunk = slice(start, min(start + CHUNK_POSITIONS, len(hidden)))
        out = None if memory is None else memory[: chunk.stop - start]
        yield chunk, _logits(hidden[chunk], weight, bias, shaping, out)


def _logits(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    shaping: Shaping,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    z = _product(hidden, weight.T, out)
    return shaping.apply(z if bias is None else z.add_(bias))


def _memory(hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return hidden.new_empty(min(len(hidden), CHUNK_POSITIONS), len(weight), dtype=_wide(hidden))


def _wide(states: torch.Tensor) -> torch.dtype:
    """What is computed from states of 16 bits is float32."""
    return torch.promote_types(states.dtype, torch.float32)


def _factors(hidden: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What products are made of: on a GPU the 16 bits themselves, which its tensor cores add up in float32."""
    if hidden.is_cuda:
        return hidden, weight
    return hidden.to(_wide(hidden)), weight.to(_wide(weight))


def _product(left: torch.Tensor, right: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
    """The product of two matrices, in float32 where both are of 16 bits."""
    if left.dtype == _wide(left):
        return torch.mm(left, right, out=out)
    return torch.mm(left, right, out_dtype=_wide(left))


def _add_product(total: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> None:
    """Adds left @ right to a total, which is float32; the others may be of 16 bits."""
    if left.dtype == total.dtype:
        total.addmm_(left, right)
    else:
        torch.addmm(total, left, right, out_dtype=total.dtype, out=total)
