# Copyright 2026 The FLaLLM authors. Licensed under the Apache License, Version 2.0.
"""
Finds sentences while they are signed, by the rests of `segmentation_slt.py`.

What a rest is, and where a sentence without one is cut, is decided by the same functions as for a whole video. The only
difference is what they know: of the half minute around a moment, what was before it and what has come since. Before
anything was signed, they know so little that a short rest counts only later.
"""

import itertools
import math
from dataclasses import dataclass, replace

import numpy as np

from .segmentation_slt import (
    REST_IN_SECONDS,
    STEP_IN_SECONDS,
    TWITCH_IN_SECONDS,
    WAY_OF_THE_HANDS_IN_SECONDS,
    Motion,
    SegmentLengths,
    Stillness,
    VideoSegment,
    find_stillness,
    is_rest,
    split_long,
    without_rests,
)

# After a long rest it takes up to a tenth of half the surroundings until motion stands out from the noise: so long, and
# more, a sentence can have gone on when it is found.
KEPT_IN_SECONDS = 4.0
# How high the hands usually are, by which a short rest is told, is not known before so much was signed, also after a
# long rest: when the hands come up for the first time, any sign may seem low.
KNOWN_SIGNING_IN_SECONDS = 2.0


@dataclass(frozen=True)
class LiveSentence:
    """
    A sentence as far as it was signed. Its `segment` begins where it will always begin. `is_final` says that it ended,
    and `is_nothing` that nobody moved after all, as the motion around it has shown since.
    """

    segment: VideoSegment
    is_final: bool = False
    is_nothing: bool = False


class LiveSegmentation:
    """One sentence after the other, from the motion of the last while."""

    def __init__(self, lengths: SegmentLengths):
        self.lengths = lengths
        self._begin = -math.inf  # no sentence begins before it
        self._cut = "rest"
        self._sentence: VideoSegment | None = None

    @property
    def is_signing(self) -> bool:
        return self._sentence is not None

    def earliest_second(self, now: float) -> float:
        """Since when frames are needed for the sentence that is signed, or for the next one."""
        if self._sentence is not None:
            return self._sentence.start
        lengths = self.lengths
        of_a_cut = lengths.longest_seconds + lengths.shortest_seconds + lengths.overlap_seconds
        return max(self._begin, now - (KEPT_IN_SECONDS if self._cut == "rest" else of_a_cut))

    def begin_after(self, second: float) -> None:
        """Let no sentence begin before this second, because there are no frames any more."""
        self._begin = max(self._begin, second)

    def look(self, motion: Motion, is_end: bool = False) -> LiveSentence | None:
        """
        What is signed at the end of this motion, which reaches back to half a minute around the sentence, or nothing.
        After a final sentence, look again: the next one may have begun.

        Args:
            is_end: whether nothing comes after this motion.
        """
        if self._sentence is None:
            self._sentence = self._begun(motion)
        if self._sentence is None:
            return None
        so_far = self._until(motion, motion.end)
        if self._has_vanished(motion, is_end):
            return self._over(LiveSentence(so_far, is_final=True, is_nothing=True), motion.end)
        ended = self._ended_at_a_rest(motion)
        if ended is not None:
            return self._over(LiveSentence(ended, is_final=True), ended.caption_end)
        if self._is_too_long(motion, is_end):
            return self._cut_short(motion)
        if is_end:
            return self._over(LiveSentence(so_far, is_final=True), motion.end)
        return LiveSentence(so_far)

    def _over(self, sentence: LiveSentence, next_begin: float, cut: str = "rest") -> LiveSentence:
        self._sentence, self._begin, self._cut = None, next_begin, cut
        return sentence

    def _begun(self, motion: Motion) -> VideoSegment | None:
        """A sentence that begins after the rest or the idle time at the end of the one before."""
        first = _step_at(motion, self._begin)
        for stillness in find_stillness(motion):
            if stillness.stop > first and stillness.seconds >= self.lengths.idle_seconds:
                first = max(first, stillness.stop - self.lengths.idle_margin_in_steps)
            elif stillness.first <= first < stillness.stop and self._cut == "rest":
                first = max(first, round(stillness.middle))
        if not _moves(motion, first, len(motion.energy)):
            return None
        begin = max(motion.second_at(first), self._begin)
        whole = VideoSegment(begin, motion.end, begin, motion.end, self._cut)
        return replace(whole, start=without_rests(motion, whole, self.lengths.rest_seconds).start)

    def _ended_at_a_rest(self, motion: Motion) -> VideoSegment | None:
        first, begin = (_step_at(motion, second) for second in (self._sentence.start, self._sentence.caption_start))
        for stillness in find_stillness(motion):
            if stillness.first > first and _moves(motion, first, stillness.first):
                if stillness.seconds >= self.lengths.idle_seconds:
                    return self._until(motion, motion.second_at(stillness.first + self.lengths.idle_margin_in_steps))
                is_long_enough = (stillness.middle - begin) * STEP_IN_SECONDS >= self.lengths.shortest_seconds
                if is_long_enough and _is_rest_so_far(motion, stillness):
                    return self._until(motion, motion.second_at(stillness.middle))
        return None

    def _until(self, motion: Motion, end: float) -> VideoSegment:
        whole = replace(self._sentence, end=end, caption_end=end)
        return replace(whole, end=without_rests(motion, whole, self.lengths.rest_seconds).end)

    def _is_too_long(self, motion: Motion, is_end: bool) -> bool:
        """So much that `split_long` can look for a cut as late as in a whole video, which knows what comes."""
        to_come = 0.0 if is_end else self.lengths.shortest_seconds
        return motion.end - self._sentence.caption_start > self.lengths.longest_seconds + to_come

    def _cut_short(self, motion: Motion) -> LiveSentence:
        """A sentence that is too long: cut as in a whole video, which is looked at up to here."""
        whole = replace(self._sentence, start=self._sentence.caption_start, end=motion.end, caption_end=motion.end)
        piece, rest = itertools.islice(split_long(motion, whole, self.lengths), 2)
        return self._over(LiveSentence(self._until(motion, piece.end), is_final=True), rest.start, rest.cut)

    def _has_vanished(self, motion: Motion, is_end: bool) -> bool:
        if _moves(motion, _step_at(motion, self._sentence.start), len(motion.energy)):
            return False
        return is_end or motion.end - self._sentence.start >= self.lengths.idle_seconds


def _step_at(motion: Motion, second: float) -> int:
    return 0 if second <= motion.start else round((second - motion.start) / STEP_IN_SECONDS)


def _moves(motion: Motion, first: int, stop: int, seconds: float = TWITCH_IN_SECONDS) -> bool:
    """Whether anybody moves for so long in these steps. Default: longer than a twitch."""
    num_moving = np.count_nonzero(motion.energy[first:stop] > motion.still[first:stop])
    return num_moving * STEP_IN_SECONDS >= seconds


def _is_rest_so_far(motion: Motion, stillness: Stillness) -> bool:
    """As `is_rest`; a short stillness is none until enough was signed before it, and the hands have come up again."""
    way = round(WAY_OF_THE_HANDS_IN_SECONDS / STEP_IN_SECONDS)
    has_come_up = stillness.stop + way <= len(motion.energy)
    if has_come_up and _moves(motion, 0, stillness.first, KNOWN_SIGNING_IN_SECONDS):
        return is_rest(motion, stillness)
    return stillness.seconds >= REST_IN_SECONDS - 1e-9


__all__ = ["LiveSegmentation", "LiveSentence"]
