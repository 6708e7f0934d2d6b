# Copyright 2026 The FLaLLM authors. Licensed under the Apache License, Version 2.0.
"""Every kind of input that can be one video, reduced to a path, a binary file, a tensor or a list of pictures."""

import io
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from .video_download_slt import download
from .video_files_slt import PICTURE_SUFFIXES, VideoDecodingError, is_picture_file
from .video_pictures_slt import array_to_channels_first


def is_single_video(videos: Any) -> bool:
    """Tell one video from a batch: a list of pictures, of picture paths or of two- or three-dimensional frames is one
    video; any other list, and an array of five dimensions, is a batch."""
    if isinstance(videos, (np.ndarray, torch.Tensor)):
        return videos.ndim != 5
    if not isinstance(videos, Sequence) or isinstance(videos, (str, bytes, bytearray, memoryview)):
        return True
    return len(videos) > 0 and all(_is_frame(item) for item in videos)


def _is_frame(item: Any) -> bool:
    if isinstance(item, (str, Path)):
        return str(item).lower().endswith(PICTURE_SUFFIXES) and not os.path.isdir(item)
    if isinstance(item, (np.ndarray, torch.Tensor)):
        is_picture = item.ndim == 3 and (item.shape[0] in (1, 3, 4) or item.shape[-1] in (1, 3, 4))
        return item.ndim == 2 or is_picture
    return isinstance(item, Image.Image)


def open_video(video: Any) -> tuple[Any, str]:
    """Reduce every kind of input to an absolute path, a seekable binary file, a tensor (frames, channels, height,
    width) or a list of frames, and give it a name for the error texts."""
    video, name = _open_input(video)
    is_array = isinstance(video, (np.ndarray, torch.Tensor))
    return array_to_channels_first(video, name) if is_array else video, name


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
