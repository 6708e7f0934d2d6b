# Copyright 2026 The FLaLLM authors. Licensed under the Apache License, Version 2.0.
"""
The points of a pose, and where each source of poses has them.

Inside, every pose has the 133 points of COCO-WholeBody (Jin et al., arXiv 2007.11858): 0-16 body, 17-22 feet, 23-90
face (the 68 points of iBUG), 91-111 left hand, 112-132 right hand. Left is the signer's left. For each other source a
table says which of its points is which of ours; points that it lacks are unseen.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

NUM_POINTS = 133
FACE, LEFT_HAND, RIGHT_HAND = range(23, 91), range(91, 112), range(112, 133)
NOSE, LEFT_WRIST, RIGHT_WRIST, NOSE_TIP = 0, 9, 10, 53

# The points that models read (Uni-Sign, arXiv 2501.15187), 69 in this order: nose, ears, shoulders, elbows and wrists;
# both hands; of the face every second point of the jaw, the inner mouth, and the tip of the nose.
PARTS: dict[str, tuple[int, ...]] = {
    "body": (0, *range(3, 11)),
    "left_hand": tuple(LEFT_HAND),
    "right_hand": tuple(RIGHT_HAND),
    "face": (*range(23, 40, 2), *range(83, 91), NOSE_TIP),
}
POINTS_OF_PARTS: tuple[int, ...] = tuple(point for points in PARTS.values() for point in points)
# The point that a part is measured from, and the point of the body at the same place.
ORIGINS: dict[str, tuple[int, int]] = {
    "left_hand": (LEFT_HAND[0], LEFT_WRIST),
    "right_hand": (RIGHT_HAND[0], RIGHT_WRIST),
    "face": (NOSE_TIP, NOSE),
}
LEAST_POINTS = 4  # Uni-Sign's; fewer seen points of the body are no box
# Of the Gaussian that smooths poses: how many standard deviations it reaches, and what it must at least add up to, by
# squared scores.
REACH_IN_DEVIATIONS = 3
LEAST_WEIGHT = 0.05

BODY_NAMES = (
    "nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow",
    "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle",
    "right_ankle", "left_big_toe", "left_small_toe", "left_heel", "right_big_toe", "right_small_toe", "right_heel",
)  # fmt: skip

# MediaPipe's 33 points of the body, and its face mesh at the 68 points of iBUG: the choice in common use, which is
# symmetric under the mesh's own mirror. Points 468-477 of the mesh are the irises.
MEDIAPIPE_BODY_NAMES = (
    "nose", "left_eye_inner", "left_eye", "left_eye_outer", "right_eye_inner", "right_eye", "right_eye_outer",
    "left_ear", "right_ear", "mouth_left", "mouth_right", "left_shoulder", "right_shoulder", "left_elbow",
    "right_elbow", "left_wrist", "right_wrist", "left_pinky", "right_pinky", "left_index", "right_index", "left_thumb",
    "right_thumb", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle", "left_heel",
    "right_heel", "left_foot_index", "right_foot_index",
)  # fmt: skip
MEDIAPIPE_FACE = (
    162, 234, 93, 58, 172, 136, 149, 148, 152, 377, 378, 365, 397, 288, 323, 454, 389,  # jaw
    71, 63, 105, 66, 107, 336, 296, 334, 293, 301,  # eyebrows
    168, 197, 5, 4, 75, 97, 2, 326, 305,  # nose
    33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380,  # eyes
    61, 39, 37, 0, 267, 269, 291, 405, 314, 17, 84, 181,  # outer mouth
    78, 82, 13, 312, 308, 317, 14, 87,  # inner mouth
)  # fmt: skip
MEDIAPIPE_FACE_SIZES = (468, 478)

# OpenPose's BODY_25; the points 1 (neck) and 8 (middle of the hips) have no place in ours.
OPENPOSE_BODY_NAMES = (
    "nose", "neck", "right_shoulder", "right_elbow", "right_wrist", "left_shoulder", "left_elbow", "left_wrist",
    "middle_hip", "right_hip", "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle", "right_eye",
    "left_eye", "right_ear", "left_ear", "left_big_toe", "left_small_toe", "left_heel", "right_big_toe",
    "right_small_toe", "right_heel",
)  # fmt: skip
OPENPOSE_COCO_NAMES = (
    "nose", "neck", "right_shoulder", "right_elbow", "right_wrist", "left_shoulder", "left_elbow", "left_wrist",
    "right_hip", "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle", "right_eye", "left_eye",
    "right_ear", "left_ear",
)  # fmt: skip
OPENPOSE_FACE_POINTS = 70  # iBUG's 68, and the pupils

# What other sources call points of ours.
SAME_BODY_NAMES = {"left_foot_index": "left_big_toe", "right_foot_index": "right_big_toe"}

# Tables of parts: for each of our points that a part of the source has, its index in that part.
Table = Mapping[int, int]


def table_of_names(names: Sequence[str]) -> dict[int, int]:
    """The table of a body by the names of its points."""
    places = {SAME_BODY_NAMES.get(name, name): index for index, name in enumerate(names)}
    return {point: places[name] for point, name in enumerate(BODY_NAMES) if name in places}


def table_in_order(points: Sequence[int]) -> dict[int, int]:
    """The table of a part that has our points in our order."""
    return {point: index for index, point in enumerate(points)}


MEDIAPIPE_BODY_TABLE = table_of_names(MEDIAPIPE_BODY_NAMES)
MEDIAPIPE_FACE_TABLE = dict(zip(FACE, MEDIAPIPE_FACE, strict=True))
OPENPOSE_BODY_TABLE = table_of_names(OPENPOSE_BODY_NAMES)
OPENPOSE_COCO_TABLE = table_of_names(OPENPOSE_COCO_NAMES)
FACE_TABLE = table_in_order(FACE)
LEFT_HAND_TABLE = table_in_order(LEFT_HAND)
RIGHT_HAND_TABLE = table_in_order(RIGHT_HAND)


@dataclass(frozen=True)
class PoseLayout:
    """
    Args:
        name: as files name it.
        sizes: the number of points of each part of the source, in its order.
        tables: of the parts.
        has_depth: MediaPipe's channels are x, y, the depth and, of the body, the visibility, which is its score; those
            of all others are x, y and the score.
    """

    name: str
    sizes: tuple[int, ...]
    tables: tuple[Table, ...]
    has_depth: bool = False

    @property
    def num_points(self) -> int:
        """Number of points of the source."""
        return sum(self.sizes)

    def sources(self) -> list[int]:
        """For each of our points its index in the source, -1 for those that it lacks."""
        indices, start = [-1] * NUM_POINTS, 0
        for size, table in zip(self.sizes, self.tables, strict=True):
            for point, index in table.items():
                indices[point] = start + index
            start += size
        return indices


def _mediapipe_layouts(name: str, *parts: str) -> list[PoseLayout]:
    """A layout with these parts in this order, with and without the irises of the face."""
    sizes = {"body": len(MEDIAPIPE_BODY_NAMES), "left": len(LEFT_HAND), "right": len(RIGHT_HAND)}
    tables = {
        "body": MEDIAPIPE_BODY_TABLE,
        "face": MEDIAPIPE_FACE_TABLE,
        "left": LEFT_HAND_TABLE,
        "right": RIGHT_HAND_TABLE,
    }
    return [
        PoseLayout(name, tuple((sizes | {"face": face})[part] for part in parts), tuple(map(tables.get, parts)), True)
        for face in (MEDIAPIPE_FACE_SIZES if "face" in parts else (0,))
    ]


COCO_WHOLEBODY = PoseLayout("coco_wholebody", (NUM_POINTS,), (table_in_order(range(NUM_POINTS)),))
OPENPOSE = PoseLayout(
    "openpose",
    (len(OPENPOSE_BODY_NAMES), OPENPOSE_FACE_POINTS, len(LEFT_HAND), len(RIGHT_HAND)),
    (OPENPOSE_BODY_TABLE, FACE_TABLE, LEFT_HAND_TABLE, RIGHT_HAND_TABLE),
)
# MediaPipe's holistic landmarks are kept in several orders; those with the face have the same number of points.
LAYOUTS: tuple[PoseLayout, ...] = (
    COCO_WHOLEBODY,
    OPENPOSE,
    *_mediapipe_layouts("mediapipe_pose", "body"),
    *_mediapipe_layouts("mediapipe_pose_hands", "body", "left", "right"),
    *_mediapipe_layouts("mediapipe_pose_hands_face", "body", "left", "right", "face"),
    *_mediapipe_layouts("mediapipe_pose_face_hands", "body", "face", "left", "right"),
    *_mediapipe_layouts("mediapipe_face_left_pose_right", "face", "left", "body", "right"),
)
LAYOUT_NAMES = tuple(dict.fromkeys(layout.name for layout in LAYOUTS))


def _mirrored_points() -> tuple[int, ...]:
    """Of the face, which is numbered from one side to the other: the jaw, the eyebrows, the nose, the eyes, the mouth
    outside and inside."""
    mirrored = list(range(NUM_POINTS))
    pairs = [*zip(range(1, 17, 2), range(2, 17, 2), strict=True), *zip(range(17, 20), range(20, 23), strict=True)]
    pairs += zip(LEFT_HAND, RIGHT_HAND, strict=True)
    face = [(index, 16 - index) for index in range(8)] + [(17 + index, 26 - index) for index in range(5)]
    face += [(31, 35), (32, 34), (36, 45), (37, 44), (38, 43), (39, 42), (40, 47), (41, 46)]
    face += [(48, 54), (49, 53), (50, 52), (55, 59), (56, 58), (60, 64), (61, 63), (65, 67)]
    pairs += [(FACE[0] + one, FACE[0] + other) for one, other in face]
    for one, other in pairs:
        mirrored[one], mirrored[other] = other, one
    return tuple(mirrored)


# Which point of the signer is where each one is in a mirror.
MIRRORED_POINTS: tuple[int, ...] = _mirrored_points()
