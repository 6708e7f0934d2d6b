# Copyright 2026 The FLaLLM authors. Licensed under the Apache License, Version 2.0.
"""Reads and writes the poses of a clip: from files of many sources, always to the same 133 points."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from .array_files_slt import part_of_features, split_name
from .pose_array_files_slt import ARRAY_SUFFIXES, ArrayFile, write_arrays
from .pose_arrays_slt import people_of_arrays
from .pose_format_slt import PoseFormatFile, write_pose_format
from .pose_openpose_slt import OpenPoseFolder
from .pose_pickles_slt import UniSignPickle
from .poses_slt import PoseFacts, PoseFile, Poses, poses_of

FILES: dict[str, type[PoseFile]] = {
    ".pose": PoseFormatFile,
    **dict.fromkeys(ARRAY_SUFFIXES, ArrayFile),
    **dict.fromkeys((".pkl", ".pickle"), UniSignPickle),
}
POSE_SUFFIXES = tuple(FILES)


def is_pose_file(path: str | os.PathLike) -> bool:
    """Tell by its name, in any letter case, whether a file holds poses; hidden files do not."""
    path, _ = split_name(path)
    return path.suffix.lower() in POSE_SUFFIXES and not path.name.startswith(".")


def read_poses(
    source: Any,
    start: float | None = None,
    end: float | None = None,
    frames_per_second: float | None = None,
    layout: str | None = None,
) -> Poses:
    """
    Read the poses of the signer of one clip, from any of these sources:

    - `.pose` files with the components of MediaPipe, COCO-WholeBody, OpenPose or AlphaPose
    - `.safetensors`, `.npz` and `.npy` files, and arrays, of a known layout: `keypoints` and `scores`, or one array;
      `poses.npz#clip_1` names one of several
    - folders with a JSON file of OpenPose for each frame
    - Uni-Sign's pickles

    Args:
        source: a path, an array, or `Poses`.
        start, end: seconds of the part that is read.
        frames_per_second: in place of what the source states.
        layout: one of `LAYOUT_NAMES`, where the number of points does not tell, in place of what the source states.

    Raises:
        ValueError: for what cannot be read, holds no frames or nobody, has an unknown layout, or has no such part.
    """
    name = name_of_poses(source)
    if isinstance(source, str | os.PathLike):
        file = open_pose_file(source, layout)
        facts = file.facts()
        rate = facts.frames_per_second if frames_per_second is None else frames_per_second
        people = file.people(*part_of_clip(facts.num_frames, start, end, rate, name))
    else:
        # `Poses` not by its class, which remote code may load a second time.
        is_read = hasattr(source, "keypoints")
        people = source.people() if is_read else people_of_arrays(source, None, layout, name)
        rate = people.frames_per_second if frames_per_second is None else frames_per_second
        people = people.part(*part_of_clip(len(people.keypoints), start, end, rate, name))
    return replace(poses_of(people, name), frames_per_second=rate)


def pose_facts(source: Any) -> PoseFacts:
    """The number of frames of a clip, and what its file states; most files are not read for that.

    Raises `ValueError` as `read_poses`."""
    if isinstance(source, str | os.PathLike):
        return open_pose_file(source).facts()
    poses = read_poses(source)
    return PoseFacts(len(poses), poses.frames_per_second, poses.extractor)


def open_pose_file(source: str | os.PathLike, layout: str | None = None) -> PoseFile:
    """A clip in a file or folder, which is not read yet. Raises `ValueError` for none, and for files of other kinds."""
    path, array = split_name(source)
    if path.is_dir():
        return OpenPoseFolder(path)
    kind = FILES.get(path.suffix.lower())
    if kind is None:
        raise ValueError(
            f"Poses must be in a file of {', '.join(POSE_SUFFIXES)}, or in a folder of OpenPose's JSON files, got "
            f"'{source}'."
        )
    if not path.is_file():
        raise ValueError(f"There is no file '{path}'.")
    return kind(path, array, layout)


def write_poses(path: str | os.PathLike, poses: Poses) -> None:
    """
    Write poses to a `.safetensors`, `.npz` or `.pose` file, all 133 points. A `.pose` file does not hold the name of
    the extractor, and its size of the picture is in whole pixels.

    Raises:
        ValueError: for other files.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix == ".pose":
        write_pose_format(path, poses)
    elif suffix in (".safetensors", ".npz"):
        write_arrays(path, poses)
    else:
        raise ValueError(f"Poses are written to a file of .safetensors, .npz or .pose, got '{path}'.")


def part_of_clip(
    num_frames: int, start: float | None, end: float | None, rate: float | None, name: str
) -> tuple[int, int]:
    """The first frame of the part from `start` to `end` seconds, and the one after its last.

    Raises `ValueError` for no frames, for a part without a frame rate, and for a part that holds no frame."""
    if num_frames < 1:
        raise ValueError(f"{name} holds no frame. Extract the poses again, or leave the clip out.")
    return part_of_features(num_frames, start, end, rate, name, unit="frame")


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
    if hasattr(poses, "ndim"):  # an array of numpy or torch
        return poses.ndim < 4
    return not isinstance(poses, list | tuple) or _depth(poses) in (2, 3)


def _depth(values: Any) -> int:
    """How deeply lists of numbers are nested; everything else counts as 0."""
    depth = 0
    while isinstance(values, list | tuple) and len(values):
        values, depth = values[0], depth + 1
    return depth if isinstance(values, int | float) else 0
