# Copyright 2026 The FLaLLM authors. Licensed under the Apache License, Version 2.0.
"""Poses in `.safetensors`, `.npz` and `.npy` files: as this library writes them, or any array of keypoints."""

from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from .feature_files_slt import DAMAGED
from .pose_arrays_slt import as_array, people_of_arrays
from .poses_slt import People, PoseFacts, checked_number

STATED = ("layout", "frames_per_second", "width", "height", "extractor")
NUMBERS = ("frames_per_second", "width", "height")
KEYPOINTS, SCORES = "keypoints", "scores"
USUAL_NAMES = (KEYPOINTS, "poses", "pose", "landmarks")
MOST_NAMES_SHOWN = 5


class PoseFileError(ValueError):
    """A file is intact, but it cannot be told what of it is meant."""


class ArrayFile:
    """
    One clip in a file of arrays.

    Args:
        array: the name of the array that holds the keypoints, where the file holds several.
        layout: one of `LAYOUTS`, in place of what the file states.
    """

    def __init__(self, path: Path, array: str | None = None, layout: str | None = None):
        self.path, self.array, self.layout = path, array, layout
        self.name = f"'{path}'" if array is None else f"'{path}#{array}'"

    def facts(self) -> PoseFacts:
        with self._open() as (names, load, stated):
            shape = load(self._chosen(names)).shape
            facts = self._checked(stated)
        if not shape:
            raise ValueError(f"{self.name} must hold an array of keypoints, got one number.")
        return PoseFacts(shape[0], facts["frames_per_second"], facts["extractor"])

    def people(self, first: int, last: int) -> People:
        with self._open() as (names, load, stated):
            chosen = self._chosen(names)
            keypoints = as_array(load(chosen)[first:last], self.name)
            has_scores = chosen == KEYPOINTS and SCORES in names
            scores = as_array(load(SCORES)[first:last], self.name) if has_scores else None
            facts = self._checked(stated)
        layout = self.layout or facts.pop("layout")
        facts.pop("layout", None)
        return people_of_arrays(keypoints, scores, layout, self.name, **facts)

    @contextmanager
    def _open(self) -> Any:
        """Names of the arrays, a function that loads one (lazily, where its parts can be read alone), and what the
        file states."""
        try:
            if self.path.suffix.lower() == ".safetensors":
                with safe_open(self.path, framework="np") as file:
                    yield list(file.keys()), _lazily(file), dict(file.metadata() or {})
            elif self.path.suffix.lower() == ".npy":
                yield ["keypoints"], lambda name: np.load(self.path, mmap_mode="r", allow_pickle=False), {}
            else:
                with np.load(self.path, allow_pickle=False) as file:
                    stated = {key: file[key].item() for key in STATED if key in file.files}
                    yield [name for name in file.files if name not in STATED], file.__getitem__, stated
        except PoseFileError:
            raise
        except DAMAGED as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ValueError(f"{self.name} cannot be read: {reason.rstrip('.')}.") from error

    def _chosen(self, names: list[str]) -> str:
        shown = ", ".join(names[:MOST_NAMES_SHOWN]) or "none"
        shown += f" and {len(names) - MOST_NAMES_SHOWN} more" if len(names) > MOST_NAMES_SHOWN else ""
        if self.array is not None:
            if self.array not in names:
                raise PoseFileError(f"'{self.path}' must hold an array {self.array!r}, got {shown}.")
            return self.array
        usual = [name for name in USUAL_NAMES if name in names] or (names if len(names) == 1 else [])
        if not usual:
            raise PoseFileError(
                f"'{self.path}' holds {len(names)} arrays: {shown}. Name the one that is meant: "
                f"'{self.path.name}#{names[0] if names else KEYPOINTS}'."
            )
        return usual[0]

    def _checked(self, stated: dict[str, Any]) -> dict[str, Any]:
        numbers = {key: checked_number(stated.get(key), key, self.name) for key in NUMBERS}
        return {**numbers, "layout": stated.get("layout"), "extractor": stated.get("extractor")}


class _Slice:
    """An array of a `.safetensors` file that is read in parts."""

    def __init__(self, values: Any):
        self.values, self.shape = values, tuple(values.get_shape())

    def __getitem__(self, part: slice) -> np.ndarray:
        return self.values[part]


def _lazily(file: Any) -> Callable[[str], _Slice]:
    return lambda name: _Slice(file.get_slice(name))
