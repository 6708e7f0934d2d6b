# Copyright 2026 The FLaLLM authors. Licensed under the Apache License, Version 2.0.
"""Files and arrays of visual features, checked: `.npy`, `.npz` and `.safetensors`, never with pickled objects."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open

from .array_files_slt import (
    DAMAGED,
    NameOfArrayError,
    cannot_be_read,
    chosen_array,
    positive_number,
    shape_in_npz,
    split_name,
)

FEATURE_SUFFIXES = (".npy", ".npz", ".safetensors")
# The array to read from a file of several, unless another one is named.
USUAL_NAMES = ("visual_features", "features")
# The entry of a `.safetensors` file's metadata that says how many features there are per second.
RATE_KEY = "features_per_second"


def is_feature_file(path: str | os.PathLike) -> bool:
    """Tell by its name, in any letter case, whether a file holds visual features; hidden files do not."""
    path, _ = split_name(path)
    return path.suffix.lower() in FEATURE_SUFFIXES and not path.name.startswith(".")


def list_of_clips(features: Any) -> list[Any]:
    """Return a list of clips from one clip, a list or tuple of clips, or an array (batch, features, feature_size)."""
    clips = [features] if is_one_clip(features) else list(features)
    if not clips:
        raise ValueError("`visual_features` is empty; pass the features of at least one clip.")
    return clips


def is_one_clip(features: Any) -> bool:
    """Tell the features of one clip from several."""
    if isinstance(features, np.ndarray | torch.Tensor):
        return features.ndim != 3
    return not isinstance(features, list | tuple) or _depth(features) == 2


def read_visual_features(source: Any, feature_size: int) -> torch.Tensor:
    """Read the features of one clip, float32 (features, feature_size); see `VisualFeatureExtractor.read`."""
    return check_visual_features(load_visual_features(source), feature_size, name_of(source))


def load_visual_features(source: Any) -> torch.Tensor:
    """Load a file or an array as it is, of any shape and dtype. Raises `ValueError` if it cannot be read."""
    return _read_file(source) if isinstance(source, str | os.PathLike) else _as_tensor(source)


def check_visual_features(values: torch.Tensor, feature_size: int, name: str) -> torch.Tensor:
    """Return the features of the clip `name` as float32 (features, feature_size). Raises `ValueError` as `read`."""
    _check_shape(values.shape, feature_size, name)
    if not values.is_floating_point():
        raise ValueError(f"{name} must hold float16, float32 or float64 numbers, got {_dtype(values)}.")
    values = values.float()
    finite = values.isfinite().all(1)
    if not finite.all():
        wrong = int((~finite).sum())
        raise ValueError(
            f"{name} holds NaN or infinity in {wrong} of {len(values)} features, first in feature "
            f"{int((~finite).nonzero()[0])} (counted from 0). Compute them again, or leave the clip out."
        )
    return values


def features_per_second(source: Any) -> float | None:
    """The rate that the metadata of a `.safetensors` file states; None for other files and arrays.

    Raises `ValueError` for a file that cannot be read, or a rate that is not a positive number."""
    if not isinstance(source, str | os.PathLike) or split_name(source)[0].suffix.lower() != ".safetensors":
        return None
    path, _ = _checked_path(source)
    try:
        with safe_open(path, framework="pt") as file:
            stated = (file.metadata() or {}).get(RATE_KEY)
    except DAMAGED as error:
        raise ValueError(cannot_be_read(path, error)) from error
    return None if stated is None else check_rate(stated, name_of(source))


def check_rate(value: Any, name: str) -> float:
    """A number of features per second, which may be given as text. Raises `ValueError` unless it is positive."""
    return positive_number(value, RATE_KEY, name)


def count_visual_features(source: Any, feature_size: int) -> int:
    """Count the features of one clip; of a file only the header is read."""
    if not isinstance(source, str | os.PathLike):
        shape = tuple(source.shape) if hasattr(source, "shape") else (len(source), len(source[0]) if len(source) else 0)
    else:
        shape = _shape_of_file(source)
    _check_shape(shape, feature_size, name_of(source))
    return int(shape[0])


def name_of(source: Any) -> str:
    """The name of a clip's features in error messages."""
    if isinstance(source, str | os.PathLike):
        return f"'{source}'"
    return f"the visual features given as {type(source).__name__}"


def _check_shape(shape: tuple[int, ...], feature_size: int, name: str) -> None:
    if len(shape) != 2:
        raise ValueError(
            f"{name} must have the shape (features, {feature_size}), got {tuple(shape)}. Pool or reshape each feature "
            "to one vector."
        )
    if shape[0] == 0:
        raise ValueError(f"{name} holds no feature: its shape is {tuple(shape)}. Leave the clip out.")
    if shape[1] != feature_size:
        turned = " It may be transposed." if shape[0] == feature_size else ""
        raise ValueError(
            f"{name} must have {feature_size} values for each feature, as the model reads them, got the shape "
            f"{tuple(shape)}.{turned}"
        )


def _as_tensor(values: Any) -> torch.Tensor:
    if isinstance(values, torch.Tensor):
        return values.detach().cpu()
    try:
        array = np.asarray(values)
    except ValueError as error:  # rows of different lengths
        raise ValueError(f"{name_of(values)} are not an array: {error}. Pass one vector for each feature.") from error
    if array.dtype.kind not in "fiub" or array.dtype.itemsize > 8:
        raise ValueError(f"{name_of(values)} must hold float16, float32 or float64 numbers, got {array.dtype}.")
    if isinstance(values, list | tuple) and array.dtype.kind in "iu":  # JSON and Python write 0 for 0.0
        array = array.astype(np.float32)
    return torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("="), order="C"))


def _read_file(source: str | os.PathLike) -> torch.Tensor:
    path, wanted = _checked_path(source)
    try:
        if path.suffix.lower() == ".npy":
            return _as_tensor(np.load(path, mmap_mode="r", allow_pickle=False))
        if path.suffix.lower() == ".npz":
            with np.load(path, allow_pickle=False) as file:
                return _as_tensor(file[chosen_array(file.files, wanted, path, USUAL_NAMES)])
        with safe_open(path, framework="pt") as file:
            return file.get_tensor(chosen_array(list(file.keys()), wanted, path, USUAL_NAMES))
    except NameOfArrayError:
        raise
    except DAMAGED as error:
        raise ValueError(cannot_be_read(path, error)) from error


def _shape_of_file(source: str | os.PathLike) -> tuple[int, ...]:
    path, wanted = _checked_path(source)
    try:
        if path.suffix.lower() == ".npy":
            return np.load(path, mmap_mode="r", allow_pickle=False).shape
        if path.suffix.lower() == ".npz":
            return _shape_of_npz(path, wanted)
        with safe_open(path, framework="pt") as file:
            return tuple(file.get_slice(chosen_array(list(file.keys()), wanted, path, USUAL_NAMES)).get_shape())
    except NameOfArrayError:
        raise
    except DAMAGED as error:
        raise ValueError(cannot_be_read(path, error)) from error


def _shape_of_npz(path: Path, wanted: str | None) -> tuple[int, ...]:
    with np.load(path, allow_pickle=False) as file:
        return shape_in_npz(file, chosen_array(file.files, wanted, path, USUAL_NAMES))


def _checked_path(source: str | os.PathLike) -> tuple[Path, str | None]:
    path, wanted = split_name(source)
    if path.suffix.lower() not in FEATURE_SUFFIXES:
        raise ValueError(f"Visual features must be in a file of {', '.join(FEATURE_SUFFIXES)}, got '{source}'.")
    if not path.is_file():
        raise ValueError(f"There is no file '{path}'.")
    return path, wanted


def _dtype(values: torch.Tensor) -> str:
    return str(values.dtype).removeprefix("torch.")


def _depth(values: Any) -> int:
    """How deeply lists of numbers are nested; arrays count with their dimensions, everything else as 0."""
    depth = 0
    while isinstance(values, list | tuple) and len(values):
        values, depth = values[0], depth + 1
    return depth + (values.ndim if isinstance(values, np.ndarray | torch.Tensor) else 0)
