# Copyright 2026 The FLaLLM authors. Licensed under the Apache License, Version 2.0.
"""Measures the motion of a long video, for `split_motion` to cut it into sentences.

The video is read once as a stream of small grey pictures. Of each picture two numbers are kept: how much has moved
since the one before, and at what height.
"""

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
    times, changes = [], []
    earlier = None
    last = frame_duration = 0.0
    for seconds, picture in stream_grey_pictures(video, PICTURE_SIZE_IN_PIXELS, start, end, fps):
        frame_duration = seconds - last if times else frame_duration
        last = seconds
        if times and seconds - times[0] > LONGEST_VIDEO_IN_SECONDS:
            raise VideoDecodingError(
                "The time stamps of the video span more than 24 hours. Pass `start` and `end`, or record it again."
            )
        if earlier is not None and seconds - times[-1] < SHORTEST_STEP_IN_SECONDS:
            continue
        times.append(seconds)
        changes.append((0.0, 0.5, 0.0) if earlier is None else _change(picture - earlier))
        earlier = picture
    energy, height, extent = np.array(changes).T
    is_cut = stands_out(energy, CAMERA_NOISE.faintest) | stands_out(extent, CAMERA_NOISE.faintest)
    return motion_in_equal_steps(np.array(times), energy, height, is_cut, last + frame_duration, CAMERA_NOISE)


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


__all__ = ["split_video_at_rests"]
