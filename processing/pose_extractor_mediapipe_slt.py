# Copyright 2026 The FLaLLM authors. Licensed under the Apache License, Version 2.0.
"""
Poses by MediaPipe Holistic (Grishchenko and Bazarevsky, 2020): one person, 33 points of the body, 468 of the face and
21 of each hand, on the CPU.

MediaPipe 0.10.21 is the last release with the "legacy" solution, whose models are in its wheel; it needs NumPy 1. (It
has the newer interface, too, which ends the process in the first frame without a hand.) Later releases take a model
file for the same task, and work with NumPy 2.
"""

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from .pose_extractor_slt import PoseExtractor, import_extractor, nobody
from .pose_layouts_slt import (
    LEFT_HAND_TABLE,
    MEDIAPIPE_BODY_TABLE,
    MEDIAPIPE_FACE_TABLE,
    NUM_POINTS,
    RIGHT_HAND_TABLE,
    Table,
)
from .pose_models_slt import PinnedModel, given_model_file, shown_digest
from .poses_slt import USUAL_FRAMES_PER_SECOND

HOLISTIC_TASK = PinnedModel(
    "https://storage.googleapis.com/mediapipe-models/holistic_landmarker/holistic_landmarker/float16/1/"
    "holistic_landmarker.task",
    "e2dab61191e2dcd0a15f943d8e3ed1dce13c82dfa597b9dd39f562975a50c3f8",
    "Apache-2.0",
)
# What the legacy solution loads at its usual complexity, below mediapipe/modules.
LEGACY_MODELS = (
    "pose_detection/pose_detection.tflite",
    "pose_landmark/pose_landmark_full.tflite",
    "holistic_landmark/hand_recrop.tflite",
    "hand_landmark/hand_landmark_full.tflite",
    "face_detection/face_detection_short_range.tflite",
    "face_landmark/face_landmark.tflite",
)

# By their names in MediaPipe's result: for our points that a part has, their indices in it.
TABLES: dict[str, Table] = {
    "pose_landmarks": MEDIAPIPE_BODY_TABLE,
    "face_landmarks": MEDIAPIPE_FACE_TABLE,
    "left_hand_landmarks": LEFT_HAND_TABLE,
    "right_hand_landmarks": RIGHT_HAND_TABLE,
}
PART_WITH_VISIBILITY = "pose_landmarks"


class MediaPipeExtractor(PoseExtractor):
    """
    MediaPipe Holistic, which follows the most prominent person. The score of a point of the body is its visibility; the
    points of the face and of a hand, which have none, score 1 where MediaPipe finds that part.

    Args:
        model_file: a `.task` file, for releases that have no models in their wheel. Default: a pinned download.

    Raises:
        ValueError: if MediaPipe is not installed, and for a model file that is missing, cannot be downloaded, or is not
            read by this release.
    """

    name = "mediapipe"

    def __init__(self, model_file: str | Path | None = None):
        super().__init__()
        mediapipe = import_extractor("mediapipe")
        is_legacy = hasattr(mediapipe, "solutions")
        if is_legacy and model_file is not None:
            raise ValueError(
                f"mediapipe {mediapipe.__version__} extracts poses with the models in its wheel; a model_file needs a "
                "newer release, or leave it out."
            )
        if is_legacy:
            self._holistic: _LegacyHolistic | _HolisticTask = _LegacyHolistic(mediapipe)
        else:
            path = HOLISTIC_TASK.path() if model_file is None else given_model_file(model_file)
            self._holistic = _HolisticTask(mediapipe, path)
        self.description = f"mediapipe {mediapipe.__version__} holistic {shown_digest(self._holistic.model_files)}"

    def start_clip(self, frames_per_second: float | None) -> None:
        self._holistic.start(frames_per_second or USUAL_FRAMES_PER_SECOND)

    def find_people(self, frame: np.ndarray) -> np.ndarray:
        result = self._holistic.find(np.ascontiguousarray(frame))
        height, width, _ = frame.shape
        person = np.zeros((1, NUM_POINTS, 3), np.float32)
        for part, table in TABLES.items():
            landmarks = getattr(result, part)
            found: Sequence[Any] = getattr(landmarks, "landmark", landmarks) or ()
            for point, index in table.items() if found else ():
                score = found[index].visibility if part == PART_WITH_VISIBILITY else 1.0
                person[0, point] = found[index].x * width, found[index].y * height, score
        return person if person[..., 2].any() else nobody()


class _LegacyHolistic:
    """`mediapipe.solutions.holistic` of releases up to 0.10.21."""

    def __init__(self, mediapipe: ModuleType):
        modules = Path(mediapipe.__file__).parent / "modules"
        self.model_files = [modules / name for name in LEGACY_MODELS]
        self._holistic = mediapipe.solutions.holistic.Holistic()

    def start(self, frames_per_second: float) -> None:
        self._holistic.reset()

    def find(self, frame: np.ndarray) -> Any:
        return self._holistic.process(frame)


class _HolisticTask:
    """`HolisticLandmarker` of the Tasks API, made anew for each clip: it cannot forget what it saw."""

    def __init__(self, mediapipe: ModuleType, path: Path):
        self.model_files = [path]
        self._mediapipe = mediapipe
        self._landmarker: Any = None
        self._milliseconds = self._interval = 0.0

    def start(self, frames_per_second: float) -> None:
        if self._landmarker is not None:
            self._landmarker.close()
        tasks = self._mediapipe.tasks
        options = tasks.vision.HolisticLandmarkerOptions(
            base_options=tasks.BaseOptions(model_asset_path=str(self.model_files[0])),
            running_mode=tasks.vision.RunningMode.VIDEO,
        )
        self._landmarker = tasks.vision.HolisticLandmarker.create_from_options(options)
        self._milliseconds, self._interval = 0.0, 1000 / frames_per_second

    def find(self, frame: np.ndarray) -> Any:
        image = self._mediapipe.Image(image_format=self._mediapipe.ImageFormat.SRGB, data=frame)
        result = self._landmarker.detect_for_video(image, round(self._milliseconds))
        self._milliseconds += max(self._interval, 1.0)  # times in whole milliseconds must rise
        return result
