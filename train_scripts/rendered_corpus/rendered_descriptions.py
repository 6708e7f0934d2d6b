"""Describes in words what the hands and the body of a rendered signer do, a few frames at a time.

The words come from the hands as they are drawn, also between signs: no gloss and no sentence is read. Nor does a word
of these occur in a description, which is why there are no articles and neither "in" nor "at": what is learned from the
descriptions cannot come from the words of the sentences. Left and right are the signer's.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .drawing import HEAD_HEIGHT, SHOULDER_HEIGHT
from .handshapes import HAND_AT_REST, HAND_OF_HANDSHAPE
from .signers import Signer
from .signing_renderer import DOMINANT, OTHER, REST_POSITION, SIDES, pose_figure

FRAMES_OF_DESCRIPTION = 4
# In units of the frame's width.
STILL, AT_REST, RAISED, SAME_PLACE = 0.012, 0.01, 0.05, 0.01
BOTTOM_OF_COLLAR, BOTTOM_OF_CHEST, BOTTOM_OF_BELLY = 0.55, 0.73, 0.88
# In units of the hand's size: how far a hand may be from a handshape to have it, and what counts as opening.
SAME_SHAPE, OPENING = 0.05, 0.1
LEAST_SHARE_OF_DIRECTION = 0.4
LEAST_TURN = np.radians(50)
ENDS_OF_FINGER_DIRECTIONS = {"up": 0.4, "slanted": 1.2, "sideways": 1.7}  # radians
PROBABILITY_OF_FURTHER = 0.3

HANDSHAPES = HAND_OF_HANDSHAPE | {"rest": HAND_AT_REST}
SHAPE_PHRASES = {
    "fist": ("closed fist", "tight fist", "all fingers folded into fist"),
    "flat": ("flat hand", "flat palm with fingers side by side", "straight fingers held together"),
    "spread": ("five fingers spread wide", "open hand with all fingers apart"),
    "point": ("only index finger stretched out", "straight index finger and folded others"),
    "vee": ("index and middle finger spread like V", "two fingers stretched out like V"),
    "horns": ("only thumb and little finger stretched out", "thumb and pinky spread, other fingers folded"),
    "ring": ("thumb and fingers joined to round O", "rounded fingers meeting thumb like ring"),
    "hook": ("fingers bent like hook", "curved fingers and thumb like letter C"),
    "rest": ("loose hand", "relaxed half closed hand"),
}
UNFINISHED_PHRASES = ("almost {shape}", "roughly {shape}")
CHANGING_PHRASES = ("{shape} turning into {next_shape}", "{shape} changing to {next_shape}")
OPENNESS_PHRASES = {
    "opening": ("opening", "fingers opening"),
    "closing": ("closing", "fingers closing"),
    "steady": ("",),
}
LEVEL_PHRASES = {
    "crown": ("top of head",),
    "forehead": ("forehead",),
    "face": ("nose and cheeks", "face"),
    "chin": ("chin",),
    "collar": ("collarbone", "base of neck"),
    "chest": ("chest",),
    "belly": ("belly", "stomach"),
    "hips": ("hips", "lap"),
}
ZONE_PHRASES = {
    "middle": ("before {level}", "close to {level}"),
    "own side": ("out beside {level}", "to its own side, level with {level}"),
    "other side": ("across body, level with {level}", "on opposite side, level with {level}"),
}
ZONE_PHRASES_OF_BOTH = {
    "middle": ("before {level}", "close to {level}"),
    "own side": ("to both sides of {level}", "apart, level with {level}"),
}
JOURNEY_PHRASES = ("travelling from {start} to {end}", "passing from {start} over to {end}")
FINGER_PHRASES = {
    "up": ("fingertips upward", "pointing upward"),
    "slanted": ("tilted towards {towards}", "slanting towards {towards}"),
    "sideways": ("pointing sideways towards {towards}", "fingertips towards {towards}"),
    "drooping": ("pointing towards {towards} and slightly downward", "drooping towards {towards}"),
}
STILL_PHRASES = ("holding still", "staying still", "keeping still")
DIRECTION_PHRASES = ("moving {direction}", "going {direction}")
CURVE_PHRASES = ("moving along curve {direction}", "sweeping round {direction}")
HANDS_PHRASES = ("{hand} {place}: {shape}, {rest}", "{hand}: {shape}, {rest}, {place}")
BOTH_HANDS = ("both hands", "two mirrored hands")
RESTING_PHRASES = ("{hand} resting low", "{hand} hanging down, resting", "{hand} relaxed, resting by lap")
BOTH_RESTING_PHRASES = ("both hands resting low", "both hands hanging down, resting", "both hands resting by lap")
FURTHER_PHRASES = {  # by the number of raised hands
    0: ("head and shoulders still", "body still", "face turned forward"),
    1: ("head and shoulders still", "body still", "face turned forward", "one hand raised", "only one hand lifted"),
    2: ("head and shoulders still", "body still", "face turned forward", "two hands raised", "both hands lifted"),
}


@dataclass(frozen=True)
class Description:
    """What frames `start` to `end` (exclusive) of a clip show."""

    start: int
    end: int
    text: str


@dataclass(frozen=True)
class Hand:
    """
    One hand during a description.

    Attributes:
        side: "left" or "right", of the signer.
        rows: as in `plan_hands`, `(frames, 54)`, but `rows[:, 0]` grows towards the hand's own side of the body.
    """

    side: str
    rows: np.ndarray
    signer: Signer

    @property
    def is_resting(self) -> bool:
        return bool((np.abs(self.rows[:, :2] - REST_POSITION).max(axis=0) < AT_REST).all())

    @property
    def is_raised(self) -> bool:
        return bool(self.middle[1] < REST_POSITION[1] - RAISED)

    @property
    def other_side(self) -> str:
        return "right" if self.side == "left" else "left"

    @property
    def middle(self) -> np.ndarray:
        return self.rows[len(self.rows) // 2]

    def is_like(self, other: "Hand") -> bool:
        """Whether it mirrors the other hand in all frames."""
        return bool((np.abs(self.rows - other.rows) < SAME_PLACE).all())


def describe_clip(
    glosses: Sequence[str],
    signer: Signer,
    resolution: int,
    random_generator: np.random.Generator,
    wording_generator: np.random.Generator,
) -> list[Description]:
    """Returns the descriptions of the clip that `render_clip` makes with the same state of `random_generator`: one for
    each FRAMES_OF_DESCRIPTION frames, the last one for what is left. `wording_generator` chooses among phrases of the
    same meaning."""
    hands = pose_figure(glosses, signer, resolution, random_generator).hands
    starts = range(0, len(hands), FRAMES_OF_DESCRIPTION)
    segments = [hands[start : start + FRAMES_OF_DESCRIPTION] for start in starts]
    return [
        Description(start, start + len(segment), _describe(segment, signer, wording_generator))
        for start, segment in zip(starts, segments, strict=True)
    ]


def _describe(segment: np.ndarray, signer: Signer, generator: np.random.Generator) -> str:
    """`segment`: some frames of `plan_hands`, `(frames, 2, 54)`"""
    rows = segment.copy()
    rows[:, :, 0] *= SIDES
    sides = ("left", "right") if signer.is_left_handed else ("right", "left")
    hands = [Hand(sides[hand], rows[:, hand], signer) for hand in (DOMINANT, OTHER)]
    if all(hand.is_resting for hand in hands):
        clauses = [_pick(BOTH_RESTING_PHRASES, generator)]
    elif hands[DOMINANT].is_like(hands[OTHER]):
        clauses = [_raised_clause(hands[DOMINANT], generator, both=True)]
    else:
        clauses = [_clause(hand, generator) for hand in hands]
    if generator.random() < PROBABILITY_OF_FURTHER:
        clauses.append(_pick(FURTHER_PHRASES[sum(hand.is_raised for hand in hands)], generator))
    text = "; ".join(clauses)
    return f"{text[0].upper()}{text[1:]}."


def _pick(phrases: Sequence[str], generator: np.random.Generator) -> str:
    return phrases[generator.integers(len(phrases))]


def _clause(hand: Hand, generator: np.random.Generator) -> str:
    if hand.is_resting:
        return _pick(RESTING_PHRASES, generator).format(hand=f"{hand.side} hand")
    return _raised_clause(hand, generator, both=False)


def _raised_clause(hand: Hand, generator: np.random.Generator, both: bool) -> str:
    """With `both`, the hand stands for both hands, which mirror each other."""
    name = _pick(BOTH_HANDS, generator) if both else f"{hand.side} hand"
    rest = [_fingers_phrase(hand, generator, both), _movement_phrase(hand, generator, both)]
    generator.shuffle(rest)
    place = _place_phrase(hand, generator, both)
    return _pick(HANDS_PHRASES, generator).format(
        hand=name, place=place, shape=_shape_phrase(hand, generator), rest=", ".join(rest)
    )


def _nearest_shape(row: np.ndarray) -> tuple[str, bool]:
    """Returns the handshape that is most like this hand, and whether the hand has it."""
    distances = {name: np.sqrt(np.mean((row[3:] - shape) ** 2)) for name, shape in HANDSHAPES.items()}
    nearest = min(distances, key=distances.__getitem__)
    return nearest, bool(distances[nearest] < SAME_SHAPE)


def _openness(row: np.ndarray) -> float:
    """How far the fingertips are from the palm's centre, on average."""
    return float(np.linalg.norm(row[4:].reshape(5, 5, 2)[:, -1], axis=-1).mean())


def _shape_phrase(hand: Hand, generator: np.random.Generator) -> str:
    shapes = [_nearest_shape(row)[0] for row in (hand.rows[0], hand.rows[-1])]
    shape, next_shape = (_pick(SHAPE_PHRASES[name], generator) for name in shapes)
    if shapes[0] != shapes[1]:
        shape = _pick(CHANGING_PHRASES, generator).format(shape=shape, next_shape=next_shape)
    elif not _nearest_shape(hand.middle)[1]:
        shape = _pick(UNFINISHED_PHRASES, generator).format(shape=shape)
    change = _openness(hand.rows[-1]) - _openness(hand.rows[0])
    openness = "opening" if change > OPENING else "closing" if change < -OPENING else "steady"
    return ", ".join(filter(None, [shape, _pick(OPENNESS_PHRASES[openness], generator)]))


def _level(height: float, signer: Signer) -> str:
    """Which part of the body is as high as this."""
    head, chin = signer.head_radius, HEAD_HEIGHT + 1.2 * signer.head_radius
    bottoms = {
        "crown": HEAD_HEIGHT - 1.1 * head,
        "forehead": HEAD_HEIGHT,
        "face": HEAD_HEIGHT + 0.7 * head,
        "chin": (chin + SHOULDER_HEIGHT) / 2,
        "collar": BOTTOM_OF_COLLAR,
        "chest": BOTTOM_OF_CHEST,
        "belly": BOTTOM_OF_BELLY,
    }
    return next((level for level, bottom in bottoms.items() if height < bottom), "hips")


def _zone(lateral: float, height: float, signer: Signer) -> str:
    """Whether the hand is before the head or body, or to which side of it."""
    is_beside_head = _level(height, signer) in ("crown", "forehead", "face", "chin")
    half_width = signer.head_radius if is_beside_head else signer.shoulder_half_width
    return "own side" if lateral > half_width else "other side" if lateral < -half_width / 2 else "middle"


def _place_phrase(hand: Hand, generator: np.random.Generator, both: bool) -> str:
    start, middle, end = hand.rows[0], hand.middle, hand.rows[-1]
    levels = [_pick(LEVEL_PHRASES[_level(row[1], hand.signer)], generator) for row in (start, middle, end)]
    if _level(start[1], hand.signer) != _level(end[1], hand.signer):
        return _pick(JOURNEY_PHRASES, generator).format(start=levels[0], end=levels[2])
    zones = ZONE_PHRASES_OF_BOTH if both else ZONE_PHRASES
    return _pick(zones[_zone(middle[0], middle[1], hand.signer)], generator).format(level=levels[1])


def _fingers_phrase(hand: Hand, generator: np.random.Generator, both: bool) -> str:
    rotation = hand.middle[2]
    direction = next((name for name, end in ENDS_OF_FINGER_DIRECTIONS.items() if rotation < end), "drooping")
    return _pick(FINGER_PHRASES[direction], generator).format(towards="each other" if both else hand.other_side)


def _movement_phrase(hand: Hand, generator: np.random.Generator, both: bool) -> str:
    steps = np.diff(hand.rows[:, :2], axis=0)
    lengths = np.linalg.norm(steps, axis=1)
    if lengths.sum() < STILL:
        return _pick(STILL_PHRASES, generator)
    lateral, height = shift = steps.sum(axis=0)
    least = LEAST_SHARE_OF_DIRECTION * np.linalg.norm(shift)
    directions = []
    if abs(height) > least:
        directions.append("down" if height > 0 else "up")
    if abs(lateral) > least:
        directions.append(_sideways(hand, lateral, both))
    phrases = CURVE_PHRASES if _turn(steps[lengths > STILL / 3]) > LEAST_TURN else DIRECTION_PHRASES
    return _pick(phrases, generator).format(direction=" and ".join(directions))


def _sideways(hand: Hand, lateral: float, both: bool) -> str:
    if both:
        return "apart" if lateral > 0 else "together"
    return f"to {hand.side if lateral > 0 else hand.other_side}"


def _turn(steps: np.ndarray) -> float:
    """By how much the direction changes along these steps, `(steps, 2)`, in radians."""
    angles = np.arctan2(steps[:, 1], steps[:, 0])
    return float(np.abs((np.diff(angles) + np.pi) % (2 * np.pi) - np.pi).sum())
