# Copyright 2026 The FLaLLM authors. Licensed under the Apache License, Version 2.0.
"""Videos that need no video decoder: arrays, and lists of pictures."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps

from .video_files_slt import VideoDecodingError
from .video_requests_slt import DecodedVideo, FrameRequest, check_one_size, positions_in_interval


def decode_pictures(frames: Any, name: str, request: FrameRequest) -> DecodedVideo:
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
        positions = positions_in_interval(
            [k / request.fps for k in positions], request, name, len(frames) / request.fps
        )
    indices = request.sample(len(positions), request.fps)
    wanted = [positions[index] for index in indices]
    if isinstance(frames, torch.Tensor):
        pixels = _array_to_rgb(frames if wanted == list(range(len(frames))) else frames[wanted], name)
        if request.transform_frame is not None:
            pixels = torch.stack([request.transform(frame) for frame in pixels])
    else:
        pictures = [request.transform(_picture_to_rgb(frames[position], name)) for position in wanted]
        check_one_size(pictures, name)
        pixels = torch.stack(pictures)
    return DecodedVideo(
        frames=pixels,
        fps=request.fps,
        duration_in_seconds=None if request.fps is None else len(positions) / request.fps,
        start_in_seconds=None if request.fps is None else positions[0] / request.fps,
        num_source_frames=len(positions),
        frame_indices=indices,
    )


def grey_pictures(
    frames: Any, name: str, request: FrameRequest, size_in_pixels: int
) -> Iterator[tuple[float, np.ndarray]]:
    if len(frames) == 0:
        raise VideoDecodingError(f"A video needs at least one frame, and {name} has none.")
    if request.fps is None:
        raise VideoDecodingError(
            f"{name} has no frame rate, so its frames have no seconds. Pass its frames per second."
        )
    seconds = [k / request.fps for k in range(len(frames))]
    for position in positions_in_interval(seconds, request, name, len(frames) / request.fps):
        if isinstance(frames, torch.Tensor):
            picture = _array_to_rgb(frames[position : position + 1], name)[0]
        else:
            picture = _picture_to_rgb(frames[position], name)
        grey = torch.nn.functional.adaptive_avg_pool2d(picture.float().mean(0, keepdim=True), size_in_pixels)
        yield seconds[position], grey[0].numpy()


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
    return _array_to_rgb(array_to_channels_first(picture[None], name), name)[0]


def _read_picture(picture: Any, name: str) -> np.ndarray:
    """The pixels of a picture file or of a PIL image, turned upright as the camera marked it."""
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


def array_to_channels_first(array: Any, name: str) -> torch.Tensor:
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
