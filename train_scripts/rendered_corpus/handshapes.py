"""The shapes of the hands of rendered signers."""

import math

import numpy as np


def _finger(*points: tuple[float, float]) -> np.ndarray:
    """Returns five points evenly spread along the polyline through `points`, an array (5, 2)."""
    corners = np.array(points, dtype=float)
    lengths = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(corners, axis=0).T))])
    positions = np.linspace(0.0, lengths[-1], 5)
    return np.stack([np.interp(positions, lengths, corners[:, axis]) for axis in (0, 1)], axis=1)


def _straight_finger(angle_in_degrees: float, length: float, base: tuple[float, float] = (0.0, 0.0)) -> np.ndarray:
    angle = math.radians(angle_in_degrees)
    return _finger(base, (base[0] + length * math.sin(angle), base[1] + length * math.cos(angle)))


def _curved_finger(
    centre: tuple[float, float], radius: float, start_in_degrees: float, end_in_degrees: float
) -> np.ndarray:
    angles = np.radians(np.linspace(start_in_degrees, end_in_degrees, 5))
    return np.stack([centre[0] + radius * np.sin(angles), centre[1] + radius * np.cos(angles)], axis=1)


def _hand(palm_radius: float, *fingers: np.ndarray) -> np.ndarray:
    return np.concatenate([[palm_radius], np.stack(fingers).ravel()])


_FOLDED = [_finger((x, 0.0), (x, 0.22)) for x in (0.20, 0.07, -0.07, -0.20)]
_FOLDED_THUMB = _finger((0.22, -0.1), (0.1, 0.1))
_HOOK_CENTRE = (0.12, 0.42)
_OVER_THE_TOP = _curved_finger(_HOOK_CENTRE, 0.58, 38, -90)

# Thumb first, little finger last.
HAND_OF_HANDSHAPE = {
    "fist": _hand(0.42, _FOLDED_THUMB, *_FOLDED),
    "flat": _hand(
        0.38, _finger((0.26, -0.1), (0.26, 0.3)), *(_finger((x, 0.0), (x, 1.1)) for x in (0.29, 0.1, -0.1, -0.29))
    ),
    "spread": _hand(0.36, *(_straight_finger(angle, 1.12) for angle in (80, 37, 2, -33, -72))),
    "point": _hand(0.36, _FOLDED_THUMB, _finger((0.1, 0.0), (0.1, 1.4)), *_FOLDED[1:]),
    "vee": _hand(0.36, _FOLDED_THUMB, _straight_finger(24, 1.35), _straight_finger(-24, 1.35), *_FOLDED[2:]),
    "horns": _hand(0.36, _straight_finger(72, 1.25), *_FOLDED[:3], _straight_finger(-72, 1.25)),
    "ring": _hand(
        0.3,
        _curved_finger((0.0, 0.5), 0.5, 180, 60),
        _curved_finger((0.0, 0.5), 0.5, 60, -30),
        *(_curved_finger((0.0, 0.5), 0.5, -30, -180) for _ in range(3)),
    ),
    "hook": _hand(0.3, _curved_finger(_HOOK_CENTRE, 0.58, 155, 270), *(_OVER_THE_TOP for _ in range(4))),
}
HAND_AT_REST = (HAND_OF_HANDSHAPE["fist"] + HAND_OF_HANDSHAPE["flat"]) / 2
