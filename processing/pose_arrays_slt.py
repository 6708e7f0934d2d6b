# Copyright 2026 The FLaLLM authors. Licensed under the Apache License, Version 2.0.
"""Arrays of keypoints in any of the known layouts, as the 133 points of ours."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from .pose_layouts_slt import LAYOUTS, PoseLayout
from .poses_slt import People

# A layout whose parts lie in one row of numbers per frame, each with its own number of channels.
MEDIAPIPE_BODY_CHANNELS = 4
MEDIAPIPE_CHANNELS = 3


@dataclass(frozen=True)
class _Form:
    """A layout, and the number of channels of each of its parts."""

    layout: PoseLayout
    channels: tuple[int, ...]

    @property
    def width(self) -> int:
        """Of a row of numbers that holds one pose."""
        return sum(size * channels for size, channels in zip(self.layout.sizes, self.channels, strict=True))


def _row_forms() -> list[_Form]:
    """Of poses in one row: MediaPipe's body has a visibility, and its other parts have not."""
    forms = []
    for layout in LAYOUTS.values():
        forms += [
            _Form(layout, (channels,) * len(layout.sizes)) for channels in ((2, 3, 4) if layout.has_depth else (2, 3))
        ]
        if layout.has_depth and len(layout.sizes) > 1:
            body = LAYOUTS["mediapipe_pose"].sizes[0]
            forms.append(
                _Form(
                    layout,
                    tuple(MEDIAPIPE_BODY_CHANNELS if size == body else MEDIAPIPE_CHANNELS for size in layout.sizes),
                )
            )
    return forms


ROW_FORMS = _row_forms()


def people_of_arrays(keypoints: Any, scores: Any, layout: str | None, name: str, **stated: Any) -> People:
    """
    Args:
        keypoints: `(frames, points, channels)`, `(frames, people, points, channels)`, or `(frames, numbers)`, in which
            each frame is one row. Channels are x and y; then the score or, for MediaPipe, the depth and the score.
        scores: `(frames, points)` or `(frames, people, points)`; None for those among the channels.
        layout: one of `LAYOUTS`; None to tell it from the number of points.
        name: of the clip in errors.
        stated: other fields of `People`.

    Raises:
        ValueError: for other shapes and types, and for a number of points that tells no layout.
    """
    values = as_array(keypoints, name)
    given = None if scores is None else as_array(scores, name)
    if layout is not None and layout not in LAYOUTS:
        raise ValueError(f"The layout of {name} must be one of {', '.join(LAYOUTS)}, got {layout!r}.")
    if values.ndim == 2 and given is None:
        chosen, values = _unrolled(values, layout, name)
    elif values.ndim in (3, 4) and values.shape[-1] in (2, 3, 4):
        chosen = _layout_of(values.shape[-2], layout, name)
    else:
        raise ValueError(
            f"{name} must have the shape (frames, points, 2 to 4), (frames, people, points, 2 to 4), or one row of "
            f"numbers for each frame, got {values.shape}."
        )
    if given is not None and given.shape != values.shape[:-1]:
        raise ValueError(f"The scores of {name} must have the shape {values.shape[:-1]}, got {given.shape}.")
    if values.ndim == 3:
        values, given = values[:, None], None if given is None else given[:, None]
    return _mapped(values, given, chosen, name, stated)


def as_array(values: Any, name: str) -> np.ndarray:
    """An array of numbers. Raises `ValueError` for anything else."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        values = values.float().numpy() if values.is_floating_point() else values.numpy()
    try:
        array = np.asarray(values)
    except ValueError as error:  # rows of different lengths
        raise ValueError(f"{name} must be one array: {error}.") from error
    if array.dtype.kind not in "fiu" or array.dtype.itemsize > 8:
        raise ValueError(f"{name} must hold numbers, got {array.dtype}.")
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _layout_of(num_points: int, wanted: str | None, name: str) -> PoseLayout:
    fitting = [layout for layout in LAYOUTS.values() if layout.num_points == num_points]
    if wanted is not None:
        fitting = [layout for layout in fitting if layout.name == wanted]
        if not fitting:
            raise ValueError(
                f"{name} must have {LAYOUTS[wanted].num_points} points, those of {wanted}, got {num_points}."
            )
    return _only(fitting, f"{num_points} points", name)


def _unrolled(values: np.ndarray, wanted: str | None, name: str) -> tuple[PoseLayout, np.ndarray]:
    """Rows of numbers as `(frames, points, channels)`; what a part does not have of the most channels is NaN."""
    forms = [form for form in ROW_FORMS if form.width == values.shape[1] and wanted in (None, form.layout.name)]
    chosen = _only([form.layout for form in forms], f"{values.shape[1]} numbers a frame", name)
    form = next(form for form in forms if form.layout is chosen)
    parts, start = [], 0
    for size, channels in zip(form.layout.sizes, form.channels, strict=True):
        part = values[:, start : start + size * channels].reshape(len(values), size, channels)
        missing = np.full((len(values), size, max(form.channels) - channels), np.nan, part.dtype)
        parts.append(np.concatenate([part, missing], -1))
        start += size * channels
    return chosen, np.concatenate(parts, 1)


def _only(fitting: list[PoseLayout], what: str, name: str) -> PoseLayout:
    if len(fitting) > 1:
        raise ValueError(
            f"{name} has {what}, which several layouts have: {', '.join(layout.name for layout in fitting)}. Name the "
            "one that it has, as `layout` in its file (an array of .npz, an entry in the header of .safetensors)."
        )
    if not fitting:
        known = ", ".join(f"{layout.name} ({layout.num_points})" for layout in LAYOUTS.values())
        raise ValueError(f"{name} has {what}, which no known layout has. Known, with their points: {known}.")
    return fitting[0]


def _mapped(
    values: np.ndarray, scores: np.ndarray | None, layout: PoseLayout, name: str, stated: dict[str, Any]
) -> People:
    """Points of ours from those of a source `(frames, people, points, channels)`."""
    if scores is None:
        scores = _scores_among(values, layout, name)
    sources = np.array(layout.sources())
    lacking = sources < 0
    keypoints, scores = values[:, :, sources, :2], scores[:, :, sources]
    return People(keypoints, np.where(lacking, 0, scores), **stated)


def _scores_among(values: np.ndarray, layout: PoseLayout, name: str) -> np.ndarray:
    """The scores among the channels; without any, all points are seen that are not exactly at the origin."""
    channel = 3 if layout.has_depth else 2
    if values.shape[-1] > channel + 1:
        raise ValueError(f"{name} must have 2 or 3 channels for {layout.name}, got {values.shape[-1]}.")
    seen = (values[..., :2] != 0).any(-1).astype(np.float32)
    if values.shape[-1] == channel + 1:
        scores = values[..., channel]
        return (
            np.where(np.isnan(scores) & ~np.isnan(values[..., :2]).any(-1), seen, scores)
            if layout.has_depth
            else scores
        )
    return seen
