# Copyright 2026 The FLaLLM authors. Licensed under the Apache License, Version 2.0.
"""Reads and writes the poses of a clip: from files of many sources, always to the same 133 points."""

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save_file

from .pose_array_files_slt import ArrayFile
from .pose_arrays_slt import people_of_arrays
from .pose_layouts_slt import COCO_WHOLEBODY
from .poses_slt import PoseFacts, Poses, part_of_poses, poses_of

POSE_SUFFIXES = (".safetensors", ".npz", ".npy")
TOLERANCE = 1e-3  # of a frame


def is_pose_file(path: str | os.PathLike) -> bool:
    """Tell by its name, in any letter case, whether a file holds poses; hidden files do not."""
    path, _ = split_pose_name(path)
    return path.suffix.lower() in POSE_SUFFIXES and not path.name.startswith(".")


def split_pose_name(source: str | os.PathLike) -> tuple[Path, str | None]:
    """Split `poses.npz#clip_1` into the path of the file and the name of an array in it; None without a name."""
    path, mark, name = str(source).rpartition("#")
    if mark and Path(path).suffix.lower() in POSE_SUFFIXES and not Path(source).exists():
        return Path(path), name
    return Path(source), None


def read_poses(
    source: Any,
    start: float | None = None,
    end: float | None = None,
    frames_per_second: float | None = None,
    layout: str | None = None,
) -> Poses:
    """
    Read the poses of one clip.

    Args:
        source: a path, an array, or `Poses`. `poses.npz#clip_1` names one of several arrays of a file.
        start, end: seconds of the part that is read.
        frames_per_second: in place of what the source states.
        layout: one of `LAYOUTS`, for arrays whose number of points does not tell.

    Raises:
        ValueError: for what cannot be read, holds no frames or nobody, has another layout, or has no such part.
    """
    if isinstance(source, Poses):
        first, last = part_of_frames(
            len(source), start, end, frames_per_second or source.frames_per_second, "the poses"
        )
        return part_of_poses(source, first, last)
    name = name_of_poses(source)
    if not isinstance(source, str | os.PathLike):
        people = people_of_arrays(source, None, layout, name)
        first, last = part_of_frames(len(people.keypoints), start, end, frames_per_second, name)
        poses = part_of_poses(poses_of(people, name), first, last)
        return _with_rate(poses, frames_per_second)
    file = open_pose_file(source, layout)
    facts = file.facts()
    first, last = part_of_frames(facts.num_frames, start, end, frames_per_second or facts.frames_per_second, name)
    return _with_rate(poses_of(file.people(first, last), name), frames_per_second)


def pose_facts(source: Any) -> PoseFacts:
    """The number of poses of a clip, and what its file says of them; the poses are not read where that is possible."""
    if isinstance(source, str | os.PathLike):
        return open_pose_file(source).facts()
    poses = read_poses(source)
    return PoseFacts(len(poses), poses.frames_per_second, poses.extractor)


def open_pose_file(source: str | os.PathLike, layout: str | None = None) -> ArrayFile:
    """The reader of a file. Raises `ValueError` for none, and for files of other kinds."""
    path, array = split_pose_name(source)
    if not is_pose_file(path):
        raise ValueError(f"Poses must be in a file of {', '.join(POSE_SUFFIXES)}, got '{source}'.")
    if not path.exists():
        raise ValueError(f"There is no file '{path}'.")
    return ArrayFile(path, array, layout)


def write_poses(path: str | os.PathLike, poses: Poses) -> None:
    """
    Write poses to a `.safetensors` or `.npz` file, all 133 points.

    Raises:
        ValueError: for other files.
    """
    path = Path(path)
    stated = {
        "frames_per_second": poses.frames_per_second,
        "width": poses.width,
        "height": poses.height,
        "extractor": poses.extractor,
    }
    stated = {"layout": COCO_WHOLEBODY.name, **{key: value for key, value in stated.items() if value is not None}}
    arrays = {
        "keypoints": np.ascontiguousarray(poses.keypoints, np.float32),
        "scores": np.ascontiguousarray(poses.scores, np.float32),
    }
    if path.suffix.lower() == ".safetensors":
        save_file(arrays, path, {key: str(value) for key, value in stated.items()})
    elif path.suffix.lower() == ".npz":
        with path.open("wb") as file:
            np.savez_compressed(file, **arrays, **stated)
    else:
        raise ValueError(f"Poses are written to .safetensors or .npz, got '{path}'.")


def part_of_frames(
    length: int, start: float | None, end: float | None, rate: float | None, name: str
) -> tuple[int, int]:
    """The first frame of the part from `start` to `end` seconds, and the one after its last.

    Raises `ValueError` for a part of poses without a frame rate, and for a part that holds no frame."""
    first, last = 0, length
    if start is not None or end is not None:
        if rate is None:
            raise ValueError(f"{name} states no frame rate: `start` and `end` need `frames_per_second`.")
        first = math.ceil((start or 0.0) * rate - TOLERANCE)
        last = last if end is None else min(math.ceil(end * rate - TOLERANCE), last)
    if length and last <= first:
        raise ValueError(f"{name} has no frame from {start or 0:g} to {end} s: it has {length}.")
    return first, last


def name_of_poses(source: Any) -> str:
    """The name of a clip's poses in error messages."""
    if isinstance(source, str | os.PathLike):
        return f"'{source}'"
    return f"the poses given as {type(source).__name__}"


def list_of_clips_of_poses(poses: Any) -> list[Any]:
    """Return a list of clips from one clip, or a list or tuple of clips. Raises `ValueError` for none."""
    clips = [poses] if is_one_clip_of_poses(poses) else list(poses)
    if not clips:
        raise ValueError("`poses` is empty; pass the poses of at least one clip.")
    return clips


def is_one_clip_of_poses(poses: Any) -> bool:
    """Tell the poses of one clip from several: arrays of four dimensions are several."""
    if isinstance(poses, np.ndarray | torch.Tensor):
        return poses.ndim < 4
    return not isinstance(poses, list | tuple) or _depth(poses) in (2, 3)


def _with_rate(poses: Poses, rate: float | None) -> Poses:
    return poses if rate is None else Poses(**{**vars(poses), "frames_per_second": rate})


def _depth(values: Any) -> int:
    """How deeply lists of numbers are nested; everything else counts as 0."""
    depth = 0
    while isinstance(values, list | tuple) and len(values):
        values, depth = values[0], depth + 1
    return depth if isinstance(values, int | float) else 0
