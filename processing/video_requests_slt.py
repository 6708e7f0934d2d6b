# Copyright 2026 The FLaLLM authors. Licensed under the Apache License, Version 2.0.
"""A request for a part of a video and some of its frames, and what comes of it."""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .video_files_slt import VideoDecodingError

# Containers round time stamps (webm to 1 ms), users round seconds.
TIME_TOLERANCE_IN_SECONDS = 1e-3


@dataclass
class DecodedVideo:
    """Frames of one video, uniform in time before any sampling.

    `frames` is uint8 RGB of shape (frames, 3, height, width): a tensor from `decode_video`, an array from the readers
    of files, which also run where there is no torch. `fps` is the frame rate of the source in frames per second,
    `duration_in_seconds` the length of the part that was read, `num_source_frames` the number of frames in that part,
    with a still picture counted as often as it is shown, and `frame_indices` which of them are in `frames`.
    `start_in_seconds` is the second of the file at which the part begins. `fps`, `duration_in_seconds` and
    `start_in_seconds` are `None` for pictures and arrays given without `fps`."""

    frames: Any
    fps: float | None
    duration_in_seconds: float | None
    start_in_seconds: float | None
    num_source_frames: int
    frame_indices: list[int]

    @property
    def timestamps(self) -> list[float] | None:
        """Seconds of each frame, counted from the beginning of the file; `None` without `start_in_seconds`."""
        if self.start_in_seconds is None:
            return None
        if self.fps is None:  # a file with a single frame
            return [self.start_in_seconds for _ in self.frame_indices]
        return [self.start_in_seconds + index / self.fps for index in self.frame_indices]


@dataclass
class FrameRequest:
    """
    What part of a video is wanted (`start` to `end` in seconds), which of its frames, and what is done to each. Frames
    are tensors or arrays, as the reader has them.
    """

    start: float | None = None
    end: float | None = None
    fps: float | None = None
    sample_frame_indices: Callable[[int, float | None], Sequence[int]] | None = None
    transform_frame: Callable[[Any], Any] | None = None

    def sample(self, num_frames: int, fps: float | None) -> list[int]:
        """Return the sorted indices of the wanted frames among `num_frames`; all of them without a sampler."""
        if self.sample_frame_indices is None:
            return list(range(num_frames))
        return [int(index) for index in self.sample_frame_indices(num_frames, fps)]

    def transform(self, frame: Any) -> Any:
        """Apply the per-frame transform to a uint8 frame (3, height, width)."""
        return frame if self.transform_frame is None else self.transform_frame(frame)


def check_request(start: float | None, end: float | None, fps: float | None) -> None:
    for label, seconds in (("start", start), ("end", end)):
        is_number = isinstance(seconds, (int, float, np.number)) and not isinstance(seconds, bool)
        if seconds is not None and not (is_number and math.isfinite(seconds) and seconds >= 0):
            raise VideoDecodingError(f"`{label}` must be 0 or more seconds, or None, got {seconds!r}.")
    if end is not None and (start or 0) >= end:
        raise VideoDecodingError(f"`start` must lie before `end`, got start={start} and end={end} seconds.")
    if fps is not None and not fps > 0:
        raise VideoDecodingError(f"`fps` must be the number of frames per second of the source, above 0, got {fps!r}.")


def positions_in_interval(seconds: Sequence[float], request: FrameRequest, name: str, end_in_seconds: float) -> range:
    """
    Positions of the frames with `start <= time < end`, or of the frame on screen at `start` if there is none. The last
    frame ends at `end_in_seconds`.
    """
    start, end = request.start or 0.0, math.inf if request.end is None else request.end
    if start >= end_in_seconds and start > 0:
        raise VideoDecodingError(beyond_the_end(start, name, end_in_seconds), reason="outside")
    earliest = start - TIME_TOLERANCE_IN_SECONDS if request.start else -math.inf
    inside = range(bisect_left(seconds, earliest), bisect_left(seconds, end - TIME_TOLERANCE_IN_SECONDS))
    on_screen = max(0, bisect_right(seconds, start) - 1)
    return inside or range(on_screen, on_screen + 1)


def check_one_size(frames: Sequence[Any], name: str) -> None:
    sizes = sorted({tuple(frame.shape[-2:]) for frame in frames})
    if len(sizes) > 1:
        raise VideoDecodingError(f"All frames of a video must have one size; {name} has (height, width) {sizes}.")


def beyond_the_end(start: float, name: str, duration_in_seconds: float | None = None) -> str:
    length = "" if duration_in_seconds is None else f", which lasts {duration_in_seconds:.2f} seconds"
    return f"`start`={start:g} seconds lies beyond the end of {name}{length}. Give seconds, not frames."
