"""What is evaluated: a renderer and a sampler, and what tells one model from another. Knows no environment."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmenv.models.names import load_causal_lm, resolve_model
from llmenv.models.renderer import Renderer
from llmenv.samplers.sampler import Sampler

SAMPLERS = ("transformers", "vllm")


@dataclass
class Subject:
    """A model that can be asked.

    Attributes:
        name: As its user calls it.
        fingerprint: Another one is another model.
        renderer: Of its prompts; only what `llmenv.rollout` asks of one.
        sampler: Of its responses.
        settings: What else decides what it says, such as the sampler's name; of JSON's types.
        finds_prefix: Finds out whether the model can be sent how its answer begins; None where that is known.
        account: What asking it took since this was last called, of JSON's types.
    """

    name: str
    fingerprint: str
    renderer: Renderer
    sampler: Sampler
    settings: dict[str, Any] = field(default_factory=dict)
    finds_prefix: Callable[[], bool] | None = None
    account: Callable[[], dict[str, Any]] = dict

    @property
    def takes_prefix(self) -> bool:
        """Whether the environment's beginning of an answer is put into its prompt, as tokenizers' renderers do."""
        return getattr(self.renderer, "takes_prefix", True)

    def begin(self) -> None:
        """To be called before it is asked; finds out what is to be found out once."""
        if self.finds_prefix is not None:
            characters: Any = self.renderer
            characters.takes_prefix = self.finds_prefix()
            self.finds_prefix = None


def load_subject(
    model: str,
    sampler: str = "transformers",
    *,
    name: str | None = None,
    dtype: str = "float32",
    template: str = "auto",
    template_kwargs: dict[str, Any] | None = None,
    sampler_kwargs: dict[str, Any] | None = None,
) -> Subject:
    """A model by its name, under a sampler in this process; on a GPU if there is one.

    Args:
        model: See `llmenv.models.names.resolve_model`.
        sampler: "transformers" or "vllm".
        name: What the records call it; None: `model`.
        dtype: Of its weights.
        template: See `Renderer`.
        template_kwargs: See `Renderer`.
        sampler_kwargs: vLLM's engine arguments.

    Raises:
        ValueError: If there is no such model or sampler, or vLLM does not take its arguments.
    """
    if sampler not in SAMPLERS:
        raise ValueError(f"there is no sampler {sampler!r}: one of {', '.join(SAMPLERS)}")
    if sampler_kwargs and sampler != "vllm":
        raise ValueError("sampler_kwargs are vLLM's: set sampler='vllm', or leave them out")
    folder = resolve_model(model)
    renderer = Renderer.from_model(model, template, template_kwargs)
    settings = {
        "sampler": sampler,
        "sampler_kwargs": sampler_kwargs or {},
        "dtype": dtype,
        "template": renderer.template,
        "template_kwargs": template_kwargs or {},
        "stop_token_ids": sorted(renderer.stop_token_ids),
    }
    make = _vllm if sampler == "vllm" else _transformers
    made = make(folder, dtype, renderer, sampler_kwargs or {})
    return Subject(name or model, fingerprint(folder), renderer, made, settings)


def _vllm(folder: str, dtype: str, renderer: Renderer, sampler_kwargs: dict[str, Any]) -> Sampler:
    from llmenv.samplers.vllm import VLLMSampler, check_settings

    check_settings(sampler_kwargs)
    return VLLMSampler(folder, dtype=dtype, sampler_kwargs=sampler_kwargs)


def _transformers(folder: str, dtype: str, renderer: Renderer, sampler_kwargs: dict[str, Any]) -> Sampler:
    import torch

    from llmenv.samplers.transformers import TransformersSampler

    device = "cuda" if torch.cuda.is_available() else "cpu"
    return TransformersSampler(
        load_causal_lm(folder, dtype=dtype).to(device),
        tokenizer=renderer.tokenizer,
    )


def fingerprint(folder: str) -> str:
    """Of a model's files: all that decides what it says. Of a hub id, the commit that was downloaded."""
    path = Path(folder)
    if not path.is_dir():
        from huggingface_hub import try_to_load_from_cache

        file = try_to_load_from_cache(folder, "config.json")
        return Path(file).parent.name if isinstance(file, str) else folder
    digest = hashlib.sha256()
    for file in sorted(path.iterdir()):
        if file.suffix in (".safetensors", ".bin", ".json", ".jinja", ".model", ".txt", ".py"):
            with file.open("rb") as content:
                digest.update(file.name.encode() + hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()[:16]
