"""An encoder-decoder with a smaller vocabulary: its weights, and the token ids in its configurations."""

import copy
import re
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from transformers import (
    AutoModelForSeq2SeqLM,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
)

TOKEN_ID_FIELD = re.compile(r"(.*_)?token_ids?|(begin_)?suppress_tokens|(bad|force)_words_ids")
Configuration = TypeVar("Configuration", PreTrainedConfig, GenerationConfig)


def map_token_ids(values: dict[str, Any], change: Callable[[int], Any]) -> dict[str, Any]:
    """A configuration as a dictionary, with `change` applied to every token id in it, including nested ones."""
    return {
        name: map_token_ids(value, change)
        if isinstance(value, dict)
        else _map_ids(value, change)
        if TOKEN_ID_FIELD.fullmatch(str(name))
        else value
        for name, value in values.items()
    }


def _map_ids(value: Any, change: Callable[[int], Any]) -> Any:
    if isinstance(value, list | tuple):
        return [_map_ids(item, change) for item in value]
    return value if value is None else change(value)


def named_token_ids(model: PreTrainedModel) -> set[int]:
    """
    Token ids in the configurations of a model.

    Raises:
        ValueError: if one is outside the vocabulary, or is in a place where it cannot be renumbered.
    """
    if model.generation_config.sequence_bias:
        raise ValueError("generation_config.json has a `sequence_bias`, which cannot be renumbered. Remove it there.")
    ids: set[int] = set()
    for config in (model.config, model.generation_config):
        map_token_ids(config.to_dict(), ids.add)
    outside = sorted(index for index in ids if not 0 <= index < model.config.vocab_size)
    if outside:
        raise ValueError(
            f"The model's configuration names the token ids {outside}, but its vocabulary has the ids 0 to "
            f"{model.config.vocab_size - 1}. Correct config.json or generation_config.json."
        )
    return ids


def _renumbered(config: Configuration, new_ids: dict[int, int]) -> Configuration:
    config = copy.deepcopy(config)
    values = config.to_dict()
    for name, value in map_token_ids(values, new_ids.__getitem__).items():
        if value != values[name]:
            setattr(config, name, value)
    return config


def trim_model(model: PreTrainedModel, new_ids: dict[int, int]) -> PreTrainedModel:
    """
    A model with the weights of `model`: only the kept rows of weights with one row per token, all others shared.
    """
    config = _renumbered(model.config, new_ids)
    config.vocab_size = len(new_ids)
    with torch.device("meta"):
        trimmed = AutoModelForSeq2SeqLM.from_config(config)
    shapes = {name: tensor.shape for name, tensor in _named_tensors(trimmed).items()}
    kept = torch.tensor(list(new_ids))
    # By identity, to tie the same weights as before: mT5's are not tied, although its configuration says so.
    selected: dict[int, torch.Tensor] = {}
    for name, tensor in _named_tensors(model).items():
        if id(tensor) not in selected:
            selected[id(tensor)] = _select(tensor, shapes[name], kept)
        owner, _, attribute = name.rpartition(".")
        setattr(trimmed.get_submodule(owner), attribute, selected[id(tensor)])
    trimmed.generation_config = _renumbered(model.generation_config, new_ids)
    return trimmed.eval()


def _named_tensors(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Parameters and buffers; tied ones appear under each of their names."""
    return {**dict(model.named_parameters(remove_duplicate=False)), **dict(model.named_buffers(remove_duplicate=False))}


def _select(tensor: torch.Tensor, shape: torch.Size, kept: torch.Tensor) -> torch.Tensor:
    """Tensor `(..., old vocabulary, ...)` -> `shape`, in which that dimension is the new vocabulary."""
    selected = tensor.detach()
    for dimension, (old_size, new_size) in enumerate(zip(tensor.shape, shape, strict=True)):
        if old_size != new_size:
            selected = selected.index_select(dimension, kept)
    return torch.nn.Parameter(selected) if isinstance(tensor, torch.nn.Parameter) else selected
