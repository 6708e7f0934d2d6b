# Copyright 2026 The FLaLLM authors. Licensed under the Apache License, Version 2.0.
"""
When the frames of a video file are shown.

The header is used only for what nothing else tells: browser recordings state neither a frame count nor a frame rate.
Seconds count from the beginning of the file, as players and ELAN count them.
"""

import math
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import av
import numpy as np

from .video_container_slt import no_frames, open_container, video_stream
from .video_files_slt import VideoDecodingError
from .video_joined_slt import FORMATS_THAT_CAN_BE_JOINED, ends_early, is_joined, num_unread_recordings
from .video_packets_slt import (
    Packets,
    demux,
    last_time,
    origin_of,
    read_packets,
    rising_times,
    seek_target,
    without_gaps_in_knowledge,
)
from .video_requests_slt import beyond_the_end


@dataclass
class FileTimes:
    """
    When the frames of a file are shown, as far as it was read: `display_times`, sorted, in units of the stream's
    `time_base`, and the same as `seconds` of the file.

    `by_packet` are the times of the packets in the order of decoding if the file's own cannot be used, else `None`;
    `is_by_order` says that only the order of the frames can be trusted. `first_time` is the earliest that was read,
    shown or not. Packets before `first_packet` need not be decoded, and `num_leading` frames at the beginning are shown
    before the first that can be decoded alone. `end_in_seconds` is when the last frame ends, `missing_at_end` how many
    frames the file announces but does not have, `num_unread_recordings` how many others were joined to it.
    """

    display_times: list[int]
    seconds: list[float]
    time_base: float
    origin: int
    stated_fps: float | None
    end_in_seconds: float
    by_packet: list[int] | None
    is_by_order: bool
    may_seek: bool
    begins_at_the_beginning: bool
    first_time: int
    first_packet: int
    num_leading: int
    missing_at_end: int
    num_unread_recordings: int

    def seconds_of(self, display_time: int) -> float:
        return float((display_time - self.origin) * self.time_base)

    def packets_to_decode(self, container: Any, stream: Any, start: float | None, end: float | None) -> Iterator[Any]:
        """The packets that were read before, with their times of display."""
        for index, packet in enumerate(demux(container, stream, start, end, self.may_seek)):
            if index < self.first_packet:
                continue
            if self.by_packet is not None and index < len(self.by_packet):
                packet.pts = packet.dts = self.by_packet[index]
            yield packet


@dataclass(frozen=True)
class VideoFacts:
    """When the picture starts and ends, in seconds of the file, and its stored size in pixels."""

    start: float
    end: float
    width: int
    height: int


def read_facts(source: Any, name: str) -> VideoFacts:
    """
    What a file says about its picture, without decoding it.

    Raises:
        VideoDecodingError: if it cannot be read.
    """
    with open_container(source, name) as container:
        stream = video_stream(container, name)
        size = stream.codec_context.width, stream.codec_context.height
    times = read_times(source, name)
    return VideoFacts(times.seconds[0], times.end_in_seconds, *size)


def read_times(source: Any, name: str, start: float | None = None, end: float | None = None) -> FileTimes:
    """
    Read the times of the frames from the keyframe before `start` up to `end` seconds, without decoding.

    Raises:
        VideoDecodingError: if the file cannot be read, or holds no frame there.
    """
    if seek_target(start) is None or not is_joined(source, name):
        times = _times_of_part(source, name, start, end, may_seek=True)
        if times.begins_at_the_beginning or times.seconds_of(times.first_time) <= start:
            return times
    # Seeking by time fails in joined recordings, and in some containers it finds a keyframe after the one needed.
    return _times_of_part(source, name, start, end, may_seek=False)


def _times_of_part(source: Any, name: str, start: float | None, end: float | None, may_seek: bool) -> FileTimes:
    with open_container(source, name) as container:
        stream = video_stream(container, name)
        packets = read_packets(container, stream, start, end, may_seek)
        if not any(packets.are_shown):
            raise VideoDecodingError(beyond_the_end(start, name) if start else no_frames(name), reason="outside")
        return _file_times(container, stream, packets, source, start, end, may_seek)


def _file_times(
    container: Any, stream: Any, packets: Packets, source: Any, start: float | None, end: float | None, may_seek: bool
) -> FileTimes:
    times = without_gaps_in_knowledge(packets.times)
    rising = times
    if container.format.name in FORMATS_THAT_CAN_BE_JOINED:
        rising = rising_times(times, packets.are_keyframes, float(1 / stream.time_base))
    if not stream.codec_context.has_b_frames:  # decoded in the order of display, whatever their times say
        rising = sorted(rising)
    display = sorted({time for time, is_shown in zip(rising, packets.are_shown, strict=True) if is_shown})
    is_whole = seek_target(start) is None or not may_seek
    origin = origin_of(container, stream)
    if container.start_time is None and is_whole:
        origin = display[0]
    ticks, per_second = stream.time_base.numerator, stream.time_base.denominator  # far quicker than a fraction
    seconds = [(time - origin) * ticks / per_second for time in display]
    stated_fps = float(stream.average_rate or stream.guessed_rate or 0) or None
    interval = usual_interval(seconds) or (1 / stated_fps if stated_fps else 0.0)
    length = float(packets.last_duration * stream.time_base)
    # For fields and for rates guessed by headers, durations are a little off; for a still picture they are far longer.
    end_in_seconds = seconds[-1] + (length if length > 3 * interval else interval)
    target = seek_target(start)
    return FileTimes(
        display_times=display,
        seconds=seconds,
        time_base=stream.time_base,
        origin=origin,
        stated_fps=stated_fps,
        end_in_seconds=end_in_seconds,
        by_packet=None if packets.is_by_order or rising == packets.own_times else rising,
        is_by_order=packets.is_by_order,
        first_time=min(rising),
        may_seek=may_seek,
        begins_at_the_beginning=is_whole,
        first_packet=0 if may_seek or target is None else _last_keyframe(rising, packets, origin, target, stream),
        num_leading=bisect_right(display, rising[0] - 1) if is_whole and packets.are_keyframes[0] else 0,
        num_unread_recordings=(
            num_unread_recordings(source, container.format.name) if packets.was_read_to_the_end else 0
        ),
        missing_at_end=_missing_at_end(container, stream, packets, source, end_in_seconds, interval, end),
    )


def _last_keyframe(rising: list[int], packets: Packets, origin: int, target: float, stream: Any) -> int:
    """The last packet from which decoding gives all frames from the target on."""
    latest = origin + target / stream.time_base
    keyframes = [k for k, is_key in enumerate(packets.are_keyframes) if is_key and rising[k] <= latest]
    return keyframes[-1] if keyframes else 0


def usual_interval(seconds: Sequence[float]) -> float | None:
    """The mean seconds from one frame to the next, where the picture does not stand still; `None` for one frame."""
    if len(seconds) < 2:
        return None
    times = np.asarray(seconds)
    intervals = times[1:] - times[:-1]
    # np.diff, np.median and np.mean take as long as decoding one frame of a small clip.
    in_order = np.sort(intervals)
    median = (in_order[(len(in_order) - 1) // 2] + in_order[len(in_order) // 2]) / 2
    usual = intervals[intervals <= 1.5 * median]
    return float(usual.sum() / len(usual))


def _missing_at_end(
    container: Any, stream: Any, packets: Packets, source: Any, end_in_seconds: float, interval: float, end: Any
) -> int:
    """How many of the requested frames the file announces after the last one that it has."""
    if not packets.was_read_to_the_end:
        return 0
    kind, last = container.format.name, last_time(stream, container, end)
    if kind.startswith("mov"):
        entries = stream.index_entries
        count = 0
        for index in range(len(entries) - 1, -1, -1):
            if entries[index].timestamp <= packets.last_decoding_time:
                break
            count += entries[index].timestamp < last and entries[index].size > 0
        return count
    if kind == "avi":
        return max(0, round(min(stream.duration or 0, last)) - packets.last_decoding_time - 1)
    # In a whole file, a longer length in the header means nothing: the sound may be longer, or a picture stays.
    if kind != "matroska,webm" or not container.duration or not interval or not ends_early(source):
        return 0
    announced = (container.duration + min(container.start_time or 0, 0)) / av.time_base
    missing = (min(announced, math.inf if end is None else end) - end_in_seconds) / interval
    return round(missing) if missing >= 2 else 0
