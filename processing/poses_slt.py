# Copyright 2026 The FLaLLM authors. Licensed under the Apache License, Version 2.0.
"""The poses of a clip, cleaned, and who of several people in the picture is the signer."""

import math
import warnings
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .pose_layouts_slt import NUM_POINTS, PARTS

BODY = list(PARTS["body"])
MOST_OF_A_FRACTION = 2.0  # fractions of a picture are around 0 to 1, pixels far above


@dataclass(frozen=True)
class PoseFacts:
    """
    What a file says of its poses before they are read.

    Args:
        num_frames: how many poses it holds.
        frames_per_second: None if it does not say.
        extractor: what made them, such as "rtmlib 0.0.13 rtmw-x-l 384x288"; None if it does not say.
    """

    num_frames: int
    frames_per_second: float | None = None
    extractor: str | None = None


@dataclass(frozen=True)
class Poses:
    """
    The poses of one signer, all 133 points of COCO-WholeBody.

    Args:
        keypoints: float32 `(frames, 133, 2)`, x to the right and y down, in pixels; 0 for points with score 0.
            Without `width` and `height` they may be fractions of the picture, whose shape is then unknown.
        scores: float32 `(frames, 133)`; 0 where a point is not seen.
        frames_per_second: None if unknown.
        width, height: of the picture, in pixels; None if unknown.
        extractor: what made them; None if unknown.
    """

    keypoints: np.ndarray
    scores: np.ndarray
    frames_per_second: float | None = None
    width: float | None = None
    height: float | None = None
    extractor: str | None = None

    def __len__(self) -> int:
        return len(self.keypoints)


@dataclass(frozen=True)
class People:
    """The poses of all people in the picture, as a file has them: `keypoints` `(frames, people, 133, 2)` and `scores`
    `(frames, people, 133)`, where NaN, and scores up to 0, mean unseen; the rest as in `Poses`."""

    keypoints: np.ndarray
    scores: np.ndarray
    frames_per_second: float | None = None
    width: float | None = None
    height: float | None = None
    extractor: str | None = None


def poses_of(people: People, name: str) -> Poses:
    """
    The cleaned poses of the signer in a picture.

    The signer is whoever has the largest seen body over the clip; with several people a warning says so.

    Args:
        name: of the clip in errors.

    Raises:
        ValueError: for no frames, no people, other shapes, and if nothing is seen in any frame.
    """
    _check_shapes(people, name)
    keypoints, scores = _cleaned(people.keypoints, people.scores)
    if not scores.any():
        raise ValueError(
            f"{name} shows nobody: no point is seen in any of its {len(scores)} frames. Extract the poses again, or "
            "leave the clip out."
        )
    keypoints, scores = _signer(keypoints, scores, name)
    if people.width is not None and are_fractions(keypoints, scores):
        keypoints = keypoints * np.array([people.width, people.height], np.float32)
    facts = {field: getattr(people, field) for field in ("frames_per_second", "width", "height", "extractor")}
    return Poses(keypoints, scores, **facts)


def are_fractions(keypoints: np.ndarray, scores: np.ndarray) -> bool:
    """Whether coordinates are fractions of a picture, not pixels."""
    seen = np.abs(keypoints[scores > 0])
    return bool(len(seen)) and float(np.median(seen.max(-1))) <= MOST_OF_A_FRACTION


def part_of_poses(poses: Poses, first: int, last: int) -> Poses:
    """The frames from `first` up to `last`, which is not among them."""
    return replace(poses, keypoints=poses.keypoints[first:last], scores=poses.scores[first:last])


def checked_number(value: Any, what: str, name: str) -> float | None:
    """A positive number that a file states, also as text; None for none. Raises `ValueError` for anything else."""
    if value is None:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 < number < math.inf:
        raise ValueError(f"{what} of {name} must be a positive number, got {value!r}.")
    return number


def _check_shapes(people: People, name: str) -> None:
    keypoints, scores = people.keypoints.shape, people.scores.shape
    if len(keypoints) != 4 or keypoints[2:] != (NUM_POINTS, 2) or scores != keypoints[:3]:
        raise ValueError(
            f"{name} must hold keypoints (frames, people, {NUM_POINTS}, 2) and scores (frames, people, {NUM_POINTS}), "
            f"got {keypoints} and {scores}."
        )
    if keypoints[0] == 0:
        raise ValueError(f"{name} holds no frame. Extract the poses again, or leave the clip out.")
    if keypoints[1] == 0:
        raise ValueError(f"{name} shows nobody. Extract the poses again, or leave the clip out.")
    if (people.width is None) != (people.height is None):
        raise ValueError(f"{name} must state both the width and the height of the picture, or neither.")


def _cleaned(keypoints: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """NaN and infinity make a point unseen, and unseen points are 0."""
    with np.errstate(over="ignore", invalid="ignore"):
        keypoints, scores = keypoints.astype(np.float32), scores.astype(np.float32)
    seen = np.isfinite(keypoints).all(-1) & np.isfinite(scores) & (scores > 0)
    return np.where(seen[..., None], keypoints, 0), np.where(seen, scores, 0)


def _signer(keypoints: np.ndarray, scores: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray]:
    """The first person, for now: (frames, people, ...) -> (frames, ...)."""
    if keypoints.shape[1] > 1:
        warnings.warn(f"{name} shows {keypoints.shape[1]} people.", stacklevel=2)
    return keypoints[:, 0], scores[:, 0]
