# Copyright 2026 The FLaLLM authors. Licensed under the Apache License, Version 2.0.
"""A clip while it is recorded: its frames come one by one, and only those of the current sentence are kept."""

import math
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from .live_segmentation_slt import LiveSegmentation, LiveSentence
from .segmentation_slt import SURROUNDINGS_IN_SECONDS, Motion, NoiseLevels, SegmentLengths, VideoSegment
from .video_file_parts_slt import FilePart, part_of_frames
from .video_requests_slt import FrameRequest
from .video_times_slt import usual_interval

# From a number of frames and their frames per second to indices.
SampleIndices = Callable[[int, float | None], Sequence[int]]
SECONDS_BETWEEN_LOOKS = 0.1


@dataclass(frozen=True)
class LivePart:
    """
    The sampled `frames` of a part as the clip keeps them, their `numbers` since its beginning, and the `metadata` with
    their times, as `Modality.open` gives it.
    """

    frames: list[Any]
    numbers: list[int]
    metadata: dict[str, Any]

    def at(self, places: Sequence[int]) -> "LivePart":
        """The sampled frames at these places among them; places may repeat."""
        indices = self.metadata["frames_indices"]
        return LivePart(
            [self.frames[place] for place in places],
            [self.numbers[place] for place in places],
            {**self.metadata, "frames_indices": [indices[place] for place in places]},
        )


@dataclass(frozen=True)
class Task:
    """
    A sentence to translate, as far as it was signed: its `segment`, the sampled frames in it, which are missing if
    nobody moved after all, whether it ended, and whether it is still: nobody has moved since its end, so that it may be
    the whole sentence.
    """

    segment: VideoSegment
    part: LivePart | None
    is_final: bool
    is_still: bool

    @property
    def numbers(self) -> list[int]:
        return [] if self.part is None else self.part.numbers

    @property
    def is_draft(self) -> bool:
        """Whether more of the sentence will come."""
        return not (self.is_final or self.is_still)


class LiveClip(ABC):
    """
    Base class of clips that are being recorded. Frames are taken in order of time; the times of a camera may be uneven,
    and are put on a grid as those of files are.

    Args:
        lengths: of sentences.
        sample: picks frames by their indices from so many at so many frames per second; None for all.

    Attributes:
        noise_levels: of its motion.
    """

    noise_levels: NoiseLevels

    def __init__(self, lengths: SegmentLengths, sample: SampleIndices | None):
        self.lengths = lengths
        self._sample = sample
        self._segmentation = LiveSegmentation(lengths)
        self._seconds: list[float] = []
        self._frames: list[Any] = []
        self._first_number = 0
        self._first_second = math.inf
        self._next_look = -math.inf
        self._usual_energy: float | None = None

    @property
    def num_frames_held(self) -> int:
        """How many frames are in memory."""
        return len(self._frames)

    def is_interrupted(self, seconds: float) -> bool:
        """Whether no frame came for so long before this second that nothing goes on from what was before."""
        return bool(self._seconds) and seconds - self._seconds[-1] >= self.lengths.idle_seconds

    def take(self, frame: Any, seconds: float) -> Iterator[Task]:
        """
        Add a frame, and find what there is to translate since: sentences that ended, and the one that is signed, as far
        as it got. Each has to be taken before the next is looked for.

        Raises:
            ValueError: as `add`.
        """
        if self.is_interrupted(seconds):
            yield from self.end()
        self.add(frame, seconds)
        yield from self._tasks()

    def end(self) -> Iterator[Task]:
        """What there is to translate when nothing follows the last frame. Afterwards another recording may begin."""
        yield from self._tasks(is_end=True)
        self.restart()

    def add(self, frame: Any, seconds: float) -> None:
        """
        Take a frame that is shown from this second on.

        Raises:
            ValueError: for a frame that cannot be read, and for one that does not come after the last.
        """
        if not (math.isfinite(seconds) and seconds >= 0):
            raise ValueError(f"The second of a frame must be a number of 0 or more, got {seconds}.")
        if self._seconds and seconds <= self._seconds[-1]:
            raise ValueError(
                f"Frames must come in order of time, got one of second {seconds:g} after one of {self._seconds[-1]:g}."
            )
        self._frames.append(self._read(frame, seconds))
        self._seconds.append(seconds)
        self._first_second = min(self._first_second, seconds)

    def look(self, is_end: bool = False) -> LiveSentence | None:
        """
        The sentence that is signed. None if nobody signs, and if the last look was a moment ago. After a final
        sentence, look again.

        Args:
            is_end: whether no more frames come.
        """
        if len(self._seconds) < 2 or (self._seconds[-1] < self._next_look and not is_end):
            return None
        self._segmentation.begin_after(self._seconds[0])
        motion = self._motion(self._usual_before())
        sentence = self._segmentation.look(motion, is_end)
        if sentence is not None and sentence.is_final and not sentence.is_nothing:
            self._usual_energy = motion.usual_energy  # until the next sentence, there may be nothing but noise
        if sentence is None or not sentence.is_final:
            self._next_look = self._seconds[-1] + SECONDS_BETWEEN_LOOKS
        return sentence

    def forget(self) -> None:
        """Drop what no sentence needs any more. Parts of a final sentence must have been taken before."""
        if self._segmentation.is_signing or not self._seconds:
            return  # so that the steps of its motion stay the same
        earliest = self._segmentation.earliest_second(self._seconds[-1])
        num_old = max(0, bisect_left(self._seconds, earliest) - 1)  # the one before tells the frame rate
        del self._frames[:num_old], self._seconds[:num_old]
        self._first_number += num_old
        self._forget_motion(earliest - SURROUNDINGS_IN_SECONDS / 2)

    def part(self, start: float, end: float) -> LivePart:
        """The frames that would be sampled of a recording of this clip, from `start` to `end` seconds."""
        found = self._part_of_frames(self._seconds, start, end, self._sample)
        frames = [self._frames[position] for position in found.wanted]
        return LivePart(frames, [self._first_number + position for position in found.wanted], times_of_part(found))

    def _tasks(self, is_end: bool = False) -> Iterator[Task]:
        while (sentence := self.look(is_end)) is not None:
            segment = _in_milliseconds(sentence.segment)
            part = None if sentence.is_nothing else self.part(segment.start, segment.end)
            yield Task(segment, part, sentence.is_final, segment.end < segment.caption_end)
            if not sentence.is_final:
                break
            self.forget()
        self.forget()

    def _usual_before(self) -> float:
        """What was usual in the last sentence. Before the first one, noise is not known well at the beginning: then as
        much as makes all still that may be noise."""
        if self._usual_energy is not None:
            return self._usual_energy
        is_beginning = self._seconds[-1] - self._first_second < SURROUNDINGS_IN_SECONDS / 2
        return self.noise_levels.highest / self.noise_levels.still_fraction if is_beginning else 0.0

    def restart(self) -> None:
        """Go on after an interruption with nothing of what was before."""
        self._first_number += len(self._frames)
        self._frames, self._seconds = [], []
        self._segmentation, self._next_look = LiveSegmentation(self.lengths), -math.inf
        self._restart_motion()

    @abstractmethod
    def values(self, part: LivePart) -> torch.Tensor:
        """The values of a part, as `Modality.open` gives them, from any thread."""

    @abstractmethod
    def _read(self, frame: Any, seconds: float) -> Any:
        """Read a frame as it is kept, and measure its motion."""

    @abstractmethod
    def _motion(self, usual_before: float) -> Motion:
        """The motion of all that was not forgotten; see `motion_in_equal_steps`."""

    @abstractmethod
    def _forget_motion(self, before: float) -> None:
        """Drop what was measured before a second."""

    @abstractmethod
    def _restart_motion(self) -> None:
        """Drop all that was measured."""

    @staticmethod
    def _part_of_frames(
        seconds: Sequence[float], start: float | None, end: float | None, sample: SampleIndices | None
    ) -> FilePart:
        """Which of the frames at these seconds a part has, on a grid that is uniform in time."""
        stop = seconds[-1] + (usual_interval(seconds) or 0.0)
        return part_of_frames(seconds, stop, None, FrameRequest(start, end, sample_frame_indices=sample), "the clip")


def _in_milliseconds(segment: VideoSegment) -> VideoSegment:
    """With the seconds that updates say, so that these name the same frames."""
    names = ("start", "end", "caption_start", "caption_end")
    return replace(segment, **{name: round(getattr(segment, name), 3) for name in names})


def times_of_part(part: FilePart) -> dict[str, Any]:
    """The metadata with the times of a part, as `Modality.open` gives it."""
    return {
        "total_num_frames": part.num_frames,
        "fps": part.fps,
        "duration": None if part.fps is None else part.num_frames / part.fps,
        "frames_indices": part.indices,
        "start_in_seconds": part.first_second,
    }


__all__ = ["LiveClip", "LivePart", "Task"]
