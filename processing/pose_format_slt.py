# Copyright 2026 The FLaLLM authors. Licensed under the Apache License, Version 2.0.
"""`.pose` files, through the package pose-format (Moryossef et al., https://github.com/sign-language-processing/pose)."""

import importlib
import math
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from .pose_point_names_slt import sources_of_components
from .poses_slt import People, PoseFacts, PoseFile, Poses, checked_number

VERSION = 0.2
BYTES = 4  # of a number
MOST_PIXELS = 65535  # of a side of the picture: the header has two bytes for it
SHOWN_COMPONENTS = 5
DAMAGED = (
    OSError, EOFError, ValueError, TypeError, IndexError, KeyError, AttributeError, ArithmeticError, MemoryError,
    NotImplementedError, struct.error,
)  # fmt: skip


class PoseFormatFile(PoseFile):
    """One `.pose` file. It does not say what extracted its poses."""

    def facts(self) -> PoseFacts:
        pose = self._read(_module("pose_format.pose_body").EmptyPoseBody)
        least_bytes = math.prod((*pose.body.data.shape, BYTES)) + math.prod((*pose.body.confidence.shape, BYTES))
        if least_bytes > self.path.stat().st_size:
            raise ValueError(
                f"{self.name} states {len(pose.body.data)} frames, and is too short for them. It may be damaged."
            )
        return PoseFacts(len(pose.body.data), self._rate(pose))

    def people(self, first: int, last: int) -> People:
        pose = self._read(_module("pose_format.numpy").NumPyPoseBody, start_frame=first, end_frame=last)
        components = [(component.name, component.points) for component in pose.header.components]
        sources = sources_of_components(components)
        if sources is None:
            names = ", ".join(name for name, _ in components[:SHOWN_COMPONENTS])
            raise ValueError(
                f"{self.name} has none of the known components of MediaPipe, COCO-WholeBody, OpenPose and AlphaPose, "
                f"got {names or 'none'}."
            )
        # Version 0.0 is read as a whole.
        part = slice(first, last) if len(pose.body.data) > last - first else slice(None)
        keypoints = np.asarray(pose.body.data.data)[part][:, :, sources, :2]
        scores = np.asarray(pose.body.confidence)[part][:, :, sources]
        size = pose.header.dimensions
        return People(
            keypoints,
            np.where(np.array(sources) < 0, 0, scores),
            self._rate(pose),
            size.width if size.width and size.height else None,
            size.height if size.width and size.height else None,
            may_be_fractions=False,  # but normalised, in a unit that is the same for x and y
        )

    def _read(self, body: type, **part: int) -> Any:
        with _as_value_errors(self.name), self.path.open("rb") as file:
            return _module("pose_format").Pose.read(file, body, **part)

    def _rate(self, pose: Any) -> float | None:
        """Files without a known rate state 0."""
        return checked_number(float(pose.body.fps) or None, "frames_per_second", self.name)


def write_pose_format(path: Path, poses: Poses) -> None:
    """
    Write a `.pose` file with the components of COCO-WholeBody; the name of the extractor has no place in it.

    Raises:
        ValueError: for pictures above 65,535 pixels.
    """
    width, height = poses.width or 0, poses.height or 0
    if max(width, height) > MOST_PIXELS:
        raise ValueError(f".pose files hold pictures of up to {MOST_PIXELS} pixels, got {width:g} x {height:g}.")
    headers = _module("pose_format.pose_header")
    header = headers.PoseHeader(
        version=VERSION,
        dimensions=headers.PoseHeaderDimensions(math.ceil(width), math.ceil(height)),
        components=_module("pose_format.utils.cocowholebody133_header").cocowholebody_components(),
    )
    body = _module("pose_format.numpy").NumPyPoseBody(
        poses.frames_per_second or 0.0, poses.keypoints[:, None], poses.scores[:, None]
    )
    with path.open("wb") as file:
        _module("pose_format").Pose(header, body).write(file)


def _module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ValueError('.pose files are read and written with pose-format: pip install "flallm[poses]".') from error


@contextmanager
def _as_value_errors(name: str) -> Iterator[None]:
    try:
        yield
    except DAMAGED as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{name} cannot be read as a .pose file: {reason.rstrip('.')}. It may be damaged.") from error
