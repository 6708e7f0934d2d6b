# Copyright 2026 The FLaLLM authors. Licensed under the Apache License, Version 2.0.
"""The points of `.pose` files, which are found by the names of components and points that their headers state."""

from collections.abc import Sequence

from .pose_layouts_slt import (
    BODY_NAMES,
    FACE,
    LEFT_HAND,
    LEFT_WRIST,
    MEDIAPIPE_FACE,
    NUM_POINTS,
    RIGHT_HAND,
    RIGHT_WRIST,
    SAME_BODY_NAMES,
)

MEDIAPIPE_HAND_NAMES = (
    "wrist",
    *(
        f"{finger}_{joint}"
        for finger, joints in {
            "thumb": ("cmc", "mcp", "ip", "tip"),
            **{f"{each}_finger": ("mcp", "pip", "dip", "tip") for each in ("index", "middle", "ring")},
            "pinky": ("mcp", "pip", "dip", "tip"),
        }.items()
        for joint in joints
    ),
)
OPENPOSE_HAND_NAMES = (
    "base", "t_stt", "t_bcmc", "t_mcp", "t_ip", "i_cmc", "i_mcp", "i_pip", "i_dip", "m_cmc", "m_mcp", "m_pip", "m_dip",
    "r_cmc", "r_mcp", "r_pip", "r_dip", "p_cmc", "p_mcp", "p_pip", "p_dip",
)  # fmt: skip
NUM_JOINTS = len(LEFT_HAND)
NUM_FACE_POINTS = len(FACE)


def _body() -> dict[str, int]:
    """As MediaPipe and COCO write them, `left_wrist`, and OpenPose, `lwrist`."""
    names = {name: point for point, name in enumerate(BODY_NAMES)}
    names |= {name: names[ours] for name, ours in SAME_BODY_NAMES.items()}
    sides = {name: name.partition("_") for name in BODY_NAMES}
    return names | {f"{side[0]}{rest.replace('_', '')}": names[name] for name, (side, _, rest) in sides.items() if rest}


def _hand(points: Sequence[int]) -> dict[str, int]:
    numbered = tuple(f"hand_{index}" for index in range(NUM_JOINTS))
    return {
        name: point
        for names in (MEDIAPIPE_HAND_NAMES, OPENPOSE_HAND_NAMES, numbered)
        for name, point in zip(names, points, strict=True)
    }


def _face() -> dict[str, int]:
    """COCO's `face-30`, AlphaPose's `face_30`, and OpenPose's `fn_30`, with the kind of point before its number."""
    kinds = ("face-", "face_", "fb_", "feb_", "fn_", "fe_", "flo_", "fli_")
    return {f"{kind}{index}": FACE[index] for kind in kinds for index in range(NUM_FACE_POINTS)}


BODY_POINTS, FACE_POINTS = _body(), _face()
LEFT_HAND_POINTS, RIGHT_HAND_POINTS = _hand(LEFT_HAND), _hand(RIGHT_HAND)
MESH_POINTS = {str(index): FACE[place] for place, index in enumerate(MEDIAPIPE_FACE)}
# By the name of a component in lower case, without the number of points that AlphaPose puts after it.
COMPONENTS: dict[str, dict[str, int]] = {
    "pose_landmarks": BODY_POINTS,
    "face_landmarks": MESH_POINTS,
    "left_hand_landmarks": LEFT_HAND_POINTS,
    "right_hand_landmarks": RIGHT_HAND_POINTS,
    "body": BODY_POINTS,
    "face": FACE_POINTS,
    "left_hand": LEFT_HAND_POINTS,
    "right_hand": RIGHT_HAND_POINTS,
    "pose_keypoints_2d": BODY_POINTS,
    "face_keypoints_2d": FACE_POINTS,
    "hand_left_keypoints_2d": LEFT_HAND_POINTS,
    "hand_right_keypoints_2d": RIGHT_HAND_POINTS,
}
NUMBERS_AFTER_COMPONENTS = ("_133", "_136")
# OpenPose's single component of 135 points, in their order: COCO's body, the neck and the top of the head, the feet;
# hands without wrists, which are those of the body; the face and the pupils.
BODY_135_POINTS = (
    *range(17), None, None, *range(17, 23), *LEFT_HAND[1:], *RIGHT_HAND[1:], *FACE, None, None,
)  # fmt: skip
WRISTS_OF_BODY_135 = {LEFT_HAND[0]: LEFT_WRIST, RIGHT_HAND[0]: RIGHT_WRIST}


def sources_of_components(components: Sequence[tuple[str, Sequence[str]]]) -> list[int] | None:
    """
    For each of our points its index among all points of a file, -1 for those that it lacks.

    Args:
        components: the name of each, and the names of its points.

    Returns:
        None for components of which none is known.
    """
    sources, start, is_known = [-1] * NUM_POINTS, 0, False
    for name, points in components:
        found = _points_of(name, points)
        is_known = is_known or bool(found)
        for point, index in found.items():
            sources[point] = start + index
        start += len(points)
    return sources if is_known else None


def _points_of(component: str, names: Sequence[str]) -> dict[int, int]:
    """Our points in one component, and their indices there."""
    component = component.lower()
    for number in NUMBERS_AFTER_COMPONENTS:
        component = component.removesuffix(number)
    if component == "body_135" and len(names) == len(BODY_135_POINTS):
        points = {point: index for index, point in enumerate(BODY_135_POINTS) if point is not None}
        return points | {wrist: points[of_body] for wrist, of_body in WRISTS_OF_BODY_135.items()}
    known = COMPONENTS.get(component, {})
    return {known[name.lower()]: index for index, name in enumerate(names) if name.lower() in known}
