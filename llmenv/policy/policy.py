"""How likely tokens were, and what they are worth: policy and critic, on Hugging Face causal language models.

Token log-probabilities and entropies are computed at response positions only and in chunks, so that no tensor
of the size [B, T, V] ever exists, neither forward nor backward.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from llmenv.policy.batch import TokenBatch
from llmenv.policy.packed import ATTENTION, run_packed, why_not
from llmenv.policy.plan import Costs

# Positions whose logits exist at the same time: 512 x 50,000 float32 are 100 MB.
CHUNK_POSITIONS = 512


class PolicyOutput(NamedTuple):
    """Per-token results, zero outside the response mask; a tuple, so that DeepSpeed finds the tensors in it.

    Attributes:
        logps: float32 [B, T]; `logps[b, t]` is the log-probability of `input_ids[b, t]` given all before it.
        entropy: float32 [B, T]; entropy in nats of the distribution that token was drawn from.
        values: float32 [B, T]; what the value head expects to be earned from that token on, itself included; at the
            last token of a row that is bootstrapped, after it. None without a value head.
    """

    logps: torch.Tensor
    entropy: torch.Tensor
    values: torch.Tensor | None = None


class _TokenLogProbs(torch.autograd.Function):
    """log softmax(h W^T / temperature)[target] and the entropy, chunk by chunk.

    The forward pass keeps only the log-normaliser and the entropy of each position; the backward pass computes a
    chunk's logits z again, and from them d logp / dz = one_hot(target) - p and dH / dz = -p (log p + H).
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, temperature: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        wide = torch.promote_types(hidden.dtype, torch.float32)
        logps = hidden.new_empty(len(hidden), dtype=wide)
        entropy, normaliser = torch.empty_like(logps), torch.empty_like(logps)
        memory = hidden.new_empty(min(len(hidden), CHUNK_POSITIONS), len(weight), dtype=wide)
        for chunk, logits in _logits_by_chunk(hidden, weight, temperature):
            largest = logits.amax(-1, keepdim=True)
            logits.sub_(largest)
            exps = torch.exp(logits, out=memory[: len(logits)])
            total = exps.sum(-1)
            log_total = total.log()
            normaliser[chunk] = largest.squeeze(-1) + log_total
            logps[chunk] = logits.gather(-1, targets[chunk, None]).squeeze(-1) - log_total
            # H = -sum_v p_v log p_v = log Z - sum_v exp(z_v) z_v / Z, with z the logits less the largest and Z the sum
            # of exp(z): neither term is negative. A logit of -inf has probability 0 and adds nothing.
            entropy[chunk] = log_total - exps.mul_(logits).nan_to_num_(0.0).sum(-1) / total
        ctx.save_for_backward(hidden, weight, targets, normaliser, entropy)
        ctx.temperature = temperature
        ctx.set_materialize_grads(False)  # without an entropy bonus nothing is computed for one
        return logps, entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        grad_logps, grad_entropy = grads
        hidden, weight, targets, normaliser, entropy = ctx.saved_tensors
        grad_logps, grad_entropy = (
            None if grad is None else grad[:, None] / ctx.temperature for grad in (grad_logps, grad_entropy)
        )
        grad_hidden = torch.empty_like(hidden)
        grad_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        for chunk, logits in _logits_by_chunk(hidden, weight, ctx.temperature):
            log_probs = logits.sub_(normaliser[chunk, None])
            scale = torch.zeros_like(log_probs[:, :1]) if grad_logps is None else grad_logps[chunk]
            if grad_entropy is None:
                grad_logits = log_probs.exp_().mul_(-scale)
            else:
                surprise = (log_probs + entropy[chunk, None]).mul_(grad_entropy[chunk])
                grad_logits = surprise.add_(scale).neg_().mul_(log_probs.exp_()).nan_to_num_(0.0)
            grad_logits.scatter_add_(-1, targets[chunk, None], scale)
            grad_logits = grad_logits.to(hidden.dtype)
            grad_hidden[chunk] = grad_logits @ weight
            if grad_weight is not None:
                grad_weight.addmm_(grad_logits.T, hidden[chunk])
        return grad_hidden, grad_weight, None, None


def _logits_by_chunk(
    hidden: torch.Tensor, weight: torch.Tensor, temperature: float
) -> Iterator[tuple[slice, torch.Tensor]]:
    """Which positions, and their logits [C, V] over the temperature, to be overwritten at will.

    All chunks are in the same memory: on a CPU fresh one of that size costs as much as several passes over it.
    """
    memory = hidden.new_empty(min(len(hidden), CHUNK_POSITIONS), len(weight))
    wide_memory = memory.to(torch.promote_types(hidden.dtype, torch.float32))
    for start in range(0, len(hidden), CHUNK_POSITIONS):
        chunk = slice(start, min(start + CHUNK_POSITIONS, len(hidden)))
        size = chunk.stop - start
        logits = torch.mm(hidden[chunk], weight.T, out=memory[:size])
        if logits.dtype != wide_memory.dtype:
            logits = wide_memory[:size].copy_(logits)
        yield chunk, logits.div_(temperature)


class TokenHead(nn.Module):
    """A model's output layer, giving log-probabilities and entropies [M] instead of logits.

    It holds the layer's own weight, which stays tied where it is. As a module that is called once a forward pass it is
    what DeepSpeed's ZeRO-3 gathers parameters around; every call is a collective there.
    """

    def __init__(self, weight: nn.Parameter):
        super().__init__()
        self.weight = weight

    def forward(
        self, hidden: torch.Tensor, targets: torch.Tensor, temperature: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return _TokenLogProbs.apply(hidden, self.weight, targets, temperature)


class CausalPolicy(nn.Module):
    """A causal language model as a policy over tokens at one sampling temperature.

    Args:
        model: Any Hugging Face causal LM whose logits are a plain linear map of the last hidden state.
        temperature: The temperature that actions are sampled at. Log-probabilities are of that distribution,
            softmax(logits / temperature): the one the surrogate's ratio and the KL speak of.
        gradient_checkpointing: Keep no activations inside the model's layers, and compute them again in the
            backward pass.
        shared_prompts: Compute what sequences of a group begin with once, and no padding. A model that cannot do
            it (see `llmenv.policy.packed.why_not`) computes every sequence by itself, padded, as it does without.
        value_head: Whether the same hidden states are also what a critic's values come from.

    Attributes:
        why_not_shared: What in the model keeps it from sharing prompts; None if nothing does.
        trunk_learns_values: Whether the values' gradient goes on into the model, or ends in the value head.

    Raises:
        ValueError: For a model that transforms its logits (soft-capping, scaling, a bias, adapters), whose
            log-probabilities this class would get wrong.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        temperature: float = 1.0,
        *,
        gradient_checkpointing: bool = False,
        shared_prompts: bool = True,
        value_head: bool = False,
    ):
        super().__init__()
        if temperature <= 0:
            raise ValueError(f"temperature must be positive, got {temperature}")
        transforms = ("final_logit_softcapping", "logit_scale", "logits_scaling")
        found = [name for name in transforms if getattr(model.config, name, None) not in (None, 1, 1.0)]
        output_layer = model.get_output_embeddings()
        if getattr(output_layer, "bias", None) is not None:
            found.append("a bias in its output layer")
        if type(output_layer) is not nn.Linear:
            found.append(f"{type(output_layer).__name__} as its output layer")
        if found:
            raise ValueError(
                f"{type(model).__name__} transforms its logits ({', '.join(found)}): unsupported"
            )
        self.model = model.eval()
        self.head = TokenHead(output_layer.weight)
        self.value_head = ValueHead(model) if value_head else None
        self.temperature = temperature
        self.why_not_shared = why_not(model)
        self.shared_prompts = shared_prompts and share_prompts(model)
        self.trunk_learns_values = True
        if gradient_checkpointing:
            checkpoint_layers(model)

    @property
    def costs(self) -> Costs:
        """What attention and the output layer cost, in units of what the layers compute for a token besides.

        With a width of d, a layer has about 12 d^2 weights, two operations each (Kaplan et al., 2001.08361, section
        2.1), and takes 4 d for each token looked at: a product with its key and one with its value. The output layer
        has V d weights, against the 12 d^2 L of L layers.
        """
        config = self.model.config.get_text_config()
        width, layers = config.hidden_size, config.num_hidden_layers
        return Costs(attention=1 / (6 * width), response=config.vocab_size / (12 * width * layers))

    def train(self, mode: bool = True) -> CausalPolicy:
        """Never drops anything out: with dropout the policy would not be the one that was sampled from."""
        super().train(mode)
        self.model.eval()
        return self

    def forward(self, batch: TokenBatch) -> PolicyOutput:
        """Log-probability and entropy of every response token of `batch`, and its value ([B, T] each)."""
        hidden = run_trunk(self.model.get_decoder(), batch, self.shared_prompts)
        values = None
        if self.value_head is not None:
            values = self.value_head(hidden if self.trunk_learns_values else hidden.detach(), batch)
        if batch.bootstrapped.any():  # after a row's last token there is a value, and no further token
            hidden = hidden[batch.response_mask[batch.valued_mask]]
        logps, entropy = self.head(hidden, batch.input_ids[batch.response_mask], self.temperature)
        return PolicyOutput(
            _scatter(logps, batch.response_mask), _scatter(entropy, batch.response_mask), values
        )


class ValueHead(nn.Module):
    """A linear map from a trunk's hidden state to a value; all values are 0 before it has learned any."""

    def __init__(self, model: PreTrainedModel):
        super().__init__()
        dtype = model.get_input_embeddings().weight.dtype
        self.linear = nn.Linear(model.config.get_text_config().hidden_size, 1, dtype=dtype)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, hidden: torch.Tensor, batch: TokenBatch) -> torch.Tensor:
        """Values [B, T] from the hidden states [M, D] of `run_trunk`."""
        values = self.linear(hidden).squeeze(-1)
        return _scatter(values.to(torch.promote_types(values.dtype, torch.float32)), batch.valued_mask)


class Critic(nn.Module):
    """A value head on a trunk of its own, with nothing in common with the policy.

    Args:
        model: A Hugging Face causal language model, whose output layer is left out.
        gradient_checkpointing: As for `CausalPolicy`.
        shared_prompts: As for `CausalPolicy`.
    """

    def __init__(
        self, model: PreTrainedModel, *, gradient_checkpointing: bool = False, shared_prompts: bool = True
    ):
        super().__init__()
        self.shared_prompts = shared_prompts and share_prompts(model)
        if gradient_checkpointing:
            checkpoint_layers(model)
        self.head = ValueHead(model)
        self.trunk = model.get_decoder().eval()

    def train(self, mode: bool = True) -> Critic:
        """Never drops anything out, as the policy does not."""
        super().train(mode)
        self.trunk.eval()
        return self

    def forward(self, batch: TokenBatch) -> torch.Tensor:
        """Values [B, T], as in `PolicyOutput`."""
        return self.head(run_trunk(self.trunk, batch, self.shared_prompts), batch)


def share_prompts(model: PreTrainedModel) -> bool:
    """Makes a model ready for packed rows; False if it cannot run on them."""
    able = why_not(model) is None
    if able:
        model.set_attn_implementation(ATTENTION)
    return able


def checkpoint_layers(model: PreTrainedModel) -> None:
    """As `model.gradient_checkpointing_enable()`, which acts in training mode only, where models drop out."""
    layers = [layer for layer in model.modules() if isinstance(layer, GradientCheckpointingLayer)]
    if not layers:
        raise ValueError(f"{type(model).__name__} marks no layers for it: leave out gradient_checkpointing")
    for layer in layers:
        # Only as far as needed: at the layer's end DeepSpeed's stage 3 drops what the backward pass starts from.
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False, early_stop=True)


def run_trunk(backbone: nn.Module, batch: TokenBatch, shared_prompts: bool) -> torch.Tensor:
    """A model's last hidden state [M, D] before each response token, and at the end of bootstrapped rows.

    M are the True of `batch.valued_mask`, in its order.
    """
    if shared_prompts:
        return run_packed(backbone, batch.packed)
    positions = torch.arange(batch.input_ids.shape[1], device=batch.input_ids.device)
    attention_mask = positions[None, :] < batch.lengths[:, None]
    hidden = backbone(
        input_ids=batch.input_ids, attention_mask=attention_mask.long(), use_cache=False
    ).last_hidden_state
    # The hidden state at t - 1 predicts the token at t; a response never starts at position 0.
    return hidden[:, :-1][batch.valued_mask[:, 1:]]


def _scatter(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Puts values [M] where a mask [B, T] is True; zero elsewhere."""
    return values.new_zeros(mask.shape).masked_scatter(mask, values)
