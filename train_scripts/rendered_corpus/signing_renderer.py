"""Renders a signer of the embedded corpus: arms by inverse kinematics, hands, and the video file.

Signing space: `lateral` grows from the body's midline towards the dominant hand, `height` grows downwards, both in
units of the frame's width. Every signer is drawn right-handed, which puts the dominant hand on the viewer's left; for a
left-handed signer the frames are mirrored at the end, as left-handed signing is mirrored signing.

A hand is a row of numbers: lateral, height, rotation of the fingers towards the midline in radians, palm radius, and
five fingers of five (x, y) points each, in units of the hand's size, x towards the thumb and y along the fingers. Rows
are interpolated, so that position, rotation and handshape all change smoothly from one sign to the next.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from PIL import ImageDraw

from .drawing import SHOULDER_HEIGHT, Camera, Scenery, draw_arm, draw_hand, lit
from .handshapes import HAND_AT_REST, HAND_OF_HANDSHAPE
from .signers import Recording, Signer
from .signing_language import HOMONYMS_BY_GLOSS, SIGNS_BY_GLOSS, Sign

MIN_RESOLUTION_IN_PIXELS = 32
HAND_DEPTH = 0.16
DOMINANT, OTHER = 0, 1
SIDES = np.array([1.0, -1.0])

PLACE_POSITIONS = {
    "high": (0.31, 0.29),
    "forehead": (0.06, 0.22),
    "chin": (0.03, 0.41),
    "shoulder": (-0.19, 0.47),
    "chest": (0.03, 0.64),
    "side": (0.31, 0.59),
    "belly": (0.03, 0.81),
    "low_side": (0.32, 0.81),
}
PLACE_ROTATIONS = {"shoulder": 0.6, "chest": 0.25, "belly": 1.0, "low_side": 0.9}
MIN_LATERAL_OF_TWO_HANDS = 0.16
BASE_HAND_POSITION, BASE_HAND_ROTATION = (0.06, 0.82), 1.4
REST_POSITION, REST_ROTATION = (0.24, 0.95), 1.9
MOVEMENT_EXTENT = 0.11
CIRCLE_RADIUS = 0.085

STROKE_DURATION_IN_SECONDS = 0.36
TRANSITION_DURATION_IN_SECONDS = 0.12
TRANSITION_SECONDS_PER_FRAME_WIDTH = 0.18
REST_DURATION_IN_SECONDS = 0.10


def plan_hands(glosses: Sequence[str], signer: Signer, random_generator: np.random.Generator) -> np.ndarray:
    """Returns both hands in every frame, (frames, 2, 54), dominant hand first: from rest through the signs, each
    gliding into the next, and back to rest. Raises KeyError for an unknown gloss."""
    return np.concatenate(_plan_pieces(glosses, signer, random_generator))


def _plan_pieces(glosses: Sequence[str], signer: Signer, random_generator: np.random.Generator) -> list[np.ndarray]:
    """Returns the pieces of `plan_hands`: rest, then for each sign the way to it and the sign, then the way to rest,
    and rest."""
    rest = _hands_at_rest()
    at_rest = _hold(rest, REST_DURATION_IN_SECONDS, signer)
    pieces = [at_rest]
    for gloss in glosses:
        stroke = _perform_sign((SIGNS_BY_GLOSS | HOMONYMS_BY_GLOSS)[gloss], signer, random_generator)
        pieces += [_transition(pieces[-1][-1], stroke[0], signer), stroke]
    return pieces + [_transition(pieces[-1][-1], rest, signer), at_rest]


def find_signs(
    glosses: Sequence[str], signer: Signer, resolution: int, random_generator: np.random.Generator
) -> list[range]:
    """Returns the frames of each sign, without the ways between signs, in the clip that `render_clip` makes of the same
    arguments."""
    _draw_camera(resolution, signer.recording, random_generator)
    ends = np.cumsum([len(piece) for piece in _plan_pieces(glosses, signer, random_generator)]).tolist()
    return [range(start, end) for start, end in zip(ends[1:-2:2], ends[2:-2:2], strict=True)]


def _hands_at_rest() -> np.ndarray:
    lateral, height = REST_POSITION
    return np.stack([np.concatenate([[side * lateral, height, REST_ROTATION], HAND_AT_REST]) for side in SIDES])


def _hold(hands: np.ndarray, duration_in_seconds: float, signer: Signer) -> np.ndarray:
    return np.repeat(hands[None], round(duration_in_seconds * signer.frames_per_second), axis=0)


def _ease(progress: np.ndarray) -> np.ndarray:
    return progress * progress * (3 - 2 * progress)


def _transition(start: np.ndarray, end: np.ndarray, signer: Signer) -> np.ndarray:
    distance = np.hypot(*(end - start)[:, :2].T).max()
    duration = TRANSITION_DURATION_IN_SECONDS + TRANSITION_SECONDS_PER_FRAME_WIDTH * distance
    num_frames = max(2, round(duration / signer.speed * signer.frames_per_second))
    progress = _ease(np.arange(1, num_frames) / num_frames)[:, None, None]
    return start + (end - start) * progress


def _perform_sign(sign: Sign, signer: Signer, random_generator: np.random.Generator) -> np.ndarray:
    """Returns the stroke of one sign, (frames, 2, 54), with its own duration, place, size and rotation."""
    duration = STROKE_DURATION_IN_SECONDS / signer.speed * random_generator.uniform(0.9, 1.12)
    progress = np.linspace(0.0, 1.0, max(5, round(duration * signer.frames_per_second)))
    amplitude = signer.amplitude * random_generator.uniform(0.9, 1.1)
    place_shift = random_generator.normal(0.0, 0.009, size=2)
    rotation_shift = random_generator.normal(0.0, 0.08)

    stroke = np.repeat(_hands_at_rest()[None], len(progress), axis=0)
    lateral, height = PLACE_POSITIONS[sign.place]
    if sign.hands == "both":
        lateral = max(lateral, MIN_LATERAL_OF_TWO_HANDS)
    path = np.array([lateral, height]) + place_shift + amplitude * _movement_path(sign.movement, progress)
    rotation = PLACE_ROTATIONS.get(sign.place, 0.0) + rotation_shift
    stroke[:, DOMINANT, :2] = path
    stroke[:, DOMINANT, 2] = rotation
    stroke[:, DOMINANT, 3:] = _handshape_path(sign, progress)
    if sign.hands == "both":
        stroke[:, OTHER] = stroke[:, DOMINANT]
        stroke[:, OTHER, 0] *= -1
    elif sign.hands == "base":
        stroke[:, OTHER, :3] = (-BASE_HAND_POSITION[0], BASE_HAND_POSITION[1], BASE_HAND_ROTATION)
        stroke[:, OTHER, 3:] = HAND_OF_HANDSHAPE["flat"]
    return stroke


def _movement_path(movement: str, progress: np.ndarray) -> np.ndarray:
    """Returns the path of the hand around its place, (frames, 2), for `progress` from 0 to 1."""
    along = MOVEMENT_EXTENT * (2 * _ease(progress) - 1)
    still = np.zeros_like(progress)
    turn = 2 * np.pi * progress
    paths = {
        "up": (still, -along),
        "down": (still, along),
        "outward": (along, still),
        "inward": (-along, still),
        "circle": (CIRCLE_RADIUS * np.sin(turn), -CIRCLE_RADIUS * np.cos(turn)),
        "arc": (along, 0.06 - 1.3 * MOVEMENT_EXTENT * np.sin(np.pi * _ease(progress))),
    }
    return np.stack(paths.get(movement, (still, still)), axis=1)


def _handshape_path(sign: Sign, progress: np.ndarray) -> np.ndarray:
    handshape, fist = HAND_OF_HANDSHAPE[sign.handshape], HAND_OF_HANDSHAPE["fist"]
    if sign.movement not in ("open", "close"):
        return np.repeat(handshape[None], len(progress), axis=0)
    openness = _ease(np.clip((progress - 0.25) / 0.5, 0.0, 1.0))[:, None]
    return fist + (handshape - fist) * (openness if sign.movement == "open" else 1 - openness)


def _supersampling(resolution: int) -> int:
    return 3 if resolution <= 128 else 2


def _draw_camera(resolution: int, recording: Recording, random_generator: np.random.Generator) -> Camera:
    """Returns the camera of one clip: nobody stands quite still from one to the next."""
    return Camera(
        canvas_size=resolution * _supersampling(resolution),
        zoom=recording.zoom * random_generator.uniform(0.98, 1.02),
        lateral_shift=recording.lateral_shift + random_generator.uniform(-0.02, 0.02),
        height_shift=recording.height_shift + random_generator.uniform(-0.01, 0.01),
        roll=recording.roll,
    )


@dataclass(frozen=True)
class Figure:
    """The moving parts in all frames of a clip, right-handed, dominant hand first: (frames, hand, ..., 2), on the
    camera's canvas."""

    camera: Camera
    hands: np.ndarray  # (frames, 2, 54), in signing space: see plan_hands
    arms: np.ndarray  # (frames, 2, 3, 2): shoulder, elbow and wrist
    fingers: np.ndarray  # (frames, 2, 5, 5, 2): thumb first, base first
    palm_centres: np.ndarray  # (frames, 2, 2)
    palm_radii: np.ndarray  # (frames, 2)


def pose_figure(
    glosses: Sequence[str], signer: Signer, resolution: int, random_generator: np.random.Generator
) -> Figure:
    """Returns the figure that `render_clip` draws with the same arguments."""
    camera = _draw_camera(resolution, signer.recording, random_generator)
    hands = plan_hands(glosses, signer, random_generator)
    return Figure(
        camera=camera,
        hands=hands,
        arms=camera.project(_arm_joints(hands, signer)),
        fingers=camera.project(_finger_points(hands, signer)),
        palm_centres=camera.project(hands[..., :2]),
        palm_radii=hands[..., 3] * camera.scale(signer.hand_size),
    )


def render_clip(
    glosses: Sequence[str], signer: Signer, resolution: int, random_generator: np.random.Generator
) -> np.ndarray:
    """Renders one sentence by one signer as uint8 frames (frames, height, width, 3). `random_generator` gives this
    performance's small variations, so the same state gives the same frames."""
    figure = pose_figure(glosses, signer, resolution, random_generator)
    camera, supersampling = figure.camera, _supersampling(resolution)
    arms, fingers = figure.arms.tolist(), figure.fingers.tolist()
    palm_centres, palm_radii = figure.palm_centres.tolist(), figure.palm_radii.tolist()

    scenery = Scenery(signer, camera, random_generator)
    frames = np.empty((len(arms), resolution, resolution, 3), dtype=np.uint8)
    for index in range(len(frames)):
        canvas = scenery.draw(index / signer.frames_per_second)
        draw = ImageDraw.Draw(canvas)
        for hand in (OTHER, DOMINANT):
            draw_arm(draw, arms[index][hand], signer, camera)
            draw_hand(draw, fingers[index][hand], palm_centres[index][hand], palm_radii[index][hand], signer, camera)
        frames[index] = np.asarray(canvas.reduce(supersampling))
    frames = lit(frames, signer.recording, random_generator)
    return np.ascontiguousarray(frames[:, :, ::-1]) if signer.is_left_handed else frames


def _finger_points(hands: np.ndarray, signer: Signer) -> np.ndarray:
    """Returns the finger points in signing space, (frames, 2, 5, 5, 2)."""
    local = hands[..., 4:].reshape(*hands.shape[:2], 5, 5, 2) * signer.hand_size
    rotation = hands[..., 2, None, None]
    inward = local[..., 0] * np.cos(rotation) + local[..., 1] * np.sin(rotation)
    upward = local[..., 1] * np.cos(rotation) - local[..., 0] * np.sin(rotation)
    lateral = hands[..., 0, None, None] - SIDES[None, :, None, None] * inward
    return np.stack([lateral, hands[..., 1, None, None] - upward], axis=-1)


def _arm_joints(hands: np.ndarray, signer: Signer) -> np.ndarray:
    """Returns shoulder, elbow and wrist of both arms in signing space, (frames, 2, 3, 2), by two-bone inverse
    kinematics in three dimensions: the hand is held in front of the body, and the elbow points outwards, down and back.
    An arm too short for its hand's place is stretched, so that the hand is where the sign needs it."""
    rotation = hands[..., 2]
    wrist_offset = 0.35 * signer.hand_size * np.stack([SIDES * np.sin(rotation), np.cos(rotation)], axis=-1)
    wrists = np.concatenate([hands[..., :2] + wrist_offset, np.full((*rotation.shape, 1), HAND_DEPTH)], axis=-1)
    shoulder = np.stack([SIDES * signer.shoulder_half_width, np.full(2, SHOULDER_HEIGHT), np.zeros(2)], axis=-1)
    reach = wrists - shoulder
    distance = np.linalg.norm(reach, axis=-1, keepdims=True)
    direction = reach / distance
    elbow_wish = np.stack([SIDES * 0.6, np.full(2, 0.7), np.full(2, -0.4)], axis=-1)
    elbow_wish = elbow_wish - (elbow_wish * direction).sum(-1, keepdims=True) * direction
    elbow_wish /= np.linalg.norm(elbow_wish, axis=-1, keepdims=True)
    bone_length = np.maximum(signer.arm_length, distance / 2)
    elbow = shoulder + reach / 2 + elbow_wish * np.sqrt(bone_length**2 - distance**2 / 4)
    joints = np.stack([np.broadcast_to(shoulder, wrists.shape), elbow, wrists], axis=2)
    return joints[..., :2]


def encode_mp4(frames: np.ndarray, path: str | Path, frames_per_second: int) -> None:
    """Writes uint8 frames (frames, height, width, 3) as H.264 in yuv420p. Raises ValueError for any other dtype or
    shape, for no frames, and for an odd height or width, which yuv420p does not support."""
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or not len(frames):
        raise ValueError(
            f"`frames` must be a uint8 array (frames, height, width, 3) with at least one frame, got {frames.dtype} "
            f"{frames.shape}."
        )
    height, width = frames.shape[1:3]
    if height % 2 or width % 2:
        raise ValueError(f"`frames` must have an even height and width for yuv420p, got {height}x{width}.")
    with av.open(str(path), "w") as container:
        # With its macroblock tree, x264 does not produce the same file twice.
        options = {"crf": "18", "preset": "ultrafast", "threads": "1", "x264-params": "mbtree=0"}
        stream = container.add_stream("libx264", rate=frames_per_second, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.thread_type = "NONE"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
