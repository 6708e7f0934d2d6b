# Copyright 2026 The FLaLLM authors. Licensed under the Apache License, Version 2.0.
"""Measures the motion of a long video, for `split_motion` to cut it into sentences.

The video is read once as a stream of small grey pictures. Of each picture two numbers are kept: how much has moved
since the one before, and at what height.
"""

from bisect import bisect_left
from typing import Any

import numpy as np

from .segmentation_slt import (
    Motion,
    NoiseLevels,
    SegmentLengths,
    VideoSegment,
    motion_in_equal_steps,
    split_motion,
    stands_out,
)
from .video_decoding_slt import stream_grey_pictures
from .video_files_slt import VideoDecodingError

PICTURE_SIZE_IN_PIXELS = 64
# Motion is measured where there is most of it, so that a signer who is small in the picture counts as much.
MOVING_FRACTION_OF_THE_PICTURE = 0.05
# Frames closer together than this are left out: the same motion then gives the same numbers at any frame rate.
SHORTEST_STEP_IN_SECONDS = 0.03
# In grey levels of 255: below the first it is camera noise, above the second it is not.
CAMERA_NOISE = NoiseLevels(faintest=6.0, highest=10.0, still_fraction=0.15)
# A damaged time stamp can be years ahead, and memory grows with the time.
LONGEST_VIDEO_IN_SECONDS = 24 * 3600


def split_video_at_rests(
    video: Any, start: float | None, end: float | None, fps: float | None, lengths: SegmentLengths
) -> list[VideoSegment]:
    """See `FLaLLMVideoProcessor.split_at_rests`."""
    return split_motion(measure_motion(video, start, end, fps), lengths)


def measure_motion(video: Any, start: float | None, end: float | None, fps: float | None) -> Motion:
    """Read the video once; raises `VideoDecodingError` as `decode_video` does."""
    changes = PictureChanges()
    for seconds, picture in stream_grey_pictures(video, PICTURE_SIZE_IN_PIXELS, start, end, fps):
        changes.add(seconds, picture)
        if seconds - changes.times[0] > LONGEST_VIDEO_IN_SECONDS:
            raise VideoDecodingError(
                "The time stamps of the video span more than 24 hours. Pass `start` and `end`, or record it again."
            )
    return changes.motion()


class PictureChanges:
    """The changes from each picture of a video to the next, of which `times` are the seconds."""

    def __init__(self):
        self.times: list[float] = []
        self._changes: list[tuple[float, float, float]] = []
        self._earlier: np.ndarray | None = None
        self._last = self._frame_duration = 0.0

    def add(self, seconds: float, picture: np.ndarray) -> None:
        """Take the next picture, grey, float32 from 0 to 255 `(height, width)`, which is shown from `seconds` on."""
        self._frame_duration = seconds - self._last if self.times else self._frame_duration
        self._last = seconds
        if self._earlier is not None and seconds - self.times[-1] < SHORTEST_STEP_IN_SECONDS:
            return
        self.times.append(seconds)
        self._changes.append((0.0, 0.5, 0.0) if self._earlier is None else _change(picture - self._earlier))
        self._earlier = picture

    def forget(self, before: float) -> None:
        """Drop the changes before a second."""
        num_old = bisect_left(self.times, before)
        del self.times[:num_old], self._changes[:num_old]

    def motion(self, usual_before: float = 0.0) -> Motion:
        """The motion of what was added and not dropped, of one picture or more; see `motion_in_equal_steps`."""
        energy, height, extent = np.array(self._changes).T
        is_cut = stands_out(energy, CAMERA_NOISE.faintest) | stands_out(extent, CAMERA_NOISE.faintest)
        end = self._last + self._frame_duration
        times = np.array(self.times)
        return motion_in_equal_steps(times, energy, height, is_cut, end, CAMERA_NOISE, usual_before)


def _change(difference: np.ndarray) -> tuple[float, float, float]:
    """
    Energy, height and extent of the change from one picture to the next, `difference` `(height, width)`. The extent is
    the change of the median pixel: small when a person moves, large when another film begins.
    """
    middle = float(np.median(difference))
    change = np.abs(difference - middle)  # ignores changes of the lighting or the camera's exposure
    num_moving = round(change.size * MOVING_FRACTION_OF_THE_PICTURE)
    moving = np.argpartition(change, -num_moving, axis=None)[-num_moving:]
    weights = change.ravel()[moving]
    total = float(weights.sum())
    row = float((weights * (moving // change.shape[1])).sum()) / total if total > 0 else 0.5 * len(change)
    return total / num_moving, row / len(change), float(np.median(np.abs(difference)))


__all__ = ["PictureChanges", "split_video_at_rests"]
