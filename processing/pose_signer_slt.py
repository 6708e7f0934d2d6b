# Copyright 2026 The FLaLLM authors. Licensed under the Apache License, Version 2.0.
"""Which of several people in the picture is the signer."""

import functools
import logging

import numpy as np

from .pose_layouts_slt import PARTS

logger = logging.getLogger(__name__)
_warn_once = functools.cache(logger.warning)

BODY = list(PARTS["body"])
SEEN = 0.3  # Uni-Sign's threshold of scores
LEAST_OVERLAP = 0.1  # ours, intersection over union: people move little from one frame to the next


def poses_of_signer(keypoints: np.ndarray, scores: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray]:
    """
    The poses of the person with the largest body over the whole clip, with a warning if there are several people.

    Files list the people of a frame in any order, so that they are followed from frame to frame by the overlap of
    the boxes around their bodies. Frames in which the signer is missing are unseen. (Uni-Sign takes the first person
    of each frame.)

    Args:
        keypoints: `(frames, people, 133, 2)`; `scores`: `(frames, people, 133)`, 0 for unseen points.
        name: of the clip in warnings.

    Returns:
        `(frames, 133, 2)` and `(frames, 133)`.
    """
    if scores.shape[1] == 1:
        return keypoints[:, 0], scores[:, 0]
    boxes = _boxes(keypoints[:, :, BODY], scores[:, :, BODY])
    is_there = _areas(boxes) > 0
    people = _followed(boxes, is_there)
    if not people:  # no body is seen, only hands or faces
        place = int(np.argmax(scores.sum((0, 2))))
        return keypoints[:, place], scores[:, place]
    if len(people) > 1:
        _warn_once(
            f"{name} shows up to {is_there.sum(1).max()} people in a frame, {len(people)} in all. The signer is taken "
            "to be the one with the largest body."
        )
    places = max(people, key=lambda person: sum(_areas(boxes[frame, place]) for frame, place in person.items()))
    chosen, chosen_scores = np.zeros_like(keypoints[:, 0]), np.zeros_like(scores[:, 0])
    for frame, place in places.items():
        chosen[frame], chosen_scores[frame] = keypoints[frame, place], scores[frame, place]
    return chosen, chosen_scores


def _boxes(keypoints: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """`(frames, people, 4)`: left, top, right and bottom of each body, all 0 where none of it is seen."""
    seen = (scores > SEEN)[..., None]
    least = np.where(seen, keypoints, np.inf).min(2)
    most = np.where(seen, keypoints, -np.inf).max(2)
    boxes = np.concatenate([least, most], -1)
    return np.where(np.isfinite(boxes).all(-1, keepdims=True), boxes, 0)


def _followed(boxes: np.ndarray, is_there: np.ndarray) -> list[dict[int, int]]:
    """For each person that appears the frames, and the person's place in the list of each."""
    people: list[dict[int, int]] = []
    last_boxes = np.zeros((0, 4))
    for frame, found in enumerate(map(np.flatnonzero, is_there)):
        overlaps = _overlaps(last_boxes[:, None], boxes[frame, found][None])
        pairs = np.argwhere(overlaps >= LEAST_OVERLAP)
        best_first = pairs[np.argsort(-overlaps[tuple(pairs.T)], kind="stable")]
        persons: dict[int, int] = {}  # by the index in `found`
        for person, index in best_first.tolist():
            if index not in persons and person not in persons.values():
                persons[index] = person
        for index, place in enumerate(found.tolist()):
            if index not in persons:
                persons[index] = len(people)
                people.append({})
                last_boxes = np.concatenate([last_boxes, boxes[frame, place][None]])
            people[persons[index]][frame] = place
            last_boxes[persons[index]] = boxes[frame, place]
    return people


def _overlaps(ones: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes `(..., 4)` of some area."""
    common = np.maximum(np.minimum(ones[..., 2:], others[..., 2:]) - np.maximum(ones[..., :2], others[..., :2]), 0)
    common = common.prod(-1)
    return common / (_areas(ones) + _areas(others) - common)


def _areas(boxes: np.ndarray) -> np.ndarray:
    return (boxes[..., 2:] - boxes[..., :2]).prod(-1)
