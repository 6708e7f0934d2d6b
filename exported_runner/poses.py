"""Poses as models read them, in numpy: step by step what `PoseFeatureExtractor` does in torch."""

import math
from typing import Any

import numpy as np

from .pose_layouts_slt import LEAST_POINTS, LEAST_WEIGHT, ORIGINS, PARTS, POINTS_OF_PARTS, REACH_IN_DEVIATIONS
from .poses_slt import USUAL_FRAMES_PER_SECOND, Poses, values_of_poses


class PosePreparation:
    """
    From the poses of a file to what a pose encoder reads.

    Args:
        settings: `score_threshold`, `keep_aspect_ratio` and `smoothing_seconds` of the feature extractor.
    """

    def __init__(self, settings: dict[str, Any]):
        self.settings = settings

    def values_of(self, poses: Poses, name: str) -> np.ndarray:
        """
        -> float32 `(frames, 133, 3)`, x, y and score.

        Raises:
            ValueError: for poses in pixels of a picture of unknown size, if the model reads fractions of it.
        """
        values = values_of_poses(poses, self.settings["keep_aspect_ratio"], name)
        if not self.settings["smoothing_seconds"]:
            return values
        rate = poses.frames_per_second or USUAL_FRAMES_PER_SECOND
        return smoothed(values, self.settings["smoothing_seconds"] * rate, self.settings["score_threshold"])

    def normalised(self, values: np.ndarray) -> np.ndarray:
        """Sampled values -> float32 `(frames, 69, 3)`."""
        return normalised(values, self.settings["score_threshold"])


def smoothed(poses: np.ndarray, deviation_in_frames: float, score_threshold: float) -> np.ndarray:
    """Poses `(frames, 133, 3)`, each point averaged over neighbouring frames by a Gaussian and its squared scores."""
    reach = math.ceil(REACH_IN_DEVIATIONS * deviation_in_frames)
    scores = poses[..., 2:]
    weights = np.where(scores > score_threshold, scores * scores, np.float32(0))
    values = np.concatenate([poses * weights, weights], -1)
    values = np.pad(values, ((reach, reach), (0, 0), (0, 0)))
    sums = np.zeros((*poses.shape[:2], 4), np.float32)
    for offset in range(-reach, reach + 1):
        share = np.float32(math.exp(-((offset / deviation_in_frames) ** 2) / 2))
        sums += values[reach + offset :][: len(poses)] * share
    total = sums[..., 3:]
    return np.where(total >= LEAST_WEIGHT, sums[..., :3] / np.maximum(total, np.float32(LEAST_WEIGHT)), np.float32(0))


def normalised(poses: np.ndarray, score_threshold: float) -> np.ndarray:
    """Poses `(frames, 133, 3)` -> `(frames, 69, 3)`, measured from the body and from the origin of each part."""
    body = poses[:, list(PARTS["body"])].reshape(-1, 3)
    seen = body[body[:, 2] > score_threshold, :2]
    least, most = (seen.min(0), seen.max(0)) if len(seen) >= LEAST_POINTS else (np.zeros(2), np.zeros(2))
    side = (most - least).max()
    if side <= 0:
        return np.zeros((len(poses), len(POINTS_OF_PARTS), 3), np.float32)
    centre = (least + most) / 2
    parts = []
    for name, points in PARTS.items():
        part = poses[:, list(points)]
        is_seen = part[..., 2:] > score_threshold
        if name == "body":
            places = (part[..., :2] - centre) / (side / 2)
        else:
            places = (part[..., :2] - _origin(poses, part, is_seen, *ORIGINS[name])) / side
        values = np.concatenate([places, part[..., 2:]], -1).clip(-1, 1)
        parts.append(np.where(is_seen, values, np.float32(0)))
    return np.concatenate(parts, 1).astype(np.float32)


def _origin(poses: np.ndarray, part: np.ndarray, is_seen: np.ndarray, point: int, of_body: int) -> np.ndarray:
    """The place of the origin of a part in each frame, `(frames, 1, 2)`; unseen, its stand-in."""
    count = np.maximum(is_seen.sum(1, keepdims=True), 1).astype(np.float32)
    mean = (part[..., :2] * is_seen).sum(1, keepdims=True, dtype=np.float32) / count
    own, body = poses[:, [point]], poses[:, [of_body]]
    return np.where(own[..., 2:] > 0, own[..., :2], np.where(body[..., 2:] > 0, body[..., :2], mean))
