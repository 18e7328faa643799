"""A reward model as a wrapper: a Hugging Face sequence classifier, or any callable.

Knows no environment. torch is imported when a classifier first scores.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import cache
from pkgutil import resolve_name
from typing import Any

import gymnasium as gym
from gymnasium.utils import RecordConstructorArgs

from envs.rewards import AddedReward, finite

_LOCK = threading.Lock()  # environments step in threads; tokenizers bear no second one


class RewardModel(AddedReward):
    """Adds weight * (what a reward model says of prompt and completion).

    A sequence classifier reads the two as a dialogue in its own chat template, or as a pair of texts where it has none,
    and its score is one logit. It is loaded when it first scores, once a process, however many environments there are.

    Args:
        env: a text environment.
        model: folder or hub id of the sequence classifier; or a callable of (prompt, completion), given itself or named
            "module:function".
        weight: of the score.
        env_weight: of the environment's own reward; 0: the reward model is the only one.
        label: which logit of a classifier that has several.
        max_tokens: of prompt and completion; of a longer text the beginning is cut off.
        device: where the classifier computes.
    """

    def __init__(
        self,
        env: gym.Env[str, str],
        model: str | Callable[[str, str], float],
        weight: float = 1.0,
        env_weight: float = 1.0,
        label: int | None = None,
        max_tokens: int = 2048,
        device: str = "cpu",
    ) -> None:
        RecordConstructorArgs.__init__(
            self,
            model=model,
            weight=weight,
            env_weight=env_weight,
            label=label,
            max_tokens=max_tokens,
            device=device,
        )
        super().__init__(env, weight, env_weight)
        self.label = label
        self.max_tokens = max_tokens
        self.device = device
        self.model = resolve_name(model) if isinstance(model, str) and ":" in model else model

    def score(self, prompt: str, completion: str, info: dict[str, Any]) -> float:
        if callable(self.model):
            score = self.model(prompt, completion)
            return 0.0 if score is None else finite(score, self.model)
        with _LOCK:
            return _classifier(self.model, self.device).score(prompt, completion, self.label, self.max_tokens)


class _Classifier:
    """A sequence classifier and its tokenizer."""

    def __init__(self, name: str, device: str) -> None:
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        self.name = name
        self.model = AutoModelForSequenceClassification.from_pretrained(name).to(device).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(name, truncation_side="left")

    def score(self, prompt: str, completion: str, label: int | None, max_tokens: int) -> float:
        import torch

        num_labels = self.model.config.num_labels
        if label is None and num_labels > 1:
            raise ValueError(f"{self.name} has {num_labels} labels: say by label= which one's logit to pay")
        with torch.inference_mode():
            logits = self.model(**self._encode(prompt, completion, max_tokens)).logits[0]
        return float(logits[label or 0])

    def _encode(self, prompt: str, completion: str, max_tokens: int) -> Any:
        texts: tuple[str, ...] = (prompt, completion)
        if self.tokenizer.chat_template:
            messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": completion}]
            texts = (self.tokenizer.apply_chat_template(messages, tokenize=False),)
        return self.tokenizer(
            *texts,
            add_special_tokens=len(texts) == 2,  # a chat template writes its own
            truncation=True,
            max_length=min(max_tokens, self.tokenizer.model_max_length),
            return_tensors="pt",
        ).to(self.model.device)


@cache
def _classifier(name: str, device: str) -> _Classifier:
    return _Classifier(name, device)
