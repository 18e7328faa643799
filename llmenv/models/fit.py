"""Do a tokenizer, a model and the lengths of a run fit together? Asked of their files, before weights are loaded."""

from __future__ import annotations

import logging
import re
from itertools import chain
from typing import Any

from transformers import PreTrainedModel

from llmenv.models.names import load_tokenizer
from llmenv.models.shape import without_memory

logger = logging.getLogger(__name__)

# Text models of families that see keep tokens for what they do not see, without embeddings (Gemma 3, 1B).
_OTHER_SENSES = re.compile(r"image|video|vision|audio", re.IGNORECASE)
_POSITIONS = re.compile(r"pos|wpe", re.IGNORECASE)


def check_fit(name: str, longest: int, *, strict: bool = False) -> None:
    """Refuses a model that a run would fail with, in the middle of it, and tells of one that it would go badly with.

    Args:
        name: See `llmenv.models.names.resolve_model`.
        longest: Tokens of a prompt and its response.
        strict: Whether the sampler refuses sequences that are longer than the model was made for.

    Raises:
        ValueError: If the tokenizer has tokens without an embedding, or a sequence could have positions that the model
            does not have.
    """
    model, tokenizer = without_memory(name), load_tokenizer(name)
    rows = model.get_input_embeddings().weight.shape[0]
    beyond = {token: i for token, i in tokenizer.get_vocab().items() if i >= rows}
    if missing := sorted(token for token in beyond if not _OTHER_SENSES.search(token)):
        raise ValueError(
            f"the tokenizer of {name!r} has tokens up to {max(beyond.values())}, and the model embeddings for {rows} "
            f"({', '.join(map(repr, missing[:3]))} have none): give the tokenizer that belongs to the model, or call "
            "model.resize_token_embeddings(len(tokenizer)) and save it"
        )
    positions = positions_of(name)
    if positions is None or longest <= positions:
        return
    what = f"{name!r} has {positions} positions, and a prompt with its response may take {longest}"
    if strict or _has_table(model, positions):
        raise ValueError(f"{what}: lower max_prompt_tokens and max_new_tokens until both fit")
    logger.warning("%s: beyond them it computes what it was never trained for", what)


def check_scaling(name: str, longest: int | None) -> None:
    """Refuses sequences that would have other positions by what is beside them in a batch.

    Beyond their original length some models scale positions by the longest sequence of a call in transformers (dynamic
    NTK; LongRoPE of Phi 3 and 4), and vLLM by the longest that it would take. Sampler and learner would be two
    policies, and a loss would depend on how its batch is cut.

    Args:
        name: See `llmenv.models.names.resolve_model`.
        longest: Tokens of a prompt and its response, or of a row; None: no limit.

    Raises:
        ValueError: If a sequence may be longer than the original length of such a model.
    """
    scaling = _scaling_by_length(without_memory(name).config.get_text_config())
    if scaling is None or (longest is not None and longest <= scaling[1]):
        return
    kind, original = scaling
    may = "be of any length" if longest is None else f"take {longest} tokens"
    raise ValueError(
        f"{name!r} scales positions by the longest sequence of a batch where that has more than {original} tokens "
        f"(rope_type {kind!r}), and a sequence may {may}: set max_prompt_tokens and max_new_tokens so that together "
        f"they are at most {original}; of rows to imitate, max_row_tokens"
    )


def _scaling_by_length(config: Any) -> tuple[str, int] | None:
    """The kind of a scaling that depends on a call's longest sequence, and the length from which on it does."""
    # transformers 5 has `rope_parameters`, in some models one for each kind of layer; others' code has `rope_scaling`.
    scaling = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    found = []
    for one in (scaling, *scaling.values()):
        kind = (one.get("rope_type") or one.get("type")) if isinstance(one, dict) else None
        if kind in ("longrope", "su"):  # as Phi 3 called it first
            original = getattr(config, "original_max_position_embeddings", None)
            original = one.get("original_max_position_embeddings") or original
            found.append((kind, int(original or config.max_position_embeddings)))
        elif kind == "dynamic":
            found.append((kind, int(config.max_position_embeddings)))
    return min(found, key=lambda one: one[1], default=None)


def positions_of(name: str) -> int | None:
    """The longest sequence that a model was made for; None where its configuration says none.

    Where positions are scaled by a batch's longest sequence, the longest without that; see `check_scaling`.
    """
    config = without_memory(name).config.get_text_config()
    if (scaling := _scaling_by_length(config)) is not None:
        return scaling[1]
    positions = getattr(config, "max_position_embeddings", None)
    return None if positions is None else int(positions)


def _has_table(model: PreTrainedModel, positions: int) -> bool:
    """Whether positions are rows of a table: learned ones, or sines that were written down."""
    # OPT and its kin begin their tables with rows for something else.
    sizes = range(positions, positions + 8)
    tables = chain(model.named_parameters(), model.named_buffers())
    return any(_POSITIONS.search(name) and table.dim() == 2 and len(table) in sizes for name, table in tables)
