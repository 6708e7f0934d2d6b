"""
Who signs in the embedded corpus, and how each recording of them looks: clothes, room, light and camera.

Lengths are in units of the frame's width, colours are (red, green, blue) from 0 to 255.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

SKIN_COLOURS = np.array(
    [(100, 64, 46), (126, 82, 56), (158, 108, 76), (198, 148, 112), (228, 184, 150), (246, 214, 190)]
)
HAIR_COLOURS = ((28, 22, 20), (72, 46, 28), (120, 78, 40), (176, 136, 76), (130, 128, 126))
HAIR_STYLES = ("short", "long", "bun", "bald")
CLOTHES = ("plain", "plain", "striped", "buttoned")
ROOMS = ("wall", "wall", "shelf", "gradient")
# What moves behind the signer: in most recordings nothing.
MOVING_THINGS = (None, None, None, "passer-by", "curtain")
SLEEVE_LENGTHS = (0.0, 0.5, 0.9)  # how much of the forearm they cover
FRAME_RATES = (24, 25, 25, 30)
RECORDINGS_OF_SIGNER = 3
MIN_LUMINANCE_CONTRAST = 62.0

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Recording:
    """
    What one day of recording looks like.

    Attributes:
        light: brightness of each colour, 1 for as it is.
        shade: how much darker the picture is at its darkest side, from 0 to 1; `shade_direction` is that side, as an
            angle in radians.
        noise: standard deviation of the sensor's noise, in grey levels.
        zoom: size of the signer; `roll` is how far the camera is turned, in radians.
    """

    clothing_colour: Colour
    clothing: str
    sleeve_length: float
    background_colour: Colour
    decoration_colour: Colour
    decoration: tuple[float, float, float, float]
    room: str
    moving_thing: str | None
    light: tuple[float, float, float]
    shade: float
    shade_direction: float
    noise: float
    zoom: float
    lateral_shift: float
    height_shift: float
    roll: float
    frames_per_second: int


@dataclass(frozen=True)
class Signer:
    """One signer's body, face and habits, and their recordings, of which they are seen in one."""

    name: str
    is_left_handed: bool
    head_radius: float
    shoulder_half_width: float
    arm_length: float
    hand_size: float
    speed: float
    amplitude: float
    skin_colour: Colour
    hair_colour: Colour
    hair_style: str
    has_beard: bool
    has_glasses: bool
    recordings: tuple[Recording, ...] = field(repr=False)
    number_of_recording: int = 0

    @property
    def handedness(self) -> str:
        return "left" if self.is_left_handed else "right"

    @property
    def frames_per_second(self) -> int:
        return self.recording.frames_per_second

    @property
    def recording(self) -> Recording:
        return self.recordings[self.number_of_recording]

    def in_recording(self, number: int) -> "Signer":
        """Returns the same person in another recording; after the last comes the first again."""
        return replace(self, number_of_recording=number % len(self.recordings))


def create_signer(name: str, skin_tone: float, is_left_handed: bool, random_generator: np.random.Generator) -> Signer:
    """Draws a signer; `skin_tone` from 0 (dark) to 1 (light) is given, so that a group of signers can cover the
    range."""
    positions = np.linspace(0.0, 1.0, len(SKIN_COLOURS))
    skin_colour = tuple(int(np.interp(skin_tone, positions, SKIN_COLOURS[:, channel])) for channel in range(3))
    return Signer(
        name=name,
        is_left_handed=is_left_handed,
        head_radius=random_generator.uniform(0.095, 0.112),
        shoulder_half_width=random_generator.uniform(0.15, 0.19),
        arm_length=random_generator.uniform(0.25, 0.28),
        hand_size=random_generator.uniform(0.138, 0.156),
        speed=random_generator.uniform(0.9, 1.12),
        amplitude=random_generator.uniform(0.9, 1.12),
        skin_colour=skin_colour,
        hair_colour=HAIR_COLOURS[random_generator.integers(len(HAIR_COLOURS))],
        hair_style=HAIR_STYLES[random_generator.integers(len(HAIR_STYLES))],
        has_beard=bool(random_generator.random() < 0.25),
        has_glasses=bool(random_generator.random() < 0.25),
        recordings=tuple(draw_recording(skin_colour, random_generator) for _ in range(RECORDINGS_OF_SIGNER)),
    )


def draw_recording(skin_colour: Colour, random_generator: np.random.Generator) -> Recording:
    """Draws a recording; clothing and background are redrawn until the skin stands out from both."""
    background_colour = _draw_contrasting_colour(skin_colour, random_generator)
    left, top = random_generator.uniform(0.0, 0.8), random_generator.uniform(0.0, 0.5)
    width, height = random_generator.uniform(0.15, 0.4, size=2).tolist()
    brightness = random_generator.uniform(0.85, 1.1)
    return Recording(
        clothing_colour=_draw_contrasting_colour(skin_colour, random_generator, background_colour),
        clothing=_draw(CLOTHES, random_generator),
        sleeve_length=_draw(SLEEVE_LENGTHS, random_generator),
        background_colour=background_colour,
        decoration_colour=tuple(int(min(255, channel * brightness)) for channel in background_colour),
        decoration=(left, top, left + width, top + height),
        room=_draw(ROOMS, random_generator),
        moving_thing=_draw(MOVING_THINGS, random_generator),
        light=tuple((random_generator.uniform(0.8, 1.1) * random_generator.uniform(0.94, 1.06, size=3)).tolist()),
        shade=random_generator.uniform(0.0, 0.3),
        shade_direction=random_generator.uniform(0.0, 2 * np.pi),
        noise=random_generator.uniform(0.0, 3.0),
        zoom=random_generator.uniform(0.91, 1.02),
        lateral_shift=random_generator.uniform(-0.03, 0.03),
        height_shift=random_generator.uniform(-0.02, 0.02),
        roll=random_generator.uniform(-0.05, 0.05),
        frames_per_second=_draw(FRAME_RATES, random_generator),
    )


def luminance(colour: Sequence[float]) -> float:
    """Returns how bright a colour looks, from 0 to 255."""
    return float(np.dot(colour, (0.299, 0.587, 0.114)))


def _draw(choices: Sequence, random_generator: np.random.Generator):
    return choices[random_generator.integers(len(choices))]


def _draw_contrasting_colour(
    skin_colour: Colour, random_generator: np.random.Generator, background_colour: Colour | None = None
) -> Colour:
    while True:
        drawn = random_generator.integers(20, 245, size=3)
        colour = tuple((0.65 * drawn + 0.35 * drawn.mean()).astype(int).tolist())
        stands_out = abs(luminance(colour) - luminance(skin_colour)) >= MIN_LUMINANCE_CONTRAST
        differs = background_colour is None or np.abs(np.subtract(colour, background_colour)).max() >= 50
        if stands_out and differs:
            return colour
