# Copyright 2026 The FLaLLM authors. Licensed under the Apache License, Version 2.0.
"""Cuts a long clip into sentences where the hands rest, from its motion, however that was measured.

Hands rest where little moves for a while. Signers also hold a hand still within a sentence, so a short stillness counts
only if the hands go down before it and up after it.
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

STEP_IN_SECONDS = 0.04
# The levels of motion and noise are local: cameras and people change in a long video.
SURROUNDINGS_IN_SECONDS = 30.0
REST_IN_SECONDS = 0.5
REST_OF_LOWERED_HANDS_IN_SECONDS = 0.1
# How much lower than usual the motion around a rest is, as a fraction of the picture's height.
LOWER_BY = 0.06
WAY_OF_THE_HANDS_IN_SECONDS = 0.2
TWITCH_IN_SECONDS = 0.3


@dataclass(frozen=True)
class VideoSegment:
    """
    A part of a video to translate, `start` to `end` in seconds of the file, and the time of its caption,
    `caption_start` to `caption_end`, which includes half of the rest on either side.

    `cut` says how it was separated from the one before: "rest" (hands at rest, or the beginning of the video),
    "minimum" (a moment of little motion) or "overlap" (there was none: it begins before the other one ends).
    """

    start: float
    end: float
    caption_start: float
    caption_end: float
    cut: str = "rest"


@dataclass(frozen=True)
class Motion:
    """
    Motion of a clip in steps of `STEP_IN_SECONDS` from second `start` on, each of shape `(steps,)`: `energy`, how much
    moves, in any unit; `height` of what moves, 0 at the top of the picture and 1 at the bottom; `is_cut`, whether the
    film was cut there; `still`, the energy up to which nobody moves; `usual_height`, the mean of the surroundings; and
    `usual_energy`, a number, that of the surroundings in which most moves.
    """

    start: float
    end: float
    energy: np.ndarray
    height: np.ndarray
    is_cut: np.ndarray
    still: np.ndarray
    usual_height: np.ndarray
    usual_energy: float

    def second_at(self, step: float) -> float:
        return min(self.start + step * STEP_IN_SECONDS, self.end)


@dataclass(frozen=True)
class Stillness:
    """Steps from `first` to `stop` (exclusive) in which nobody moves."""

    first: int
    stop: int

    @property
    def seconds(self) -> float:
        return (self.stop - self.first) * STEP_IN_SECONDS

    @property
    def middle(self) -> float:
        return (self.first + self.stop) / 2


@dataclass(frozen=True)
class SegmentLengths:
    """
    How a long clip is split. A part shorter than `shortest_seconds` is joined to its neighbour. A part longer than
    `longest_seconds` is cut where there is little motion, or, if there is no such moment, into parts that overlap by
    `overlap_seconds`. Stretches in which nobody moves for `idle_seconds` or more are left out, except for a quarter of
    that time on either side. Of the rest between two parts, `rest_seconds` are translated with each.

    Raises:
        ValueError: for lengths that contradict each other or are out of range.
    """

    longest_seconds: float = 12.0
    shortest_seconds: float = 1.0
    overlap_seconds: float = 1.0
    idle_seconds: float = 2.0
    rest_seconds: float = 0.1

    def __post_init__(self):
        if not self.rest_seconds >= 0:
            raise ValueError(f"`rest_seconds` must be 0 or more seconds, got {self.rest_seconds}.")
        for name, value in vars(self).items():
            if name != "rest_seconds" and not value > 0:
                raise ValueError(f"`{name}` must be a number of seconds above 0, got {value}.")
        if self.longest_seconds < 2 * max(self.shortest_seconds, self.overlap_seconds):
            raise ValueError(
                "`longest_seconds` must be at least twice `shortest_seconds` and `overlap_seconds`, got "
                f"longest_seconds={self.longest_seconds:g}, shortest_seconds={self.shortest_seconds:g} and "
                f"overlap_seconds={self.overlap_seconds:g}."
            )

    @property
    def idle_margin_in_steps(self) -> int:
        """How much of an idle time stays with the sentence beside it, in steps of `STEP_IN_SECONDS`."""
        return round(self.idle_seconds / 4 / STEP_IN_SECONDS)


@dataclass(frozen=True)
class NoiseLevels:
    """
    In the unit of the energy: motion that never exceeds `faintest` is noise, and noise never exceeds `highest`. What
    exceeds the noise by up to `still_fraction` of the usual motion is still.
    """

    faintest: float
    highest: float
    still_fraction: float


def motion_in_equal_steps(
    times: np.ndarray,
    energy: np.ndarray,
    height: np.ndarray,
    is_cut: np.ndarray,
    end: float,
    noise: NoiseLevels,
    usual_before: float = 0.0,
) -> Motion:
    """
    The motion of a clip from numbers for each of its frames, all `(frames,)`: their `times` in seconds, and `energy`,
    `height` and `is_cut` as in `Motion`. What changed between two frames is spread over the time between them.
    `usual_before` is the `usual_energy` of what was before the clip, where the clip alone does not show it.
    """
    energy = np.where(is_cut, np.minimum(np.pad(energy, 1)[:-2], np.pad(energy, 1)[2:]), energy)
    steps = times[0] + (np.arange(max(1, round((end - times[0]) / STEP_IN_SECONDS))) + 0.5) * STEP_IN_SECONDS
    frames = np.searchsorted(times, steps).clip(0, len(times) - 1)
    energy, height = energy[frames], height[frames]
    noise_and_motion = in_surroundings(energy, lambda part: np.percentile(part, [5, 90]))
    levels = {
        "still": _still_level(*noise_and_motion.T, usual_before, noise),
        "usual_height": _usual_height(energy, height),
        "usual_energy": float(noise_and_motion[:, 1].max()),
    }
    return Motion(float(times[0]), float(end), energy, height, is_cut[frames], **levels)


def stands_out(change: np.ndarray, least: float) -> np.ndarray:
    """
    Whether a single frame changes by more than `least`, and far more than the two on either side `(frames,)`, as at a
    cut of the film or in a flash: people take longer.
    """
    padded = np.pad(change, 2)
    neighbours = np.stack([padded[:-4], padded[1:-3], padded[3:-1], padded[4:]])
    return change > np.maximum(2 * neighbours.max(0), least)


def split_motion(motion: Motion, lengths: SegmentLengths) -> list[VideoSegment]:
    """The sentences of a clip with this motion, in order of time; none if nobody moves."""
    stretches = _leave_out_idle_time(motion, find_stillness(motion), lengths)
    segments = [segment for stretch in stretches for segment in _split_stretch(motion, *stretch, lengths)]
    return [without_rests(motion, segment, lengths.rest_seconds) for segment in segments]


# Levels


def _still_level(noise: np.ndarray, motion: np.ndarray, usual_before: float, noise_levels: NoiseLevels) -> np.ndarray:
    """-> the energy up to which nobody moves `(steps,)`; infinite where there is nothing but noise."""
    noise = np.minimum(noise, noise_levels.highest)
    motion = np.maximum(motion, max(0.3 * motion.max(), usual_before))
    level = noise + noise_levels.still_fraction * (motion - noise)
    is_noise = (motion < noise_levels.highest) & (motion < np.maximum(noise_levels.faintest, 2.5 * noise))
    return np.where(is_noise, np.inf, level)


def _usual_height(energy: np.ndarray, height: np.ndarray) -> np.ndarray:
    weighted = in_surroundings(energy * height, np.mean)
    return weighted / np.maximum(in_surroundings(energy, np.mean), 1e-9)


def in_surroundings(
    values: np.ndarray, statistic: Callable[[np.ndarray], Any], step_in_seconds: float = STEP_IN_SECONDS
) -> np.ndarray:
    """A statistic of the values around each step, computed once a second: `(steps, ...)`."""
    per_second, reach = max(round(1 / step_in_seconds), 1), round(SURROUNDINGS_IN_SECONDS / 2 / step_in_seconds)
    spans = [(max(0, centre - reach), min(centre + reach, len(values))) for centre in range(0, len(values), per_second)]
    found = {span: statistic(values[slice(*span)]) for span in set(spans)}  # in a short clip, many are the same
    rows = np.array([found[span] for span in spans])
    return np.repeat(rows, per_second, axis=0)[: len(values)]


# Rests


def find_stillness(motion: Motion) -> list[Stillness]:
    """All stretches in which nobody moves, however short."""
    is_still = motion.energy <= motion.still
    behind3, behind2, behind1, _, ahead1, ahead2, ahead3 = np.lib.stride_tricks.sliding_window_view(
        np.pad(is_still, 3), 7
    ).T
    # A single moving step between two still ones is a blink if it is small, or else a jump of the picture: hands do
    # not start and stop in one step. But if every other step is still, the file has each frame twice.
    alternates = (behind3 & ~behind2) | (~ahead2 & ahead3)
    is_bridge = behind1 & ahead1 & ((motion.energy <= 2 * motion.still) | ~alternates)
    edges = np.flatnonzero(np.diff(np.pad(is_still | is_bridge, 1).astype(int)))
    return [Stillness(int(first), int(stop)) for first, stop in edges.reshape(-1, 2)]


def is_rest(motion: Motion, stillness: Stillness) -> bool:
    """Whether it is long, or the hands go down before it and up after it; at a cut of the film it may be short."""
    if stillness.seconds >= REST_IN_SECONDS - 1e-9:
        return True
    is_cut = motion.is_cut[stillness.first : stillness.stop].any()
    if stillness.seconds < REST_OF_LOWERED_HANDS_IN_SECONDS - 1e-9 and not is_cut:
        return False
    way = round(WAY_OF_THE_HANDS_IN_SECONDS / STEP_IN_SECONDS)
    sides = [slice(max(0, stillness.first - way), stillness.first), slice(stillness.stop, stillness.stop + way)]
    return np.mean([_lower_by(motion, side) for side in sides]) >= LOWER_BY


def _lower_by(motion: Motion, side: slice) -> float:
    """How much lower than usual the motion of some steps is."""
    energy = motion.energy[side]
    lower_by = motion.height[side] - motion.usual_height[side]
    return float((energy * lower_by).sum() / max(energy.sum(), 1e-9))


# Segments


def _leave_out_idle_time(
    motion: Motion, stillnesses: list[Stillness], lengths: SegmentLengths
) -> list[tuple[int, int, list[Stillness]]]:
    """Stretches between idle times, each with its first step, the one after its last, and the rests in it."""
    idle = [stillness for stillness in stillnesses if stillness.seconds >= lengths.idle_seconds]
    margin = lengths.idle_margin_in_steps
    edges = [0]
    for stillness in idle:
        edges += [
            min(stillness.first + margin, stillness.stop) if stillness.first > 0 else 0,
            max(stillness.stop - margin, stillness.first) if stillness.stop < len(motion.energy) else stillness.stop,
        ]
    edges.append(len(motion.energy))
    stretches = []
    for first, stop in zip(edges[::2], edges[1::2], strict=True):
        inside = [stillness for stillness in stillnesses if first <= stillness.first and stillness.stop <= stop]
        still_steps = (motion.energy[first:stop] <= motion.still[first:stop]).sum()
        if (stop - first - still_steps) * STEP_IN_SECONDS >= TWITCH_IN_SECONDS:
            stretches.append((first, stop, [stillness for stillness in inside if is_rest(motion, stillness)]))
    return stretches


def _split_stretch(
    motion: Motion, first: int, stop: int, rests: list[Stillness], lengths: SegmentLengths
) -> Iterator[VideoSegment]:
    rests = [rest for rest in rests if first < rest.first and rest.stop < stop]
    edges = [first, *_without_short_pieces(rests, first, stop, lengths), stop]
    for begin, behind in itertools.pairwise(edges):
        seconds = motion.second_at(begin), motion.second_at(behind)
        yield from split_long(motion, VideoSegment(*seconds, *seconds), lengths)


def _without_short_pieces(rests: list[Stillness], first: int, stop: int, lengths: SegmentLengths) -> list[float]:
    """-> the middles of the rests that are kept; of the two around the shortest piece, the shorter is dropped first."""
    rests = list(rests)
    while rests:
        pieces = np.diff([first, *(rest.middle for rest in rests), stop]) * STEP_IN_SECONDS
        shortest = int(pieces.argmin())
        if pieces[shortest] >= lengths.shortest_seconds:
            break
        around = rests[max(0, shortest - 1) : shortest + 1]
        rests.remove(min(around, key=lambda rest: rest.seconds))
    return [rest.middle for rest in rests]


def split_long(motion: Motion, segment: VideoSegment, lengths: SegmentLengths) -> Iterator[VideoSegment]:
    """Cut a piece that is too long at moments of little motion, or else with an overlap."""
    while segment.end - segment.start > lengths.longest_seconds:
        second = _moment_of_little_motion(motion, segment, lengths)
        if second is not None:
            yield replace(segment, end=second, caption_end=second)
            segment = replace(segment, start=second, caption_start=second, cut="minimum")
        else:
            second = segment.start + lengths.longest_seconds
            yield replace(segment, end=second, caption_end=second)
            second -= lengths.overlap_seconds
            segment = replace(segment, start=second, caption_start=second, cut="overlap")
    yield segment


def _moment_of_little_motion(motion: Motion, segment: VideoSegment, lengths: SegmentLengths) -> float | None:
    """The second of least motion in the second half of the longest piece allowed from this start, if it is clear."""
    earliest = segment.start + lengths.longest_seconds / 2
    latest = min(segment.start + lengths.longest_seconds, segment.end - lengths.shortest_seconds)
    first, stop = (round((second - motion.start) / STEP_IN_SECONDS) for second in (earliest, latest))
    width = round(WAY_OF_THE_HANDS_IN_SECONDS / STEP_IN_SECONDS)
    smooth = np.convolve(motion.energy, np.full(width, 1 / width), mode="same")[first : stop + 1]
    lowest = int(smooth.argmin())
    is_clear = smooth[lowest] < 0.5 * np.median(motion.energy[first : stop + 1])
    return motion.second_at(first + lowest + 0.5) if is_clear else None


def without_rests(motion: Motion, segment: VideoSegment, rest_seconds: float) -> VideoSegment:
    """Shorten the rests at both ends of a segment to `rest_seconds`: models have seldom seen more."""
    first, stop = (round((second - motion.start) / STEP_IN_SECONDS) for second in (segment.start, segment.end))
    moving = first + np.flatnonzero(motion.energy[first:stop] > motion.still[first:stop])
    if not len(moving):
        return segment
    return replace(
        segment,
        start=max(segment.start, motion.second_at(int(moving[0])) - rest_seconds),
        end=min(segment.end, motion.second_at(int(moving[-1]) + 1) + rest_seconds),
    )


__all__ = [
    "Motion",
    "NoiseLevels",
    "SegmentLengths",
    "Stillness",
    "VideoSegment",
    "find_stillness",
    "in_surroundings",
    "is_rest",
    "motion_in_equal_steps",
    "split_long",
    "split_motion",
    "stands_out",
    "without_rests",
]
