"""A folder of peft's adapters as a model: merged into their base, once, in the user's cache.

Knows nothing about who trained them; `llmenv.models.lora` has those that are trained here.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path

from llmenv.models import smollm2
from llmenv.models.names import load_causal_lm, load_tokenizer

# Of what is in the folder, all that the merged weights depend on.
FILES = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")


def folder(adapters: Path) -> Path:
    """The merged model's folder; made on first use, in float32. It appears whole or not at all.

    Args:
        adapters: A folder that holds adapter_config.json, as peft's `save_pretrained` writes it.

    Raises:
        ValueError: If it names no base model, or that is not to be found.
    """
    base = json.loads((adapters / "adapter_config.json").read_text()).get("base_model_name_or_path")
    if not base:
        raise ValueError(f"{adapters / 'adapter_config.json'} names no base_model_name_or_path: add it")
    digest = hashlib.sha256()
    for name in FILES:
        if (adapters / name).is_file():
            digest.update((adapters / name).read_bytes())
    target = smollm2.cache() / f"adapted-{digest.hexdigest()[:16]}"
    if target.exists():
        return target
    from peft import PeftModel

    try:
        model = load_causal_lm(base)
    except ValueError as error:
        raise ValueError(f"The base model of the adapters in {adapters} is not to be had: {error}") from error
    merged = PeftModel.from_pretrained(model, str(adapters)).merge_and_unload()
    with tempfile.TemporaryDirectory(prefix=".adapted-", dir=target.parent) as temporary:
        made = Path(temporary) / "model"
        merged.save_pretrained(made)
        load_tokenizer(base).save_pretrained(made)
        smollm2.put_in_place(made, target)
    return target
