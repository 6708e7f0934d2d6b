# Copyright 2026 The FLaLLM authors. Licensed under the Apache License, Version 2.0.
"""The interface of what finds people in the frames of a video."""

import importlib
import threading
from abc import ABC, abstractmethod
from types import ModuleType
from typing import ClassVar

import numpy as np

from .pose_layouts_slt import NUM_POINTS


class PoseExtractor(ABC):
    """
    Finds the points of the people in a video, frame by frame. An extractor may carry over what it saw from one frame to
    the next; whoever uses it holds its `lock` for the length of a clip.

    Attributes:
        name: as `extract_poses` takes it.
        uses_all_cores: whether one process keeps all cores, or the GPU, busy.
        description: package, version, model and digest of the model, which files of poses state.
    """

    name: ClassVar[str]
    uses_all_cores: ClassVar[bool] = False
    description: str

    def __init__(self):
        self.lock = threading.Lock()

    @abstractmethod
    def start_clip(self, frames_per_second: float | None) -> None:
        """Forget the frames so far: the next one is the first of another clip."""

    @abstractmethod
    def find_people(self, frame: np.ndarray) -> np.ndarray:
        """
        Find the people in the next frame.

        Args:
            frame: uint8 RGB `(height, width, 3)`.

        Returns:
            float32 `(people, 133, 3)`, the points of COCO-WholeBody: x and y in pixels, and a score from 0 to 1, which
            is 0 for points that are not seen. Without people the first dimension is 0.
        """


def nobody() -> np.ndarray:
    """What `PoseExtractor.find_people` returns for a frame without people."""
    return np.zeros((0, NUM_POINTS, 3), np.float32)


def import_extractor(package: str) -> ModuleType:
    """
    Import the package of an extractor, which is also the name of our extra.

    Raises:
        ValueError: if it is missing, or cannot be imported.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ValueError(
            f'Poses are extracted with {package}, which cannot be imported ({error}): pip install "flallm[{package}]".'
        ) from error
