# Copyright 2026 The FLaLLM authors. Licensed under the Apache License, Version 2.0.
"""The poses of a clip, as files have them and as they are used."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np

from .array_files_slt import positive_number
from .pose_layouts_slt import NUM_POINTS
from .pose_signer_slt import poses_of_signer

USUAL_FRAMES_PER_SECOND = 25.0  # of clips that do not say
LARGEST_FRACTION = 2.0  # coordinates in fractions of a picture are around 0 to 1, those in pixels far above


@dataclass(frozen=True)
class PoseFacts:
    """
    What a file says of its poses before they are read.

    Args:
        num_frames: how many frames it has.
        frames_per_second: None if it does not say.
        extractor: what made the poses, by name, version and model; None if it does not say.
    """

    num_frames: int
    frames_per_second: float | None = None
    extractor: str | None = None


class _Frames:
    """`keypoints` and `scores` whose first dimension is the frames."""

    def part(self, first: int, last: int | None) -> Self:
        """The frames from `first` up to `last`, which is not among them, or to the end."""
        return replace(self, keypoints=self.keypoints[first:last], scores=self.scores[first:last])


@dataclass(frozen=True)
class Poses(_Frames):
    """
    The poses of one signer, all 133 points of COCO-WholeBody.

    Args:
        keypoints: float32 `(frames, 133, 2)`, x to the right and y down, in pixels; 0 for points with score 0.
            Without `width` and `height` they may be fractions of the picture, whose shape is then taken as a square.
        scores: float32 `(frames, 133)`; 0 where a point is not seen.
        frames_per_second: None if unknown.
        width, height: of the picture, in pixels; None if unknown.
        extractor: what made the poses; None if unknown.
    """

    keypoints: np.ndarray
    scores: np.ndarray
    frames_per_second: float | None = None
    width: float | None = None
    height: float | None = None
    extractor: str | None = None

    def __len__(self) -> int:
        return len(self.keypoints)

    def people(self) -> "People":
        """The signer as the only person, to be checked and cleaned."""
        values = {**vars(self), "keypoints": self.keypoints[:, None], "scores": self.scores[:, None]}
        return People(**values, may_be_fractions=False)


@dataclass(frozen=True)
class People(_Frames):
    """
    The poses of all people in the picture, as a file has them.

    Args:
        keypoints: `(frames, people, 133, 2)`; `scores`: `(frames, people, 133)`. NaN, and scores up to 0, mean unseen.
        frames_per_second, width, height, extractor: as in `Poses`.
        may_be_fractions: whether small coordinates are fractions of the picture although its size is known.
    """

    keypoints: np.ndarray
    scores: np.ndarray
    frames_per_second: float | None = None
    width: float | None = None
    height: float | None = None
    extractor: str | None = None
    may_be_fractions: bool = True


class PoseFile(ABC):
    """
    One clip in a file or a folder.

    Args:
        array: the name of the array with the keypoints, in a file of several.
        layout: one of `LAYOUT_NAMES`, in place of what the file states.
    """

    def __init__(self, path: Path, array: str | None = None, layout: str | None = None):
        self.path, self.array, self.layout = path, array, layout
        self.name = f"'{path}'" if array is None else f"'{path}#{array}'"

    @abstractmethod
    def facts(self) -> PoseFacts:
        """What the file says of itself. Raises `ValueError` for a file that cannot be read."""

    @abstractmethod
    def people(self, first: int, last: int) -> People:
        """The poses from the frame `first` up to `last`. Raises `ValueError` for a file that cannot be read."""


def poses_of(people: People, name: str) -> Poses:
    """
    The cleaned poses of the signer, who is told from other people as in `poses_of_signer`.

    Args:
        name: of the clip in errors.

    Raises:
        ValueError: for no frames, no people, other shapes, and where nothing is seen in any frame.
    """
    _check_shapes(people, name)
    keypoints, scores = _cleaned(people.keypoints, people.scores)
    if not scores.any():
        raise ValueError(
            f"{name} shows nobody: no point is seen in any of its {len(scores)} frames. Extract the poses again, or "
            "leave the clip out."
        )
    keypoints, scores = poses_of_signer(keypoints, scores, name)
    if people.may_be_fractions and people.width is not None and are_fractions(keypoints, scores):
        keypoints = keypoints * np.array([people.width, people.height], np.float32)
    return Poses(keypoints, scores, people.frames_per_second, people.width, people.height, people.extractor)


def size_of_picture(poses: Poses) -> tuple[float, float]:
    """Width and height in the unit of the keypoints; where they are not known, a picture that holds all seen points."""
    if poses.width is not None and poses.height is not None:
        return poses.width, poses.height
    if are_fractions(poses.keypoints, poses.scores):
        return 1.0, 1.0
    seen = poses.keypoints[poses.scores > 0]
    width, height = seen.max(axis=0, initial=1.0) if len(seen) else (1.0, 1.0)
    return float(width), float(height)


def values_of_poses(poses: "Poses", keep_aspect_ratio: bool, name: str) -> np.ndarray:
    """
    The poses of the clip `name` before they are smoothed, sampled and normalised: float32 `(frames, 133, 3)`, x, y and
    score. Without `keep_aspect_ratio`, x and y are fractions of the picture.

    Raises:
        ValueError: for poses in pixels of a picture of unknown size, if fractions are wanted.
    """
    keypoints = poses.keypoints
    if not keep_aspect_ratio:
        if poses.width is not None and poses.height is not None:
            keypoints = keypoints / np.array([poses.width, poses.height], np.float32)
        elif not are_fractions(poses.keypoints, poses.scores):
            raise ValueError(
                f"{name} holds pixels of a picture of unknown size, and the model reads fractions of it. Add `width` "
                "and `height` to the file."
            )
    # In the usual order of memory, whatever that of the keypoints is: files take no other.
    return np.ascontiguousarray(np.concatenate([keypoints, poses.scores[..., None]], -1))


def are_fractions(keypoints: np.ndarray, scores: np.ndarray) -> bool:
    """Whether coordinates `(frames, 133, 2)` are fractions of a picture, not pixels."""
    seen = np.abs(keypoints[..., 0][scores > 0])
    return bool(len(seen)) and float(np.median(seen)) <= LARGEST_FRACTION


def checked_number(value: Any, what: str, name: str) -> float | None:
    """What a file may state of the clip `name`. Raises `ValueError` unless it is a positive number, or None."""
    return None if value is None else positive_number(value, what, name)


def _check_shapes(people: People, name: str) -> None:
    keypoints, scores = people.keypoints.shape, people.scores.shape
    if len(keypoints) != 4 or keypoints[2:] != (NUM_POINTS, 2) or scores != keypoints[:3]:
        raise ValueError(
            f"{name} must hold keypoints (frames, people, {NUM_POINTS}, 2) and scores (frames, people, {NUM_POINTS}), "
            f"got {keypoints} and {scores}."
        )
    if 0 in keypoints[:2]:
        what = "holds no frame" if keypoints[0] == 0 else "shows nobody"
        raise ValueError(f"{name} {what}. Extract the poses again, or leave the clip out.")
    if (people.width is None) != (people.height is None):
        raise ValueError(f"{name} must state both the width and the height of the picture, or neither.")


def _cleaned(keypoints: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """NaN and infinity make a point unseen, and unseen points are 0."""
    with np.errstate(over="ignore", invalid="ignore"):
        keypoints, scores = keypoints.astype(np.float32), scores.astype(np.float32)
    seen = np.isfinite(keypoints[..., 0]) & np.isfinite(keypoints[..., 1]) & np.isfinite(scores) & (scores > 0)
    return np.where(seen[..., None], keypoints, 0), np.where(seen, scores, 0)
