# Copyright 2026 The FLaLLM authors. Licensed under the Apache License, Version 2.0.
"""What files of arrays have in common, whatever the arrays are: names, parts, and what is wrong with a damaged one."""

import math
import os
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError

FILES_OF_SEVERAL = (".npz", ".safetensors")
MOST_NAMES_SHOWN = 5
TOLERANCE = 1e-3  # of a feature
DAMAGED = (
    OSError, EOFError, ValueError, KeyError, MemoryError, SafetensorError, zipfile.BadZipFile, zlib.error,
    NotImplementedError, tokenize.TokenError,
)  # fmt: skip


def split_clip_name(
    name: str, column: str, is_file: Callable[[Path], bool], suffixes: Sequence[str]
) -> tuple[str, str]:
    """
    `clips.npz#clip_1` of a table's column -> `clips.npz` and `#clip_1`.

    Raises:
        ValueError: for a file of another kind.
    """
    path, array = split_name(name)
    if not is_file(path):
        raise ValueError(
            f"{column} must be in a file of {', '.join(suffixes)}, got {name!r}. If this column is something else, "
            "rename it."
        )
    return str(path), "" if array is None else f"#{array}"


def split_name(source: str | os.PathLike) -> tuple[Path, str | None]:
    """Split `features.npz#clip_1` into the path of the file and the name of an array in it; None without a name."""
    path, mark, name = str(source).rpartition("#")
    if mark and Path(path).suffix.lower() in FILES_OF_SEVERAL and not Path(source).is_file():
        return Path(path), name
    return Path(source), None


def positive_number(value: Any, what: str, name: str) -> float:
    """What is stated of the clip `name`, a number or its text. Raises `ValueError` unless it is positive."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 < number < math.inf:
        raise ValueError(f"{what} of {name} must be a positive number, got {value!r}.")
    return number


def part_of_features(
    length: int, start: float | None, end: float | None, rate: float | None, name: str, unit: str = "feature"
) -> tuple[int, int]:
    """The first feature, or other `unit`, of the part from `start` to `end` seconds, and the one after its last.

    Raises `ValueError` for a part of features without a `rate` per second, and for a part that holds none."""
    first, last = 0, length
    if start is not None or end is not None:
        if rate is None:
            raise ValueError(f"{name} has no times: `start` and `end` need `source_fps`, its {unit}s per second.")
        first = math.ceil((start or 0.0) * rate - TOLERANCE)
        last = last if end is None else min(math.ceil(end * rate - TOLERANCE), last)
    if last <= first:
        raise ValueError(f"{name} has no {unit} from {start or 0:g} to {end} s: it has {length}.")
    return first, last


def shape_in_npz(file: Any, name: str) -> tuple[int, ...]:
    """The shape of one array of an open `.npz` file, which is not read for that."""
    entry = name if name in file.zip.namelist() else f"{name}.npy"
    with file.zip.open(entry) as array:
        version = np.lib.format.read_magic(array)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        return read(array)[0]


class NameOfArrayError(ValueError):
    """The file is intact, but it is not clear which of its arrays is meant."""


def chosen_array(names: list[str], wanted: str | None, path: Path, usual_names: Sequence[str]) -> str:
    """The array of a file that is meant: the `wanted` one, the only one, or the first one with one of `usual_names`.

    Raises `ValueError` if there is none."""
    shown = ", ".join(names[:MOST_NAMES_SHOWN])
    shown += f" and {len(names) - MOST_NAMES_SHOWN} more" if len(names) > MOST_NAMES_SHOWN else ""
    if wanted is not None:
        if wanted not in names:
            raise NameOfArrayError(f"'{path}' must hold an array {wanted!r}, got {shown or 'none'}.")
        return wanted
    usual = [name for name in usual_names if name in names]
    if len(names) != 1 and not usual:
        raise NameOfArrayError(
            f"'{path}' holds {len(names)} arrays: {shown or 'none'}. Name the one that is meant: "
            f"'{path.name}#{names[0] if names else usual_names[-1]}'."
        )
    return names[0] if len(names) == 1 else usual[0]


def cannot_be_read(path: Path, error: BaseException) -> str:
    """Say that a file is damaged, or holds what is never loaded."""
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    if "pickle" in reason or "Python objects" in reason:
        reason = "it holds Python objects, which are never loaded. Save a plain array of floats with numpy.save"
    return f"'{path}' cannot be read: {reason.rstrip('.')}."
