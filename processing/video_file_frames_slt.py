# Copyright 2026 The FLaLLM authors. Licensed under the Apache License, Version 2.0.
"""Video files: their frames, decoded by PyAV, upright and in RGB."""

import functools
import itertools
import logging
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from .video_container_slt import open_container, video_stream
from .video_file_parts_slt import LONGEST_INTERVAL, FilePart, plan_part
from .video_files_slt import VideoDecodingError
from .video_requests_slt import DecodedVideo, FrameRequest, check_one_size
from .video_times_slt import FileTimes, read_times

logger = logging.getLogger(__name__)
_warn_once = functools.cache(logger.warning)

LONGEST_STILL_IN_SECONDS = 0.25


def decode_file(source: Any, name: str, requests: Sequence[FrameRequest]) -> Iterator[DecodedVideo]:
    """Decode parts of one file, in order of time, in one pass from the first to the last."""
    whole = replace(requests[0], end=requests[-1].end)
    times = read_times(source, name, whole.start, whole.end)
    parts = deque(plan_part(times, request, name) for request in requests)
    came = bytearray(len(times.display_times))
    shown, to_pixels = None, None
    with open_container(source, name) as container:
        for frame in _decoded(container, video_stream(container, name), times, whole):
            _note(came, frame.pts, times.display_times)
            to_pixels = to_pixels or _conversion_to_pixels(frame.width, frame.height, name)
            for part in parts:
                if times.display_times[part.wanted[0]] > frame.pts:
                    break
                part.take(frame, shown, times.display_times, to_pixels)
            while parts and parts[0].is_complete:
                yield _finish_part(parts.popleft(), times, came, name)
            if not parts:
                return
            shown = frame
    # The file is damaged or cut off: its last frames are missing.
    yield from (_finish_part(part, times, came, name) for part in parts)


def _note(came: bytearray, time: int, display_times: list[int]) -> None:
    """Mark the frame that was decoded."""
    position = bisect_left(display_times, time)
    if position < len(display_times) and display_times[position] == time:
        came[position] = 1


def _finish_part(part: FilePart, times: FileTimes, came: bytearray, name: str) -> DecodedVideo:
    # Frames after the last wanted one were not decoded.
    looked_at = part.positions if not part.is_complete else range(part.positions.start, part.wanted[-1] + 1)
    missing = [position for position in looked_at if not came[position]]
    if not part.frames or len(missing) == len(looked_at):
        raise _nothing_decoded(len(part.wanted), name)
    # The file has frames before the first that can be decoded alone; no player shows them.
    missing = [position for position in missing if position >= times.num_leading or position > came.find(1)]
    reaches_end = not part.is_complete or part.positions.stop == len(times.seconds)
    missing_at_end = times.missing_at_end if reaches_end else 0
    if missing or missing_at_end:
        logger.warning(
            f"{name} is damaged or cut off: going on with the {len(part.frames)} frames that were decoded. Missing "
            f"{_where_missing(missing, times, missing_at_end)}."
        )
    if reaches_end and times.num_unread_recordings:
        logger.warning(
            f"{name} holds {times.num_unread_recordings} more recording(s) after what can be read, because they were "
            "joined byte by byte. Join them with a video program."
        )
    _report_long_stills(part, times, name)
    indices = part.indices[part.num_skipped : part.num_skipped + len(part.frames)]
    check_one_size(part.frames, name)
    return DecodedVideo(
        frames=np.stack(part.frames),
        fps=part.fps,
        duration_in_seconds=part.num_frames / part.fps if part.fps else None,
        start_in_seconds=part.first_second,
        num_source_frames=part.num_frames,
        frame_indices=indices,
    )


def _report_long_stills(part: FilePart, times: FileTimes, name: str) -> None:
    """Warn of pictures that stay for long: a file that lost the pictures in between looks the same."""
    for position in part.positions[:-1]:
        begin, end = times.seconds[position], times.seconds[position + 1]
        if end - begin > LONGEST_STILL_IN_SECONDS and end - begin > LONGEST_INTERVAL / part.fps:
            _warn_once(
                f"{name} holds no new picture from second {begin:.2f} to {end:.2f}: the one before stays on screen."
            )


def _where_missing(missing: list[int], times: FileTimes, missing_at_end: int) -> str:
    """Say how many frames are missing, and from when to when, with the seconds of the first three gaps."""
    gaps: list[list[int]] = []
    for position in missing:
        if gaps and position == gaps[-1][1] + 1:
            gaps[-1][1] = position
        else:
            gaps.append([position, position])
    seconds = [*times.seconds, times.end_in_seconds]
    texts = [f"{seconds[first]:.2f} to {seconds[last + 1]:.2f}" for first, last in gaps]
    if missing_at_end:
        texts.append(f"from {times.end_in_seconds:.2f} on")
    more = f" and {len(texts) - 3} more" if len(texts) > 3 else ""
    return f"frames: {len(missing) + missing_at_end} (seconds {', '.join(texts[:3])}{more})"


def grey_frames_of_file(
    source: Any, name: str, request: FrameRequest, size_in_pixels: int
) -> Iterator[tuple[float, np.ndarray]]:
    times = read_times(source, name, request.start, request.end)
    positions = plan_part(times, request, name).positions
    first, last = (times.display_times[position] for position in (positions[0], positions[-1]))
    # One for all frames: building its tables takes longer than shrinking a frame.
    shrink = functools.partial(VideoReformatter().reformat, interpolation="AREA", threads=1, format="gray")
    latest = None
    with open_container(source, name) as container:
        stream = video_stream(container, name)
        for frame in _decoded(container, stream, times, request):
            if not first <= frame.pts <= last or (latest is not None and frame.pts <= latest):
                continue
            grey = shrink(frame, width=size_in_pixels, height=size_in_pixels).to_ndarray()
            picture = _upright(grey[None], frame)[0]
            yield times.seconds_of(frame.pts), picture.astype(np.float32)
            latest = frame.pts
    if latest is None:
        raise _nothing_decoded(len(positions), name)


def _nothing_decoded(num_wanted: int, name: str) -> VideoDecodingError:
    return VideoDecodingError(
        f"None of the {num_wanted} frames of {name} could be decoded: the file is damaged or cut off. Copy, download "
        "or record it again."
    )


def _decoded(container: Any, stream: Any, times: FileTimes, request: FrameRequest) -> Iterator[Any]:
    """Yield the decodable frames in the order of display, with their display times in `pts`."""
    times_by_order = iter(times.display_times) if times.is_by_order else None
    packets = times.packets_to_decode(container, stream, request.start, request.end)
    for packet in itertools.chain(packets, [None]):  # None flushes the decoder
        try:
            frames = stream.decode(packet)
        except av.error.FFmpegError:
            continue
        for frame in frames:
            if times_by_order is not None:
                frame.pts = next(times_by_order, None)
            if frame.pts is not None:
                yield frame


def _conversion_to_pixels(width: int, height: int, name: str) -> Callable[[Any], np.ndarray]:
    """
    -> a function that turns a frame into upright RGB pixels, uint8 (3, height, width). One for all frames of a video:
    building its tables takes longer than converting a small frame.
    """
    reformat = functools.partial(VideoReformatter().reformat, width=width, height=height, format="rgb24", threads=1)

    def to_pixels(frame: Any) -> np.ndarray:
        try:
            rgb = reformat(frame)
        except (av.error.FFmpegError, ValueError, MemoryError) as error:
            raise VideoDecodingError(
                f"The pictures of {name} ({width} x {height} pixels, {frame.format.name}) cannot be converted to RGB: "
                f"{str(error) or type(error).__name__}.",
                reason="unsupported",
            ) from error
        return _upright(rgb.to_ndarray().transpose(2, 0, 1), frame)

    return to_pixels


def _upright(pixels: np.ndarray, frame: Any) -> np.ndarray:
    """Turn and mirror the pixels (channels, height, width) of a frame as its display matrix says."""
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return pixels
    # A pixel (x, y) is displayed at (a x + c y, b x + d y); phones only ever turn by quarters and mirror.
    a, b, _, c, d = np.frombuffer(bytes(matrix), dtype=np.int32)[:5]
    if abs(int(a)) < abs(int(b)):
        pixels, a, d = pixels.swapaxes(1, 2), c, b
    flipped = [axis for axis, factor in ((2, a), (1, d)) if factor < 0]
    return np.ascontiguousarray(np.flip(pixels, flipped)) if flipped else pixels
