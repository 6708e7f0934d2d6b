# Copyright 2026 The FLaLLM authors. Licensed under the Apache License, Version 2.0.
"""Thins sequences in time evenly, whatever they hold."""

import math


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
