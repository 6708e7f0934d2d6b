# Copyright 2026 The FLaLLM authors. Licensed under the Apache License, Version 2.0.
"""Frames and their times out of any kind of video: files, bytes, web addresses, arrays, pictures, folders of pictures.

One decoder, PyAV, because its wheel carries FFmpeg and so works wherever it installs. A file is read twice: once
without decoding, for the time stamps, and once to decode, so that only the frames that are asked for are ever held in
memory. Nothing is taken from the header: browser recordings state neither a frame count nor a frame rate.
"""

import contextlib
import io
import itertools
import math
import os
import re
import urllib.error
import urllib.request
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
from PIL import Image, UnidentifiedImageError
from transformers.utils import logging

from .video_files_flallm import PICTURE_SUFFIXES, is_picture_file

logger = logging.get_logger(__name__)

# Playlist formats are left out on purpose: an uploaded playlist could name any other file or address.
VIDEO_FORMATS = "mov,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,asf,ogg,gif,apng,nut,mxf,ivf,rm,dv"
DOWNLOAD_TIMEOUT_IN_SECONDS = 30
# Containers round time stamps (webm to 1 ms), users round seconds.
TIME_TOLERANCE_IN_SECONDS = 1e-3
# Seek a little earlier than asked: containers seek by decoding time, which runs ahead of the time of display.
SEEK_MARGIN_IN_SECONDS = 1.0


class VideoDecodingError(ValueError):
    """A video that cannot be read as asked; the text names the video, what was expected and what to do."""


@dataclass
class DecodedVideo:
    """Frames of one video, uniform in time before any sampling.

    `frames` is uint8 RGB of shape (frames, 3, height, width). `fps` is the frame rate of the source in frames per
    second, `duration_in_seconds` the length of the part that was read, `num_source_frames` the number of frames in that
    part and `frame_indices` which of them are in `frames`. `timestamps` are the seconds of each frame, counted from the
    start of the file. `fps`, `duration_in_seconds` and `timestamps` are `None` for pictures and arrays given without
    `fps`."""

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
    the frame on screen at `start`), found by keyframe seek. Arrays and pictures carry no time: `start` and `end` then
    need `fps`, their frame rate.

    Frames come out uniform in **time**: a file of variable frame rate is put on a uniform grid of as many frames as the
    part has, at its mean frame rate, each grid point taking the frame nearest in time. Sampling every fourth frame is
    thus sampling at a constant rate. At a constant frame rate every frame comes out once, unchanged. Frames of rotated
    or mirrored phone videos come out upright.

    `sample_frame_indices(num_frames, fps)` picks frames before they are converted; `transform_frame` maps each picked
    uint8 frame (3, height, width) to another (a resize, say), which keeps memory small for long or large videos.

    Raises `VideoDecodingError` for whatever cannot be read; a damaged file of which some frames decode gives those
    frames and a warning.

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
        return _download(video), f"'{video}'"
    if isinstance(video, (str, Path)):
        return _open_path(Path(video).expanduser())
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


def _open_path(path: Path) -> tuple[Any, str]:
    if path.is_dir():
        return _list_pictures(path), f"the folder '{path}'"
    if not path.exists():
        raise VideoDecodingError(f"There is no video file '{path}'. Check the path (it is relative to '{Path.cwd()}').")
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


def _download(address: str) -> io.BytesIO:
    if not address.lower().startswith(("http://", "https://")):
        raise VideoDecodingError(f"Only http:// and https:// addresses are read, got '{address}'. Download it first.")
    request = urllib.request.Request(address, headers={"User-Agent": "flallm"})
    try:
        with urllib.request.urlopen(request, timeout=DOWNLOAD_TIMEOUT_IN_SECONDS) as response:
            return io.BytesIO(response.read())
    except (urllib.error.URLError, OSError, ValueError) as error:
        raise VideoDecodingError(
            f"'{address}' could not be downloaded: {error}. Check the address, or download the video and pass its path."
        ) from error


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
        positions = _positions_in_interval([k / request.fps for k in positions], request, name, 1 / request.fps)
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
    for position in _positions_in_interval(seconds, request, name, 1 / request.fps):
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
    if isinstance(picture, (str, Path)):
        try:
            with Image.open(picture) as image:
                return _picture_to_rgb(image, f"'{picture}'")
        except (UnidentifiedImageError, OSError) as error:
            raise VideoDecodingError(f"The frame '{picture}' of {name} is not a readable picture: {error}.") from error
    if isinstance(picture, Image.Image):
        # PIL clips 16-bit grey instead of scaling it
        is_16_bit = picture.mode.startswith("I")
        array = np.array(picture).astype(np.uint16) if is_16_bit else np.array(picture.convert("RGB"))
        return _picture_to_rgb(array, name)
    if not isinstance(picture, (np.ndarray, torch.Tensor)) or picture.ndim not in (2, 3):
        found = type(picture).__name__ if not hasattr(picture, "shape") else f"shape {tuple(picture.shape)}"
        raise VideoDecodingError(
            f"Frames must be pictures, picture paths or arrays of shape (height, width, channels), "
            f"got {found} in {name}."
        )
    return _array_to_rgb(_array_to_channels_first(picture[None], name), name)[0]


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
class FileTimes:
    """Display times of the frames of a file in `seconds` and, in `packets`, in units of the stream's time base;
    `origin`, the first one in those units, and the frame rate that the header states."""

    packets: "PacketTimes"
    seconds: list[float]
    origin: int
    stated_fps: float | None


@dataclass
class FilePart:
    """One part of a file while it is decoded: the frames that are wanted of it, and those that came so far."""

    request: FrameRequest
    positions: Sequence[int]
    fps: float | None
    indices: list[int]
    wanted: list[int]
    frames: list[torch.Tensor] = field(default_factory=list)

    @property
    def is_complete(self) -> bool:
        return len(self.frames) == len(self.wanted)

    def take(self, frame: Any, shown: Any, display_times: list[int], convert: Callable[[Any], Any]) -> None:
        """Keep the frame for each wanted position whose time it reaches; one that the decoder did not deliver is
        replaced by the frame before, which was then on screen."""
        while not self.is_complete and display_times[self.wanted[len(self.frames)]] <= frame.pts:
            is_missing = display_times[self.wanted[len(self.frames)]] < frame.pts
            on_screen = shown if is_missing and shown is not None else frame
            self.frames.append(self.request.transform(_upright(_pixels(convert(on_screen)), on_screen)))


def _decode_file(source: Any, name: str, requests: Sequence[FrameRequest]) -> Iterator[DecodedVideo]:
    """Decode parts of one file that lie in order of time in one go from the first to the last."""
    whole = replace(requests[0], end=requests[-1].end)
    times = _read_times(source, name, whole)
    parts = deque(_plan_part(times, request, name) for request in requests)
    shown, convert = None, None
    with _open_container(source, name) as container:
        for frame in _decoded(container, _video_stream(container, name), times.packets, whole):
            convert = convert or _conversion_to_rgb(frame.width, frame.height)
            for part in parts:
                if times.packets.display_times[part.wanted[0]] > frame.pts:
                    break
                part.take(frame, shown, times.packets.display_times, convert)
            while parts and parts[0].is_complete:
                yield _finish_part(parts.popleft(), times, name)
            if not parts:
                return
            shown = frame
    # A file that is damaged or cut off: its last frames do not come.
    yield from (_finish_part(part, times, name) for part in parts)


def _read_times(source: Any, name: str, request: FrameRequest) -> FileTimes:
    with _open_container(source, name) as container:
        stream = _video_stream(container, name)
        origin = stream.start_time or 0
        packets = _read_packet_times(container, stream, request)
        if not packets.display_times:
            raise VideoDecodingError(_beyond_the_end(request.start, name) if request.start else _no_frames(name))
        seconds = [float((time - origin) * stream.time_base) for time in packets.display_times]
        stated_fps = float(stream.average_rate or stream.guessed_rate or 0) or None
    return FileTimes(packets, seconds, origin, stated_fps)


def _plan_part(times: FileTimes, request: FrameRequest, name: str) -> FilePart:
    frame_duration_in_seconds = 1 / times.stated_fps if times.stated_fps else 0
    positions = _positions_in_interval(times.seconds, request, name, frame_duration_in_seconds)
    fps, uniform = _uniform_in_time([times.seconds[position] for position in positions])
    fps = fps or times.stated_fps
    indices = request.sample(len(positions), fps)
    return FilePart(request, positions, fps, indices, [positions[uniform[index]] for index in indices])


def _finish_part(part: FilePart, times: FileTimes, name: str) -> DecodedVideo:
    if not part.frames:
        raise _nothing_decoded(len(part.wanted), name)
    if times.packets.is_damaged or not part.is_complete:
        logger.warning(f"{name} is damaged or cut off: going on with the {len(part.frames)} frames that were decoded.")
    first_second, fps = times.seconds[part.positions[0]], part.fps
    indices = part.indices[: len(part.frames)]
    return DecodedVideo(
        frames=_stack(part.frames, name),
        fps=fps,
        duration_in_seconds=len(part.positions) / fps if fps else None,
        timestamps=[first_second + index / fps if fps else first_second for index in indices],
        num_source_frames=len(part.positions),
        frame_indices=indices,
    )


def _grey_frames_of_file(
    source: Any, name: str, request: FrameRequest, size_in_pixels: int
) -> Iterator[tuple[float, np.ndarray]]:
    times = _read_times(source, name, request)
    positions = _plan_part(times, request, name).positions
    first, last = (times.packets.display_times[position] for position in (positions[0], positions[-1]))
    # One for all frames: making its tables takes longer than shrinking a frame with them.
    shrink = partial(VideoReformatter().reformat, interpolation="AREA", threads=1, format="gray")
    is_empty = True
    with _open_container(source, name) as container:
        stream = _video_stream(container, name)
        for frame in _decoded(container, stream, times.packets, request):
            if not first <= frame.pts <= last:
                continue
            grey = shrink(frame, width=size_in_pixels, height=size_in_pixels).to_ndarray()
            picture = _upright(torch.from_numpy(grey)[None], frame)[0]
            yield float((frame.pts - times.origin) * stream.time_base), picture.numpy().astype(np.float32)
            is_empty = False
    if is_empty:
        raise _nothing_decoded(len(positions), name)


def _nothing_decoded(num_wanted: int, name: str) -> VideoDecodingError:
    return VideoDecodingError(
        f"None of the {num_wanted} frames of {name} could be decoded: the file is damaged or cut off. Copy, download "
        "or record it again."
    )


def _open_container(source: Any, name: str) -> Any:
    if not isinstance(source, str):
        source.seek(0)
    try:
        return av.open(source, options={"format_whitelist": VIDEO_FORMATS, "protocol_whitelist": "file"})
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise VideoDecodingError(_why_not_a_video(source, name, error)) from error


def _why_not_a_video(source: Any, name: str, error: Exception) -> str:
    """Say why FFmpeg could not open a source: empty, an mp4 cut off before its index, or no video at all."""
    if isinstance(error, PermissionError):
        return f"{name} may not be read: {error}."
    with open(source, "rb") if isinstance(source, str) else contextlib.nullcontext(source) as file:
        file.seek(0)
        head = file.read(12)
    if not head:
        return f"{name} is empty (0 bytes). Copy, download or record it again."
    if isinstance(error, av.error.EOFError):
        return _no_frames(name)
    if head[4:8] == b"ftyp":
        return _no_index(name)
    return f"{name} is not a video that can be read ({type(error).__name__}). Expected mp4, mov, webm, mkv, avi, ..."


def _no_index(name: str) -> str:
    return (
        f"{name} is an mp4 or mov file without a readable index (`moov`), as when a recording or a download was cut "
        "off. Copy, download or record it again."
    )


def _no_frames(name: str) -> str:
    return f"{name} has a video track without a single frame. Record or export it again."


def _video_stream(container: Any, name: str) -> Any:
    cover_art = av.stream.Disposition.attached_pic
    streams = [stream for stream in container.streams.video if not stream.disposition & cover_art]
    if not streams:
        kinds = sorted({stream.type for stream in container.streams})
        if "audio" not in kinds and container.format.name.startswith("mov"):
            raise VideoDecodingError(_no_index(name))
        raise VideoDecodingError(
            f"{name} has no video track (only: {', '.join(kinds) or 'nothing'}). Pass a video file."
        )
    if streams[0].codec_context is None:
        raise VideoDecodingError(
            f"{name} is in a video format that cannot be decoded. Convert it to H.264, VP9 or AV1."
        )
    # On a machine that is busy with workers, waking FFmpeg's threads costs more than they gain.
    streams[0].thread_type = "NONE"
    return streams[0]


@dataclass
class PacketTimes:
    """Display times of the packets from the seek point on, in units of the stream's time base, sorted."""

    display_times: list[int]
    is_damaged: bool


def _demux(container: Any, stream: Any, request: FrameRequest) -> Iterator[Any]:
    """Yield packets from the keyframe before `start` up to and with the first one that is decoded after `end`."""
    origin = stream.start_time or 0
    seek_to = (request.start or 0) - SEEK_MARGIN_IN_SECONDS
    if seek_to > 0:
        with contextlib.suppress(av.error.FFmpegError):  # without an index: read from the beginning
            container.seek(origin + int(seek_to / stream.time_base), stream=stream, backward=True)
    last = math.inf if request.end is None else origin + request.end / stream.time_base
    with contextlib.suppress(av.error.FFmpegError):  # cut off: what came before still counts
        for packet in container.demux(stream):
            yield packet
            if packet.dts is not None and packet.dts > last:
                return


def _read_packet_times(container: Any, stream: Any, request: FrameRequest) -> PacketTimes:
    # Only mp4 and mov list all packets in advance; the edit of a trimmed recording is already applied to that list.
    is_listed = container.format.name.startswith("mov") and request.start is None and request.end is None
    num_missing = len(stream.index_entries) if is_listed else 0
    times, is_damaged = set(), False
    for packet in _demux(container, stream, request):
        time = packet.dts if packet.pts is None else packet.pts
        is_damaged |= packet.is_corrupt
        num_missing -= packet.size > 0
        if time is not None and packet.size and not packet.is_discard:
            times.add(time)
    return PacketTimes(sorted(times), is_damaged or num_missing > 0)


def _positions_in_interval(
    seconds: Sequence[float], request: FrameRequest, name: str, frame_duration_in_seconds: float
) -> Sequence[int]:
    """Positions of the frames with `start <= time < end`, or of the frame on screen at `start` if there is none."""
    start, end = request.start or 0.0, math.inf if request.end is None else request.end
    if len(seconds) > 1:
        frame_duration_in_seconds = max(frame_duration_in_seconds, (seconds[-1] - seconds[0]) / (len(seconds) - 1))
    if start >= seconds[-1] + frame_duration_in_seconds and start > 0:
        raise VideoDecodingError(_beyond_the_end(start, name, seconds[-1] + frame_duration_in_seconds))
    earliest = start - TIME_TOLERANCE_IN_SECONDS if request.start else -math.inf
    inside = range(bisect_left(seconds, earliest), bisect_left(seconds, end - TIME_TOLERANCE_IN_SECONDS))
    return inside or [max(0, bisect_right(seconds, start) - 1)]


def _beyond_the_end(start: float, name: str, duration_in_seconds: float | None = None) -> str:
    length = "" if duration_in_seconds is None else f", which lasts {duration_in_seconds:.2f} seconds"
    return f"`start`={start:g} seconds lies beyond the end of {name}{length}. Give seconds, not frames."


def _uniform_in_time(seconds: list[float]) -> tuple[float | None, list[int]]:
    """Return the mean frame rate and, for each point of the uniform grid, the index of the frame nearest in time."""
    if len(seconds) == 1:
        return None, [0]
    times = np.asarray(seconds)
    grid = np.linspace(times[0], times[-1], len(times))
    nearest = np.searchsorted((times[:-1] + times[1:]) / 2, grid)
    return float((len(times) - 1) / (times[-1] - times[0])), nearest.tolist()


def _decoded(container: Any, stream: Any, packets: PacketTimes, request: FrameRequest) -> Iterator[Any]:
    """Yield the decodable frames in the order of display, with their display times in `pts`."""
    # avi stores no display times, so that FFmpeg's are those of decoding; only the order of the frames can be trusted
    times_by_order = iter(packets.display_times) if container.format.name == "avi" else None
    for packet in itertools.chain(_demux(container, stream, request), [None]):  # None: what the decoder still holds
        try:
            frames = stream.decode(packet)
        except av.error.FFmpegError:
            continue
        for frame in frames:
            if times_by_order is not None:
                frame.pts = next(times_by_order, None)
            if frame.pts is not None:
                yield frame


def _conversion_to_rgb(width: int, height: int) -> Callable[[Any], Any]:
    """One for all frames of a video: making its tables takes longer than converting a small frame with them."""
    return partial(VideoReformatter().reformat, width=width, height=height, format="rgb24", threads=1)


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
