"""The policy that a KL is measured to, and how the KL's weight follows what is measured."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import PreTrainedTokenizerBase

from algorithms.config import LLMConfig
from llmenv.engines.deepspeed import deepspeed_world, restore_buffers
from llmenv.engines.engine import Engine
from llmenv.engines.frozen import SharedModule, WholeModule, shared_config
from llmenv.models import lora
from llmenv.models.names import load_causal_lm, load_tokenizer
from llmenv.policy.batch import PreparedBatch
from llmenv.policy.policy import CausalPolicy


class Reference:
    """The model that `reference_model` names, else the learner's own initial policy; frozen.

    With adapters, the initial policy is the policy itself with them switched off. Otherwise the reference is a model of
    its own, which is on the device for its forward passes alone: training has that memory. Where the learners share
    the policy's parameters out (ZeRO-3), they do its.

    Args:
        config: The learner's.
        engine: Holds the policy's weights.
        policy: What is compared.
        device: Where it computes.

    Attributes:
        model: That one; None where it is the policy itself.

    Raises:
        ValueError: If the model that is named has another vocabulary.
    """

    def __init__(self, config: LLMConfig, engine: Engine, policy: CausalPolicy, device: torch.device):
        self._engine = engine
        self._policy = policy
        self.model: CausalPolicy | None = None
        if config.reference_model is not None or not config.lora:
            self.model, self._frozen = _load(config, policy, device)

    @torch.no_grad()
    def fill_in(self, batches: Sequence[PreparedBatch]) -> None:
        """Sets `ref_logps`. Collective."""
        if self.model is None:
            with lora.switched_off(self._policy.model):
                for batch in batches:
                    batch.ref_logps = self._engine.forward(batch.tokens, with_entropy=False).logps
            return
        with self._frozen.ready() as model:
            for batch in batches:
                batch.ref_logps = model(batch.tokens, with_entropy=False).logps

    @torch.no_grad()
    def teach(self, batches: Sequence[PreparedBatch], num_tokens: int) -> None:
        """Sets `teacher`, of the first `num_tokens` tokens. For a model of its own that each learner has whole."""
        assert self.model is not None and isinstance(self._frozen, WholeModule)
        with self._frozen.ready():
            for batch in batches:
                batch.teacher = self.model.as_teacher(batch.tokens, num_tokens)


def _load(
    config: LLMConfig, policy: CausalPolicy, device: torch.device
) -> tuple[CausalPolicy, WholeModule | SharedModule]:
    """A reference of its own, and what runs it."""
    settings = config.deepspeed_config
    if settings is None or config.zero_stage != 3:
        reference = _load_model(config, policy)
        return reference, WholeModule(reference, device)
    settings = shared_config(settings)
    with deepspeed_world(settings, device):
        reference = _load_model(config, policy)
    return reference, SharedModule(reference, settings)


def _load_model(config: LLMConfig, policy: CausalPolicy) -> CausalPolicy:
    name = config.reference_model or config.base_model
    model = load_causal_lm(name, dtype=config.dtype)
    restore_buffers(model)
    if name != config.base_model:
        # Models of a family pad their embeddings differently: more rows than the policy's are no other vocabulary.
        rows, needed = (m.config.get_text_config().vocab_size for m in (model, policy.model))
        theirs, own = map(load_tokenizer, (name, config.base_model))
        known, ours = theirs.get_vocab(), own.get_vocab()
        if known == ours and not spell_alike(theirs, own):
            raise ValueError(
                f"reference_model={name!r} has the tokens of the policy {config.base_model!r} and cuts texts into "
                "others of them, so it would judge what it never sees: name a model with the same tokenizer"
            )
        if known != ours or rows < needed:
            raise ValueError(
                f"reference_model={name!r} has another vocabulary ({len(known)} tokens, {rows} rows) than the policy "
                f"{config.base_model!r} ({len(ours)}, {needed}), so there is no KL between them: name a model with "
                "the same tokenizer"
            )
    return CausalPolicy(model.requires_grad_(False), config.temperature, shared_prompts=config.shared_prompts)


# What a model may be asked, and what it may say: words, digits, marks, letters of other scripts, white space.
SPELT = (
    "The answer is 1,024.",
    "<think>\n12 * 3 = 36\n</think>",
    "naïve Übung 数学 \U0001f600",
    "  a\n\n\tb  ",
)


def spell_alike(first: PreTrainedTokenizerBase, second: PreTrainedTokenizerBase) -> bool:
    """Whether two tokenizers cut texts alike: equal vocabularies may still be joined by other merges."""
    return all(
        first.encode(text, add_special_tokens=False) == second.encode(text, add_special_tokens=False)
        for text in SPELT
    )


def adapted(coefficient: float, kl: float, config: LLMConfig) -> float:
    """The KL's weight, moved so that the KL moves to its target: Ziegler et al. (1909.08593), section 2.2.

    Args:
        coefficient: The weight so far.
        kl: As it was measured with it on a batch, in nats a token.
        config: Has `kl_target` and `kl_horizon`.
    """
    assert config.kl_target is not None
    error = min(max(kl / config.kl_target - 1, -0.2), 0.2)
    return coefficient * (1 + error * config.samples_per_iteration / config.kl_horizon)
