# Copyright 2026 The FLaLLM authors. Licensed under the Apache License, Version 2.0.
"""Poses in `.safetensors`, `.npz` and `.npy` files: as this library writes them, or any array of keypoints."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save

from .array_files_slt import DAMAGED, NameOfArrayError, cannot_be_read, chosen_array, shape_in_npz
from .pose_arrays_slt import people_of_arrays
from .pose_layouts_slt import COCO_WHOLEBODY
from .poses_slt import People, PoseFacts, PoseFile, Poses, checked_number

KEYPOINTS, SCORES = "keypoints", "scores"
USUAL_NAMES = (KEYPOINTS, "poses", "pose", "landmarks")
STATED = ("layout", "frames_per_second", "width", "height", "extractor")
ARRAY_SUFFIXES = (".safetensors", ".npz", ".npy")


@dataclass(frozen=True)
class _Arrays:
    """
    Args:
        names: of the arrays of an open file that may hold keypoints.
        shape: of one of them, which is not read for that.
        read: the frames of one of them, from the first up to the last.
        stated: what else the file says, by the names in `STATED`.
    """

    names: list[str]
    shape: Callable[[str], tuple[int, ...]]
    read: Callable[[str, int, int], np.ndarray]
    stated: dict[str, Any]


class ArrayFile(PoseFile):
    """
    One clip: `keypoints` and `scores`, or one array of a layout that its number of points tells, or that the file
    names as `layout`. It may state `frames_per_second`, `width`, `height` and `extractor`.
    """

    def facts(self) -> PoseFacts:
        with self._open() as arrays:
            shape = arrays.shape(self._name_in(arrays))
        stated = self._checked(arrays.stated)
        if not shape:
            raise ValueError(f"{self.name} must hold an array of keypoints, got one number.")
        return PoseFacts(shape[0], stated["frames_per_second"], stated["extractor"])

    def people(self, first: int, last: int) -> People:
        with self._open() as arrays:
            chosen = self._name_in(arrays)
            keypoints = arrays.read(chosen, first, last)
            has_scores = chosen == KEYPOINTS and SCORES in arrays.names
            scores = arrays.read(SCORES, first, last) if has_scores else None
        stated = self._checked(arrays.stated)
        layout = stated.pop("layout")
        return people_of_arrays(keypoints, scores, self.layout or layout, self.name, **stated)

    def _name_in(self, arrays: _Arrays) -> str:
        return chosen_array(arrays.names, self.array, self.path, USUAL_NAMES)

    def _checked(self, stated: dict[str, Any]) -> dict[str, Any]:
        numbers = ("frames_per_second", "width", "height")
        checked = {key: checked_number(stated.get(key), key, self.name) for key in numbers}
        for key in ("layout", "extractor"):
            checked[key] = stated.get(key)
            if not isinstance(checked[key], str | None):
                raise ValueError(f"{key} of {self.name} must be a text, got {checked[key]!r}.")
        return checked

    @contextmanager
    def _open(self) -> Iterator[_Arrays]:
        """Raises `ValueError` for a file that cannot be read."""
        opened = {".safetensors": _safetensors, ".npz": _npz, ".npy": _npy}[self.path.suffix.lower()]
        try:
            with opened(self.path) as arrays:
                yield arrays
        except NameOfArrayError:
            raise
        except DAMAGED as error:
            raise ValueError(cannot_be_read(self.path, error)) from error


@contextmanager
def _safetensors(path: Path) -> Iterator[_Arrays]:
    # NumPy has no bfloat16; where exported models run, there may be no torch.
    with safe_open(path, framework="pt" if "torch" in sys.modules else "np") as file:
        yield _Arrays(
            list(file.keys()),
            lambda name: tuple(file.get_slice(name).get_shape()),
            lambda name, first, last: file.get_slice(name)[first:last],
            dict(file.metadata() or {}),
        )


@contextmanager
def _npz(path: Path) -> Iterator[_Arrays]:
    with np.load(path, allow_pickle=False) as file:
        yield _Arrays(
            [name for name in file.files if name not in STATED],
            lambda name: shape_in_npz(file, name),
            lambda name, first, last: file[name][first:last],
            {name: file[name].item() for name in STATED if name in file.files},
        )


@contextmanager
def _npy(path: Path) -> Iterator[_Arrays]:
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    yield _Arrays([KEYPOINTS], lambda name: array.shape, lambda name, first, last: array[first:last], {})


def write_arrays(path: Path, poses: Poses) -> None:
    """Write a `.safetensors` or `.npz` file."""
    arrays = {
        KEYPOINTS: np.ascontiguousarray(poses.keypoints, np.float32),
        SCORES: np.ascontiguousarray(poses.scores, np.float32),
    }
    stated = {key: getattr(poses, key, None) for key in STATED} | {"layout": COCO_WHOLEBODY.name}
    stated = {key: value for key, value in stated.items() if value is not None}
    if path.suffix.lower() == ".safetensors":
        path.write_bytes(save(arrays, {key: str(value) for key, value in stated.items()}))  # readable as other files
    else:
        with path.open("wb") as file:
            np.savez_compressed(file, **arrays, **stated)
