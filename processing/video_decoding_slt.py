# Copyright 2026 The FLaLLM authors. Licensed under the Apache License, Version 2.0.
"""Reads frames and their times from any kind of video: files, bytes, web addresses, arrays, pictures, folders of them.

The only decoder is PyAV: its wheel includes FFmpeg, so it works wherever it installs. A file is read twice: once
without decoding, for the time stamps, and once to decode, so that only the requested frames are ever held in memory.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from .video_file_frames_slt import decode_file, grey_frames_of_file
from .video_files_slt import VideoDecodingError
from .video_inputs_slt import open_video
from .video_pictures_slt import decode_pictures, grey_pictures
from .video_requests_slt import DecodedVideo, FrameRequest, check_request


def decode_video(
    video: Any,
    start: float | None = None,
    end: float | None = None,
    fps: float | None = None,
    sample_frame_indices: Callable[[int, float | None], Sequence[int]] | None = None,
    transform_frame: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> DecodedVideo:
    """Decode one video of any kind into RGB frames.

    `video` is a path (`str` or `Path`) of a video file or of a folder of pictures (in natural order), an http(s)
    address, bytes, an open binary file, the `{"path", "bytes"}` dictionary or the decoder object of a `datasets` video
    column, an array or tensor of shape (frames, height, width, channels), (frames, channels, height, width) or grey
    (frames, height, width), or a list of pictures (PIL), of arrays, or of picture paths. Channels are 1 (grey), 3 (RGB)
    or 4 (RGBA, alpha is dropped). Values are uint8, uint16, or floats from 0 to 1.

    `start` and `end` in seconds keep the frames with `start <= time < end` (or, when the part is shorter than a frame,
    the frame on screen at `start`), found by keyframe seek. Seconds count from the beginning of the file, as players
    and ELAN count them: a picture that begins 0.8 seconds after the sound begins at second 0.8. Arrays and pictures
    carry no time: `start` and `end` then need `fps`, their frame rate.

    Frames are uniform in **time**: a file of variable frame rate is put on a uniform grid at its usual frame rate, each
    grid point taking the frame that a player shows then; a still picture is repeated. Sampling every fourth frame thus
    samples at a constant rate. At a constant frame rate every frame is returned once, unchanged. Frames of rotated or
    mirrored phone videos and pictures are turned upright. Recordings that were joined byte by byte follow each other.

    `sample_frame_indices(num_frames, fps)` picks frames before they are converted; `transform_frame` maps each picked
    uint8 frame (3, height, width) to another (a resize, say), which keeps memory small for long or large videos.

    Raises `VideoDecodingError` for whatever cannot be read. A damaged file of which some frames decode gives those
    frames and a warning that says what is missing: missing frames at the beginning and the end are left out, those in
    between are replaced by the frame before.

    Example: `decode_video("clip.mp4", start=1.5, end=4.0).frames.shape`
    """
    request = FrameRequest(start, end, fps, sample_frame_indices, transform_frame)
    check_request(start, end, fps)
    video, name = open_video(video)
    if isinstance(video, (torch.Tensor, list, tuple)):
        return decode_pictures(video, name, request)
    return _with_tensor(next(decode_file(video, name, [_on_arrays(request)])))


def decode_segments(
    video: Any,
    segments: Sequence[tuple[float, float]],
    fps: float | None = None,
    sample_frame_indices: Callable[[int, float | None], Sequence[int]] | None = None,
    transform_frame: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> Iterator[DecodedVideo]:
    """
    Decode the parts of one video (start and end in seconds, both rising, overlaps allowed) one after the other.

    Each part is the same as from `decode_video` with that `start` and `end`, but a file is read only once from its
    first part to its last, however far apart its keyframes are, and only the current part is held in memory. The other
    arguments and the errors are those of `decode_video`.
    """
    requests = [FrameRequest(start, end, fps, sample_frame_indices, transform_frame) for start, end in segments]
    for request in requests:
        check_request(request.start, request.end, fps)
    for earlier, later in itertools.pairwise(requests):
        if later.start < earlier.start or later.end < earlier.end:
            raise VideoDecodingError(
                "The parts of a video must come in order of time, got "
                f"{earlier.start:g} to {earlier.end:g} before {later.start:g} to {later.end:g} seconds."
            )
    if not requests:
        return
    video, name = open_video(video)
    if isinstance(video, (torch.Tensor, list, tuple)):
        yield from (decode_pictures(video, name, request) for request in requests)
    else:
        yield from map(_with_tensor, decode_file(video, name, list(map(_on_arrays, requests))))


def stream_grey_pictures(
    video: Any, size_in_pixels: int, start: float | None = None, end: float | None = None, fps: float | None = None
) -> Iterator[tuple[float, np.ndarray]]:
    """
    Yield each frame of one video as its seconds in the file and a small grey picture, float32 from 0 to 255 of shape
    (size_in_pixels, size_in_pixels), upright; only the current one is held in memory. Takes and raises what
    `decode_video` does; arrays and pictures need `fps`.
    """
    request = FrameRequest(start, end, fps)
    check_request(start, end, fps)
    video, name = open_video(video)
    if isinstance(video, (torch.Tensor, list, tuple)):
        yield from grey_pictures(video, name, request, size_in_pixels)
    else:
        yield from grey_frames_of_file(video, name, request, size_in_pixels)


def _on_arrays(request: FrameRequest) -> FrameRequest:
    """The request with a transform that takes and returns arrays, as the reader of files has them."""
    transform = request.transform_frame
    if transform is None:
        return request
    return replace(request, transform_frame=lambda frame: transform(torch.from_numpy(frame)).numpy())


def _with_tensor(video: DecodedVideo) -> DecodedVideo:
    return replace(video, frames=torch.from_numpy(video.frames))
