# Copyright 2026 The FLaLLM authors. Licensed under the Apache License, Version 2.0.
"""Poses while they are recorded: the motion of the last while, and the poses of the current sentence."""

from bisect import bisect_left
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from .live_clip_slt import LiveClip, LivePart
from .pose_arrays_slt import as_array, people_of_arrays
from .pose_files_slt import read_poses
from .pose_segmentation_slt import DETECTOR_NOISE, measure_pose_motion
from .poses_slt import Poses
from .segmentation_slt import Motion, SegmentLengths, motion_in_equal_steps

NAME = "the stream"


class LivePoses(LiveClip):
    """
    Frames are arrays `(points, channels)` or `(people, points, channels)` of a known layout, as in the arrays of
    `read_poses`. Nobody may be seen in some of them.

    Args:
        lengths: see `LiveClip`.
        open_poses: samples the poses of a part, as `Modality.open` does.
        score_threshold: points with this score or less are not seen.
    """

    noise_levels = DETECTOR_NOISE

    def __init__(
        self,
        lengths: SegmentLengths,
        open_poses: Callable[[Poses], tuple[torch.Tensor, dict[str, Any]]],
        score_threshold: float,
    ):
        super().__init__(lengths, None)
        self._open_poses = open_poses
        self._score_threshold = score_threshold
        self._measured_seconds: list[float] = []
        self._measured: list[np.ndarray] = []

    def part(self, start: float, end: float) -> LivePart:
        """See `LiveClip.part`; smoothing looks at the poses between those that are sampled, too."""
        whole = super().part(start, end)
        poses = read_poses(np.stack(whole.frames), frames_per_second=whole.metadata["fps"])
        values, metadata = self._open_poses(poses)
        numbers = [whole.numbers[index] for index in metadata["frames_indices"]]
        return LivePart(list(values), numbers, metadata | {"start_in_seconds": whole.metadata["start_in_seconds"]})

    def values(self, part: LivePart) -> torch.Tensor:
        """See `LiveClip.values`: float32 `(frames, 133, 3)`."""
        return torch.stack(part.frames)

    def _read(self, frame: Any, seconds: float) -> np.ndarray:
        array = as_array(frame, "the frame")
        people_of_arrays(array[None], None, None, "the frame")  # raises for an unknown layout
        self._measured_seconds.append(seconds)
        self._measured.append(array)
        return array

    def _motion(self, usual_before: float) -> Motion:
        found = self._part_of_frames(self._measured_seconds, None, None, None)
        frames = np.stack([self._measured[position] for position in found.wanted])
        try:
            poses = read_poses(frames, frames_per_second=found.fps)
            place = (found.fps, found.first_second, self._score_threshold, NAME, usual_before)
            return measure_pose_motion(poses.keypoints, poses.scores, *place)
        except ValueError:  # nobody is there whose shoulders are seen
            seconds = found.first_second + np.arange(found.num_frames) / found.fps
            return _nobody_moves(seconds, found.fps, usual_before)

    def _forget_motion(self, before: float) -> None:
        num_old = bisect_left(self._measured_seconds, before)
        del self._measured_seconds[:num_old], self._measured[:num_old]

    def _restart_motion(self) -> None:
        self._measured_seconds, self._measured = [], []


def _nobody_moves(seconds: np.ndarray, frames_per_second: float, usual_before: float) -> Motion:
    nothing, end = np.zeros(len(seconds)), seconds[-1] + 1 / frames_per_second
    return motion_in_equal_steps(seconds, nothing, nothing, nothing > 0, end, DETECTOR_NOISE, usual_before)


__all__ = ["LivePoses"]
