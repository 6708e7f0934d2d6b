"""Renders a signer of the embedded corpus: body, arms by inverse kinematics, hands, and the video file.

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
from PIL import Image, ImageDraw

from .handshapes import HAND_AT_REST, HAND_OF_HANDSHAPE
from .signing_language import HOMONYMS_BY_GLOSS, SIGNS_BY_GLOSS, Sign

FRAMES_PER_SECOND = 25
MIN_RESOLUTION_IN_PIXELS = 32
OUTLINE_WIDTH = 0.012
HEAD_HEIGHT, SHOULDER_HEIGHT = 0.28, 0.475
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

SKIN_COLOURS = np.array(
    [(100, 64, 46), (126, 82, 56), (158, 108, 76), (198, 148, 112), (228, 184, 150), (246, 214, 190)]
)
HAIR_COLOURS = ((28, 22, 20), (72, 46, 28), (120, 78, 40), (176, 136, 76), (130, 128, 126))
HAIR_STYLES = ("short", "long", "bun", "bald")
MIN_LUMINANCE_CONTRAST = 62.0


@dataclass(frozen=True)
class Signer:
    """One signer's body, look, habits and background; lengths in units of the frame's width, colours as (r, g, b)."""

    name: str
    is_left_handed: bool
    head_radius: float
    shoulder_half_width: float
    arm_length: float
    hand_size: float
    speed: float
    amplitude: float
    sleeve_length: float
    skin_colour: tuple[int, int, int]
    clothing_colour: tuple[int, int, int]
    background_colour: tuple[int, int, int]
    decoration_colour: tuple[int, int, int]
    hair_colour: tuple[int, int, int]
    hair_style: str
    decoration: tuple[float, float, float, float]

    @property
    def handedness(self) -> str:
        return "left" if self.is_left_handed else "right"


def create_signer(name: str, skin_tone: float, is_left_handed: bool, random_generator: np.random.Generator) -> Signer:
    """Draws a signer; `skin_tone` from 0 (dark) to 1 (light) is given, so that a group of signers can cover the range.
    Clothing and background are redrawn until the skin stands out from both."""
    positions = np.linspace(0.0, 1.0, len(SKIN_COLOURS))
    skin_colour = tuple(int(np.interp(skin_tone, positions, SKIN_COLOURS[:, channel])) for channel in range(3))
    background_colour = _draw_contrasting_colour(skin_colour, random_generator)
    left, top = random_generator.uniform(0.0, 0.8), random_generator.uniform(0.0, 0.5)
    width, height = random_generator.uniform(0.15, 0.4, size=2).tolist()
    brightness = random_generator.uniform(0.88, 1.08)
    return Signer(
        name=name,
        is_left_handed=is_left_handed,
        head_radius=random_generator.uniform(0.095, 0.112),
        shoulder_half_width=random_generator.uniform(0.15, 0.19),
        arm_length=random_generator.uniform(0.25, 0.28),
        hand_size=random_generator.uniform(0.138, 0.156),
        speed=random_generator.uniform(0.9, 1.12),
        amplitude=random_generator.uniform(0.9, 1.12),
        sleeve_length=float(random_generator.choice([0.0, 0.5, 0.9])),
        skin_colour=skin_colour,
        clothing_colour=_draw_contrasting_colour(skin_colour, random_generator, background_colour),
        background_colour=background_colour,
        decoration_colour=tuple(int(min(255, channel * brightness)) for channel in background_colour),
        hair_colour=HAIR_COLOURS[random_generator.integers(len(HAIR_COLOURS))],
        hair_style=HAIR_STYLES[random_generator.integers(len(HAIR_STYLES))],
        decoration=(left, top, left + width, top + height),
    )


def _luminance(colour: Sequence[float]) -> float:
    return float(np.dot(colour, (0.299, 0.587, 0.114)))


def _draw_contrasting_colour(
    skin_colour: tuple[int, int, int],
    random_generator: np.random.Generator,
    background_colour: tuple[int, int, int] | None = None,
) -> tuple[int, int, int]:
    while True:
        drawn = random_generator.integers(20, 245, size=3)
        colour = tuple((0.65 * drawn + 0.35 * drawn.mean()).astype(int).tolist())
        stands_out = abs(_luminance(colour) - _luminance(skin_colour)) >= MIN_LUMINANCE_CONTRAST
        differs = background_colour is None or np.abs(np.subtract(colour, background_colour)).max() >= 50
        if stands_out and differs:
            return colour


def plan_hands(glosses: Sequence[str], signer: Signer, random_generator: np.random.Generator) -> np.ndarray:
    """Returns both hands in every frame, (frames, 2, 54), dominant hand first: from rest through the signs, each
    gliding into the next, and back to rest. Raises KeyError for an unknown gloss."""
    return np.concatenate(_plan_pieces(glosses, signer, random_generator))


def _plan_pieces(glosses: Sequence[str], signer: Signer, random_generator: np.random.Generator) -> list[np.ndarray]:
    """Returns the pieces of `plan_hands`: rest, then for each sign the way to it and the sign, then the way to rest,
    and rest."""
    rest = _hands_at_rest()
    pieces = [_hold(rest, REST_DURATION_IN_SECONDS)]
    for gloss in glosses:
        stroke = _perform_sign((SIGNS_BY_GLOSS | HOMONYMS_BY_GLOSS)[gloss], signer, random_generator)
        pieces += [_transition(pieces[-1][-1], stroke[0], signer), stroke]
    return pieces + [_transition(pieces[-1][-1], rest, signer), _hold(rest, REST_DURATION_IN_SECONDS)]


def find_signs(
    glosses: Sequence[str], signer: Signer, resolution: int, random_generator: np.random.Generator
) -> list[range]:
    """Returns the frames of each sign, without the ways between signs, in the clip that `render_clip` makes of the same
    arguments."""
    _draw_camera(resolution, random_generator)
    ends = np.cumsum([len(piece) for piece in _plan_pieces(glosses, signer, random_generator)]).tolist()
    return [range(start, end) for start, end in zip(ends[1:-2:2], ends[2:-2:2], strict=True)]


def _hands_at_rest() -> np.ndarray:
    lateral, height = REST_POSITION
    return np.stack([np.concatenate([[side * lateral, height, REST_ROTATION], HAND_AT_REST]) for side in SIDES])


def _hold(hands: np.ndarray, duration_in_seconds: float) -> np.ndarray:
    return np.repeat(hands[None], round(duration_in_seconds * FRAMES_PER_SECOND), axis=0)


def _ease(progress: np.ndarray) -> np.ndarray:
    return progress * progress * (3 - 2 * progress)


def _transition(start: np.ndarray, end: np.ndarray, signer: Signer) -> np.ndarray:
    distance = np.hypot(*(end - start)[:, :2].T).max()
    duration = TRANSITION_DURATION_IN_SECONDS + TRANSITION_SECONDS_PER_FRAME_WIDTH * distance
    num_frames = max(2, round(duration / signer.speed * FRAMES_PER_SECOND))
    progress = _ease(np.arange(1, num_frames) / num_frames)[:, None, None]
    return start + (end - start) * progress


def _perform_sign(sign: Sign, signer: Signer, random_generator: np.random.Generator) -> np.ndarray:
    """Returns the stroke of one sign, (frames, 2, 54), with its own duration, place, size and rotation."""
    duration = STROKE_DURATION_IN_SECONDS / signer.speed * random_generator.uniform(0.9, 1.12)
    progress = np.linspace(0.0, 1.0, max(5, round(duration * FRAMES_PER_SECOND)))
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


@dataclass(frozen=True)
class Camera:
    """Maps signing space to the pixels of a square canvas; shifts in units of the frame's width."""

    canvas_size: int
    zoom: float
    lateral_shift: float
    height_shift: float

    def scale(self, length: float) -> float:
        return length * self.zoom * self.canvas_size

    def project(self, points: np.ndarray) -> np.ndarray:
        """Returns pixel (x, y) of points (..., 2) in (lateral, height)."""
        x = 0.5 - self.zoom * points[..., 0] + self.lateral_shift
        y = 0.5 + self.zoom * (points[..., 1] - 0.5) + self.height_shift
        return np.stack([x, y], axis=-1) * self.canvas_size


def _supersampling(resolution: int) -> int:
    return 3 if resolution <= 128 else 2


def _draw_camera(resolution: int, random_generator: np.random.Generator) -> Camera:
    return Camera(
        canvas_size=resolution * _supersampling(resolution),
        zoom=random_generator.uniform(0.97, 1.02),
        lateral_shift=random_generator.uniform(-0.02, 0.02),
        height_shift=random_generator.uniform(-0.015, 0.015),
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
    camera = _draw_camera(resolution, random_generator)
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

    scenery = _draw_scenery(signer, camera)
    frames = np.empty((len(arms), resolution, resolution, 3), dtype=np.uint8)
    for index in range(len(frames)):
        canvas = scenery.copy()
        draw = ImageDraw.Draw(canvas)
        for hand in (OTHER, DOMINANT):
            _draw_arm(draw, arms[index][hand], signer, camera)
            _draw_hand(draw, fingers[index][hand], palm_centres[index][hand], palm_radii[index][hand], signer, camera)
        frames[index] = np.asarray(canvas.reduce(supersampling))
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


def _darken(colour: Sequence[int], factor: float) -> tuple[int, int, int]:
    return tuple(int(channel * factor) for channel in colour)


def _disc(draw: ImageDraw.ImageDraw, centre: Sequence[float], radius: float, colour: tuple[int, int, int]) -> None:
    x, y = centre
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)


def _limb(
    draw: ImageDraw.ImageDraw, points: Sequence[Sequence[float]], width: float, colour: tuple[int, int, int]
) -> None:
    """Draws a polyline with round joints and ends."""
    draw.line([coordinate for point in points for coordinate in point], fill=colour, width=max(1, round(width)))
    for point in points:
        _disc(draw, point, width / 2, colour)


def _draw_arm(draw: ImageDraw.ImageDraw, joints: list[list[float]], signer: Signer, camera: Camera) -> None:
    outline, width = camera.scale(OUTLINE_WIDTH), camera.scale(0.062)
    shoulder, elbow, wrist = joints
    cuff = [start + signer.sleeve_length * (end - start) for start, end in zip(elbow, wrist, strict=True)]
    _limb(draw, (shoulder, elbow, wrist), width + 2 * outline, _darken(signer.clothing_colour, 0.45))
    _limb(draw, (cuff, wrist), width, signer.skin_colour)
    _limb(draw, (shoulder, elbow, cuff), width, signer.clothing_colour)


def _draw_hand(
    draw: ImageDraw.ImageDraw,
    fingers: list[list[list[float]]],
    palm_centre: list[float],
    palm_radius: float,
    signer: Signer,
    camera: Camera,
) -> None:
    width = camera.scale(0.25 * signer.hand_size)
    outline = camera.scale(OUTLINE_WIDTH)
    contour_colour = _darken(signer.skin_colour, 0.3)
    _disc(draw, palm_centre, palm_radius + outline, contour_colour)
    for finger in fingers:
        _limb(draw, finger, width + 2 * outline, contour_colour)
    for finger in fingers:
        _limb(draw, finger, width + 0.6 * outline, contour_colour)
        _limb(draw, finger, width - 0.3 * outline, signer.skin_colour)
    _disc(draw, palm_centre, palm_radius, signer.skin_colour)


def _draw_scenery(signer: Signer, camera: Camera) -> Image.Image:
    """Draws what does not move in a clip: background, torso, neck and head."""
    size = camera.canvas_size
    canvas = Image.new("RGB", (size, size), signer.background_colour)
    draw = ImageDraw.Draw(canvas)
    draw.rectangle([coordinate * size for coordinate in signer.decoration], fill=signer.decoration_colour)
    _draw_torso(draw, signer, camera)
    _draw_head(draw, signer, camera)
    return canvas


def _draw_torso(draw: ImageDraw.ImageDraw, signer: Signer, camera: Camera) -> None:
    shoulder, hip, top = signer.shoulder_half_width, 0.8 * signer.shoulder_half_width, SHOULDER_HEIGHT - 0.025
    corners = np.array([(-shoulder, top), (shoulder, top), (hip, 1.15), (-hip, 1.15)])
    outline = [tuple(point) for point in camera.project(corners).tolist()]
    draw.polygon(outline, fill=_darken(signer.clothing_colour, 0.86))
    neck = camera.project(np.array([(0.0, HEAD_HEIGHT), (0.0, top)])).tolist()
    _limb(draw, neck, camera.scale(0.075), _darken(signer.skin_colour, 0.8))


def _draw_head(draw: ImageDraw.ImageDraw, signer: Signer, camera: Camera) -> None:
    radius = camera.scale(signer.head_radius)
    x, y = camera.project(np.array([0.0, HEAD_HEIGHT])).tolist()
    if signer.hair_style == "long":
        draw.rectangle(
            (x - 1.1 * radius, y - 0.2 * radius, x + 1.1 * radius, y + 1.4 * radius), fill=signer.hair_colour
        )
    if signer.hair_style == "bun":
        _disc(draw, (x, y - 1.25 * radius), 0.4 * radius, signer.hair_colour)
    if signer.hair_style != "bald":
        _disc(draw, (x, y - 0.12 * radius), 1.12 * radius, signer.hair_colour)
    face = (x - 0.88 * radius, y - 0.72 * radius, x + 0.88 * radius, y + 1.2 * radius)
    draw.ellipse(face, fill=_darken(signer.skin_colour, 0.8))
    for side in (-0.36, 0.36):
        _disc(draw, (x + side * radius, y + 0.05 * radius), 0.11 * radius, _darken(signer.skin_colour, 0.2))
    mouth = (x - 0.3 * radius, y + 0.65 * radius, x + 0.3 * radius, y + 0.65 * radius)
    draw.line(mouth, fill=_darken(signer.skin_colour, 0.45), width=max(1, round(0.1 * radius)))


def encode_mp4(frames: np.ndarray, path: str | Path, frames_per_second: int = FRAMES_PER_SECOND) -> None:
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
