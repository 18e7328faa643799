"""Model names: what ``--model NAME`` means, and how it is loaded.

A name is one of three things:

* a short name: ``tiny``, ``tiny-zero`` and ``tiny-guess`` are folders shipped inside this package; ``smollm2-135m`` is
  SmolLM2-135M-Instruct, converted once into the user's cache (`llmenv.models.smollm2`);
* a Hugging Face folder on disk, or one of peft's adapters, which are merged into their base (`llmenv.models.adapted`);
* an id on the Hugging Face hub, ``organisation/name``.

Knows nothing about prompts, sampling or training. `resolve_model` needs neither torch nor transformers for a
model that is already there, so that a wrong name fails at once.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from llmenv.models import smollm2

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

EMBEDDED = ("tiny", "tiny-zero", "tiny-guess")
# Where an algorithm's checkpoint holds its policy: a Hugging Face folder or, with LoRA, adapters of its base model.
POLICY_IN_CHECKPOINT = Path("learner_group", "learner", "policy")
ADAPTERS_IN_CHECKPOINT = POLICY_IN_CHECKPOINT.with_name("adapters")
DTYPES = ("float32", "bfloat16", "float16")

_trusted = False

_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")


def trust_remote_code(trusted: bool) -> None:
    """Says whether Python code that comes with a model may be run, for all that this process loads from now on."""
    global _trusted
    _trusted = trusted


def is_trusted() -> bool:
    """What `trust_remote_code` said last; False if nothing."""
    return _trusted


def resolve_model(name: str) -> str:
    """Turns a model's name into what transformers loads: a folder, or a hub id.

    Args:
        name: one of `EMBEDDED`, ``smollm2-135m`` (converted into the user's cache on first use), the path of a
            Hugging Face folder, or a hub id ``organisation/name``.

    Returns:
        The folder's absolute path, or the hub id unchanged.

    Raises:
        ValueError: the name is unknown, the folder is no model, or the hub does not give the model.
        RuntimeError: the package behind ``smollm2-135m`` cannot be fetched. Every message names the remedy.
    """
    if name in EMBEDDED:
        return _checked_folder(Path(__file__).parent / "assets" / name, "reinstall llmenv, which ships it")
    if name == smollm2.NAME:
        return _checked_folder(smollm2.folder(), "delete it, and the next use makes it again")
    path = Path(name).expanduser()
    if is_adapter(path):
        from llmenv.models import adapted

        return _checked_folder(adapted.folder(path), "delete it, and the next use makes it again")
    if path.exists():
        return _checked_folder(path.resolve(), "give the folder that save_pretrained wrote")
    if _HUB_ID.fullmatch(name):
        return _checked_hub_id(name)
    known = ", ".join((*EMBEDDED, smollm2.NAME))
    raise ValueError(
        f"There is no model {name!r}: no such folder exists here. Give one of {known}, the path of a Hugging "
        f"Face folder, or a hub id such as Qwen/Qwen2.5-0.5B."
    )


def is_adapter(path: Path) -> bool:
    """Whether a folder holds adapters, as peft writes them, and no model."""
    return (path / "adapter_config.json").is_file() and not (path / "config.json").is_file()


def load_causal_lm(name: str, dtype: str = "float32") -> PreTrainedModel:
    """Loads a causal language model by its name, on the CPU and in evaluation mode.

    Args:
        name: see `resolve_model`.
        dtype: of the weights: ``float32``, ``bfloat16`` or ``float16``.

    Raises:
        ValueError: an unknown dtype, a quantised model, or see `resolve_model`.
    """
    if dtype not in DTYPES:
        raise ValueError(f"There is no dtype {dtype!r} for a model: give one of {', '.join(DTYPES)}.")
    folder = resolve_model(name)
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with _load_errors_named(name):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=_trusted)
        if (quantised := getattr(config, "quantization_config", None)) is not None:
            method = dict(quantised).get("quant_method", "some method")
            raise ValueError(
                f"Model {name!r} is quantised ({method}), and cannot be trained: a gradient step would not change its "
                "rounded weights. Give the model that it was made from, or a copy of it in bfloat16."
            )
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=getattr(torch, dtype), trust_remote_code=_trusted
        )
    _repair_generation_settings(model, name)
    return model


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """Loads the tokenizer that belongs to a model; see `resolve_model` for names and errors."""
    return tokenizer_in(resolve_model(name), name)


def tokenizer_in(folder: str, name: str) -> PreTrainedTokenizerBase:
    """Loads the tokenizer of a folder or hub id as it stands, for the model of a name."""
    from transformers import AutoTokenizer

    with _load_errors_named(name):
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=_trusted)


def _repair_generation_settings(model: PreTrainedModel, name: str) -> None:
    """Makes of settings that transformers loads, and refuses to save, such as it saves. Nothing here uses them."""
    from transformers import GenerationConfig

    settings = model.generation_config
    if settings is None or (refused := _why_not_saved(settings)) is None:
        return
    settings.do_sample = True  # a temperature without it is what most of them have
    change = "do_sample=True"
    if _why_not_saved(settings) is not None:
        tokens = {key: getattr(settings, key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
        model.generation_config = GenerationConfig(**tokens)
        change = "its special tokens alone"
    logger.warning(
        "transformers does not save the generation settings of %s (%s): exports have %s",
        name,
        refused,
        change,
    )


def _why_not_saved(settings: GenerationConfig) -> str | None:
    try:
        settings.validate(strict=True)
    except ValueError as error:
        return " ".join(str(error).split())
    return None


@contextlib.contextmanager
def _load_errors_named(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:  # what transformers raises for missing files
        raise ValueError(
            f"Cannot load model {name!r}; its folder must hold a causal language model's config, weights and "
            f"tokenizer, as save_pretrained writes them. {error}"
        ) from error
    except ValueError as error:
        if _trusted or "trust_remote_code" not in str(error):
            raise
        raise ValueError(
            f"Model {name!r} comes with Python code of its own, which is not run unless you say so: read it, then "
            "give --trust-remote-code, or policy(trust_remote_code=True)."
        ) from error


def _checked_folder(folder: Path, remedy: str) -> str:
    if not (folder / "config.json").is_file():
        found = "is a file" if folder.is_file() else "has no config.json"
        raise ValueError(f"{folder} {found}, so it is no Hugging Face model folder: {remedy}.")
    return str(folder)


def _checked_hub_id(name: str) -> str:
    """Asks the hub whether it has the model, so that a wrong id fails in seconds, before anything heavy."""
    from huggingface_hub import model_info, try_to_load_from_cache

    if isinstance(try_to_load_from_cache(name, "config.json"), str):
        return name  # downloaded before, so no network is needed
    try:
        model_info(name, timeout=10)
    except Exception as error:  # the hub's client raises some dozen types: its own, httpx's, OSError
        raise ValueError(
            f"There is no folder {name!r} here, and the Hugging Face hub did not give a model of that id "
            f"({type(error).__name__}). Check the spelling; for a private model log in with `hf auth login`; "
            f"without a network give the path of a folder, or one of {', '.join((*EMBEDDED, smollm2.NAME))}."
        ) from error
    return name
