"""
Keypoints of the rendered signers: the true ones, and what a pose detector would make of them.

The layout is COCO-WholeBody, 133 points (https://github.com/jin-s13/COCO-WholeBody): 17 of the body, 6 of the feet, 68
of the face as in iBUG's 300-W, and 21 of each hand, left hand first; left and right are the signer's. Coordinates are
pixels of the picture, x to the right and y downwards. What the picture does not show, such as hips and feet, is at
(0, 0) with score 0.
"""

from collections.abc import Sequence

import numpy as np

from .drawing import HEAD_HEIGHT
from .signers import Signer
from .signing_renderer import DOMINANT, OTHER, pose_figure

NUM_KEYPOINTS = 133
FACE = slice(23, 91)
LEFT_HAND, RIGHT_HAND = slice(91, 112), slice(112, 133)
HEAD = slice(0, 5)  # nose, eyes and ears, each left first
LEFT_ARM, RIGHT_ARM = [5, 7, 9], [6, 8, 10]  # shoulder, elbow, wrist

# Sizes of errors are standard deviations for --pose_errors 1, in units of the width of the shoulders, the width of the
# head, and the length of a hand; speeds are in these units per frame. Jitter and its growth with speed are those of
# MediaPipe's landmarks in 300 takes of real signs, by their third differences: for hands 0.012 at rest, 0.055 at a
# speed of 0.15 and 0.09 at 0.35, for wrists 0.007, for elbows 0.003. The other values are ours.
JITTER_OF_BODY, JITTER_OF_FACE, JITTER_OF_HANDS = 0.004, 0.004, 0.02
DRIFT_OVER_JITTER, SECONDS_OF_DRIFT = 1.0, 0.4
DIFFICULTY_OF_SPEED = 10.0  # for each unit per frame
DIFFICULTY_OF_COVER = 1.5
SCORE_LOSS_OF_ERROR, SCORE_LOSS_OF_DIFFICULTY = 2.0, 0.03
MISSING_HANDS_PER_SECOND, FRAMES_OF_MISSING_HAND = 0.15, 4
HIGHEST_SCORE_OF_MISSING_HAND, ERROR_OF_MISSING_HAND = 0.25, 0.5
SWAPPED_HANDS_PER_SECOND, FRAMES_OF_SWAPPED_HANDS, SCORE_OF_SWAPPED_HANDS = 0.1, 3, 0.6
DROPPED_FRAMES = 0.01


def _arc(centre: tuple[float, float], radii: tuple[float, float], angles_in_degrees: np.ndarray) -> np.ndarray:
    """Points of an ellipse; angle 0 is at the viewer's left, 90 at the top."""
    angles = np.radians(angles_in_degrees)
    return np.stack([centre[0] - radii[0] * np.cos(angles), centre[1] - radii[1] * np.sin(angles)], axis=1)


def _line(start: tuple[float, float], end: tuple[float, float], num_points: int) -> np.ndarray:
    return np.linspace(start, end, num_points)


# In units of the radius of the head, from its centre; x to the viewer's right, y downwards.
NOSE_TIP, LEFT_EYE, RIGHT_EYE, LEFT_EAR, RIGHT_EAR = (0.0, 0.38), (0.36, 0.05), (-0.36, 0.05), (0.88, 0.1), (-0.88, 0.1)
EYE_RADII = (0.11, 0.08)
MOUTH_CENTRE = (0.0, 0.65)
HEAD_POINTS = np.array([NOSE_TIP, LEFT_EYE, RIGHT_EYE, LEFT_EAR, RIGHT_EAR])
FACE_POINTS = np.concatenate(
    [
        _arc((0.0, 0.24), (0.88, 0.96), np.linspace(0, -180, 17)),  # jaw, along the outline of the face
        _arc((-0.38, -0.12), (0.22, 0.1), np.linspace(0, 180, 5)),  # brows
        _arc((0.38, -0.12), (0.22, 0.1), np.linspace(0, 180, 5)),
        _line((0.0, 0.05), NOSE_TIP, 4),
        _line((-0.15, 0.45), (0.15, 0.45), 5),
        _arc(RIGHT_EYE, EYE_RADII, np.arange(0, 360, 60)),
        _arc(LEFT_EYE, EYE_RADII, np.arange(0, 360, 60)),
        _arc(MOUTH_CENTRE, (0.3, 0.09), np.arange(0, 360, 30)),  # outer lips
        _arc(MOUTH_CENTRE, (0.24, 0.04), np.arange(0, 360, 45)),  # inner lips
    ]
)


class Skeleton:
    """
    The true keypoints of the clip that `render_clip` makes with the same arguments.

    Attributes:
        keypoints: pixels of the picture, `(frames, 133, 2)`; points that are never in it are NaN.
        units: what errors of each point are measured in, in pixels, `(133,)`: see the constants.
    """

    def __init__(self, glosses: Sequence[str], signer: Signer, resolution: int, random_generator: np.random.Generator):
        self.signer = signer
        self.resolution = resolution
        self.figure = pose_figure(glosses, signer, resolution, random_generator)
        self.pixels_per_canvas_pixel = resolution / self.figure.camera.canvas_size
        self.keypoints = self._keypoints()
        self.units = np.full(NUM_KEYPOINTS, self._length(2 * signer.shoulder_half_width))
        self.units[FACE] = self._length(2 * signer.head_radius)
        self.units[LEFT_HAND] = self.units[RIGHT_HAND] = self._length(signer.hand_size)

    def is_in_picture(self) -> np.ndarray:
        """-> `(frames, 133)`"""
        return ((self.keypoints >= 0) & (self.keypoints < self.resolution)).all(axis=-1)

    def difficulty(self) -> np.ndarray:
        """How much larger the errors of each point are than those of a still, visible one, `(frames, 133)`."""
        velocity = np.gradient(np.nan_to_num(self.keypoints), axis=0)
        speed = np.linalg.norm(velocity, axis=-1) / self.units
        return 1 + DIFFICULTY_OF_SPEED * speed + DIFFICULTY_OF_COVER * self._is_covered()

    def _keypoints(self) -> np.ndarray:
        left, right = (DOMINANT, OTHER) if self.signer.is_left_handed else (OTHER, DOMINANT)
        keypoints = np.full((len(self.figure.arms), NUM_KEYPOINTS, 2), np.nan)
        head = self._in_picture(self.figure.camera.project(np.array([0.0, HEAD_HEIGHT])))
        radius = self._length(self.signer.head_radius)
        keypoints[:, FACE] = head + radius * FACE_POINTS
        keypoints[:, HEAD] = head + radius * HEAD_POINTS
        arms, hands = self._in_picture(self.figure.arms), self._in_picture(self._hand_points())
        keypoints[:, LEFT_ARM], keypoints[:, RIGHT_ARM] = arms[:, left], arms[:, right]
        keypoints[:, LEFT_HAND], keypoints[:, RIGHT_HAND] = hands[:, left], hands[:, right]
        return keypoints

    def _hand_points(self) -> np.ndarray:
        """-> `(frames, 2, 21, 2)` on the canvas: the wrist, then four points of each finger, thumb first. The first of
        a finger's five drawn points is inside the palm and no joint."""
        wrists, joints = self.figure.arms[:, :, 2:], self.figure.fingers[:, :, :, 1:]
        return np.concatenate([wrists, joints.reshape(*joints.shape[:2], 20, 2)], axis=2)

    def _is_covered(self) -> np.ndarray:
        """Whether a palm hides the point, `(frames, 133)`: the dominant hand is in front of the other, both are in
        front of the head."""
        is_behind = np.zeros((2, NUM_KEYPOINTS), dtype=bool)
        is_behind[:, FACE] = is_behind[:, HEAD] = True
        is_behind[DOMINANT, RIGHT_HAND if self.signer.is_left_handed else LEFT_HAND] = True
        palms = self._in_picture(self.figure.palm_centres)[:, :, None]
        radii = self.figure.palm_radii[..., None] * self.pixels_per_canvas_pixel
        distances = np.linalg.norm(self.keypoints[:, None] - palms, axis=-1)
        return ((distances < radii) & is_behind).any(axis=1)

    def _length(self, length: float) -> float:
        """In units of the frame's width -> in pixels of the picture."""
        return self.figure.camera.scale(length) * self.pixels_per_canvas_pixel

    def _in_picture(self, points: np.ndarray) -> np.ndarray:
        """Pixels of the canvas -> of the picture, which is mirrored for left-handed signers."""
        points = points * self.pixels_per_canvas_pixel
        return points * [-1, 1] + [self.resolution, 0] if self.signer.is_left_handed else points


def pose_clip(
    glosses: Sequence[str],
    signer: Signer,
    resolution: int,
    random_generator: np.random.Generator,
    errors: float = 0.0,
    error_generator: np.random.Generator | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """
    Returns the keypoints of the clip that `render_clip` makes with the same state of `random_generator`, as
    `(frames, 133, 2)`, and their scores, `(frames, 133)`, both float32.

    Args:
        errors: size of the detector's errors; 0 gives the true keypoints, and 1 for each point that is in the picture.
        error_generator: what the errors are drawn from; needed if there are any.
    """
    skeleton = Skeleton(glosses, signer, resolution, random_generator)
    keypoints, scores = skeleton.keypoints, skeleton.is_in_picture().astype(float)
    if errors:
        keypoints, scores = _detect(skeleton, errors, error_generator)
    return np.where(scores[..., None] > 0, keypoints, 0.0).astype(np.float32), scores.astype(np.float32)


def _detect(skeleton: Skeleton, errors: float, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Keypoints and scores of a detector. The random draws do not depend on `errors`, so that they only scale."""
    difficulty = skeleton.difficulty()
    rate = skeleton.signer.frames_per_second
    shift = errors * _shift(difficulty, rate, generator)
    losses = SCORE_LOSS_OF_ERROR * np.linalg.norm(shift, axis=-1)
    losses += SCORE_LOSS_OF_DIFFICULTY * errors * (difficulty - 1)
    keypoints = skeleton.keypoints + shift * skeleton.units[:, None]
    scores = skeleton.is_in_picture() * np.exp(-losses)
    for hand in (LEFT_HAND, RIGHT_HAND):
        _miss_hand(
            keypoints[:, hand],
            scores[:, hand],
            skeleton.units[hand],
            errors * MISSING_HANDS_PER_SECOND / rate,
            generator,
        )
    _swap_hands(keypoints, scores, errors * SWAPPED_HANDS_PER_SECOND / rate, generator)
    scores[generator.random(len(scores)) < errors * DROPPED_FRAMES] = 0.0
    return keypoints, scores


def _shift(difficulty: np.ndarray, frames_per_second: float, generator: np.random.Generator) -> np.ndarray:
    """White jitter and slow drift of each point, in its unit, `(frames, 133, 2)`."""
    num_frames = len(difficulty)
    size = np.full(NUM_KEYPOINTS, JITTER_OF_BODY)
    size[FACE] = JITTER_OF_FACE
    size[LEFT_HAND] = size[RIGHT_HAND] = JITTER_OF_HANDS
    times = np.arange(num_frames) / (SECONDS_OF_DRIFT * frames_per_second)
    turns = generator.normal(size=(int(times[-1]) + 2, NUM_KEYPOINTS, 2))
    before = times.astype(int)
    share = (times - before)[:, None, None]
    drift = DRIFT_OVER_JITTER * ((1 - share) * turns[before] + share * turns[before + 1])
    jitter = generator.normal(size=(num_frames, NUM_KEYPOINTS, 2))
    return size[:, None] * (jitter + drift) * difficulty[..., None]


def _miss_hand(
    keypoints: np.ndarray, scores: np.ndarray, units: np.ndarray, per_frame: float, generator: np.random.Generator
) -> None:
    """In short spans the detector only guesses where this hand is; changes both arrays in place."""
    is_missing = _spans(len(scores), per_frame, FRAMES_OF_MISSING_HAND, generator)
    guesses = ERROR_OF_MISSING_HAND * units[:, None] * generator.normal(size=keypoints.shape)
    low_scores = generator.uniform(0.0, HIGHEST_SCORE_OF_MISSING_HAND, size=scores.shape)
    keypoints[is_missing] += guesses[is_missing]
    scores[is_missing] *= low_scores[is_missing]


def _swap_hands(keypoints: np.ndarray, scores: np.ndarray, per_frame: float, generator: np.random.Generator) -> None:
    """In short spans the detector takes each hand for the other; changes both arrays in place."""
    is_swapped = _spans(len(scores), per_frame, FRAMES_OF_SWAPPED_HANDS, generator)
    for values in (keypoints, scores):
        left, right = values[is_swapped, LEFT_HAND], values[is_swapped, RIGHT_HAND]
        values[is_swapped, LEFT_HAND], values[is_swapped, RIGHT_HAND] = right, left
    scores[is_swapped, LEFT_HAND.start :] *= SCORE_OF_SWAPPED_HANDS


def _spans(num_frames: int, per_frame: float, mean_num_frames: int, generator: np.random.Generator) -> np.ndarray:
    """Random spans of frames, `(frames,)`."""
    begins = generator.random(num_frames) < per_frame
    lengths = generator.geometric(1 / mean_num_frames, size=num_frames)
    inside = np.zeros(num_frames, dtype=bool)
    for first in np.flatnonzero(begins):
        inside[first : first + lengths[first]] = True
    return inside
