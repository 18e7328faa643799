"""A folder of peft's adapters as a model: merged into their base, once, in the user's cache.

Knows nothing about who trained them; `llmenv.models.lora` has those that are trained here.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path

from llmenv.models import smollm2
from llmenv.models.names import load_causal_lm, load_tokenizer, tokenizer_in

# What the merged model depends on: the adapters, and what a trainer may have saved beside them.
FILES = (
    "adapter_config.json",
    "adapter_model.safetensors",
    "adapter_model.bin",
    "generation_config.json",
    "*token*",
    "*.model",
    "vocab.*",
    "merges.txt",
    "chat_template*",
    "additional_chat_templates/*",
)


def folder(adapters: Path) -> Path:
    """The merged model's folder; made on first use, in float32. It appears whole or not at all.

    The tokenizer, with its chat template, and the tokens that end a generation are those saved with the adapters, and
    the base model's where none are.

    Args:
        adapters: A folder that holds adapter_config.json, as peft's `save_pretrained` writes it.

    Raises:
        ValueError: If it names no base model, or that is not to be found.
    """
    base = json.loads((adapters / "adapter_config.json").read_text()).get("base_model_name_or_path")
    if not base:
        raise ValueError(f"{adapters / 'adapter_config.json'} names no base_model_name_or_path: add it")
    digest = hashlib.sha256()
    for pattern in FILES:
        for file in sorted(filter(Path.is_file, adapters.glob(pattern))):
            digest.update(file.read_bytes())
    target = smollm2.cache() / f"adapted-{digest.hexdigest()[:16]}"
    if target.exists():
        return target
    from peft import PeftModel
    from transformers import GenerationConfig

    try:
        model = load_causal_lm(base)
    except ValueError as error:
        raise ValueError(f"The base model of the adapters in {adapters} is not to be had: {error}") from error
    merged = PeftModel.from_pretrained(model, str(adapters)).merge_and_unload()
    with tempfile.TemporaryDirectory(prefix=".adapted-", dir=target.parent) as temporary:
        made = Path(temporary) / "model"
        if (adapters / "generation_config.json").is_file():
            settings = GenerationConfig.from_pretrained(adapters)
            merged.generation_config.eos_token_id = settings.eos_token_id
        merged.save_pretrained(made)
        own = (adapters / "tokenizer_config.json").is_file()
        tokenizer = tokenizer_in(str(adapters), str(adapters)) if own else load_tokenizer(base)
        tokenizer.save_pretrained(made)
        smollm2.put_in_place(made, target)
    return target
