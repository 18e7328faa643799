"""The names that a model's weights have in its files, which is what vLLM knows them by.

transformers holds some models in other tensors than their files do, such as all experts of a layer in one, and goes
back when it saves. This goes back in the same way, by transformers' own conversions. Knows nothing about samplers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    PrefixChange,
    WeightConverter,
    WeightRenaming,
    dot_natural_key,
    rename_source_key,
    revert_weight_conversion,
)


def in_files(model: PreTrainedModel, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A model's tensors as `save_pretrained` would write them; those that are not converted are the same ones.

    Args:
        model: Knows how it was loaded.
        state: Some of its tensors, or tensors in their place, by its own names; whole groups of `together`.
    """
    unsaved = model._keys_to_ignore_on_save or ()
    saved = {name: tensor for name, tensor in state.items() if name not in unsaved}
    return revert_weight_conversion(model, saved)


def together(model: PreTrainedModel, names: Iterable[str]) -> list[list[str]]:
    """A model's own names, with those in one list whose tensors make up one of the files together."""
    conversions = getattr(model, "_weight_conversions", None)
    if conversions is None:  # as `revert_weight_conversion` does for a model that was not loaded
        found = get_model_conversion_mapping(model, add_legacy=False)
        conversions = [conversion for conversion in found if not isinstance(conversion, PrefixChange)]
    back = [conversion.reverse_transform() for conversion in reversed(conversions)]
    renamings = [conversion for conversion in back if isinstance(conversion, WeightRenaming)]
    converters = [conversion for conversion in back if isinstance(conversion, WeightConverter)]
    groups: dict[str, list[str]] = {}
    for name in sorted(names, key=dot_natural_key):
        in_file, _ = rename_source_key(name, renamings, converters, reverse=True)
        groups.setdefault(in_file, []).append(name)
    return list(groups.values())
