"""Resizing, cropping and normalising of frames in numpy, to the same numbers as torchvision on a CPU."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np

COLUMNS_AT_ONCE = 32  # of a resized picture: a block reads only the part of the picture that it shows
LARGEST_WEIGHT = 1 << 15
MOST_BITS = 22
LARGEST_EXACT_FLOAT = 1 << 24


class FramePreparation:
    """
    From the frames of a video to what a sign encoder reads.

    Args:
        settings: those of the video processor: `size`, `crop_size`, `resample`, `mean`, `std`; None for steps that are
            left out. `mean` and `std` are those of values from 0 to 255.
    """

    def __init__(self, settings: dict[str, Any]):
        self.settings = settings

    def resized(self, frame: np.ndarray) -> np.ndarray:
        """uint8 `(3, height, width)` of any size -> of the size in the settings."""
        size = self.settings["size"]
        return frame if size is None else resized(frame, _target(frame, size), self.settings["resample"])

    def normalised(self, frames: np.ndarray) -> np.ndarray:
        """Resized frames, uint8 `(frames, 3, height, width)` -> cropped and normalised, float32."""
        crop = self.settings["crop_size"]
        frames = frames if crop is None else centre_crop(frames, crop["height"], crop["width"])
        values = frames.astype(np.float32)
        if self.settings["mean"] is None:
            return values
        mean, std = (np.array(self.settings[name], np.float32)[:, None, None] for name in ("mean", "std"))
        return (values - mean) / std


def _target(frame: np.ndarray, size: dict[str, int]) -> tuple[int, int]:
    if "height" in size:
        return size["height"], size["width"]
    height, width = frame.shape[1:]
    edge = size["shortest_edge"]
    return (edge, int(edge * width / height)) if height <= width else (int(edge * height / width), edge)


def centre_crop(frames: np.ndarray, height: int, width: int) -> np.ndarray:
    """The middle of frames `(..., height, width)`, with a black border where they are smaller."""
    missing = [max(0, want - have) for want, have in zip((height, width), frames.shape[-2:], strict=True)]
    if any(missing):
        border = [(each // 2, (each + 1) // 2) for each in missing]
        frames = np.pad(frames, [(0, 0)] * (frames.ndim - 2) + border)
    top, left = ((have - want) // 2 for want, have in zip((height, width), frames.shape[-2:], strict=True))
    return frames[..., top : top + height, left : left + width]


def resized(frame: np.ndarray, size: tuple[int, int], resample: str) -> np.ndarray:
    """
    Resize with antialiasing as torch does it for uint8 on a CPU: along rows, then along columns, with whole numbers as
    weights and a rounded picture in between.

    Args:
        frame: uint8 `(channels, height, width)`.
        size: height and width.
        resample: "bilinear" or "bicubic".
    """
    channels, height, width = frame.shape
    if size[1] != width:
        rows = _weighted(frame.reshape(-1, width), width, size[1], resample)
        frame = rows.reshape(channels, height, size[1])
    if size[0] != height:
        columns = np.moveaxis(frame, 1, 2)
        frame = np.moveaxis(
            _weighted(columns.reshape(-1, height), height, size[0], resample).reshape(channels, -1, size[0]), 2, 1
        )
    return frame


def _weighted(values: np.ndarray, old: int, new: int, resample: str) -> np.ndarray:
    """uint8 `(rows, old)` -> `(rows, new)`."""
    blocks, precision = _blocks(old, new, resample)
    result = np.empty((len(values), new), np.uint8)
    for first, begin, end, weights in blocks:
        sums = values[:, begin:end].astype(weights.dtype) @ weights
        sums = (sums.astype(np.int64) + (1 << (precision - 1))) >> precision
        result[:, first : first + weights.shape[1]] = sums.clip(0, 255)
    return result


@lru_cache(maxsize=16)
def _blocks(old: int, new: int, resample: str) -> tuple[list[tuple[int, int, int, np.ndarray]], int]:
    """
    For each block of new places its first one, from where to where it reads the old ones, and its weights, `(old
    places, new places)`. Then the number of bits by which sums are shifted.
    """
    scale = old / new
    reach, width = RESAMPLE[resample]
    support, shrink = reach * max(scale, 1.0), 1.0 / max(scale, 1.0)
    weights = np.zeros((old, new))
    for place in range(new):
        centre = scale * (place + 0.5)
        begin, end = max(int(centre - support + 0.5), 0), min(int(centre + support + 0.5), old)
        each = np.array([width((k - centre + 0.5) * shrink) for k in range(begin, end)])
        weights[begin:end, place] = each / each.sum()
    precision = 0
    while precision < MOST_BITS and int(0.5 + weights.max() * (1 << (precision + 1))) < LARGEST_WEIGHT:
        precision += 1
    whole = np.trunc(weights * (1 << precision) + np.where(weights < 0, -0.5, 0.5))
    # Whole numbers that a float can hold exactly are multiplied as floats, which is many times faster.
    is_exact = 255 * np.abs(whole).sum(0).max() < LARGEST_EXACT_FLOAT
    blocks = []
    for first in range(0, new, COLUMNS_AT_ONCE):
        block = whole[:, first : first + COLUMNS_AT_ONCE]
        (read,) = block.any(1).nonzero()
        begin, end = int(read[0]), int(read[-1]) + 1
        blocks.append((first, begin, end, block[begin:end].astype(np.float32 if is_exact else np.float64)))
    return blocks, precision


def _triangle(distance: float) -> float:
    return max(1.0 - abs(distance), 0.0)


def _cubic(distance: float) -> float:
    """Keys' kernel with a = -0.5, as Pillow and torch have it for antialiasing."""
    x = abs(distance)
    if x < 1:
        return (1.5 * x - 2.5) * x * x + 1
    return ((-0.5 * x + 2.5) * x - 4) * x + 2 if x < 2 else 0.0


RESAMPLE: dict[str, tuple[float, Callable[[float], float]]] = {"bilinear": (1.0, _triangle), "bicubic": (2.0, _cubic)}
