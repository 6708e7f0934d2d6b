"""Complete loading of models: a weight that a checkpoint lacks is an error, never a random number."""

import json
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from transformers import PreTrainedConfig, PreTrainedModel

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
MOST_NAMES_IN_AN_ERROR = 5
FILE_OPTIONS = (
    "revision",
    "token",
    "subfolder",
    "cache_dir",
    "force_download",
    "local_files_only",
    "trust_remote_code",
)


class LoadedWhole:
    """
    Mixin for models: `from_pretrained` rejects a checkpoint in which a weight of the model is missing or has another
    shape, which transformers would fill with random numbers. `ignore_mismatched_sizes=True` allows other shapes.
    Weights that the model does not have are listed in a warning.
    """

    def post_init(self) -> None:
        """A part ignores the other weights in a whole model's checkpoint. The whole model ignores none."""
        own = set(self._keys_to_ignore_on_load_unexpected or ())
        super().post_init()
        for part in self.children():
            if isinstance(part, LoadedWhole):
                self._keys_to_ignore_on_load_unexpected -= part._keys_to_ignore_on_load_unexpected - own

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: Any, *arguments: Any, output_loading_info: bool = False, **options: Any
    ) -> Any:
        """See `PreTrainedModel.from_pretrained`, the class, and `load_whole` for the errors."""
        model, loading_info = load_with_info(
            super().from_pretrained, pretrained_model_name_or_path, *arguments, **options
        )
        return (model, loading_info) if output_loading_info else model


def load_whole(load: Callable[..., Any], name_or_path: Any, *arguments: Any, **options: Any) -> PreTrainedModel:
    """
    Load a folder or Hub id with `load`, the `from_pretrained` of a class of transformers.

    Args:
        options: those of `from_pretrained`, and `unneeded`, a regular expression for weights that may be missing.

    Raises:
        ValueError: for weights that are missing or have another shape than the model's, and for a weights file that is
            damaged, or in the index but missing. The error names them.
        OSError: as `from_pretrained`.
    """
    return load_with_info(load, name_or_path, *arguments, **options)[0]


def load_with_info(
    load: Callable[..., Any],
    name_or_path: Any,
    *arguments: Any,
    unneeded: str | None = None,
    ignore_mismatched_sizes: bool = False,
    **options: Any,
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """Like `load_whole`, also returning the loading info of transformers."""
    if name_or_path is not None and os.path.isdir(name_or_path):
        _check_index(Path(name_or_path))
        _check_base_of_adapters(Path(name_or_path))
    try:
        model, loading_info = load(
            name_or_path, *arguments, ignore_mismatched_sizes=True, output_loading_info=True, **options
        )
    except SafetensorError as error:
        raise ValueError(
            f"{_damaged_file(name_or_path)} cannot be read as weights in safetensors format: {error}. Copy or download "
            "it again."
        ) from error
    missing = sorted(loading_info["missing_keys"])
    if unneeded is not None:
        missing = [name for name in missing if re.search(unneeded, name) is None]
    problems = [f"{_listed(missing)} missing"] if missing else []
    if loading_info["mismatched_keys"] and not ignore_mismatched_sizes:
        shapes = [
            f"{name} (shape {list(found)} instead of {list(expected)})"
            for name, found, expected in sorted(loading_info["mismatched_keys"])
        ]
        problems.append(f"{_listed(shapes)} of another shape")
    if problems:
        raise ValueError(
            f"{str(name_or_path)!r} is no complete {type(model).__name__}. Of its weights, {' and '.join(problems)}; "
            "they would be random. config.json and weights must come from the same model: copy or download both again."
        )
    return model, loading_info


def forget_folder(config: PreTrainedConfig) -> None:
    """Clear the name if it is a local folder: nobody else has that folder, and its path is private."""
    if os.path.isdir(config.name_or_path):
        config.name_or_path = ""


def file_options(options: dict[str, Any]) -> dict[str, Any]:
    """The options of `from_pretrained` that say where the files are."""
    return {name: options[name] for name in FILE_OPTIONS if name in options}


def read_config_values(name_or_path: str, expected: str, options: dict[str, Any]) -> dict[str, Any]:
    """
    Read the config.json of a folder or Hub id, which must have a `model_type`; `options` as in `from_pretrained`.

    Raises:
        ValueError: if there is none; the error begins with `expected`.
    """
    try:
        values = PreTrainedConfig.get_config_dict(name_or_path, **file_options(options))[0]
    except OSError as error:
        raise ValueError(f"{expected}, but it cannot be read: {error}") from error
    if values.get("model_type") is None:
        raise ValueError(f"{expected}, but it has no config.json that names a model type.")
    return values


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:MOST_NAMES_IN_AN_ERROR])
    more = len(names) - MOST_NAMES_IN_AN_ERROR
    return f"{shown}{f' and {more} more' if more > 0 else ''} {'is' if len(names) == 1 else 'are'}"


def damage_of_weights(path: Path) -> str | None:
    """Why a file cannot be read as weights in safetensors format; `None` if it can."""
    try:
        with safe_open(path, framework="pt"):
            return None
    except (OSError, SafetensorError) as error:
        return " ".join(str(error).split()) or type(error).__name__


def _damaged_file(name_or_path: Any) -> str:
    """The first file of the folder that safetensors cannot open, or the name of the model."""
    files: Iterable[Path] = sorted(Path(name_or_path).glob("*.safetensors")) if os.path.isdir(name_or_path) else ()
    for path in files:
        if damage_of_weights(path) is not None:
            return str(path)
    return repr(str(name_or_path))


def _check_base_of_adapters(folder: Path) -> None:
    """If a folder holds only PEFT adapters, check that their base model exists."""
    if (folder / "config.json").exists() or not (folder / "adapter_config.json").is_file():
        return
    settings = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    base = settings.get("base_model_name_or_path")
    if base is None or (os.path.isabs(base) and not os.path.isdir(base)):
        raise ValueError(
            f"{str(folder)!r} holds adapters without their base model, and that is not at {base!r}, which "
            "adapter_config.json names. Load the base model and then `PeftModel.from_pretrained(model, folder)`."
        )


def _check_index(folder: Path) -> None:
    """If a folder has weights in several files, check that all of them exist in the folder."""
    index = folder / INDEX
    if (folder / WEIGHTS).exists() or not index.is_file():
        return
    try:
        file_of_weight = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        files = sorted(set(file_of_weight.values()))
        is_outside = [file for file in files if Path(file).name != file]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"{index} is not a weights index: expected a JSON object with a `weight_map` from weights to file names. "
            "Copy or download it again."
        ) from error
    if is_outside:
        raise ValueError(f"{index} must name files in its own folder, got {is_outside[0]!r}.")
    missing = [file for file in files if not (folder / file).is_file()]
    if missing:
        raise ValueError(
            f"Of the {len(files)} weights files that {index} names, {_listed(missing)} missing. Copy or download "
            "the folder again."
        )


__all__ = [
    "LoadedWhole",
    "damage_of_weights",
    "file_options",
    "forget_folder",
    "load_whole",
    "load_with_info",
    "read_config_values",
]
