# Copyright 2026 The FLaLLM authors. Licensed under the Apache License, Version 2.0.
"""Video files as containers: opening them, and choosing the track with the picture."""

import contextlib
import os
from typing import Any

import av

from .video_files_slt import VideoDecodingError

# Playlist formats are left out on purpose: an uploaded playlist could name any other file or address.
VIDEO_FORMATS = "mov,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,asf,ogg,gif,apng,nut,mxf,ivf,rm,dv"
EBML = b"\x1a\x45\xdf\xa3"

# Titles are not always UTF-8: PyAV would raise an error for others, before its version 19.
TITLES_OF_ANY_ENCODING = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}


def open_container(source: Any, name: str) -> Any:
    """
    Open a path or a seekable binary file. FLaLLM opens all videos here: only in formats that contain their pictures
    themselves, and without access to other files or addresses.

    Raises:
        VideoDecodingError: if it cannot be read, saying why.
    """
    if isinstance(source, list) or (isinstance(source, str) and os.path.isdir(source)):
        raise VideoDecodingError(f"{name} is not a video file but a folder or a list of pictures.", reason="no_video")
    try:
        if not isinstance(source, str):
            source.seek(0)
        options = {"format_whitelist": VIDEO_FORMATS, "protocol_whitelist": "file"}
        return av.open(source, options=options, **TITLES_OF_ANY_ENCODING)
    except (av.error.FFmpegError, OSError, ValueError, MemoryError) as error:
        raise _why_not_a_video(source, name, error) from error


def _why_not_a_video(source: Any, name: str, error: Exception) -> VideoDecodingError:
    """Say why FFmpeg could not open a source: empty, an mp4 cut off before its index, or no video at all."""
    if isinstance(error, PermissionError):
        return VideoDecodingError(f"No permission to read {name}: {error}.")
    head = head_of(source, 12)
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


def head_of(source: Any, num_bytes: int, begin: int = 0) -> bytes:
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
