# Copyright 2026 The FLaLLM authors. Licensed under the Apache License, Version 2.0.
"""Reads the packets of a video track without decoding them, and makes their times of display rise."""

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import av
import numpy as np

# Seek a little earlier than asked: containers seek by decoding time, which runs ahead of the time of display.
SEEK_MARGIN_IN_SECONDS = 1.0
# No codec delays more frames than this to reorder them for display.
MOST_REORDERED_FRAMES = 17
# Enough to know the frames displayed after a part, and how far apart frames usually are.
NUM_FRAMES_BEHIND = 12
PACKETS_BEHIND_THE_END = NUM_FRAMES_BEHIND + MOST_REORDERED_FRAMES


@dataclass
class Packets:
    """One entry for each packet with content, in the order of decoding, and what holds for all of them."""

    own_times: list[int | None]
    times: list[int | None]
    are_keyframes: list[bool]
    are_shown: list[bool]
    last_decoding_time: int
    last_duration: int
    was_read_to_the_end: bool
    is_by_order: bool = False


def read_packets(container: Any, stream: Any, start: float | None, end: float | None, may_seek: bool) -> Packets:
    packets = Packets([], [], [], [], -(2**62), 0, True)
    is_avi = container.format.name == "avi"
    decoding_times = []
    latest = -(2**62)
    for packet in demux(container, stream, start, end, may_seek):
        if packet.dts is not None:
            packets.last_decoding_time = max(packets.last_decoding_time, packet.dts)
        time = packet.dts if packet.pts is None and not is_avi else packet.pts
        packets.times.append(time)
        decoding_times.append(packet.dts)
        packets.are_keyframes.append(packet.is_keyframe)
        packets.are_shown.append(packet.size > 0 and not packet.is_discard)
        if time is not None and time >= latest:
            latest, packets.last_duration = time, packet.duration or 0
    packets.was_read_to_the_end = end is None or packets.last_decoding_time <= last_time(stream, container, end)
    packets.own_times = packets.times
    if is_avi:
        packets.times, packets.is_by_order = _times_in_avi(packets.times, decoding_times)
    return packets


def _times_in_avi(times: list[int | None], decoding_times: list[int | None]) -> tuple[list[int | None], bool]:
    """
    AVI stores no times of display, so FFmpeg's lag behind. Where FFmpeg can tell from the kinds of frames how they are
    reordered, its times are right except for that delay; otherwise only the decoder's order of the frames is.
    """
    if None in times or None in decoding_times:
        return decoding_times, True
    delays = {time - decoding for time, decoding in zip(times, decoding_times, strict=True)}
    if len(delays) == 1:
        return decoding_times, True
    delay = min(times) - min(decoding_times)
    return [time - delay for time in times], False


def demux(container: Any, stream: Any, start: float | None, end: float | None, may_seek: bool) -> Iterator[Any]:
    """
    Yield packets from the keyframe before `start` up to `end`, and `PACKETS_BEHIND_THE_END` more.
    """
    target = seek_target(start)
    if target is not None and may_seek:
        time = origin_of(container, stream) + int(target / stream.time_base)
        with contextlib.suppress(av.error.FFmpegError):  # without an index: read from the beginning
            container.seek(time, stream=stream, backward=True)
    last = last_time(stream, container, end)
    with contextlib.suppress(av.error.FFmpegError):  # cut off: what came before still counts
        num_behind = 0
        for packet in container.demux(stream):
            if packet.size == 0 and packet.dts is None:  # PyAV's end of the stream
                return
            yield packet
            num_behind += packet.dts is not None and packet.dts > last
            if num_behind > PACKETS_BEHIND_THE_END:
                return


def seek_target(start: float | None) -> float | None:
    target = (start or 0) - SEEK_MARGIN_IN_SECONDS
    return target if target > 0 else None


def last_time(stream: Any, container: Any, end: float | None) -> float:
    return math.inf if end is None else origin_of(container, stream) + end / stream.time_base


def origin_of(container: Any, stream: Any) -> int:
    """
    The beginning of the file in units of the stream's time base: the first that is seen or heard. Sound before zero is
    padding from an encoder, which is not played.
    """
    begin = max(container.start_time or 0, 0)
    origin = round(begin / av.time_base / stream.time_base)
    return origin if stream.start_time is None else min(origin, stream.start_time)


def without_gaps_in_knowledge(times: Sequence[int | None]) -> list[int]:
    """Give packets without a time the usual interval from the one before."""
    known = [time for time in times if time is not None]
    if len(known) == len(times):
        return known
    interval = int(np.median(np.abs(np.diff(known)))) if len(known) > 1 else 1
    filled: list[int] = []
    for time in times:
        before = filled[-1] + interval if filled else (known[0] if known else 0)
        filled.append(before if time is None else time)
    return filled


def rising_times(times: Sequence[int], are_keyframes: Sequence[bool], ticks_per_second: float) -> list[int]:
    """
    Times of display of packets in the order of decoding. A recording whose times start again is moved behind the one
    before it, and a single time far from both of its neighbours is put between them.
    """
    if len(times) < 3:
        return list(times)
    usual = float(np.median(np.abs(np.diff(times))))
    farthest = max(ticks_per_second, MOST_REORDERED_FRAMES * usual)
    times = _without_outliers(np.asarray(times, dtype=np.float64), farthest)
    rising, offset, lowest, highest, first = [], 0, times[0], times[0], 0
    for index, time in enumerate(times):
        jump = highest - time
        begins_anew = jump > farthest or (
            jump > 0 and are_keyframes[index] and index + 1 < len(times) and times[index + 1] < highest
        )
        if index > first and begins_anew:
            interval = (highest - lowest) / max(index - first - 1, 1)
            lowest = min(times[index : index + MOST_REORDERED_FRAMES])
            offset += highest + round(interval or usual) - lowest
            highest, first = time, index
        lowest, highest = min(lowest, time), max(highest, time)
        rising.append(int(time + offset))
    return rising


def _without_outliers(times: np.ndarray, farthest: float) -> list[int]:
    before, here, behind = times[:-2], times[1:-1], times[2:]
    is_far = (abs(here - before) > farthest) & (abs(here - behind) > farthest) & (abs(before - behind) <= farthest)
    times[1:-1] = np.where(is_far, (before + behind) / 2, here)
    return times.astype(np.int64).tolist()
