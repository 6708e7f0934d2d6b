"""Poses of a person who signs, in the COCO-WholeBody layout, whose rests are known."""

import numpy as np

FRAMES_PER_SECOND = 25
HEIGHT, WIDTH = 480, 640
SHOULDER_WIDTH = 140
LOWERED, RAISED, OTHER_HAND = (250, 420), (270, 230), (390, 420)
WRISTS, HANDS = (10, 9), (112, 91)  # the right hand signs
FINGERTIPS = [4, 8, 12, 16, 20]


def signing_poses(
    plan: list[tuple[str, float]], frames_per_second: float = FRAMES_PER_SECOND, jitter: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """
    float32 keypoints `(frames, 133, 2)` in pixels and scores `(frames, 133)` that follow a plan of actions and their
    seconds: "sign" (the right hand comes up, moves about and goes down again), "move" (it stays up and moves), "hold"
    (it is still, up), "spell" (its wrist is still, up, and its fingers move), "rest" (it is still, down) or "away" (it
    is below the picture). `jitter` is the standard deviation of the detector in pixels.
    """
    tracks = [_track(kind, round(seconds * frames_per_second), frames_per_second) for kind, seconds in plan]
    wrist, fingers, is_seen = (np.concatenate(parts) for parts in zip(*tracks, strict=True))
    keypoints = np.zeros((len(wrist), 133, 2))
    keypoints[:, :11] = [
        (320, 100), (330, 90), (310, 90), (345, 95), (295, 95), (320 + SHOULDER_WIDTH / 2, 200),
        (320 - SHOULDER_WIDTH / 2, 200), (400, 310), (240, 310), OTHER_HAND, LOWERED,
    ]  # fmt: skip
    keypoints[:, 11:23] = (320, 470)
    keypoints[:, 23:91] = (320, 110)
    keypoints[:, 10] = wrist
    shape = np.stack([np.arange(21) % 5 * 8.0 - 16, -np.arange(21) * 1.5], axis=1)
    shape[0] = 0
    for hand, wrist_index in zip(HANDS, WRISTS, strict=True):
        keypoints[:, hand : hand + 21] = keypoints[:, wrist_index, None] + shape
    for tip in FINGERTIPS:
        keypoints[:, 112 + tip] += fingers
    keypoints += np.random.normal(0, jitter, keypoints.shape)
    scores = np.full((len(wrist), 133), 0.9)
    scores[~is_seen, 10] = scores[~is_seen, 112:] = 0
    keypoints[scores == 0] = 0
    return keypoints.astype(np.float32), scores.astype(np.float32)


def _track(kind: str, num_frames: int, rate: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The wrist `(frames, 2)`, how far its fingertips are moved `(frames, 2)`, and whether the hand is seen."""
    still, fingers = np.zeros((num_frames, 2)), np.zeros((num_frames, 2))
    turn = 3 * np.pi * np.arange(num_frames)[:, None] / rate * np.random.uniform(0.9, 1.1)
    circle = np.concatenate([np.cos(turn), np.sin(turn)], axis=1)
    if kind == "spell":
        return still + RAISED, 18 * circle, np.ones(num_frames, bool)
    if kind == "move":
        return RAISED + 40 * circle, fingers, np.ones(num_frames, bool)
    if kind != "sign":
        return still + (RAISED if kind == "hold" else LOWERED), fingers, np.full(num_frames, kind != "away")
    progress = np.minimum(np.arange(num_frames), np.arange(num_frames)[::-1])[:, None] / (0.25 * rate)
    way = np.clip(progress, 0, 1)
    return LOWERED + (RAISED + 40 * circle - LOWERED) * way, fingers, np.ones(num_frames, bool)
