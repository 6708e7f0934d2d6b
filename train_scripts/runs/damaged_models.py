"""Loads models, tokenizers and configurations, and reports in one sentence which of their files is damaged."""

import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import try_to_load_from_cache
from safetensors import SafetensorError
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from modeling_flallm.calibration_slt import CALIBRATION_FILE
from modeling_flallm.loading_slt import damage_of_weights, load_whole

from ..arguments.command_line import is_mistake_of_the_user
from ..hub.hub_names import is_hub_id

# Exceptions that transformers, safetensors, tokenizers and torch raise for content they cannot use.
ERRORS_OF_CONTENT = (ValueError, RuntimeError, EOFError, SafetensorError, KeyError)
MOST_CHARACTERS = 400


@contextlib.contextmanager
def reading_model(*names: str | Path) -> Iterator[None]:
    """
    Load models, tokenizers or configurations of these folders or Hub ids inside this context.

    Raises:
        ValueError: if loading failed because of the files' content; it names the damaged file if one is unreadable.
    """
    for name in names:
        # transformers skips such a file if it cannot read it, and the model then writes other sentences.
        damage = damage_in(name, ("generation_config.json",))
        if damage is not None:
            raise ValueError(damage)
    try:
        yield
    except Exception as error:
        for name in names:
            damage = damage_in(name)
            if damage is not None:
                raise ValueError(damage) from error
        is_out_of_memory = isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error)
        # tokenizers raises plain Exceptions
        is_of_content = isinstance(error, ERRORS_OF_CONTENT) or type(error) is Exception
        if is_mistake_of_the_user(error) or is_out_of_memory or not is_of_content:
            raise
        text = f"{error} is missing in a file" if isinstance(error, KeyError) else " ".join(str(error).split())
        text = text or type(error).__name__
        text = text if len(text) <= MOST_CHARACTERS else f"{text[:MOST_CHARACTERS]} ..."
        raise ValueError(f"{' or '.join(repr(str(name)) for name in names)} cannot be loaded: {text}") from error


def read_config(name_or_path: str) -> PreTrainedConfig:
    """
    Raises:
        ValueError: as `reading_model`.
        OSError: as `from_pretrained`.
    """
    with reading_model(name_or_path):
        return AutoConfig.from_pretrained(name_or_path)


def read_model(auto_class: Any, name_or_path: str, **options: Any) -> PreTrainedModel:
    """
    Args:
        auto_class: of transformers, such as AutoModelForCausalLM.
        options: those of `load_whole`.

    Raises:
        ValueError: as in `reading_model`, and for a model with a missing weight.
        OSError: as `from_pretrained`.
    """
    with reading_model(name_or_path):
        return load_whole(auto_class.from_pretrained, name_or_path, **options)


def damage_in(name_or_path: str | Path, patterns: Sequence[str] = ("*.json", "*.safetensors")) -> str | None:
    """
    Of the JSON and safetensors files of a folder, or of what is cached of the Hub, the first that cannot be read. The
    calibration is left out: the model says itself what to do about that.
    """
    folder = _folder_of(str(name_or_path))
    files = [] if folder is None else sorted(path for pattern in patterns for path in folder.glob(pattern))
    for path in (path for path in files if path.name != CALIBRATION_FILE):
        reason = _damage_of(path)
        if reason is not None:
            return f"{path} is damaged ({reason}). Copy or download it again, or train the model again."
    return None


def _folder_of(name_or_path: str) -> Path | None:
    if Path(name_or_path).is_dir():
        return Path(name_or_path)
    cached = try_to_load_from_cache(name_or_path, "config.json") if is_hub_id(name_or_path) else None
    return Path(cached).parent if isinstance(cached, str) else None


def _damage_of(path: Path) -> str | None:
    if path.suffix == ".safetensors":
        return damage_of_weights(path)
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        return " ".join(str(error).split()) or type(error).__name__
    is_config = path.name.endswith("config.json")
    return (
        f"it should hold a dictionary, but it holds a {type(value).__name__}"
        if is_config and type(value) is not dict
        else None
    )
