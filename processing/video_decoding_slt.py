# Copyright 2026 The FLaLLM authors. Licensed under the Apache License, Version 2.0.
"""Frames and their times out of any kind of video: files, bytes, web addresses, arrays, pictures, folders of pictures.

One decoder, PyAV, because its wheel carries FFmpeg and so works wherever it installs. A file is read twice: once
without decoding, for the time stamps, and once to decode, so that only the frames that are asked for are ever held in
memory.
"""

import contextlib
import io
import itertools
import math
import os
import re
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from av.video.reformatter import VideoReformatter
from PIL import Image, ImageOps
from transformers.utils import logging

from .video_container_slt import (
    NUM_FRAMES_BEHIND,
    FileTimes,
    beyond_the_end,
    open_container,
    read_times,
    usual_interval,
    video_stream,
)
from .video_download_slt import download
from .video_files_slt import PICTURE_SUFFIXES, VideoDecodingError, is_picture_file

logger = logging.get_logger(__name__)

# Containers round time stamps (webm to 1 ms), users round seconds.
TIME_TOLERANCE_IN_SECONDS = 1e-3
# Between two frames that lie further apart than this, in usual intervals, the picture stands still.
LONGEST_INTERVAL = 1.5
# Time stamps may be damaged: a part in which pictures stand still comes out as so many frames at most, or as so many
# for each picture that it has.
MOST_FRAMES_OF_STILLS, MOST_REPEATS = 20_000, 100
LONGEST_STILL_IN_SECONDS = 0.25


@dataclass
class DecodedVideo:
    """Frames of one video, uniform in time before any sampling.

    `frames` is uint8 RGB of shape (frames, 3, height, width). `fps` is the frame rate of the source in frames per
    second, `duration_in_seconds` the length of the part that was read, `num_source_frames` the number of frames in that
    part, with a still picture counted as often as it is shown, and `frame_indices` which of them are in `frames`.
    `timestamps` are the seconds of each frame, counted from the beginning of the file. `fps`, `duration_in_seconds` and
    `timestamps` are `None` for pictures and arrays given without `fps`."""

    frames: torch.Tensor
    fps: float | None
    duration_in_seconds: float | None
    timestamps: list[float] | None
    num_source_frames: int
    frame_indices: list[int]


@dataclass
class FrameRequest:
    """What part of a video is wanted (`start` to `end` in seconds), which of its frames, and what is done to each."""

    start: float | None = None
    end: float | None = None
    fps: float | None = None
    sample_frame_indices: Callable[[int, float | None], Sequence[int]] | None = None
    transform_frame: Callable[[torch.Tensor], torch.Tensor] | None = None

    def sample(self, num_frames: int, fps: float | None) -> list[int]:
        """Return the sorted indices of the wanted frames among `num_frames`; all of them without a sampler."""
        if self.sample_frame_indices is None:
            return list(range(num_frames))
        return [int(index) for index in self.sample_frame_indices(num_frames, fps)]

    def transform(self, frame: torch.Tensor) -> torch.Tensor:
        """Apply the per-frame transform to a uint8 frame (3, height, width)."""
        return frame if self.transform_frame is None else self.transform_frame(frame)


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

    Frames come out uniform in **time**: a file of variable frame rate is put on a uniform grid at its usual frame rate,
    each grid point taking the frame that a player shows then; a picture that stands still comes out again and again.
    Sampling every fourth frame is thus sampling at a constant rate. At a constant frame rate every frame comes out
    once, unchanged. Frames of rotated or mirrored phone videos and pictures come out upright. Recordings that were
    joined byte by byte follow each other.

    `sample_frame_indices(num_frames, fps)` picks frames before they are converted; `transform_frame` maps each picked
    uint8 frame (3, height, width) to another (a resize, say), which keeps memory small for long or large videos.

    Raises `VideoDecodingError` for whatever cannot be read. A damaged file of which some frames decode gives those
    frames and a warning that says what is missing: frames at the beginning and the end are left out, for those in
    between the one before stays.

    Example: `decode_video("clip.mp4", start=1.5, end=4.0).frames.shape`
    """
    request = FrameRequest(start, end, fps, sample_frame_indices, transform_frame)
    _check_request(start, end, fps)
    video, name = _open_video(video)
    if isinstance(video, (torch.Tensor, list, tuple)):
        return _decode_frames(video, name, request)
    return next(_decode_file(video, name, [request]))


def decode_segments(
    video: Any,
    segments: Sequence[tuple[float, float]],
    fps: float | None = None,
    sample_frame_indices: Callable[[int, float | None], Sequence[int]] | None = None,
    transform_frame: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> Iterator[DecodedVideo]:
    """
    Decode the parts of one video (start and end in seconds, both rising, overlaps allowed) one after the other.

    Each part comes out as from `decode_video` with that `start` and `end`, but a file is read only once from its first
    part to its last, however far apart its keyframes are, and nothing but the current part is held. The other arguments
    and the errors are those of `decode_video`.
    """
    requests = [FrameRequest(start, end, fps, sample_frame_indices, transform_frame) for start, end in segments]
    for request in requests:
        _check_request(request.start, request.end, fps)
    for earlier, later in itertools.pairwise(requests):
        if later.start < earlier.start or later.end < earlier.end:
            raise VideoDecodingError(
                "The parts of a video must come in order of time, got "
                f"{earlier.start:g} to {earlier.end:g} before {later.start:g} to {later.end:g} seconds."
            )
    if not requests:
        return
    video, name = _open_video(video)
    if isinstance(video, (torch.Tensor, list, tuple)):
        yield from (_decode_frames(video, name, request) for request in requests)
    else:
        yield from _decode_file(video, name, requests)


def stream_grey_pictures(
    video: Any, size_in_pixels: int, start: float | None = None, end: float | None = None, fps: float | None = None
) -> Iterator[tuple[float, np.ndarray]]:
    """
    Yield each frame of one video as its seconds in the file and a small grey picture, float32 from 0 to 255 of shape
    (size_in_pixels, size_in_pixels), upright; nothing but the current one is held. Takes what `decode_video` takes and
    raises what it raises; arrays and pictures need `fps`.
    """
    request = FrameRequest(start, end, fps)
    _check_request(start, end, fps)
    video, name = _open_video(video)
    if isinstance(video, (torch.Tensor, list, tuple)):
        yield from _grey_frames(video, name, request, size_in_pixels)
    else:
        yield from _grey_frames_of_file(video, name, request, size_in_pixels)


def is_single_video(videos: Any) -> bool:
    """Tell one video from a batch: a list of pictures, of picture paths or of two- or three-dimensional frames is one
    video; any other list, and an array of five dimensions, is a batch."""
    if isinstance(videos, (np.ndarray, torch.Tensor)):
        return videos.ndim != 5
    if not isinstance(videos, (list, tuple)):
        return True
    return len(videos) > 0 and all(_is_frame(item) for item in videos)


def _is_frame(item: Any) -> bool:
    if isinstance(item, (str, Path)):
        return str(item).lower().endswith(PICTURE_SUFFIXES) and not os.path.isdir(item)
    if isinstance(item, (np.ndarray, torch.Tensor)):
        is_picture = item.ndim == 3 and (item.shape[0] in (1, 3, 4) or item.shape[-1] in (1, 3, 4))
        return item.ndim == 2 or is_picture
    return isinstance(item, Image.Image)


def _check_request(start: float | None, end: float | None, fps: float | None) -> None:
    for label, seconds in (("start", start), ("end", end)):
        is_number = isinstance(seconds, (int, float, np.number)) and not isinstance(seconds, bool)
        if seconds is not None and not (is_number and math.isfinite(seconds) and seconds >= 0):
            raise VideoDecodingError(f"`{label}` must be a number of seconds from 0 on, or None, got {seconds!r}.")
    if end is not None and (start or 0) >= end:
        raise VideoDecodingError(f"`start` must lie before `end`, got start={start} and end={end} seconds.")
    if fps is not None and not fps > 0:
        raise VideoDecodingError(f"`fps` must be the number of frames per second of the source, above 0, got {fps!r}.")


# Inputs


def _open_video(video: Any) -> tuple[Any, str]:
    """Reduce every kind of input to an absolute path, a seekable binary file, a tensor (frames, channels, height,
    width) or a list of frames, and give it a name for the error texts."""
    video, name = _open_input(video)
    is_array = isinstance(video, (np.ndarray, torch.Tensor))
    return _array_to_channels_first(video, name) if is_array else video, name


def _open_input(video: Any) -> tuple[Any, str]:
    if isinstance(video, dict):
        return _open_dictionary(video)
    if hasattr(video, "_hf_encoded"):  # what `datasets` attaches to the decoder it returns: the undecoded video
        return _open_input(video._hf_encoded)
    if isinstance(video, str) and "://" in video:
        return download(video), f"'{video}'"
    if isinstance(video, (str, Path)):
        return open_path(Path(video).expanduser())
    if isinstance(video, (bytes, bytearray, memoryview)):
        return io.BytesIO(video), f"the video given as {len(video)} bytes"
    if isinstance(video, (np.ndarray, torch.Tensor)):
        return video, f"the video given as an array of shape {tuple(video.shape)}"
    if isinstance(video, (list, tuple)):
        return video, f"the video given as a list of {len(video)} frames"
    if hasattr(video, "read"):
        return _open_file_object(video)
    raise VideoDecodingError(
        f"A video must be a path, an http(s) address, bytes, an open binary file, an array, a tensor, a list of frames "
        f"or a folder of frames, got {type(video).__name__}."
        + (" For a clip of one picture pass a list: [picture]." if isinstance(video, Image.Image) else "")
    )


def _open_dictionary(video: dict) -> tuple[Any, str]:
    path, content = video.get("path"), video.get("bytes")
    if content is not None:
        return io.BytesIO(content), f"'{path}'" if path else f"the video given as {len(content)} bytes"
    if path is not None:
        return _open_input(path)
    raise VideoDecodingError(
        f"A video given as a dictionary needs a 'path' or 'bytes' that is not None, got the keys {sorted(video)}."
    )


def open_path(path: Path) -> tuple[Any, str]:
    """-> the absolute path of a file as a string or the pictures of a folder, and the name for error texts."""
    if path.is_dir():
        return _list_pictures(path), f"the folder '{path}'"
    if not path.exists():
        raise VideoDecodingError(
            f"There is no video file '{path}'. Check the path (it is relative to '{Path.cwd()}').", reason="no_video"
        )
    # absolute: FFmpeg reads "concat:..." and the like at the start of a name as a protocol
    return str(path.absolute()), f"'{path}'"


def _list_pictures(folder: Path) -> list[Path]:
    pictures = [path for path in folder.iterdir() if is_picture_file(path)]
    if not pictures:
        raise VideoDecodingError(
            f"The folder '{folder}' holds no frames: expected pictures ({', '.join(PICTURE_SUFFIXES)}) directly in it."
        )
    return sorted(pictures, key=_natural_order)


def _natural_order(path: Path) -> list[tuple[int, int, str]]:
    """Sort key under which frame2 comes before frame10."""
    parts = re.findall(r"\d+|\D+", path.stem)
    return [(0, int(part), part) if part.isdecimal() else (1, 0, part) for part in parts]


def _open_file_object(file: Any) -> tuple[Any, str]:
    label = getattr(file, "name", None)
    name = f"'{label}'" if isinstance(label, str) else "the video given as a file object"
    seekable = hasattr(file, "seek") and (not hasattr(file, "seekable") or file.seekable())
    content = file.read(0) if seekable else file.read()
    if not isinstance(content, bytes):
        raise VideoDecodingError(f"{name} is open as text; open it in binary mode: open(path, 'rb').")
    return file if seekable else io.BytesIO(content), name


# Arrays and pictures


def _decode_frames(frames: Any, name: str, request: FrameRequest) -> DecodedVideo:
    """Decode frames that need no video decoder: a list of pictures, or an array already channels first."""
    if len(frames) == 0:
        raise VideoDecodingError(f"A video needs at least one frame, and {name} has none.")
    if request.fps is None and (request.start is not None or request.end is not None):
        raise VideoDecodingError(
            f"`start` and `end` are seconds, but {name} has no frame rate. Pass its frames per second, or pass the "
            "frames of that part only."
        )
    positions = range(len(frames))
    if request.fps is not None:
        positions = _positions_in_interval(
            [k / request.fps for k in positions], request, name, len(frames) / request.fps
        )
    indices = request.sample(len(positions), request.fps)
    wanted = [positions[index] for index in indices]
    if isinstance(frames, torch.Tensor):
        pixels = _array_to_rgb(frames if wanted == list(range(len(frames))) else frames[wanted], name)
        if request.transform_frame is not None:
            pixels = torch.stack([request.transform(frame) for frame in pixels])
    else:
        pixels = _stack([request.transform(_picture_to_rgb(frames[position], name)) for position in wanted], name)
    return DecodedVideo(
        frames=pixels,
        fps=request.fps,
        duration_in_seconds=None if request.fps is None else len(positions) / request.fps,
        timestamps=None if request.fps is None else [position / request.fps for position in wanted],
        num_source_frames=len(positions),
        frame_indices=indices,
    )


def _grey_frames(
    frames: Any, name: str, request: FrameRequest, size_in_pixels: int
) -> Iterator[tuple[float, np.ndarray]]:
    if len(frames) == 0:
        raise VideoDecodingError(f"A video needs at least one frame, and {name} has none.")
    if request.fps is None:
        raise VideoDecodingError(
            f"{name} has no frame rate, so its frames have no seconds. Pass its frames per second."
        )
    seconds = [k / request.fps for k in range(len(frames))]
    for position in _positions_in_interval(seconds, request, name, len(frames) / request.fps):
        if isinstance(frames, torch.Tensor):
            picture = _array_to_rgb(frames[position : position + 1], name)[0]
        else:
            picture = _picture_to_rgb(frames[position], name)
        grey = torch.nn.functional.adaptive_avg_pool2d(picture.float().mean(0, keepdim=True), size_in_pixels)
        yield seconds[position], grey[0].numpy()


def _stack(frames: list[torch.Tensor], name: str) -> torch.Tensor:
    sizes = sorted({tuple(frame.shape[-2:]) for frame in frames})
    if len(sizes) > 1:
        raise VideoDecodingError(f"All frames of a video must have one size; {name} has (height, width) {sizes}.")
    return torch.stack(frames)


def _picture_to_rgb(picture: Any, name: str) -> torch.Tensor:
    """Convert one picture (path, PIL image or array) to uint8 RGB of shape (3, height, width)."""
    if isinstance(picture, (str, Path, Image.Image)):
        return _picture_to_rgb(_read_picture(picture, name), name)
    if not isinstance(picture, (np.ndarray, torch.Tensor)) or picture.ndim not in (2, 3):
        found = type(picture).__name__ if not hasattr(picture, "shape") else f"shape {tuple(picture.shape)}"
        raise VideoDecodingError(
            f"Frames must be pictures, picture paths or arrays of shape (height, width, channels), "
            f"got {found} in {name}."
        )
    return _array_to_rgb(_array_to_channels_first(picture[None], name), name)[0]


def _read_picture(picture: Any, name: str) -> np.ndarray:
    """The pixels of a picture file or of a PIL image, upright as cameras mark them."""
    file = contextlib.nullcontext(picture) if isinstance(picture, Image.Image) else None
    label = f"A frame of {name}" if file is not None else f"The frame '{picture}' of {name}"
    try:
        with file or Image.open(picture) as image:
            image = ImageOps.exif_transpose(image)
            # PIL clips 16-bit grey instead of scaling it
            return np.array(image).astype(np.uint16) if image.mode.startswith("I") else np.array(image.convert("RGB"))
    except Exception as error:  # Pillow's readers raise whatever they meet: SyntaxError, DecompressionBombError, ...
        reason = str(error) or type(error).__name__
        raise VideoDecodingError(f"{label} is not a readable picture: {reason}.") from error


def _array_to_channels_first(array: Any, name: str) -> torch.Tensor:
    """Return a tensor (frames, channels, height, width) of 1, 3 or 4 channels; nothing is copied."""
    if isinstance(array, np.ndarray):
        if array.dtype.kind not in "uif" or array.dtype.byteorder == ">":
            raise VideoDecodingError(_wrong_dtype(array.dtype, name))
        array = torch.from_numpy(array if array.flags.writeable else array.copy())
    first = array.ndim == 4 and array.shape[1] in (1, 3, 4)
    last = array.ndim == 4 and array.shape[3] in (1, 3, 4)
    if array.ndim == 3 and array.shape[2] not in (1, 3, 4):
        return array.unsqueeze(1)
    if not (first or last):
        raise VideoDecodingError(
            f"An array must have the shape (frames, height, width, channels), (frames, channels, height, width) or "
            f"grey (frames, height, width), with 1, 3 or 4 channels; got {tuple(array.shape)}. A single picture is a "
            "clip of one frame as array[None]."
        )
    return array if first else array.permute(0, 3, 1, 2)


def _array_to_rgb(array: torch.Tensor, name: str) -> torch.Tensor:
    """Convert (frames, 1|3|4, height, width) of uint8, uint16 or floats from 0 to 1 to uint8 RGB."""
    if 0 in array.shape:
        raise VideoDecodingError(f"A video needs at least one frame with pixels; {name} has none.")
    if array.dtype == torch.uint16:
        array = (array.to(torch.int32) // 257).to(torch.uint8)
    elif array.is_floating_point():
        lowest, highest = array.amin().item(), array.amax().item()
        if not (lowest >= 0 and highest <= 1):
            raise VideoDecodingError(
                f"Float frames must hold values from 0 to 1, got {lowest:g} to {highest:g} in {name}. Pass uint8 "
                "frames, or divide by 255; do not normalise them, the processor does."
            )
        array = array.float().mul(255).round().to(torch.uint8)
    elif array.dtype != torch.uint8:
        raise VideoDecodingError(_wrong_dtype(array.dtype, name))
    return array.expand(-1, 3, -1, -1) if array.shape[1] == 1 else array[:, :3]


def _wrong_dtype(dtype: Any, name: str) -> str:
    return (
        f"Frames must be uint8 (0 to 255), uint16 (0 to 65535) or floats (0 to 1), got {dtype} in {name}. "
        "Convert them: frames.astype('uint8')."
    )


# Files


@dataclass
class FilePart:
    """
    One part of a file while it is decoded: `positions` are its frames among those of the file, `wanted` which of these
    are to come out, `indices` what the wanted ones are in the part, and `first_second` is where it begins.
    """

    request: FrameRequest
    positions: range
    fps: float | None
    num_frames: int
    first_second: float
    indices: list[int]
    wanted: list[int]
    frames: list[torch.Tensor] = field(default_factory=list)
    num_skipped: int = 0

    @property
    def is_complete(self) -> bool:
        return self.num_skipped + len(self.frames) == len(self.wanted)

    @property
    def next_wanted(self) -> int:
        return self.wanted[self.num_skipped + len(self.frames)]

    def take(self, frame: Any, shown: Any, display_times: list[int], convert: Callable[[Any], Any]) -> None:
        """
        Keep the frame for each wanted position whose time it reaches. In place of one that the decoder did not deliver
        comes the frame before, which was then on screen; where nothing was, nothing comes.
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
                on_screen = shown if is_missing else frame
                self.frames.append(self.request.transform(_upright(_pixels(convert(on_screen)), on_screen)))
                kept = position


def _decode_file(source: Any, name: str, requests: Sequence[FrameRequest]) -> Iterator[DecodedVideo]:
    """Decode parts of one file that lie in order of time in one go from the first to the last."""
    whole = replace(requests[0], end=requests[-1].end)
    times = read_times(source, name, whole.start, whole.end)
    parts = deque(_plan_part(times, request, name) for request in requests)
    came = bytearray(len(times.display_times))
    shown, convert = None, None
    with open_container(source, name) as container:
        for frame in _decoded(container, video_stream(container, name), times, whole):
            _note(came, frame.pts, times.display_times)
            convert = convert or _conversion_to_rgb(frame.width, frame.height, name)
            for part in parts:
                if times.display_times[part.wanted[0]] > frame.pts:
                    break
                part.take(frame, shown, times.display_times, convert)
            while parts and parts[0].is_complete:
                yield _finish_part(parts.popleft(), times, came, name)
            if not parts:
                return
            shown = frame
    # A file that is damaged or cut off: its last frames do not come.
    yield from (_finish_part(part, times, came, name) for part in parts)


def _note(came: bytearray, time: int, display_times: list[int]) -> None:
    """Mark the frame that was decoded."""
    position = bisect_left(display_times, time)
    if position < len(display_times) and display_times[position] == time:
        came[position] = 1


def _plan_part(times: FileTimes, request: FrameRequest, name: str) -> FilePart:
    seconds = times.seconds
    _check_that_picture_has_begun(times, request, name)
    positions = _positions_in_interval(seconds, request, name, times.end_in_seconds)
    # The same, whether the part is read alone or with others.
    around = seconds[max(0, positions.start - 1) : positions.stop + NUM_FRAMES_BEHIND]
    interval = usual_interval(around) or (1 / times.stated_fps if times.stated_fps else None)
    if interval is None:
        return _part_of_one_frame(times, request, positions)
    positions, first_second, stop = _part_on_screen(times, request, positions, interval)
    interval = max(interval, (stop - first_second) / max(MOST_FRAMES_OF_STILLS, len(positions) * MOST_REPEATS))
    num_frames = _size_of_grid(seconds[positions[-1]], first_second, stop, interval)
    on_grid = _on_screen(seconds, positions, first_second, num_frames, interval)
    indices = request.sample(num_frames, 1 / interval)
    wanted = [positions.start + int(on_grid[index]) for index in indices]
    return FilePart(request, positions, 1 / interval, num_frames, first_second, indices, wanted)


def _part_of_one_frame(times: FileTimes, request: FrameRequest, positions: range) -> FilePart:
    indices = request.sample(1, None)
    return FilePart(request, positions, None, 1, times.seconds[0], indices, [0 for _ in indices])


def _check_that_picture_has_begun(times: FileTimes, request: FrameRequest, name: str) -> None:
    is_before = request.end is not None and request.end <= times.seconds[0] - TIME_TOLERANCE_IN_SECONDS
    if is_before and times.begins_at_the_beginning:
        raise VideoDecodingError(
            f"The picture of {name} begins at {times.seconds[0]:.2f} seconds, and `end`={request.end:g} lies before "
            "it. Seconds count from the beginning of the file.",
            reason="outside",
        )


def _part_on_screen(
    times: FileTimes, request: FrameRequest, positions: range, interval: float
) -> tuple[range, float, float]:
    """
    -> the positions of the frames that are on screen in a part, and the seconds from when to when they are: a picture
    that stands still stays until the next one comes.
    """
    seconds, longest = times.seconds, LONGEST_INTERVAL * interval
    first, last = positions[0], positions[-1]
    first_second = seconds[first]
    start = request.start or 0.0
    if first > 0 and first_second - start > longest:  # the picture before stands still at `start`
        first, first_second = first - 1, start
    gone_at = seconds[last + 1] if last + 1 < len(seconds) else times.end_in_seconds
    is_still = gone_at - first_second > longest
    if is_still and start - first_second > TIME_TOLERANCE_IN_SECONDS:  # no frame begins in the part
        first_second = start
    return range(first, last + 1), first_second, gone_at if request.end is None else min(request.end, gone_at)


def _size_of_grid(last_second: float, first_second: float, stop: float, interval: float) -> int:
    """How many points at equal intervals the part has: up to its last frame, or to its end where that stands still."""
    if stop - last_second > LONGEST_INTERVAL * interval:
        return max(1, math.ceil((stop - first_second - TIME_TOLERANCE_IN_SECONDS) / interval))
    return max(1, round((last_second - first_second) / interval) + 1)


def _on_screen(
    seconds: Sequence[float], positions: range, first_second: float, num_frames: int, interval: float
) -> np.ndarray:
    """Which of the positions is shown at each point of the grid: the nearest frame, or one that stands still."""
    begins = np.asarray(seconds[positions.start : positions.stop]) - interval / 2
    grid = first_second + np.arange(num_frames) * interval
    return (np.searchsorted(begins, grid, side="right") - 1).clip(0)


def _finish_part(part: FilePart, times: FileTimes, came: bytearray, name: str) -> DecodedVideo:
    # What lies behind the last wanted frame was not decoded.
    looked_at = part.positions if not part.is_complete else range(part.positions.start, part.wanted[-1] + 1)
    missing = [position for position in looked_at if not came[position]]
    if not part.frames or len(missing) == len(looked_at):
        raise _nothing_decoded(len(part.wanted), name)
    # Frames before the first that can be decoded alone are in the file, and no player shows them.
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
            f"{name} holds {times.num_unread_recordings} more recording(s) behind what can be read, as files do that "
            "were joined byte by byte. Join them with a video program."
        )
    _report_long_stills(part, times, name)
    indices = part.indices[part.num_skipped : part.num_skipped + len(part.frames)]
    return DecodedVideo(
        frames=_stack(part.frames, name),
        fps=part.fps,
        duration_in_seconds=part.num_frames / part.fps if part.fps else None,
        timestamps=[part.first_second + index / part.fps if part.fps else part.first_second for index in indices],
        num_source_frames=part.num_frames,
        frame_indices=indices,
    )


def _report_long_stills(part: FilePart, times: FileTimes, name: str) -> None:
    """A file that shows one picture for long looks like one of which the pictures between were lost."""
    for position in part.positions[:-1]:
        begin, end = times.seconds[position], times.seconds[position + 1]
        if end - begin > LONGEST_STILL_IN_SECONDS and end - begin > LONGEST_INTERVAL / part.fps:
            logger.warning_once(
                f"{name} holds no new picture from second {begin:.2f} to {end:.2f}: the one before stays on screen."
            )


def _where_missing(missing: list[int], times: FileTimes, missing_at_end: int) -> str:
    """Say how many frames are missing, and from when to when; the seconds of the first three gaps."""
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


def _grey_frames_of_file(
    source: Any, name: str, request: FrameRequest, size_in_pixels: int
) -> Iterator[tuple[float, np.ndarray]]:
    times = read_times(source, name, request.start, request.end)
    positions = _plan_part(times, request, name).positions
    first, last = (times.display_times[position] for position in (positions[0], positions[-1]))
    # One for all frames: making its tables takes longer than shrinking a frame with them.
    shrink = partial(VideoReformatter().reformat, interpolation="AREA", threads=1, format="gray")
    latest = None
    with open_container(source, name) as container:
        stream = video_stream(container, name)
        for frame in _decoded(container, stream, times, request):
            if not first <= frame.pts <= last or (latest is not None and frame.pts <= latest):
                continue
            grey = shrink(frame, width=size_in_pixels, height=size_in_pixels).to_ndarray()
            picture = _upright(torch.from_numpy(grey)[None], frame)[0]
            yield times.seconds_of(frame.pts), picture.numpy().astype(np.float32)
            latest = frame.pts
    if latest is None:
        raise _nothing_decoded(len(positions), name)


def _nothing_decoded(num_wanted: int, name: str) -> VideoDecodingError:
    return VideoDecodingError(
        f"None of the {num_wanted} frames of {name} could be decoded: the file is damaged or cut off. Copy, download "
        "or record it again."
    )


def _positions_in_interval(seconds: Sequence[float], request: FrameRequest, name: str, end_in_seconds: float) -> range:
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


def _decoded(container: Any, stream: Any, times: FileTimes, request: FrameRequest) -> Iterator[Any]:
    """Yield the decodable frames in the order of display, with their display times in `pts`."""
    times_by_order = iter(times.display_times) if times.is_by_order else None
    packets = times.packets_to_decode(container, stream, request.start, request.end)
    for packet in itertools.chain(packets, [None]):  # None: what the decoder still holds
        try:
            frames = stream.decode(packet)
        except av.error.FFmpegError:
            continue
        for frame in frames:
            if times_by_order is not None:
                frame.pts = next(times_by_order, None)
            if frame.pts is not None:
                yield frame


def _conversion_to_rgb(width: int, height: int, name: str) -> Callable[[Any], Any]:
    """One for all frames of a video: making its tables takes longer than converting a small frame with them."""
    reformat = partial(VideoReformatter().reformat, width=width, height=height, format="rgb24", threads=1)

    def convert(frame: Any) -> Any:
        try:
            return reformat(frame)
        except (av.error.FFmpegError, ValueError, MemoryError) as error:
            raise VideoDecodingError(
                f"The pictures of {name} ({width} x {height} pixels, {frame.format.name}) cannot be converted to RGB: "
                f"{str(error) or type(error).__name__}.",
                reason="unsupported",
            ) from error

    return convert


def _pixels(frame: Any) -> torch.Tensor:
    """Of an RGB frame, uint8 (3, height, width)."""
    return torch.from_numpy(frame.to_ndarray()).permute(2, 0, 1)


def _upright(pixels: torch.Tensor, frame: Any) -> torch.Tensor:
    """Turn and mirror the pixels (channels, height, width) of a frame as its display matrix says."""
    matrix = next((data for data in frame.side_data if data.type.name == "DISPLAYMATRIX"), None)
    if matrix is None:
        return pixels
    # A pixel (x, y) is displayed at (a x + c y, b x + d y); phones only ever turn by quarters and mirror.
    a, b, _, c, d = np.frombuffer(bytes(matrix), dtype=np.int32)[:5]
    if abs(int(a)) < abs(int(b)):
        pixels, a, d = pixels.transpose(1, 2), c, b
    flipped = [axis for axis, factor in ((2, a), (1, d)) if factor < 0]
    return pixels.flip(flipped) if flipped else pixels
