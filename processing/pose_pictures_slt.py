# Copyright 2026 The FLaLLM authors. Licensed under the Apache License, Version 2.0.
"""Draws poses as pictures, for people who check a data set or see what a model has seen."""

from itertools import pairwise
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from .pose_layouts_slt import FACE, LEFT_HAND, NUM_POINTS, RIGHT_HAND

# Three that stay apart for people with any colour blindness, in print and on white (Okabe and Ito, 2008).
LEFT_HAND_COLOUR, RIGHT_HAND_COLOUR, BODY_COLOUR = "#0072B2", "#D55E00", "#3D3D3D"
FACE_COLOUR = "#767676"
BACKGROUND = "#FFFFFF"
# As shares of the longest side of the picture.
BODY_WIDTH, HAND_WIDTH, FACE_WIDTH = 1 / 80, 1 / 160, 1 / 320
OVERSAMPLING = 2  # pictures are drawn larger and reduced, for smooth lines
FARTHEST = 4.0  # pictures from the edge: a line to a point farther away leaves the picture no differently

Lines = list[tuple[int, int]]

BODY_LINES: Lines = [
    (0, 1), (0, 2), (1, 3), (2, 4), (5, 6), (5, 7), (7, 9), (6, 8), (8, 10), (5, 11), (6, 12), (11, 12), (11, 13),
    (13, 15), (12, 14), (14, 16), (15, 17), (15, 18), (15, 19), (16, 20), (16, 21), (16, 22),
]  # fmt: skip
# Of the 68 points of iBUG: first and last of each line, and whether it is closed.
FACE_CHAINS = (
    (0, 16, False), (17, 21, False), (22, 26, False), (27, 30, False), (31, 35, False), (36, 41, True), (42, 47, True),
    (48, 59, True), (60, 67, True),
)  # fmt: skip


def _face_lines() -> Lines:
    lines: Lines = []
    for first, last, is_closed in FACE_CHAINS:
        points = FACE[first : last + 1]
        lines += [*pairwise(points), *([(points[-1], points[0])] if is_closed else [])]
    return lines


def _hand_lines(hand: range) -> Lines:
    """Each finger is a chain of four joints that starts at the wrist."""
    fingers = (hand[first : first + 4] for first in range(1, len(hand), 4))
    return [line for finger in fingers for line in pairwise((hand[0], *finger))]


# What is drawn later covers what is drawn before: hands in front of the face.
PARTS_TO_DRAW = (
    (range(FACE[0]), BODY_LINES, BODY_COLOUR, BODY_WIDTH),
    (FACE, _face_lines(), FACE_COLOUR, FACE_WIDTH),
    (LEFT_HAND, _hand_lines(LEFT_HAND), LEFT_HAND_COLOUR, HAND_WIDTH),
    (RIGHT_HAND, _hand_lines(RIGHT_HAND), RIGHT_HAND_COLOUR, HAND_WIDTH),
)


def draw_poses(
    keypoints: Any,
    scores: Any,
    width: float | None = None,
    height: float | None = None,
    longest_side: int = 256,
    score_threshold: float = 0.3,
) -> np.ndarray:
    """Draw each frame of a clip: body grey, the signer's left hand blue, the right one orange, the face thin.

    Points that are not seen are absent, and so are lines to them.

    Args:
        keypoints: arrays or tensors (frames, 133, 2) in the layout COCO-WholeBody, x to the right and y down.
        scores: (frames, 133). Points with a score of `score_threshold` or less count as not seen.
        width, height: size of the picture in the unit of the keypoints; None where these are shares of it.
        longest_side: of the pictures that are drawn, in pixels.

    Returns uint8 (frames, height, width, 3). Raises `ValueError` for arrays of other shapes, and a size that is not
    positive."""
    points, seen = np.asarray(keypoints, dtype=np.float64), np.asarray(scores) > score_threshold
    if points.ndim != 3 or points.shape[1:] != (NUM_POINTS, 2) or seen.shape != points.shape[:2]:
        raise ValueError(
            "Poses are drawn from keypoints (frames, 133, 2) and scores (frames, 133), got "
            f"{tuple(points.shape)} and {tuple(seen.shape)}."
        )
    seen = seen & np.isfinite(points).all(-1)
    size = np.array([width or 1.0, height or 1.0], dtype=np.float64)
    if not (np.isfinite(size).all() and (size > 0).all()):
        raise ValueError(f"The width and height of the picture must be positive, got {width} and {height}.")
    drawn_size = np.maximum(np.rint(size / size.max() * longest_side), 1).astype(int)
    shares = np.clip(np.nan_to_num(points / size), -FARTHEST, 1 + FARTHEST)
    pictures = [_draw_frame(*frame, drawn_size) for frame in zip(shares, seen, strict=True)]
    return np.stack(pictures) if pictures else np.zeros((0, *drawn_size[::-1], 3), dtype=np.uint8)


def _draw_frame(shares: np.ndarray, seen: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Points (133, 2) as shares of the picture -> uint8 (height, width, 3)"""
    large = size * OVERSAMPLING
    picture = Image.new("RGB", tuple(large.tolist()), BACKGROUND)
    draw = ImageDraw.Draw(picture)
    places = [tuple(place) for place in (shares * large).tolist()]
    for points, lines, colour, width in PARTS_TO_DRAW:
        thickness = max(round(width * large.max()), 1)
        for first, second in lines:
            if seen[first] and seen[second]:
                draw.line([places[first], places[second]], fill=colour, width=thickness)
        for point in points:
            if seen[point]:
                _draw_dot(draw, places[point], thickness, colour)
    return np.asarray(picture.resize(tuple(size.tolist()), Image.Resampling.BOX))


def _draw_dot(draw: ImageDraw.ImageDraw, place: tuple[float, float], radius: float, colour: str) -> None:
    """Round, of twice the width of the lines that meet there."""
    x, y = place
    draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=colour)
