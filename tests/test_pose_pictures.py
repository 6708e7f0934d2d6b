"""Pictures of poses: where points and lines are drawn, in which colours, and what is left out."""

import numpy as np
import pytest
import torch

from processing.pose_pictures_slt import (
    BACKGROUND,
    BODY_COLOUR,
    FACE_COLOUR,
    LEFT_HAND_COLOUR,
    PARTS_TO_DRAW,
    RIGHT_HAND_COLOUR,
    draw_poses,
)


def rgb(colour: str) -> np.ndarray:
    return np.array([int(colour[place : place + 2], 16) for place in (1, 3, 5)])


def is_coloured(picture: np.ndarray, colour: str) -> np.ndarray:
    """-> bool (height, width)"""
    return (np.abs(picture.astype(int) - rgb(colour)) <= 2).all(-1)


def poses_of(points: dict[int, tuple[float, float]], score: float = 0.9) -> tuple[np.ndarray, np.ndarray]:
    """One frame with these points, and no others."""
    keypoints, scores = np.zeros((1, 133, 2), dtype=np.float32), np.zeros((1, 133), dtype=np.float32)
    for point, place in points.items():
        keypoints[0, point], scores[0, point] = place, score
    return keypoints, scores


@pytest.mark.parametrize(
    ("point", "colour"), [(0, BODY_COLOUR), (23, FACE_COLOUR), (91, LEFT_HAND_COLOUR), (132, RIGHT_HAND_COLOUR)]
)
def test_a_point_is_drawn_where_it_is(point, colour):
    x, y = np.random.uniform(0.1, 0.9, 2)
    (picture,) = draw_poses(*poses_of({point: (x * 640, y * 360)}), 640, 360, longest_side=320)
    assert picture.shape == (180, 320, 3) and picture.dtype == np.uint8
    rows, columns = is_coloured(picture, colour).nonzero()
    assert len(rows) and abs(rows.mean() + 0.5 - y * 180) < 1.5 and abs(columns.mean() + 0.5 - x * 320) < 1.5
    far = np.hypot(*(np.indices((180, 320)) - np.array([y * 180, x * 320])[:, None, None])) > 12
    assert is_coloured(picture, BACKGROUND)[far].all()


def test_a_line_needs_both_of_its_points():
    left_arm = {5: (0.2, 0.5), 7: (0.8, 0.5)}
    (picture,) = draw_poses(*poses_of(left_arm), longest_side=100)
    assert is_coloured(picture, BODY_COLOUR)[50, 40:60].all()
    keypoints, scores = poses_of(left_arm)
    scores[0, 7] = 0.3
    (picture,) = draw_poses(keypoints, scores, longest_side=100)
    assert is_coloured(picture, BACKGROUND)[:, 30:].all() and is_coloured(picture, BODY_COLOUR)[48:52, 19:21].any()


def test_unseen_points_leave_the_picture_empty():
    (picture,) = draw_poses(*poses_of(dict.fromkeys(range(133), (0.5, 0.5)), score=0.0))
    assert picture.shape == (256, 256, 3) and is_coloured(picture, BACKGROUND).all()


def test_every_point_is_drawn_once_and_every_line_within_its_part():
    assert sorted(point for points, *_ in PARTS_TO_DRAW for point in points) == list(range(133))
    for points, lines, *_ in PARTS_TO_DRAW:
        assert len(set(lines)) == len(lines) and {point for line in lines for point in line} <= set(points)
    for _, lines, *_ in PARTS_TO_DRAW[2:]:
        assert len(lines) == 20  # five fingers of four bones
    assert PARTS_TO_DRAW[3][1] == [(first + 21, second + 21) for first, second in PARTS_TO_DRAW[2][1]]


def luminance(colour: str) -> float:
    """As WCAG 2 defines it."""
    shares = rgb(colour) / 255
    linear = np.where(shares <= 0.04045, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


# Deuteranopia and protanopia in linear RGB (Viénot, Brettel and Mollon, 1999): red and green are one channel.
BLINDNESS = {
    "protanopia": ([0.11238, 0.88762, 0.0], [0.11238, 0.88762, 0.0], [0.00401, -0.00401, 1.0]),
    "deuteranopia": ([0.29275, 0.70725, 0.0], [0.29275, 0.70725, 0.0], [-0.02234, 0.02234, 1.0]),
}


@pytest.mark.parametrize("kind", BLINDNESS)
def test_hands_differ_for_the_colour_blind(kind):
    left, right = (
        np.array(BLINDNESS[kind]) @ (rgb(colour) / 255) ** 2.2 for colour in (LEFT_HAND_COLOUR, RIGHT_HAND_COLOUR)
    )
    assert np.abs(left - right).max() > 0.3
    for colour in (LEFT_HAND_COLOUR, RIGHT_HAND_COLOUR, FACE_COLOUR):
        assert 1.05 / (luminance(colour) + 0.05) > 3  # WCAG 2.2, 1.4.11: contrast with white


def test_tensors_several_frames_and_points_far_outside():
    keypoints = torch.randn(4, 133, 2) * 1e9
    keypoints[0, 0] = torch.nan
    pictures = draw_poses(keypoints, torch.ones(4, 133), 30, 60, longest_side=40)
    assert pictures.shape == (4, 40, 20, 3)
    assert draw_poses(keypoints[:0], torch.ones(0, 133), 30, 60, longest_side=40).shape == (0, 40, 20, 3)


def test_what_cannot_be_drawn():
    with pytest.raises(ValueError, match=r"keypoints \(frames, 133, 2\) .* got \(1, 75, 2\) and \(1, 75\)"):
        draw_poses(np.zeros((1, 75, 2)), np.zeros((1, 75)))
    with pytest.raises(ValueError, match="must be positive, got -1 and 5"):
        draw_poses(np.zeros((1, 133, 2)), np.zeros((1, 133)), -1, 5)
