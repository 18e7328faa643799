"""The embedded default model: a small Llama and its own tokenizer, built from nothing.

This module knows how the two are made and how a folder of weights is written; what text they learn from is
the business of whoever trains them (`experiments/make_tiny.py`).

The tokenizer is a byte-level BPE without merges: the vocabulary is the 256 bytes, the numbers up to 999, and whole
phrases. A regular expression cuts the text into known phrases, groups of digits, and the rest; a piece that is
in the vocabulary is one token, any other piece is spelt in bytes. A real prompt takes some fifteen tokens, and any text
survives the round trip exactly.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase, PreTrainedTokenizerFast

END_TOKEN = "<|end|>"
PAD_TOKEN = "<|pad|>"
MAX_NUMBER = 999
MAX_POSITIONS = 2048

# What every reasoning text is made of. Operators take their spaces along, so that a calculation such as
# `44 + 19 = 63` is five tokens.
REASONING_PHRASES = (
    "<think>",
    "</think>",
    "<answer>",
    "</answer>",
    "\n</think>\n<answer> ",
    " </answer>",
    *(f" {operator} " for operator in "+-*/="),
    ", ",
)

# Groups of three digits counted from the right, as a reader would group them. The look-ahead is bounded, so that a
# text of nothing but digits costs linear time; digits farther left are grouped from the left.
NUMBER_PATTERN = r"[0-9]{1,3}(?=(?:[0-9]{3}){0,4}(?![0-9]))|[0-9]{1,3}"


def build_tokenizer(phrases: Iterable[str]) -> PreTrainedTokenizerFast:
    """Makes the tokenizer.

    Args:
        phrases: texts that become one token each, beside `REASONING_PHRASES`: the constant parts of the prompts. Where
            several match at a place, the longest is taken.

    Returns:
        A tokenizer that adds no token of its own to a text; `decode(encode(text)) == text` for any text.
    """
    phrases = sorted({*REASONING_PHRASES, *phrases}, key=lambda phrase: (-len(phrase), phrase))
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    pieces = [
        *sorted(pre_tokenizers.ByteLevel.alphabet()),
        *(str(number) for number in range(10, MAX_NUMBER + 1)),
        *(byte_level.pre_tokenize_str(phrase)[0][0] for phrase in phrases),
    ]
    pattern = "|".join([*map(re.escape, phrases), NUMBER_PATTERN])
    backend = Tokenizer(
        models.BPE({piece: i for i, piece in enumerate(dict.fromkeys(pieces))}, [], ignore_merges=True)
    )
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(pattern), behavior="isolated"), byte_level]
    )
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(
        [AddedToken(t, special=True, normalized=False) for t in (PAD_TOKEN, END_TOKEN)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token=END_TOKEN,
        pad_token=PAD_TOKEN,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=MAX_POSITIONS,
    )


def build_model(
    tokenizer: PreTrainedTokenizerBase, seed: int, *, hidden_size: int = 160, layers: int = 4
) -> LlamaForCausalLM:
    """Makes the model with random weights, float32.

    Args:
        tokenizer: The model's.
        seed: Draws the weights.
        hidden_size: A multiple of 32, the width of a head. With 160 and 4 layers it has 1.2 million parameters, with 96
            and 3 a third of them.
        layers: How many.
    """
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=2 * hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=hidden_size // 32,
        num_key_value_heads=hidden_size // 32,
        max_position_embeddings=MAX_POSITIONS,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.02,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
        _embed_numbers(model, tokenizer)
    return model


def with_tokenizer(
    model: LlamaForCausalLM, old: PreTrainedTokenizerBase, new: PreTrainedTokenizerBase, seed: int
) -> LlamaForCausalLM:
    """A copy of a model for another tokenizer: a token of both keeps its embedding, any other begins at random."""
    copy = build_model(new, seed)
    state = model.state_dict()
    known = new.get_vocab().keys() & old.get_vocab().keys()
    old_ids, new_ids = ([tokenizer.get_vocab()[token] for token in sorted(known)] for tokenizer in (old, new))
    embedding = copy.get_input_embeddings().weight.detach().clone()
    embedding[new_ids] = state["model.embed_tokens.weight"][old_ids]
    copy.load_state_dict(state | {"model.embed_tokens.weight": embedding, "lm_head.weight": embedding})
    return copy


def _embed_numbers(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase) -> None:
    """Adds to each number's embedding where it stands on circles of several periods, along random directions.

    Language models come to represent numbers so, and add by it (Zhou et al. 2024, https://arxiv.org/abs/2406.03445); a
    model this small, trained this briefly, is spared the discovery.
    """
    embedding = model.get_input_embeddings().weight
    values = torch.arange(MAX_NUMBER + 1)
    angles = (
        2
        * torch.pi
        * values[:, None]
        / torch.tensor([2, 3, 4, 5, 7, 9, 10, 20, 50, 100, 200, 500, 1000, 2000])
    )
    circles = torch.cat([angles.cos(), angles.sin()], dim=1)
    directions = torch.randn(circles.shape[1], embedding.shape[1]) / circles.shape[1] ** 0.5
    ids = tokenizer.convert_tokens_to_ids([str(value) for value in values.tolist()])
    with torch.no_grad():
        embedding[ids] += 2 * model.config.initializer_range * circles @ directions


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Writes a Hugging Face folder: weights in float16 (half the size), which load as float32 unless told otherwise."""
    state = {
        name: tensor.to(torch.float16) if tensor.is_floating_point() else tensor
        for name, tensor in model.state_dict().items()
    }
    model.config.dtype = torch.float32
    model.save_pretrained(folder, state_dict=state)
    tokenizer.save_pretrained(folder)
