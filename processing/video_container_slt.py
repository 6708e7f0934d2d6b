# Copyright 2026 The FLaLLM authors. Licensed under the Apache License, Version 2.0.
"""Video files as containers: opening them, choosing the track with the picture, and the times of its frames.

Nothing is taken from the header but what nothing else tells: browser recordings state neither a frame count nor a
frame rate. Seconds count from the beginning of the file, as players and ELAN count them.
"""

import contextlib
import functools
import math
import os
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import av
import numpy as np

from .video_files_slt import VideoDecodingError

# Playlist formats are left out on purpose: an uploaded playlist could name any other file or address.
VIDEO_FORMATS = "mov,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,asf,ogg,gif,apng,nut,mxf,ivf,rm,dv"
# Seek a little earlier than asked: containers seek by decoding time, which runs ahead of the time of display.
SEEK_MARGIN_IN_SECONDS = 1.0
# Recordings of these formats can be joined byte by byte; the times then begin anew, and seeking by time misleads.
FORMATS_THAT_CAN_BE_JOINED = ("mpegts", "mpeg", "mpegvideo", "matroska,webm", "ogg")
MOST_FILES_REMEMBERED = 4096
# No codec holds back more frames than this to bring them into the order of display.
MOST_REORDERED_FRAMES = 17
# Enough to know the next frames of display behind a part, and how far apart frames usually are.
NUM_FRAMES_BEHIND = 12
PACKETS_BEHIND_THE_END = NUM_FRAMES_BEHIND + MOST_REORDERED_FRAMES
EBML, SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"


@dataclass
class FileTimes:
    """
    When the frames of a file are shown, as far as it was read: `display_times`, sorted, in units of the stream's
    `time_base`, and the same as `seconds` of the file.

    `by_packet` are the times of the packets in the order of decoding where the file's own cannot be used, else `None`;
    `is_by_order` says that only the order of the frames can be trusted. `first_time` is the earliest that was read,
    shown or not. Packets before `first_packet` need not be decoded, and `num_leading` frames at the beginning are shown
    before the first that can be decoded alone. `end_in_seconds` is when the last frame ends, `missing_at_end` how many
    frames the file announces and does not hold, `num_unread_recordings` how many others were joined to it.
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
        for index, packet in enumerate(_demux(container, stream, start, end, self.may_seek)):
            if index < self.first_packet:
                continue
            if self.by_packet is not None and index < len(self.by_packet):
                packet.pts = packet.dts = self.by_packet[index]
            yield packet


@dataclass(frozen=True)
class VideoFacts:
    """Seconds of the file from when to when there is a picture, and its size in pixels as it is stored."""

    start: float
    end: float
    width: int
    height: int


def read_facts(source: Any, name: str) -> VideoFacts:
    """
    What a file says of its picture, without decoding it.

    Raises:
        VideoDecodingError: if it cannot be read.
    """
    with open_container(source, name) as container:
        stream = video_stream(container, name)
        size = stream.codec_context.width, stream.codec_context.height
    times = read_times(source, name)
    return VideoFacts(times.seconds[0], times.end_in_seconds, *size)


def open_container(source: Any, name: str) -> Any:
    """
    Open a path or a seekable binary file, the only way in which FLaLLM opens videos to read them: only as formats that
    hold their pictures themselves, and with no way to other files or addresses.

    Raises:
        VideoDecodingError: if it cannot be read, with what is wrong with it.
    """
    if isinstance(source, list) or (isinstance(source, str) and os.path.isdir(source)):
        raise VideoDecodingError(f"{name} is no video file but a folder or a list of pictures.", reason="no_video")
    try:
        if not isinstance(source, str):
            source.seek(0)
        options = {"format_whitelist": VIDEO_FORMATS, "protocol_whitelist": "file"}
        return av.open(source, options=options, metadata_errors="replace")  # titles are not always UTF-8
    except (av.error.FFmpegError, OSError, ValueError, MemoryError) as error:
        raise _why_not_a_video(source, name, error) from error


def _why_not_a_video(source: Any, name: str, error: Exception) -> VideoDecodingError:
    """Say why FFmpeg could not open a source: empty, an mp4 cut off before its index, or no video at all."""
    if isinstance(error, PermissionError):
        return VideoDecodingError(f"{name} may not be read: {error}.")
    head = _head(source, 12)
    if not head:
        return VideoDecodingError(f"{name} is empty (0 bytes). Copy, download or record it again.", reason="empty")
    if isinstance(error, av.error.EOFError):
        return VideoDecodingError(no_frames(name))
    if head[4:8] == b"ftyp":
        return VideoDecodingError(_no_index(name))
    return VideoDecodingError(
        f"{name} is not a video that can be read ({type(error).__name__}). Expected mp4, mov, webm, mkv, avi, ...",
        reason="damaged" if head.startswith((EBML, b"RIFF")) else "no_video",
    )


def _head(source: Any, num_bytes: int, begin: int = 0) -> bytes:
    with open(source, "rb") if isinstance(source, str) else contextlib.nullcontext(source) as file:
        file.seek(begin)
        return file.read(num_bytes)


def _no_index(name: str) -> str:
    return (
        f"{name} is an mp4 or mov file without a readable index (`moov`), as when a recording or a download was cut "
        "off. Copy, download or record it again."
    )


def no_frames(name: str) -> str:
    return f"{name} has a video track without a single frame. Record or export it again."


def video_stream(container: Any, name: str) -> Any:
    """
    The track that players show: no cover or thumbnail, the default one before others, else the largest.

    Raises:
        VideoDecodingError: if there is none, or if it cannot be decoded.
    """
    pictures = av.stream.Disposition.attached_pic | av.stream.Disposition.timed_thumbnails
    streams = [stream for stream in container.streams.video if not stream.disposition & pictures]
    if not streams:
        kinds = sorted({stream.type for stream in container.streams})
        if "audio" not in kinds and container.format.name.startswith("mov"):
            raise VideoDecodingError(_no_index(name))
        found = ", ".join(kinds) or "nothing"
        raise VideoDecodingError(f"{name} has no video track (only: {found}). Pass a video file.", reason="no_picture")
    stream = max(streams, key=_rank_of_stream)
    if stream.codec_context is None:
        raise VideoDecodingError(
            f"{name} is in a video format that cannot be decoded. Convert it to H.264, VP9 or AV1.",
            reason="unsupported",
        )
    # On a machine that is busy with workers, waking FFmpeg's threads costs more than they gain.
    stream.thread_type = "NONE"
    return stream


def _rank_of_stream(stream: Any) -> tuple[bool, bool, bool, int]:
    """Of tracks of equal rank the first one is taken."""
    if stream.codec_context is None:
        return False, False, False, 0
    is_default = bool(stream.disposition & av.stream.Disposition.default)
    return True, stream.frames != 1, is_default, stream.codec_context.width * stream.codec_context.height


# Times


def read_times(source: Any, name: str, start: float | None = None, end: float | None = None) -> FileTimes:
    """
    Read the times of the frames from the keyframe before `start` up to `end` seconds, without decoding.

    Raises:
        VideoDecodingError: if the file cannot be read, or holds no frame there.
    """
    if _seek_target(start) is None or not _is_joined(source, name):
        times = _times_of_part(source, name, start, end, may_seek=True)
        if times.begins_at_the_beginning or times.seconds_of(times.first_time) <= start:
            return times
    # Joined recordings cannot be sought by time, and some containers lead to a keyframe behind the one that is needed.
    return _times_of_part(source, name, start, end, may_seek=False)


def _times_of_part(source: Any, name: str, start: float | None, end: float | None, may_seek: bool) -> FileTimes:
    with open_container(source, name) as container:
        stream = video_stream(container, name)
        packets = _read_packets(container, stream, start, end, may_seek)
        if not any(packets.are_shown):
            raise VideoDecodingError(beyond_the_end(start, name) if start else no_frames(name), reason="outside")
        return _file_times(container, stream, packets, source, start, end, may_seek)


@dataclass
class _Packets:
    """Of each packet with content, in the order of decoding; `last_end` is when the last one shown ends."""

    own_times: list[int | None]
    times: list[int | None]
    are_keyframes: list[bool]
    are_shown: list[bool]
    last_decoding_time: int
    last_duration: int
    was_read_to_the_end: bool
    is_by_order: bool = False


def _read_packets(container: Any, stream: Any, start: float | None, end: float | None, may_seek: bool) -> _Packets:
    packets = _Packets([], [], [], [], -(2**62), 0, True)
    is_avi = container.format.name == "avi"
    decoding_times = []
    latest = -(2**62)
    for packet in _demux(container, stream, start, end, may_seek):
        if packet.dts is not None:
            packets.last_decoding_time = max(packets.last_decoding_time, packet.dts)
        time = packet.dts if packet.pts is None and not is_avi else packet.pts
        packets.times.append(time)
        decoding_times.append(packet.dts)
        packets.are_keyframes.append(packet.is_keyframe)
        packets.are_shown.append(packet.size > 0 and not packet.is_discard)
        if time is not None and time >= latest:
            latest, packets.last_duration = time, packet.duration or 0
    packets.was_read_to_the_end = end is None or packets.last_decoding_time <= _last_time(stream, container, end)
    packets.own_times = packets.times
    if is_avi:
        packets.times, packets.is_by_order = _times_in_avi(packets.times, decoding_times)
    return packets


def _times_in_avi(times: list[int | None], decoding_times: list[int | None]) -> tuple[list[int | None], bool]:
    """
    AVI holds no times of display, so those of FFmpeg run behind. Where it tells by the kinds of the frames how they are
    reordered, these are right but for that delay; else only the order in which the decoder gives the frames is.
    """
    if None in times or None in decoding_times:
        return decoding_times, True
    delays = {time - decoding for time, decoding in zip(times, decoding_times, strict=True)}
    if len(delays) == 1:
        return decoding_times, True
    delay = min(times) - min(decoding_times)
    return [time - delay for time in times], False


def _demux(container: Any, stream: Any, start: float | None, end: float | None, may_seek: bool) -> Iterator[Any]:
    """
    Yield packets from the keyframe before `start` up to `end`, and `PACKETS_BEHIND_THE_END` more.
    """
    target = _seek_target(start)
    if target is not None and may_seek:
        time = _origin(container, stream) + int(target / stream.time_base)
        with contextlib.suppress(av.error.FFmpegError):  # without an index: read from the beginning
            container.seek(time, stream=stream, backward=True)
    last = _last_time(stream, container, end)
    with contextlib.suppress(av.error.FFmpegError):  # cut off: what came before still counts
        num_behind = 0
        for packet in container.demux(stream):
            if packet.size == 0 and packet.dts is None:  # PyAV's sign that no more comes
                return
            yield packet
            num_behind += packet.dts is not None and packet.dts > last
            if num_behind > PACKETS_BEHIND_THE_END:
                return


def _seek_target(start: float | None) -> float | None:
    target = (start or 0) - SEEK_MARGIN_IN_SECONDS
    return target if target > 0 else None


def _last_time(stream: Any, container: Any, end: float | None) -> float:
    return math.inf if end is None else _origin(container, stream) + end / stream.time_base


def _origin(container: Any, stream: Any) -> int:
    """
    The beginning of the file in units of the stream's time base: the first that is seen or heard. Sound before zero is
    what an encoder puts before its beginning; it is not played.
    """
    begin = max(container.start_time or 0, 0)
    origin = round(begin / av.time_base / stream.time_base)
    return origin if stream.start_time is None else min(origin, stream.start_time)


def _file_times(
    container: Any, stream: Any, packets: _Packets, source: Any, start: float | None, end: float | None, may_seek: bool
) -> FileTimes:
    times = _without_gaps_in_knowledge(packets.times)
    rising = times
    if container.format.name in FORMATS_THAT_CAN_BE_JOINED:
        rising = rising_times(times, packets.are_keyframes, float(1 / stream.time_base))
    if not stream.codec_context.has_b_frames:  # decoded in the order of display, whatever their times say
        rising = sorted(rising)
    display = sorted({time for time, is_shown in zip(rising, packets.are_shown, strict=True) if is_shown})
    is_whole = _seek_target(start) is None or not may_seek
    origin = _origin(container, stream)
    if container.start_time is None and is_whole:
        origin = display[0]
    ticks, per_second = stream.time_base.numerator, stream.time_base.denominator  # far quicker than a fraction
    seconds = [(time - origin) * ticks / per_second for time in display]
    stated_fps = float(stream.average_rate or stream.guessed_rate or 0) or None
    interval = usual_interval(seconds) or (1 / stated_fps if stated_fps else 0.0)
    length = float(packets.last_duration * stream.time_base)
    # Of fields, and with rates that headers guess, a duration is a little off; of a still picture it is far longer.
    end_in_seconds = seconds[-1] + (length if length > 3 * interval else interval)
    target = _seek_target(start)
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
            _num_unread_recordings(source, container.format.name) if packets.was_read_to_the_end else 0
        ),
        missing_at_end=_missing_at_end(container, stream, packets, source, end_in_seconds, interval, end),
    )


def _without_gaps_in_knowledge(times: Sequence[int | None]) -> list[int]:
    """Give packets without any time the usual distance from the one before."""
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
    Times of display of packets in the order of decoding, with each recording whose times begin anew put behind the one
    before it, and with single times that lie far from both of their neighbours put between them.
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


def _last_keyframe(rising: list[int], packets: _Packets, origin: int, target: float, stream: Any) -> int:
    """The last packet from which decoding gives all frames from the target on."""
    latest = origin + target / stream.time_base
    keyframes = [k for k, is_key in enumerate(packets.are_keyframes) if is_key and rising[k] <= latest]
    return keyframes[-1] if keyframes else 0


def usual_interval(seconds: Sequence[float]) -> float | None:
    """The mean seconds from one frame to the next, where the picture does not stand still; `None` for one frame."""
    if len(seconds) < 2:
        return None
    intervals = np.diff(seconds)
    return float(intervals[intervals <= 1.5 * np.median(intervals)].mean())


def _missing_at_end(
    container: Any, stream: Any, packets: _Packets, source: Any, end_in_seconds: float, interval: float, end: Any
) -> int:
    """How many frames the file announces behind the last one that it holds, as far as they were asked for."""
    if not packets.was_read_to_the_end:
        return 0
    kind, last = container.format.name, _last_time(stream, container, end)
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
    # A length in the header that ends later means nothing where the file is whole: sound is longer, pictures stay.
    if kind != "matroska,webm" or not container.duration or not interval or not _ends_early(source):
        return 0
    announced = (container.duration + min(container.start_time or 0, 0)) / av.time_base
    missing = (min(announced, math.inf if end is None else end) - end_in_seconds) / interval
    return round(missing) if missing >= 2 else 0


# Recordings that were joined byte by byte


def _is_joined(source: Any, name: str) -> bool:
    if not isinstance(source, str):
        return _times_begin_anew(source, name)
    status = os.stat(source)
    return _path_is_joined(source, name, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=MOST_FILES_REMEMBERED)
def _path_is_joined(path: str, name: str, size: int, modified: int) -> bool:
    return _times_begin_anew(path, name)


def _times_begin_anew(source: Any, name: str) -> bool:
    with open_container(source, name) as container:
        if container.format.name not in FORMATS_THAT_CAN_BE_JOINED:
            return False
        if container.format.name == "mpegvideo":  # has no times to seek by
            return True
        if container.format.name == "matroska,webm" and _matroska_end(source) >= _size(source):
            return False
        stream = video_stream(container, name)
        packets = _read_packets(container, stream, None, None, may_seek=False)
        times = _without_gaps_in_knowledge(packets.times)
        rising = rising_times(times, packets.are_keyframes, float(1 / stream.time_base))
        return max(rising, default=0) > max(times, default=0)


def _ends_early(source: Any) -> bool:
    return math.inf > _matroska_end(source) > _size(source)


def _size(source: Any) -> int:
    if isinstance(source, str):
        return os.path.getsize(source)
    return source.seek(0, os.SEEK_END)


def _matroska_end(source: Any, begin: int = 0) -> float:
    """Where a Matroska or WebM recording that begins at a byte says that it ends; 0 where it does not say."""
    head = _head(source, 256, begin)
    if not head.startswith(EBML):
        return 0
    size, content = _ebml_size(head, len(EBML))
    segment = content + size
    if head[segment : segment + 4] != SEGMENT:
        return 0
    size, content = _ebml_size(head, segment + len(SEGMENT))
    return begin + content + size if size >= 0 else 0


def _num_unread_recordings(source: Any, kind: str) -> int:
    """How many recordings FFmpeg does not reach: of joined Matroska files it reads two, of mp4 files one."""
    size, begin, num_recordings = _size(source), 0, 0
    if kind == "matroska,webm":
        while 0 <= begin < size and _head(source, 4, begin) == EBML:
            num_recordings, begin = num_recordings + 1, int(_matroska_end(source, begin)) or size
        return max(0, num_recordings - 2)
    while kind.startswith("mov") and begin < size:
        head = _head(source, 16, begin)
        length, name = int.from_bytes(head[:4], "big"), head[4:8]
        num_recordings += name == b"moov"
        length = int.from_bytes(head[8:16], "big") if length == 1 else length
        if length < 8 or name == b"moof":
            break
        begin += length
    return max(0, num_recordings - 1)


def _ebml_size(head: bytes, position: int) -> tuple[int, int]:
    """Size of an EBML element, -1 for an unknown one, and where its content begins."""
    if position >= len(head) or head[position] == 0:
        return -1, position
    length = 9 - head[position].bit_length()
    value = int.from_bytes(head[position : position + length], "big") & ((1 << 7 * length) - 1)
    return -1 if value == (1 << 7 * length) - 1 else value, position + length


def beyond_the_end(start: float, name: str, duration_in_seconds: float | None = None) -> str:
    length = "" if duration_in_seconds is None else f", which lasts {duration_in_seconds:.2f} seconds"
    return f"`start`={start:g} seconds lies beyond the end of {name}{length}. Give seconds, not frames."
