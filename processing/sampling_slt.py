# Copyright 2026 The FLaLLM authors. Licensed under the Apache License, Version 2.0.
"""Thins sequences in time evenly, whatever they hold."""

import math
from collections.abc import Iterable, Sequence

# Frame rates that differ by less than this factor are alike, such as 24, 25 and 26.
ALIKE = 1.1
# Of a slower clip, more pictures than this for each would show the same again and again, without a bound.
MOST_REPEATS = 5
# A clip with fewer pictures is a series of stills, or has damaged times.
SLOWEST_OF_VIDEOS = 1.0


def evenly_spread(length: int, most: int | None) -> list[int]:
    """Return the indices of a sequence, thinned evenly from the first one on if it is longer than `most`."""
    if most is None or length <= most:
        return list(range(length))
    return [index * length // most for index in range(most)]


def sampled_evenly(length: int, rate: float, most: int | None) -> list[int]:
    """Return the indices of a fraction `rate` of a sequence from the first one on, thinned evenly to `most` of them."""
    # 1e-9: 100 * 0.07 is 7.000000000000001
    count = max(1, math.ceil(length * rate - 1e-9))
    indices = [min(length - 1, math.floor(k / rate + 1e-9)) for k in range(count)]
    return [indices[k] for k in evenly_spread(count, most)]


def fraction_as_in_training(
    fraction: float, frames_per_second: float | None, training_fps: Sequence[float] | None
) -> float:
    """Return the fraction of frames to keep of a clip: `fraction`, or, for a clip slower or faster than all training
    clips, of which `training_fps` has the slowest and the fastest, what keeps as many frames per second as of the
    nearest of these, but at most `MOST_REPEATS` times as many as `fraction` gives. Above 1, frames are repeated."""
    if frames_per_second is None or training_fps is None:
        return fraction
    slowest, fastest = training_fps
    if slowest / ALIKE <= frames_per_second <= fastest * ALIKE:
        return fraction
    return fraction * min(min(max(frames_per_second, slowest), fastest) / frames_per_second, MOST_REPEATS)


def slowest_and_fastest(rates: Iterable[float | None]) -> list[float] | None:
    """Return the least and the greatest of the frame rates that are known, without a twentieth of them at either end,
    or None."""
    known = sorted(round(float(rate), 2) for rate in rates if rate is not None and rate >= SLOWEST_OF_VIDEOS)
    num_odd = len(known) // 20
    return [known[num_odd], known[-1 - num_odd]] if known else None


def check_training_fps(training_fps: Sequence[float] | None) -> None:
    """Raise a `ValueError` for something else than None and two frame rates, the slower one first."""
    if training_fps is not None and not (len(training_fps) == 2 and 0 < training_fps[0] <= training_fps[1]):
        raise ValueError(
            "`training_fps` must be the frame rates of the slowest and the fastest training clip, or None, got "
            f"{training_fps}."
        )
