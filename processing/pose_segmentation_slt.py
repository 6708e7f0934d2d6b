# Copyright 2026 The FLaLLM authors. Licensed under the Apache License, Version 2.0.
"""Measures the motion of the hands in poses, for `split_motion` to cut them into sentences.

The motion of a hand is the speed of its wrist or that of its fingertips, whichever is higher, in shoulder widths per
second: in fingerspelling the wrist hardly moves. A hand that is not seen is at rest. All of this is ours: signers lower
their hands out of the picture, and detectors lose a hand for a few frames.
"""

from dataclasses import replace

import numpy as np

from .segmentation_slt import (
    REST_IN_SECONDS,
    STEP_IN_SECONDS,
    TWITCH_IN_SECONDS,
    Motion,
    NoiseLevels,
    in_surroundings,
    motion_in_equal_steps,
    stands_out,
)

# Points of COCO-WholeBody: of each hand the wrist of the body, the one of the hand, and the fingertips.
LEFT_SHOULDER, RIGHT_SHOULDER = 5, 6
HANDS = ((9, 91, [95, 99, 103, 107, 111]), (10, 112, [116, 120, 124, 128, 132]))
# A picture from head to hip is about so high; motion is as high above the hips as in videos.
PICTURE_HEIGHT_IN_SHOULDER_WIDTHS = 3.0
# In shoulder widths per second: hands at rest tremble and detectors jitter; signing hands move at 2 to 6.
DETECTOR_NOISE = NoiseLevels(faintest=0.3, highest=0.4, still_fraction=0.08)
# Over this time on either side speed is measured, so that jitter counts the same at any frame rate.
REACH_IN_SECONDS = 0.06
# A hand that is lost for so long at most has moved on meanwhile.
LONGEST_GAP_IN_SECONDS = 0.3
# In shoulder widths from one frame to the next: people do not move so fast, and not in a single frame.
JUMP_OF_THE_SHOULDERS, JUMP_OF_A_HAND = 0.5, 0.1


def measure_pose_motion(
    keypoints: np.ndarray,
    scores: np.ndarray,
    frames_per_second: float,
    start: float,
    score_threshold: float,
    name: str,
    usual_before: float = 0.0,
) -> Motion:
    """
    The motion of the hands in poses in COCO-WholeBody layout.

    Args:
        keypoints, scores: `(frames, 133, 2)` in a unit that is the same for x and y, and `(frames, 133)`.
        start: second of the first frame.
        score_threshold: points with this score or less are not seen.
        name: of the clip, in the error.
        usual_before: see `motion_in_equal_steps`.

    Raises:
        ValueError: if no frame shows both shoulders.
    """
    points = np.where((scores > score_threshold)[..., None], keypoints, np.nan).astype(np.float64)
    width = _shoulder_width(points, frames_per_second, name)
    middle = _without_gaps(points[:, [LEFT_SHOULDER, RIGHT_SHOULDER]].mean(1), len(points))
    is_cut = stands_out(np.pad(_length(np.diff(middle, axis=0)), (1, 0)) / width, JUMP_OF_THE_SHOULDERS)
    hands = [_hand(points, *hand, is_cut, width, frames_per_second) for hand in HANDS]
    speeds, heights = (np.stack(parts) for parts in zip(*hands, strict=True))
    energy = speeds.max(0) / width
    height = (speeds * np.nan_to_num(heights - middle[:, 1])).sum(0) / np.maximum(speeds.sum(0), 1e-9)
    height = height / (PICTURE_HEIGHT_IN_SHOULDER_WIDTHS * width)
    seconds = start + np.arange(len(points)) / frames_per_second
    end = start + len(points) / frames_per_second
    motion = motion_in_equal_steps(seconds, energy, height, is_cut, end, DETECTOR_NOISE, usual_before)
    return _without_twitches(motion)


def _without_twitches(motion: Motion) -> Motion:
    """Hands that move for a moment between two rests twitch, or the detector does: they are still."""
    is_still = motion.energy <= motion.still
    edges = np.flatnonzero(np.diff(is_still.astype(int))) + 1
    firsts, stops = np.append(0, edges), np.append(edges, len(is_still))
    lengths = (stops - firsts) * STEP_IN_SECONDS
    energy = motion.energy.copy()
    for run in range(1, len(firsts) - 1):
        rests = min(lengths[run - 1], lengths[run + 1])
        if not is_still[firsts[run]] and lengths[run] < TWITCH_IN_SECONDS and rests >= REST_IN_SECONDS:
            energy[firsts[run] : stops[run]] = 0
    return replace(motion, energy=energy)


def _shoulder_width(points: np.ndarray, frames_per_second: float, name: str) -> np.ndarray:
    """The median of the surroundings of each frame `(frames,)`: signers turn, and cameras change."""
    width = _length(points[:, LEFT_SHOULDER] - points[:, RIGHT_SHOULDER])
    seen = np.flatnonzero(width > 0)  # which NaN is not
    if not len(seen):
        raise ValueError(
            f"{name} never shows both shoulders, and motion is measured in shoulder widths. Pass `segments`, the "
            "seconds of its sentences."
        )
    everywhere = np.interp(np.arange(len(points)), seen, width[seen])
    return in_surroundings(everywhere, np.median, 1 / frames_per_second)


def _hand(
    points: np.ndarray,
    wrist: int,
    wrist_of_hand: int,
    tips: list[int],
    is_cut: np.ndarray,
    width: np.ndarray,
    frames_per_second: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Speed of a hand per second, 0 where it is not seen, and the y of its wrist, both `(frames,)`."""
    wrist_track = np.where(np.isnan(points[:, wrist]), points[:, wrist_of_hand], points[:, wrist])
    tracks = np.concatenate([wrist_track[:, None], points[:, tips]], axis=1)
    longest_gap = round(LONGEST_GAP_IN_SECONDS * frames_per_second)
    tracks = np.stack([_without_gaps(_without_spikes(track), longest_gap) for track in tracks.swapaxes(0, 1)], axis=1)
    reach = max(1, round(REACH_IN_SECONDS * frames_per_second))
    speed = _length(_over_time(tracks, reach)) * frames_per_second / (2 * reach)
    tips_speed = _median(speed[:, 1:])
    speed = np.fmax(np.nan_to_num(speed[:, 0]), np.nan_to_num(tips_speed))
    moved = np.nan_to_num(np.pad(_length(np.diff(tracks[:, 0], axis=0)), (1, 0)))
    return _beside_jumps(speed, is_cut | stands_out(moved / width, JUMP_OF_A_HAND), reach), tracks[:, 0, 1]


def _length(vectors: np.ndarray) -> np.ndarray:
    return np.linalg.norm(vectors, axis=-1)


def _over_time(tracks: np.ndarray, reach: int) -> np.ndarray:
    """How far each point moves from `reach` frames before to `reach` frames after each frame; NaN at the ends."""
    moved = np.full_like(tracks, np.nan)
    if len(tracks) > 2 * reach:
        moved[reach:-reach] = tracks[2 * reach :] - tracks[: -2 * reach]
    return moved


def _without_spikes(track: np.ndarray) -> np.ndarray:
    """Medians of three frames, where all of them are seen: detectors take one hand for the other for a single frame."""
    if len(track) < 3:
        return track
    medians = np.median(np.stack([track[:-2], track[1:-1], track[2:]]), axis=0)  # NaN if one of them is
    smooth = track.copy()
    smooth[1:-1] = np.where(np.isnan(medians), track[1:-1], medians)
    return smooth


def _without_gaps(track: np.ndarray, longest_gap: int) -> np.ndarray:
    """Positions `(frames, 2)` with straight lines over gaps of so many frames at most."""
    seen = np.flatnonzero(~np.isnan(track[:, 0]))
    if not len(seen):
        return track
    frames = np.arange(len(track))
    after = np.searchsorted(seen, frames)
    before, behind = seen[np.maximum(after - 1, 0)], seen[np.minimum(after, len(seen) - 1)]
    is_bridged = (behind - before <= longest_gap + 1) & (before <= frames) & (frames <= behind)
    filled = np.stack([np.interp(frames, seen, track[seen, axis]) for axis in range(2)], axis=1)
    return np.where((is_bridged | ~np.isnan(track[:, 0]))[:, None], filled, np.nan)


def _median(speeds: np.ndarray) -> np.ndarray:
    """Medians of those that are known `(frames, points)` -> `(frames,)`; NaN where none is."""
    ordered = np.sort(speeds, axis=1)  # NaN comes last
    known = (~np.isnan(speeds)).sum(1)
    return ordered[np.arange(len(speeds)), np.maximum(known - 1, 0) // 2]


def _beside_jumps(speed: np.ndarray, is_jump: np.ndarray, reach: int) -> np.ndarray:
    """Speeds measured over a jump are none: there, the lower of the nearest ones before and after it."""
    over_a_jump = np.convolve(is_jump, np.ones(2 * reach), mode="full")[reach : reach + len(speed)] > 0
    known = np.flatnonzero(~over_a_jump)
    if len(known) in (0, len(speed)):
        return speed
    after = np.searchsorted(known, np.arange(len(speed)))
    before, behind = known[np.maximum(after - 1, 0)], known[np.minimum(after, len(known) - 1)]
    return np.where(over_a_jump, np.minimum(speed[before], speed[behind]), speed)


__all__ = ["measure_pose_motion"]
