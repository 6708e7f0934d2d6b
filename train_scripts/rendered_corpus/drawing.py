"""
Draws what the frames of the embedded corpus show: the room, the signer's body and head, arms and hands, and the light.

Points are (x, y) on the camera's canvas, in pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from .signers import Recording, Signer

OUTLINE_WIDTH = 0.012
HEAD_HEIGHT, SHOULDER_HEIGHT = 0.28, 0.475
SECONDS_OF_PASSING, SECONDS_OF_SWAYING = 2.4, 1.8


@dataclass(frozen=True)
class Camera:
    """Maps signing space to the pixels of a square canvas; shifts in units of the frame's width, `roll` in radians."""

    canvas_size: int
    zoom: float
    lateral_shift: float
    height_shift: float
    roll: float

    def scale(self, length: float) -> float:
        return length * self.zoom * self.canvas_size

    def project(self, points: np.ndarray) -> np.ndarray:
        """Returns pixel (x, y) of points (..., 2) in (lateral, height)."""
        x, y = -self.zoom * points[..., 0], self.zoom * (points[..., 1] - 0.5)
        turned_x = np.cos(self.roll) * x - np.sin(self.roll) * y
        turned_y = np.sin(self.roll) * x + np.cos(self.roll) * y
        shifted = [0.5 + turned_x + self.lateral_shift, 0.5 + turned_y + self.height_shift]
        return np.stack(shifted, axis=-1) * self.canvas_size


class Scenery:
    """
    What does not depend on the hands: the room, what moves in it, and the signer's torso, neck and head.

    Args:
        random_generator: where the thing that moves is when the clip begins.
    """

    def __init__(self, signer: Signer, camera: Camera, random_generator: np.random.Generator):
        self.recording = signer.recording
        self.size = camera.canvas_size
        self.start = random_generator.random()
        self.room = self._draw_room()
        self.body = Image.new("RGBA", (self.size, self.size))
        draw = ImageDraw.Draw(self.body)
        _draw_torso(draw, signer, camera)
        _draw_head(draw, signer, camera)
        self.still = self._with_the_body(self.room.copy())

    def draw(self, second: float) -> Image.Image:
        """Returns a new picture of the scenery so long after the clip's begin."""
        if self.recording.moving_thing is None:
            return self.still.copy()
        canvas = self.room.copy()
        if self.recording.moving_thing == "passer-by":
            self._draw_passer_by(ImageDraw.Draw(canvas), second)
        else:
            self._draw_curtain(ImageDraw.Draw(canvas), second)
        return self._with_the_body(canvas)

    def _with_the_body(self, canvas: Image.Image) -> Image.Image:
        canvas.paste(self.body, mask=self.body)
        return canvas

    def _draw_room(self) -> Image.Image:
        size, colour = self.size, self.recording.background_colour
        canvas = Image.new("RGB", (size, size), colour)
        draw = ImageDraw.Draw(canvas)
        if self.recording.room == "gradient":
            for line in range(size):
                draw.line((0, line, size, line), fill=_darken(colour, 1 - 0.35 * line / size))
        draw.rectangle(
            [coordinate * size for coordinate in self.recording.decoration], fill=self.recording.decoration_colour
        )
        if self.recording.room == "shelf":
            for height in (0.12, 0.3, 0.48):
                board = (0, height * size, size, (height + 0.02) * size)
                draw.rectangle(board, fill=_darken(colour, 0.75))
        return canvas

    def _draw_passer_by(self, draw: ImageDraw.ImageDraw, second: float) -> None:
        """A dark figure walks from one side to the other."""
        x = (1.6 * ((self.start + second / SECONDS_OF_PASSING) % 1) - 0.3) * self.size
        colour = _darken(self.recording.background_colour, 0.7)
        draw.rectangle((x - 0.1 * self.size, 0.3 * self.size, x + 0.1 * self.size, self.size), fill=colour)
        _disc(draw, (x, 0.2 * self.size), 0.08 * self.size, colour)

    def _draw_curtain(self, draw: ImageDraw.ImageDraw, second: float) -> None:
        """A curtain sways at the side."""
        sway = 0.06 * np.sin(2 * np.pi * (self.start + second / SECONDS_OF_SWAYING))
        corners = ((0, 0), (0.22, 0), (0.2 + sway, 1), (0, 1))
        colour = _darken(self.recording.background_colour, 0.8)
        draw.polygon([(x * self.size, y * self.size) for x, y in corners], fill=colour)


def lit(frames: np.ndarray, recording: Recording, random_generator: np.random.Generator) -> np.ndarray:
    """Returns the uint8 frames (frames, height, width, 3) in the light of the recording, with the sensor's noise."""
    resolution = frames.shape[1]
    places = np.linspace(-0.5, 0.5, resolution)
    towards = np.cos(recording.shade_direction) * places[None] + np.sin(recording.shade_direction) * places[:, None]
    brightness = 1 - recording.shade * np.clip(0.5 + towards, 0, 1)
    light = (brightness[..., None] * np.array(recording.light)).astype(np.float32)
    noise = random_generator.standard_normal(frames.shape[:3], dtype=np.float32)[..., None] * recording.noise
    return np.clip(frames * light + noise, 0, 255).astype(np.uint8)


def _darken(colour: Sequence[int], factor: float) -> tuple[int, int, int]:
    return tuple(int(channel * factor) for channel in colour)


def _disc(draw: ImageDraw.ImageDraw, centre: Sequence[float], radius: float, colour: tuple[int, int, int]) -> None:
    x, y = centre
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)


def _ring(draw: ImageDraw.ImageDraw, centre: Sequence[float], radius: float, width: float) -> None:
    x, y = centre
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), outline=(25, 25, 25), width=max(1, round(width)))


def _limb(
    draw: ImageDraw.ImageDraw, points: Sequence[Sequence[float]], width: float, colour: tuple[int, int, int]
) -> None:
    """Draws a polyline with round joints and ends."""
    draw.line([coordinate for point in points for coordinate in point], fill=colour, width=max(1, round(width)))
    for point in points:
        _disc(draw, point, width / 2, colour)


def draw_arm(draw: ImageDraw.ImageDraw, joints: list[list[float]], signer: Signer, camera: Camera) -> None:
    """Draws an arm from its shoulder, elbow and wrist, each (x, y) on the canvas."""
    outline, width = camera.scale(OUTLINE_WIDTH), camera.scale(0.062)
    shoulder, elbow, wrist = joints
    sleeve_length, clothing_colour = signer.recording.sleeve_length, signer.recording.clothing_colour
    cuff = [start + sleeve_length * (end - start) for start, end in zip(elbow, wrist, strict=True)]
    _limb(draw, (shoulder, elbow, wrist), width + 2 * outline, _darken(clothing_colour, 0.45))
    _limb(draw, (cuff, wrist), width, signer.skin_colour)
    _limb(draw, (shoulder, elbow, cuff), width, clothing_colour)


def draw_hand(
    draw: ImageDraw.ImageDraw,
    fingers: list[list[list[float]]],
    palm_centre: list[float],
    palm_radius: float,
    signer: Signer,
    camera: Camera,
) -> None:
    """Draws a hand from the points of its five fingers, each (x, y) on the canvas."""
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


def _draw_torso(draw: ImageDraw.ImageDraw, signer: Signer, camera: Camera) -> None:
    shoulder, hip, top = signer.shoulder_half_width, 0.8 * signer.shoulder_half_width, SHOULDER_HEIGHT - 0.025
    corners = np.array([(-shoulder, top), (shoulder, top), (hip, 1.15), (-hip, 1.15)])
    outline = [tuple(point) for point in camera.project(corners).tolist()]
    colour = _darken(signer.recording.clothing_colour, 0.86)
    draw.polygon(outline, fill=colour)
    if signer.recording.clothing == "striped":
        for height in np.arange(top + 0.06, 1.15, 0.08):
            ends = camera.project(np.array([(-0.97 * hip, height), (0.97 * hip, height)])).tolist()
            _limb(draw, ends, camera.scale(0.018), _darken(colour, 0.8))
    if signer.recording.clothing == "buttoned":
        for height in np.arange(top + 0.08, 1.15, 0.09):
            _disc(draw, camera.project(np.array([0.0, height])).tolist(), camera.scale(0.009), _darken(colour, 0.5))
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
    if signer.has_glasses:
        for side in (-0.36, 0.36):
            _ring(draw, (x + side * radius, y + 0.05 * radius), 0.24 * radius, 0.07 * radius)
    if signer.has_beard:
        beard = (x - 0.7 * radius, y + 0.45 * radius, x + 0.7 * radius, y + 1.22 * radius)
        draw.chord(beard, 0, 180, fill=_darken(signer.hair_colour, 0.9))
    mouth = (x - 0.3 * radius, y + 0.65 * radius, x + 0.3 * radius, y + 0.65 * radius)
    draw.line(mouth, fill=_darken(signer.skin_colour, 0.45), width=max(1, round(0.1 * radius)))
