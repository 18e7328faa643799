"""How likely tokens were, and what they are worth: policy and critic, on Hugging Face causal language models.

Token log-probabilities and entropies are computed at response positions only, by `llmenv.policy.head`.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from llmenv.policy.batch import TokenBatch
from llmenv.policy.divergence import Teacher, reverse_kl
from llmenv.policy.head import Shaping, TokenHead
from llmenv.policy.packed import ATTENTION, run_packed, trunk, why_not, why_not_in_fact
from llmenv.policy.plan import Costs


class PolicyOutput(NamedTuple):
    """Per-token results, zero outside the response mask; a tuple, so that DeepSpeed finds the tensors in it.

    Attributes:
        logps: float32 [B, T]; `logps[b, t]` is the log-probability of `input_ids[b, t]` given all before it.
        entropy: float32 [B, T]; entropy in nats of the distribution that token was drawn from. None where nobody asked.
        values: float32 [B, T]; what the value head expects to be earned from that token on, itself included; at the
            last token of a row that is bootstrapped, after it. None without a value head.
        divergence: float32 [B, T]; the KL to a teacher, in nats, of the distribution that token was drawn from. None
            without a teacher.
    """

    logps: torch.Tensor
    entropy: torch.Tensor | None
    values: torch.Tensor | None = None
    divergence: torch.Tensor | None = None


class CausalPolicy(nn.Module):
    """A causal language model as a policy over tokens at one sampling temperature.

    Args:
        model: A Hugging Face causal LM whose logits are a linear map of the last hidden state, scaled or soft-capped.
        temperature: The temperature that actions are sampled at. Log-probabilities are of that distribution,
            softmax(logits / temperature): the one the surrogate's ratio and the KL speak of.
        gradient_checkpointing: Keep no activations inside the model's layers, and compute them again in the
            backward pass.
        shared_prompts: Compute what sequences of a group begin with once, and no padding. A model that cannot do
            it (see `llmenv.policy.packed`) computes every sequence by itself, padded, as it does without.
        value_head: Whether the same hidden states are also what a critic's values come from.

    Attributes:
        why_not_shared: What in the model keeps it from sharing prompts; None if nothing does, or nobody asked.
        trunk_learns_values: Whether the values' gradient goes on into the model, or ends in the value head.

    Raises:
        ValueError: For a model whose output layer is of another kind: log-probabilities would be wrong.
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
        if (head := token_head(model)) is None:
            found = type(model.get_output_embeddings()).__name__
            raise ValueError(
                f"{type(model).__name__} has {found} as its output layer, whose log-probabilities are not known here: "
                "take a model with a linear one, without adapters on it"
            )
        self.model = model.eval()
        self.head = head
        self.value_head = ValueHead(model) if value_head else None
        self.temperature = temperature
        self.why_not_shared = share_prompts(model) if shared_prompts else None
        self.shared_prompts = shared_prompts and self.why_not_shared is None
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

    def forward(
        self, batch: TokenBatch, with_entropy: bool = True, teacher: Teacher | None = None
    ) -> PolicyOutput:
        """Log-probability of every response token, its entropy if asked for, value, divergence ([B, T] each)."""
        hidden = run_trunk(trunk(self.model), batch, self.shared_prompts)
        values = None
        if self.value_head is not None:
            values = self.value_head(hidden if self.trunk_learns_values else hidden.detach(), batch)
        places = batch.places
        hidden = _before_tokens(hidden, batch)
        targets = batch.input_ids.flatten()[places.responses]
        logps, entropy = self.head(hidden, targets, self.temperature, with_entropy)
        kl = None if teacher is None else reverse_kl(hidden, self.head, self.temperature, teacher)
        shape = batch.input_ids.shape
        return PolicyOutput(
            logps=_scatter(logps, places.responses, shape),
            entropy=None if entropy is None else _scatter(entropy, places.responses, shape),
            values=values,
            divergence=None if kl is None else _scatter(kl, places.responses, shape),
        )

    def as_teacher(self, batch: TokenBatch, num_tokens: int) -> Teacher:
        """What this policy would have another one say in a batch, of as many tokens as a tokenizer has.

        The states are in the host's memory: as many numbers a token as the model is wide, and all micro-batches of an
        update are kept.
        """
        hidden = _before_tokens(run_trunk(trunk(self.model), batch, self.shared_prompts), batch)
        return Teacher.of(hidden.cpu(), self.head, num_tokens)


def _before_tokens(hidden: torch.Tensor, batch: TokenBatch) -> torch.Tensor:
    """Of states [M, D] those before a token [R, D]: after a row's last token there is a value, and no further one."""
    return hidden if batch.places.sampled is None else hidden[batch.places.sampled]


class ValueHead(nn.Module):
    """A linear map from a trunk's hidden state to a value; all values are 0 before it has learned any."""

    def __init__(self, model: PreTrainedModel):
        super().__init__()
        dtype = model.get_input_embeddings().weight.dtype
        self.linear = _WideLinear(model.config.get_text_config().hidden_size, 1, dtype=dtype)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, hidden: torch.Tensor, batch: TokenBatch) -> torch.Tensor:
        """Values [B, T] from the hidden states [M, D] of `run_trunk`."""
        return _scatter(self.linear(hidden).squeeze(-1), batch.places.valued, batch.input_ids.shape)


class _WideLinear(nn.Linear):
    """A linear map whose results are float32 where states and weights are of 16 bits, as logits are."""

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        wide = torch.promote_types(states.dtype, torch.float32)
        return functional.linear(*(x.to(wide) for x in (states, self.weight, self.bias)))


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
        model.eval()
        self.shared_prompts = shared_prompts and share_prompts(model) is None
        if gradient_checkpointing:
            checkpoint_layers(model)
        self.head = ValueHead(model)
        self.trunk = trunk(model)

    def train(self, mode: bool = True) -> Critic:
        """Never drops anything out, as the policy does not."""
        super().train(mode)
        self.trunk.eval()
        return self

    def forward(self, batch: TokenBatch) -> torch.Tensor:
        """Values [B, T], as in `PolicyOutput`."""
        return self.head(run_trunk(self.trunk, batch, self.shared_prompts), batch)


def token_head(model: PreTrainedModel) -> TokenHead | None:
    """A model's output layer, with what the model does to its results; None for a layer of a kind not known here."""
    layer: Any = model.get_output_embeddings()
    known = type(layer) is nn.Linear
    if not known:
        return None

    def settings(*names: str) -> list[float]:
        found = (getattr(model.config, name, None) for name in names)
        return [value for value in found if isinstance(value, int | float) and value]

    # The names that models of transformers have for factors, divisors and caps.
    scale = math.prod(settings("logit_scale", "lm_head_multiplier")) / math.prod(settings("logits_scaling"))
    caps = settings("final_logit_softcapping", "logits_soft_cap")
    return TokenHead(layer.weight, layer.bias, Shaping(scale, caps[0] if caps else None))


def share_prompts(model: PreTrainedModel) -> str | None:
    """Makes a model ready for packed rows; where it cannot run on them, says why, and leaves it as it was."""
    reason = why_not(model)
    if reason is None:
        own = model.config._attn_implementation
        model.set_attn_implementation(ATTENTION)
        if (reason := why_not_in_fact(model)) is not None:
            model.set_attn_implementation(own)
    return reason


def checkpoint_layers(model: PreTrainedModel) -> None:
    """As `model.gradient_checkpointing_enable()`, which acts in training mode only, where models drop out."""
    layers = [layer for layer in model.modules() if isinstance(layer, GradientCheckpointingLayer)]
    if not layers:
        raise ValueError(f"{type(model).__name__} marks no layers for it: leave out gradient_checkpointing")
    for layer in layers:
        # Nothing is drawn in it: the generator's state need not be kept, for which a GPU would be waited for.
        # Only as far as needed: at the layer's end DeepSpeed's stage 3 drops what the backward pass starts from.
        layer.forward = partial(
            checkpoint, layer.forward, use_reentrant=False, early_stop=True, preserve_rng_state=False
        )


def run_trunk(backbone: nn.Module, batch: TokenBatch, shared_prompts: bool) -> torch.Tensor:
    """A model's last hidden state [M, D] before each response token, and at the end of bootstrapped rows.

    M are those of `batch.places.valued`, in their order.
    """
    if shared_prompts:
        return run_packed(backbone, batch.packed)
    positions = torch.arange(batch.input_ids.shape[1], device=batch.input_ids.device)
    attention_mask = positions[None, :] < batch.lengths[:, None]
    hidden = backbone(
        input_ids=batch.input_ids, attention_mask=attention_mask.long(), use_cache=False
    ).last_hidden_state
    # The hidden state at t - 1 predicts the token at t; a response never starts at position 0.
    return functional.embedding(batch.places.valued - 1, hidden.flatten(0, 1))


def _scatter(values: torch.Tensor, places: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """Puts values [M] at places of a [B, T] of that shape, flattened; zero elsewhere."""
    return values.new_zeros(shape.numel()).scatter(0, places, values).view(shape)
