# Copyright 2026 The FLaLLM authors. Licensed under the Apache License, Version 2.0.
"""Which frames of a file belong to a part of it, and when they are shown: a grid that is uniform in time."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .video_files_slt import VideoDecodingError
from .video_packets_slt import NUM_FRAMES_BEHIND
from .video_requests_slt import TIME_TOLERANCE_IN_SECONDS, FrameRequest, positions_in_interval
from .video_times_slt import FileTimes, usual_interval

# If two frames are further apart than this, in usual intervals, the picture stays on screen in between.
LONGEST_INTERVAL = 1.5
# Time stamps may be damaged: a part with still pictures gives at most this many frames, or this many per picture.
MOST_FRAMES_OF_STILLS, MOST_REPEATS = 20_000, 100


@dataclass
class FilePart:
    """
    One part of a file while it is decoded: `positions` are its frames among those of the file, `wanted` which of these
    to return, `indices` the indices of the wanted ones in the part, and `first_second` is where it begins.
    """

    request: FrameRequest
    positions: range
    fps: float | None
    num_frames: int
    first_second: float
    indices: list[int]
    wanted: list[int]
    frames: list[np.ndarray] = field(default_factory=list)
    num_skipped: int = 0

    @property
    def is_complete(self) -> bool:
        return self.num_skipped + len(self.frames) == len(self.wanted)

    @property
    def next_wanted(self) -> int:
        return self.wanted[self.num_skipped + len(self.frames)]

    def take(self, frame: Any, shown: Any, display_times: list[int], to_pixels: Callable[[Any], np.ndarray]) -> None:
        """
        Keep the frame for each wanted position whose time it reaches. One that the decoder did not deliver is replaced
        by the frame before, which was then on screen, or skipped if there was none.
        """
        kept = None
        while not self.is_complete and display_times[self.next_wanted] <= frame.pts:
            position = self.next_wanted
            is_missing = display_times[position] < frame.pts
            if is_missing and shown is None:
                self.num_skipped += 1
            elif kept == position:
                self.frames.append(self.frames[-1])
            else:
                self.frames.append(self.request.transform(to_pixels(shown if is_missing else frame)))
                kept = position


def plan_part(times: FileTimes, request: FrameRequest, name: str) -> FilePart:
    _check_that_picture_has_begun(times, request, name)
    return part_of_frames(times.seconds, times.end_in_seconds, times.stated_fps, request, name)


def part_of_frames(
    seconds: Sequence[float], end_in_seconds: float, stated_fps: float | None, request: FrameRequest, name: str
) -> FilePart:
    """The part of frames that are shown from `seconds` on, sorted, the last of them until `end_in_seconds`."""
    positions = positions_in_interval(seconds, request, name, end_in_seconds)
    # The same interval, whether the part is read alone or with others.
    around = seconds[max(0, positions.start - 1) : positions.stop + NUM_FRAMES_BEHIND]
    interval = usual_interval(around) or (1 / stated_fps if stated_fps else None)
    if interval is None:
        indices = request.sample(1, None)
        return FilePart(request, positions, None, 1, seconds[0], indices, [0 for _ in indices])
    positions, first_second, stop = _part_on_screen(seconds, end_in_seconds, request, positions, interval)
    interval = max(interval, (stop - first_second) / max(MOST_FRAMES_OF_STILLS, len(positions) * MOST_REPEATS))
    num_frames = _size_of_grid(seconds[positions[-1]], first_second, stop, interval)
    on_grid = _on_screen(seconds, positions, first_second, num_frames, interval)
    indices = request.sample(num_frames, 1 / interval)
    wanted = [positions.start + int(on_grid[index]) for index in indices]
    return FilePart(request, positions, 1 / interval, num_frames, first_second, indices, wanted)


def _check_that_picture_has_begun(times: FileTimes, request: FrameRequest, name: str) -> None:
    is_before = request.end is not None and request.end <= times.seconds[0] - TIME_TOLERANCE_IN_SECONDS
    if is_before and times.begins_at_the_beginning:
        raise VideoDecodingError(
            f"The picture of {name} begins at {times.seconds[0]:.2f} seconds, and `end`={request.end:g} lies before "
            "it. Seconds count from the beginning of the file.",
            reason="outside",
        )


def _part_on_screen(
    seconds: Sequence[float], end_in_seconds: float, request: FrameRequest, positions: range, interval: float
) -> tuple[range, float, float]:
    """
    -> the positions of the frames that are on screen in a part, and the seconds from when to when they are: a still
    picture stays until the next one comes.
    """
    longest = LONGEST_INTERVAL * interval
    first, last = positions[0], positions[-1]
    first_second = seconds[first]
    start = request.start or 0.0
    if first > 0 and first_second - start > longest:  # the picture before is still on screen at `start`
        first, first_second = first - 1, start
    gone_at = seconds[last + 1] if last + 1 < len(seconds) else end_in_seconds
    is_still = gone_at - first_second > longest
    if is_still and start - first_second > TIME_TOLERANCE_IN_SECONDS:  # no frame begins in the part
        first_second = start
    return range(first, last + 1), first_second, gone_at if request.end is None else min(request.end, gone_at)


def _size_of_grid(last_second: float, first_second: float, stop: float, interval: float) -> int:
    """How many points at equal intervals the part has: up to its last frame, or to its end if that is a still one."""
    if stop - last_second > LONGEST_INTERVAL * interval:
        return max(1, math.ceil((stop - first_second - TIME_TOLERANCE_IN_SECONDS) / interval))
    return max(1, round((last_second - first_second) / interval) + 1)


def _on_screen(
    seconds: Sequence[float], positions: range, first_second: float, num_frames: int, interval: float
) -> np.ndarray:
    """Which of the positions is shown at each point of the grid: the nearest frame, or a still picture."""
    begins = np.asarray(seconds[positions.start : positions.stop]) - interval / 2
    grid = first_second + np.arange(num_frames) * interval
    return (np.searchsorted(begins, grid, side="right") - 1).clip(0)
