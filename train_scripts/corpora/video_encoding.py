"""Encodes folders of pictures as mp4 files with exactly those frames, and measures videos by decoding them."""

import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import torch
from torch.nn.functional import adaptive_avg_pool2d

from modeling_flallm.own_processing import (
    PICTURE_SUFFIXES,
    VideoDecodingError,
    decode_video,
    decoder_logger,
    is_picture_file,
)

SMALLEST_SIZE_IN_PIXELS = 16
GRID_SIZE = 4
# Of 255 levels; encoding shifts the mean of a sixteenth of the frame by a few, a different picture by far more.
LARGEST_GRID_DIFFERENCE = 24


@dataclass(frozen=True)
class VideoLength:
    """Of a video, or of the requested part of it."""

    num_frames: int
    duration_in_seconds: float


def list_pictures(folder: Path) -> list[Path]:
    """
    The pictures of a folder in the order of their names, `frame2.png` before `frame10.png`.

    Raises:
        VideoDecodingError: if there are none, or one of them is not a file.
    """
    pictures = [path for path in folder.iterdir() if is_picture_file(path)]
    if not pictures:
        raise VideoDecodingError(
            f"The folder '{folder}' holds no frames: expected pictures ({', '.join(PICTURE_SUFFIXES)}) directly in it."
        )
    for path in pictures:
        if not path.is_file():
            raise VideoDecodingError(f"The frame '{path}' is not a file, or is a broken link.")
    return sorted(pictures, key=_natural_order)


def _natural_order(path: Path) -> tuple[list[tuple[int, int, str]], str]:
    parts = re.findall(r"[0-9]+|[^0-9]+", path.stem)
    return [(0, int(part), part) if part[0] in "0123456789" else (1, 0, part) for part in parts], path.name


def encode_pictures(pictures: Sequence[Path], target: Path, frames_per_second: float, quality: int) -> VideoLength:
    """
    Write pictures of one size as H.264 to an mp4 file, one frame each, and decode it again to verify them.

    Even sizes are encoded as yuv420p, which plays everywhere. Odd sizes are encoded as yuv444p: nothing is cropped or
    padded, but browsers may refuse to play them.

    Args:
        quality: x264's constant rate factor: 0 is lossless, 18 looks lossless; higher is smaller and worse.

    Raises:
        VideoDecodingError: if a picture cannot be read or has another size, or the file does not hold what went in.
    """
    grids = []
    with av.open(str(target), "w", format="mp4") as container:
        stream = None
        for picture in pictures:
            frame = _read_picture(picture)
            if stream is None:
                stream = _add_stream(container, frame, frames_per_second, quality)
            elif (stream.height, stream.width) != tuple(frame.shape[1:]):
                raise VideoDecodingError(
                    f"All frames of a video must have the same size; '{picture}' has (height, width) "
                    f"{tuple(frame.shape[1:])}, the first frame {(stream.height, stream.width)}."
                )
            grids.append(_mean_colours(frame))
            pixels = frame.permute(1, 2, 0).contiguous().numpy()
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return _verify(target, torch.stack(grids))


def _read_picture(path: Path) -> torch.Tensor:
    """-> uint8 (3, height, width)"""
    try:
        return decode_video([path]).frames[0]
    except VideoDecodingError as error:
        raise VideoDecodingError(f"The frame '{path}' is not a readable picture: {error.__cause__}.") from error


def _add_stream(
    container: av.container.OutputContainer, frame: torch.Tensor, frames_per_second: float, quality: int
) -> av.VideoStream:
    height, width = frame.shape[1:]
    if min(height, width) < SMALLEST_SIZE_IN_PIXELS:
        raise VideoDecodingError(
            f"Frames must be at least {SMALLEST_SIZE_IN_PIXELS} pixels a side, got (height, width) {height, width}."
        )
    # With its macroblock tree, x264 does not produce the same file twice.
    options = {"crf": str(quality), "preset": "veryfast", "threads": "1", "x264-params": "mbtree=0"}
    rate = Fraction(frames_per_second).limit_denominator(1001)
    stream = container.add_stream("libx264", rate=rate, options=options)
    stream.width, stream.height = width, height
    stream.pix_fmt = "yuv420p" if height % 2 == 0 and width % 2 == 0 else "yuv444p"
    stream.codec_context.thread_type = "NONE"
    return stream


def _mean_colours(frame: torch.Tensor) -> torch.Tensor:
    """uint8 (3, height, width) -> uint8 (3, 4, 4): enough to recognise the right frame."""
    return adaptive_avg_pool2d(frame.float(), GRID_SIZE).round().to(torch.uint8)


def _verify(path: Path, grids: torch.Tensor) -> VideoLength:
    """Decode a file that has just been written and compare it with what went in, uint8 (frames, 3, 4, 4)."""
    video = decode_video(path, transform_frame=_mean_colours)
    if len(video.frames) != len(grids) or video.num_source_frames != len(grids):
        raise VideoDecodingError(f"{len(grids)} pictures were encoded, but {len(video.frames)} frames can be decoded.")
    differences = (video.frames.int() - grids.int()).abs().flatten(1).amax(dim=1)
    if differences.max() > LARGEST_GRID_DIFFERENCE:
        raise VideoDecodingError(
            f"Frame {int(differences.argmax())} of the encoded video differs from its picture by {differences.max()} "
            f"of 255 levels, more than {LARGEST_GRID_DIFFERENCE}. Choose a lower --quality, which loses less."
        )
    return VideoLength(len(grids), video.duration_in_seconds)


def measure_video(path: Path, start: float | None = None, end: float | None = None) -> VideoLength:
    """
    Decode a video, or the part from `start` to `end` seconds, holding one frame at a time.

    Raises:
        VideoDecodingError: if it cannot be read, or not to its end.
    """
    with _damage_as_error(path):
        video = decode_video(path, start=start, end=end, transform_frame=_one_pixel)
    if video.duration_in_seconds is None:
        raise VideoDecodingError(f"'{path}' holds a single frame and no frame rate, so it has no duration.")
    return VideoLength(video.num_source_frames, video.duration_in_seconds)


def _one_pixel(frame: torch.Tensor) -> torch.Tensor:
    return frame[:, :1, :1].clone()


@contextmanager
def _damage_as_error(path: Path) -> Iterator[None]:
    """Raise what the decoder only warns about: in training half a clip is better than none, but not in a corpus."""
    warnings: list[str] = []

    def keep(record: logging.LogRecord) -> bool:
        is_of_damage = "holds no new picture" not in record.getMessage()
        warnings.extend([record.getMessage()] * is_of_damage)
        return not is_of_damage  # a still picture is not damage

    decoder_logger.addFilter(keep)
    try:
        yield
    finally:
        decoder_logger.removeFilter(keep)
    if warnings:
        raise VideoDecodingError(
            f"'{path}' is damaged or cut off: not all of its frames can be decoded. Copy, download or record it again."
        )
