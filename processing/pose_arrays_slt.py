# Copyright 2026 The FLaLLM authors. Licensed under the Apache License, Version 2.0.
"""Arrays of keypoints in any of the known layouts, as the 133 points of ours."""

from typing import Any

import numpy as np

from .pose_layouts_slt import BODY_NAMES, LAYOUT_NAMES, LAYOUTS, MEDIAPIPE_BODY_NAMES, PoseLayout
from .poses_slt import People

MEDIAPIPE_BODY_SIZE = len(MEDIAPIPE_BODY_NAMES)
VISIBILITY = 3  # the channel
OWN_BODY = slice(0, len(BODY_NAMES))


def people_of_arrays(keypoints: Any, scores: Any, layout: str | None, name: str, **stated: Any) -> People:
    """
    Args:
        keypoints: `(frames, points, channels)`, `(frames, people, points, channels)`, or `(frames, numbers)`, in which
            each frame is one row. Channels are x and y, then the score or, for MediaPipe, the depth and the visibility.
        scores: `(frames, points)` or `(frames, people, points)`; None for those among the channels. Without any, the
            points that are not exactly at the origin are seen.
        layout: one of `LAYOUT_NAMES`; None to tell it from the number of points.
        name: of the clip in errors.
        stated: other fields of `People`.

    Raises:
        ValueError: for other shapes and types, and for a number of points that does not tell the layout.
    """
    values = as_array(keypoints, name)
    marks = None if scores is None else as_array(scores, f"the scores of {name}")
    if layout not in (None, *LAYOUT_NAMES):
        raise ValueError(f"The layout of {name} must be one of {', '.join(LAYOUT_NAMES)}, got {layout!r}.")
    if values.ndim == 2 and marks is None:
        chosen, values = _unrolled(values, layout, name)
    elif values.ndim in (3, 4) and values.shape[-1] in (2, 3, 4):
        size = values.shape[-2]
        chosen = _chosen([each for each in LAYOUTS if each.num_points == size], layout, f"{size} points", name)
    else:
        raise ValueError(
            f"{name} must have the shape (frames, points, 2 to 4), (frames, people, points, 2 to 4), or one row of "
            f"numbers for each frame, got {values.shape}."
        )
    if marks is None:
        marks = _scores_among(values, chosen, name)
    elif marks.shape != values.shape[:-1]:
        raise ValueError(f"The scores of {name} must have the shape {values.shape[:-1]}, got {marks.shape}.")
    if values.ndim == 3:  # one person
        values, marks = values[:, None], marks[:, None]
    sources = np.array(chosen.sources())
    marks = np.where(sources < 0, 0, marks[:, :, sources])
    return People(values[:, :, sources, :2], marks, **stated)


def as_array(values: Any, name: str) -> np.ndarray:
    """An array of numbers. Raises `ValueError` for anything else."""
    if hasattr(values, "detach"):  # a tensor of torch, which is not imported for that
        values = values.detach().cpu()
        values = values.float().numpy() if values.is_floating_point() else values.numpy()
    try:
        array = np.asarray(values)
    except ValueError as error:  # rows of different lengths
        raise ValueError(f"{name} must be one array: {error}.") from error
    if array.dtype.kind not in "fiu" or array.dtype.itemsize > 8:
        raise ValueError(f"{name} must hold numbers, got {array.dtype}.")
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _unrolled(values: np.ndarray, wanted: str | None, name: str) -> tuple[PoseLayout, np.ndarray]:
    """Rows of numbers as `(frames, points, channels)`, filled up with zeros where a part has fewer channels."""
    width = values.shape[1]
    forms = [
        (layout, channels)
        for layout in LAYOUTS
        for channels in _channels_in_rows(layout)
        if sum(size * count for size, count in zip(layout.sizes, channels, strict=True)) == width
    ]
    chosen = _chosen([layout for layout, _ in forms], wanted, f"{width} numbers in each frame", name)
    channels = next(channels for layout, channels in forms if layout is chosen)
    parts, start = [], 0
    for size, count in zip(chosen.sizes, channels, strict=True):
        part = values[:, start : start + size * count].reshape(len(values), size, count)
        parts.append(np.pad(part, ((0, 0), (0, 0), (0, max(channels) - count))))
        start += size * count
    return chosen, np.concatenate(parts, 1)


def _channels_in_rows(layout: PoseLayout) -> list[tuple[int, ...]]:
    """The numbers of channels that the parts of a layout may have in a row: MediaPipe's body alone has a visibility."""
    even = [(count,) * len(layout.sizes) for count in ((2, 3, 4) if layout.has_depth else (2, 3))]
    mixed = tuple(4 if size == MEDIAPIPE_BODY_SIZE else 3 for size in layout.sizes)
    return [*even, mixed] if layout.has_depth and len(layout.sizes) > 1 else even


def _chosen(fitting: list[PoseLayout], wanted: str | None, what: str, name: str) -> PoseLayout:
    chosen = [layout for layout in fitting if wanted in (None, layout.name)]
    if len(chosen) > 1:
        raise ValueError(
            f"{name} has {what}, which several layouts have: {', '.join(layout.name for layout in chosen)}. Name the "
            "right one as `layout` in its file, an array of .npz or an entry in the header of .safetensors."
        )
    if not chosen:
        known = ", ".join(f"{layout.name} ({layout.num_points})" for layout in LAYOUTS if wanted in (None, layout.name))
        raise ValueError(f"{name} has {what}, which no known layout has. Known layouts and their points: {known}.")
    return chosen[0]


def _scores_among(values: np.ndarray, layout: PoseLayout, name: str) -> np.ndarray:
    """The scores of `(..., points, channels)`: of those that have none, points away from the origin are seen."""
    most = 4 if layout.has_depth else 3
    if values.shape[-1] > most:
        raise ValueError(f"{name} must have 2 or 3 channels, x, y and score, got {values.shape[-1]}.")
    if not layout.has_depth and values.shape[-1] == most:
        return values[..., 2]
    scores = (values[..., :2] != 0).any(-1).astype(np.float32)
    if values.shape[-1] == VISIBILITY + 1:
        body = [source for source in layout.sources()[OWN_BODY] if source >= 0]
        scores[..., body] = values[..., body, VISIBILITY]
    return scores
