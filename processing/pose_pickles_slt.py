# Copyright 2026 The FLaLLM authors. Licensed under the Apache License, Version 2.0.
"""Pickles of poses in the form of Uni-Sign (arXiv 2501.15187), read without running anything in them."""

import functools
from pathlib import Path
from typing import Any

import numpy as np

from .array_pickle_slt import read_array_pickle
from .pose_layouts_slt import NUM_POINTS
from .pose_openpose_slt import people_of_lists
from .poses_slt import People, PoseFacts, PoseFile


class UniSignPickle(PoseFile):
    """
    One clip: `keypoints`, a list with the points `(people, 133, 2)` of each frame, in fractions of the picture, and
    `scores`, a list of `(people, 133)`, as arrays or lists; `start` and `end` may limit the frames. What else a pickle
    asks for could run code, and is refused.
    """

    def facts(self) -> PoseFacts:
        return PoseFacts(len(self._frames()))

    def people(self, first: int, last: int) -> People:
        return people_of_lists(self._frames()[first:last])

    def _frames(self) -> list[list[np.ndarray]]:
        status = self.path.stat()
        return _frames_of(self.path, status.st_mtime_ns, status.st_size)


@functools.lru_cache(maxsize=1)  # a clip is counted, then read; parts of a clip follow each other
def _frames_of(path: Path, *version: int) -> list[list[np.ndarray]]:
    """The people of each frame, `(133, 3)` each."""
    content = read_array_pickle(path)
    try:
        keypoints, scores = content["keypoints"], content["scores"]
        start, end = content.get("start") or 0, content.get("end")
        end = len(keypoints) if end is None else end
        if len(keypoints) != len(scores) or not 0 <= start <= end:
            raise ValueError(f"{len(keypoints)} keypoints, {len(scores)} scores, from frame {start} to {end}")
        return [_people(*frame) for frame in zip(keypoints[start:end], scores[start:end], strict=True)]
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ValueError(
            f"'{path}' must hold `keypoints`, a list with (people, {NUM_POINTS}, 2) for each frame, and `scores`, a "
            f"list with (people, {NUM_POINTS}), as Uni-Sign's files do: {type(error).__name__}: {error}."
        ) from error


def _people(keypoints: Any, scores: Any) -> list[np.ndarray]:
    with np.errstate(over="ignore"):  # what is too large becomes infinite, which is unseen
        points, marks = np.asarray(keypoints, np.float32), np.asarray(scores, np.float32)
    if not points.size:
        return []
    if points.shape[1:] != (NUM_POINTS, 2) or marks.shape != points.shape[:2]:
        raise ValueError(f"a frame has keypoints of shape {points.shape} and scores of shape {marks.shape}")
    return list(np.concatenate([points, marks[..., None]], -1))
