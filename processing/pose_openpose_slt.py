# Copyright 2026 The FLaLLM authors. Licensed under the Apache License, Version 2.0.
"""Folders of OpenPose's JSON files, one for each frame: `clip_000000000012_keypoints.json`."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from .pose_layouts_slt import (
    FACE_TABLE,
    LEFT_HAND_TABLE,
    NUM_POINTS,
    OPENPOSE_BODY_NAMES,
    OPENPOSE_BODY_TABLE,
    OPENPOSE_COCO_NAMES,
    OPENPOSE_COCO_TABLE,
    OPENPOSE_FACE_POINTS,
    RIGHT_HAND_TABLE,
    Table,
)
from .poses_slt import People, PoseFacts, PoseFile

NAME = re.compile(r"(?:.*\D)?(\d+)_keypoints\.json", re.IGNORECASE)
CHANNELS = 3  # x, y and the score
HAND_POINTS = len(LEFT_HAND_TABLE)
# The lists of a person, and by its number of points the table of each.
PARTS: dict[str, dict[int, Table]] = {
    "pose_keypoints_2d": {
        len(OPENPOSE_BODY_NAMES): OPENPOSE_BODY_TABLE,
        len(OPENPOSE_COCO_NAMES): OPENPOSE_COCO_TABLE,
    },
    "face_keypoints_2d": {OPENPOSE_FACE_POINTS: FACE_TABLE},
    "hand_left_keypoints_2d": {HAND_POINTS: LEFT_HAND_TABLE},
    "hand_right_keypoints_2d": {HAND_POINTS: RIGHT_HAND_TABLE},
}
# A folder whose frames are numbered with larger gaps holds several clips.
MOST_FRAMES_FOR_A_FILE = 100


class OpenPoseFolder(PoseFile):
    """One clip. Its frames are numbered by their files, from the first one; a number without a file is a frame in
    which nobody is seen. The folder states no frame rate, and no size of the picture."""

    def facts(self) -> PoseFacts:
        numbers = self._files()
        return PoseFacts(max(numbers) - min(numbers) + 1)

    def people(self, first: int, last: int) -> People:
        files = self._files()
        start = min(files)
        frames = [_people_in(files[start + index]) if start + index in files else [] for index in range(first, last)]
        return people_of_lists(frames)

    def _files(self) -> dict[int, Path]:
        """By the number of the frame."""
        found = [(match, path) for path in sorted(self.path.iterdir()) if (match := NAME.fullmatch(path.name))]
        files = {int(match[1]): path for match, path in found}
        if not files:
            raise ValueError(f"{self.name} holds no files of OpenPose, such as clip_000000000012_keypoints.json.")
        if len(files) < len(found):
            raise ValueError(f"{self.name} holds several files for one frame. Give every clip a folder of its own.")
        if max(files) - min(files) >= MOST_FRAMES_FOR_A_FILE * len(files):
            raise ValueError(
                f"{self.name} holds {len(files)} files for the frames {min(files)} to {max(files)}. Give every clip a "
                "folder of its own."
            )
        return files


def people_of_lists(frames: list[list[np.ndarray]]) -> People:
    """
    Args:
        frames: for each frame its people, `(133, 3)` each, with x, y and score.
    """
    most = max(1, *(len(people) for people in frames)) if frames else 1
    values = np.zeros((len(frames), most, NUM_POINTS, CHANNELS), np.float32)
    for index, people in enumerate(frames):
        for place, person in enumerate(people):
            values[index, place] = person
    return People(values[..., :2], values[..., 2])


def _people_in(path: Path) -> list[np.ndarray]:
    """The people of one frame, `(133, 3)` each. Raises `ValueError` for a file that cannot be read."""
    try:
        content = json.loads(path.read_bytes())
        people = content["people"]
        return [_person(person) for person in people]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        reason = f"{error}" if type(error) is ValueError else f"{type(error).__name__}: {error}"
        raise ValueError(
            f"'{path}' cannot be read as a frame of OpenPose, an object with a list `people`: {reason.rstrip('.')}."
        ) from error


def _person(lists: dict[str, Any]) -> np.ndarray:
    person = np.zeros((NUM_POINTS, CHANNELS), np.float32)
    for part, tables in PARTS.items():
        numbers = np.asarray(lists.get(part, []), np.float32)
        if not len(numbers):
            continue
        table = tables.get(len(numbers) // CHANNELS)
        if numbers.ndim != 1 or len(numbers) % CHANNELS or table is None:
            expected = " or ".join(str(CHANNELS * points) for points in tables)
            raise ValueError(f"{part} must be a list of {expected} numbers, got {numbers.shape}")
        values = numbers.reshape(-1, CHANNELS)
        person[list(table)] = values[list(table.values())]
    return person
