# Copyright 2026 The FLaLLM authors. Licensed under the Apache License, Version 2.0.
"""Recordings that were joined byte by byte, and where each of them ends according to its format."""

import functools
import math
import os
from typing import Any

from .video_container_slt import EBML, head_of, open_container, video_stream
from .video_packets_slt import read_packets, rising_times, without_gaps_in_knowledge

# The times of such recordings start again, which misleads seeking by time.
FORMATS_THAT_CAN_BE_JOINED = ("mpegts", "mpeg", "mpegvideo", "matroska,webm", "ogg")
MOST_FILES_REMEMBERED = 4096
SEGMENT = b"\x18\x53\x80\x67"


def is_joined(source: Any, name: str) -> bool:
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
        packets = read_packets(container, stream, None, None, may_seek=False)
        times = without_gaps_in_knowledge(packets.times)
        rising = rising_times(times, packets.are_keyframes, float(1 / stream.time_base))
        return max(rising, default=0) > max(times, default=0)


def ends_early(source: Any) -> bool:
    return math.inf > _matroska_end(source) > _size(source)


def _size(source: Any) -> int:
    if isinstance(source, str):
        return os.path.getsize(source)
    return source.seek(0, os.SEEK_END)


def _matroska_end(source: Any, begin: int = 0) -> float:
    """The byte at which a Matroska or WebM recording starting at `begin` says that it ends; 0 if it does not say."""
    head = head_of(source, 256, begin)
    if not head.startswith(EBML):
        return 0
    size, content = _ebml_size(head, len(EBML))
    segment = content + size
    if head[segment : segment + 4] != SEGMENT:
        return 0
    size, content = _ebml_size(head, segment + len(SEGMENT))
    return begin + content + size if size >= 0 else 0


def num_unread_recordings(source: Any, kind: str) -> int:
    """How many recordings FFmpeg does not reach: of joined Matroska files it reads two, of mp4 files one."""
    if isinstance(source, str):
        with open(source, "rb") as file:  # once for all heads
            return num_unread_recordings(file, kind)
    size, begin, num_recordings = _size(source), 0, 0
    if kind == "matroska,webm":
        while 0 <= begin < size and head_of(source, 4, begin) == EBML:
            num_recordings, begin = num_recordings + 1, int(_matroska_end(source, begin)) or size
        return max(0, num_recordings - 2)
    while kind.startswith("mov") and begin < size:
        head = head_of(source, 16, begin)
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
