"""
A signer whose points have known places, and how each source of poses stores them.

The places come from the figure's geometry and the names of its points, the orders from the documentation of each
source, neither from the tables of the library.
"""

import json
import math
from pathlib import Path

import numpy as np
from raw_corpora import plain_pickle

WIDTH, HEIGHT = 1000, 800
MIDDLE = WIDTH / 2
# The signer faces the camera: what is left is on the right of the picture. Only the left half is given.
LEFT_BODY = {
    "eye": (25, 90), "ear": (55, 100), "shoulder": (120, 240), "elbow": (170, 380), "wrist": (90, 300),
    "hip": (80, 500), "knee": (85, 620), "ankle": (90, 730), "big_toe": (110, 770), "small_toe": (130, 765),
    "heel": (85, 755),
}  # fmt: skip
BODY_NAMES = [
    "nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow",
    "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle",
    "right_ankle", "left_big_toe", "left_small_toe", "left_heel", "right_big_toe", "right_small_toe", "right_heel",
]  # fmt: skip
MEDIAPIPE_NAMES = [
    "nose", "left_eye_inner", "left_eye", "left_eye_outer", "right_eye_inner", "right_eye", "right_eye_outer",
    "left_ear", "right_ear", "mouth_left", "mouth_right", "left_shoulder", "right_shoulder", "left_elbow",
    "right_elbow", "left_wrist", "right_wrist", "left_pinky", "right_pinky", "left_index", "right_index", "left_thumb",
    "right_thumb", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle", "left_heel",
    "right_heel", "left_foot_index", "right_foot_index",
]  # fmt: skip
OPENPOSE_25 = [
    "nose", "neck", "right_shoulder", "right_elbow", "right_wrist", "left_shoulder", "left_elbow", "left_wrist",
    "mid_hip", "right_hip", "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle", "right_eye",
    "left_eye", "right_ear", "left_ear", "left_big_toe", "left_small_toe", "left_heel", "right_big_toe",
    "right_small_toe", "right_heel",
]  # fmt: skip
OPENPOSE_18 = [
    "nose", "neck", "right_shoulder", "right_elbow", "right_wrist", "left_shoulder", "left_elbow", "left_wrist",
    "right_hip", "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle", "right_eye", "left_eye",
    "right_ear", "left_ear",
]  # fmt: skip
# Points of the face mesh that MediaPipe's documentation and users name, and the points of iBUG at the same places.
MESH = {4: 30, 152: 8, 33: 36, 133: 39, 362: 42, 263: 45, 61: 48, 291: 54, 13: 62, 14: 66, 78: 60, 308: 64, 168: 27}


def body() -> dict[str, tuple[float, float]]:
    """The places of the body's points by name."""
    places = {"nose": (MIDDLE, 110.0), "neck": (MIDDLE, 235.0), "mid_hip": (MIDDLE, 505.0)}
    for name, (aside, down) in LEFT_BODY.items():
        places[f"left_{name}"] = (MIDDLE + aside, float(down))
        places[f"right_{name}"] = (MIDDLE - aside, float(down))
    return places


def face() -> np.ndarray:
    """The 68 points of iBUG `(68, 2)`, numbered from the right of the signer to the left, then around eyes and lips."""

    def ring(centre, radii, angles):
        return [
            (centre[0] - radii[0] * math.cos(math.radians(a)), centre[1] - radii[1] * math.sin(math.radians(a)))
            for a in angles
        ]

    points = ring((MIDDLE, 100), (52, 60), [-11.25 * index for index in range(17)])  # jaw, over the chin
    right_brow = [(MIDDLE - 40 + 7 * index, 75 - [0, 3, 4, 3, 1][index]) for index in range(5)]
    points += right_brow + [(2 * MIDDLE - x, y) for x, y in reversed(right_brow)]
    points += [(MIDDLE, 88 + 7 * index) for index in range(4)]  # bridge of the nose, to its tip
    points += [(MIDDLE - 10 + 5 * index, 115 + [0, 1, 2, 1, 0][index]) for index in range(5)]
    right_eye = ring((MIDDLE - 22, 90), (8, 4), [0, 60, 120, 180, 240, 300])
    points += right_eye
    points += ring((MIDDLE + 22, 90), (8, 4), [0, 60, 120, 180, 240, 300])
    points += ring((MIDDLE, 135), (20, 9), [30 * index for index in range(12)])
    points += ring((MIDDLE, 135), (14, 4), [45 * index for index in range(8)])
    return np.array(points)


def hand(wrist: tuple[float, float], outward: float) -> np.ndarray:
    """`(21, 2)`: the wrist, and four joints of each finger from the thumb on; `outward` is the side of the thumb."""
    points = [wrist]
    for finger in range(5):
        for joint in range(1, 5):
            points.append((wrist[0] + outward * (14 - 7 * finger), wrist[1] - 10 * joint - 2 * finger))
    return np.array(points, float)


def figure() -> np.ndarray:
    """All 133 points of COCO-WholeBody, `(133, 2)` in pixels."""
    places = body()
    points = [places[name] for name in BODY_NAMES]
    hands = [hand(places["left_wrist"], -1.0), hand(places["right_wrist"], 1.0)]
    return np.concatenate([np.array(points), face(), *hands])


def moving(num_frames: int) -> np.ndarray:
    """`(frames, 133, 2)`: the figure moves a little to the right and down in each frame."""
    return figure() + np.arange(num_frames)[:, None, None] * np.array([1.5, 0.5])


def indices_of(names: list[str]) -> list[int]:
    """Of the body's points among the 133, by name."""
    same = {"left_foot_index": "left_big_toe", "right_foot_index": "right_big_toe"}
    return [BODY_NAMES.index(same.get(name, name)) if same.get(name, name) in BODY_NAMES else -1 for name in names]


BODY, FACE, LEFT, RIGHT = range(23), range(23, 91), range(91, 112), range(112, 133)
MESH_SIZE = 468


def mediapipe(frames: np.ndarray, order: str = "body left right", mesh_size: int = MESH_SIZE, channels: int = 4):
    """`(frames, points, channels)` in fractions of the picture, with depth and visibility; points that are none of
    ours are far away. Also the points that can be found again."""
    fractions = frames / np.array([WIDTH, HEIGHT])
    parts, found = [], set()
    for part in order.split():
        if part == "body":
            indices = indices_of(MEDIAPIPE_NAMES)
        elif part == "face":
            indices = [-1] * mesh_size
            for mesh, ibug in MESH.items():
                indices[mesh] = FACE[ibug]
        else:
            indices = list({"left": LEFT, "right": RIGHT}[part])
        places = np.where(np.array(indices)[:, None] >= 0, fractions[:, indices], 7.0)
        extra = np.full((*places.shape[:2], channels - 2), -0.3)
        if part == "body" and channels == 4:
            extra[..., 1] = 0.9
        elif channels == 4:
            extra[..., 1] = 0.0  # MediaPipe gives no visibility for hands and face
        parts.append(np.concatenate([places, extra], -1))
        found |= {index for index in indices if index >= 0}
    return np.concatenate(parts, 1), found


def one_row(frames: np.ndarray) -> np.ndarray:
    """As tutorials store MediaPipe's: 33 points of 4 numbers, then the hands' of 3, in one row for each frame."""
    values, _ = mediapipe(frames)
    return np.concatenate([values[:, :33].reshape(len(values), -1), values[:, 33:, :3].reshape(len(values), -1)], 1)


def openpose_lists(points: np.ndarray, names: list[str]) -> dict[str, list[float]]:
    """One person in a frame of OpenPose."""
    indices = indices_of(names)
    lists = {
        "pose_keypoints_2d": [points[index] if index >= 0 else (1.0, 1.0) for index in indices],
        "face_keypoints_2d": [*points[list(FACE)], (1.0, 1.0), (2.0, 2.0)],
        "hand_left_keypoints_2d": points[list(LEFT)],
        "hand_right_keypoints_2d": points[list(RIGHT)],
    }
    return {key: [float(value) for x, y in values for value in (x, y, 0.8)] for key, values in lists.items()}


def write_openpose(folder: Path, frames: np.ndarray, names: list[str] = OPENPOSE_25, first: int = 0) -> Path:
    folder.mkdir()
    for number, points in enumerate(frames, first):
        content = {"version": 1.3, "people": [openpose_lists(points, names)]}
        (folder / f"clip-2_{number:012}_keypoints.json").write_text(json.dumps(content))
    return folder


def write_uni_sign(path: Path, frames: np.ndarray, **others) -> Path:
    """As plain lists, one person, in fractions of the picture."""
    fractions = frames / np.array([WIDTH, HEIGHT])
    scores = [[[0.8] * 133]] * len(frames)
    path.write_bytes(plain_pickle({"keypoints": fractions[:, None].tolist(), "scores": scores, **others}))
    return path


def write_pose(path: Path, components: list, values: np.ndarray, fps: float = 25.0, **options) -> Path:
    """A `.pose` file; `values` are `(frames, people, points, dimensions and score)`."""
    from pose_format import Pose
    from pose_format.numpy import NumPyPoseBody
    from pose_format.pose_header import PoseHeader, PoseHeaderDimensions

    size = PoseHeaderDimensions(*options.get("size", (WIDTH, HEIGHT)))
    header = PoseHeader(version=0.2, dimensions=size, components=components)
    data, scores = values[..., :-1].astype(np.float32), values[..., -1].astype(np.float32)
    with path.open("wb") as file:
        Pose(header, NumPyPoseBody(fps, data, scores)).write(file)
    return path


def component(name: str, points: list[str], form: str = "XYZC"):
    from pose_format.pose_header import PoseHeaderComponent

    return PoseHeaderComponent(name=name, points=points, limbs=[], colors=[], point_format=form)
