"""Poses of a raw corpus: one `.safetensors` file of 133 points per clip, or per video that they are beside."""

import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from modeling_flallm.own_processing import (
    Poses,
    VideoDecodingError,
    are_fractions,
    decode_video,
    pose_files,
    pose_logger,
)

from .corpus_schema import POSE_COLUMNS, RawClip
from .planned_videos import Plan, unique_names
from .prepared_folder import STATE_FOLDER
from .prepared_videos import ClipError, ClipOutcome, ClipTask
from .video_encoding import list_pictures

SUBFOLDER = "poses"  # of a split, beside its videos
# Poses and their video may differ by as much: extractors drop frames at the end.
LARGEST_DIFFERENCE_IN_SECONDS, LARGEST_DIFFERENCE_AS_SHARE = 0.5, 0.05


@dataclass(frozen=True)
class PosesLength:
    """Of the poses of a clip; `extractor` is what made them, as far as their file says so."""

    num_frames: int
    frames_per_second: float
    extractor: str | None
    shows_several_people: bool

    @property
    def duration_in_seconds(self) -> float:
        return self.num_frames / self.frames_per_second


@dataclass(frozen=True)
class PosesTask(ClipTask):
    """
    The poses of one clip, cut out of its source, or those of a whole video.

    Args:
        array: their name in a file of several arrays.
        frames_per_second: if neither the source nor the video states it.
        video: a file or a folder of pictures, whose poses these are as a whole; None for the poses of one clip.
    """

    array: str | None
    frames_per_second: float | None
    video: Path | None

    length_class = PosesLength

    @property
    def settings(self) -> list[Any]:
        return [self.array, self.frames_per_second]

    @property
    def place(self) -> str:
        return _place(self.source, self.array)

    def make(self, partial: Path) -> tuple[str | None, list[PosesLength | str]]:
        """Read, check and write the poses."""
        picture = None if self.video is None else _picture_of(self.video)
        try:
            with told_of_people() as told:
                read = self._read(picture)
        except ValueError as error:
            raise ClipError(str(error)) from error
        if picture is not None:
            self._compare(read, picture)
        written = partial.with_suffix(".partial.safetensors")
        pose_files.write_poses(written, read)
        written.replace(partial)
        several = bool(told)
        if self.video is None:
            return "written", [self._length(len(read), read, several)]
        return "written", [self._length_of_part(*interval, read, several) for interval in self.intervals]

    def _read(self, picture: "Picture | None") -> Poses:
        """With a frame rate, and in pixels where the size of the picture is known."""
        rate = pose_files.pose_facts(self.place).frames_per_second
        rate = rate or (picture and picture.frames_per_second) or self.frames_per_second
        if rate is None:
            raise ClipError(f"'{self.place}' does not state its frame rate: --frames_per_second.")
        start, end = self.intervals[0] if self.video is None else (None, None)
        read = pose_files.read_poses(self.place, start, end, rate)
        return read if picture is None or read.width is not None else _in_picture(read, picture)

    def _compare(self, read: Poses, picture: "Picture") -> None:
        """
        Raises:
            ClipError: for poses that last another time than the video.
        """
        if picture.duration_in_seconds is None:
            return
        seconds = len(read) / read.frames_per_second
        difference = abs(seconds - picture.duration_in_seconds)
        share = difference / picture.duration_in_seconds
        if difference > LARGEST_DIFFERENCE_IN_SECONDS and share > LARGEST_DIFFERENCE_AS_SHARE:
            raise ClipError(
                f"'{self.place}' holds poses of {seconds:.2f} seconds, but the video lasts "
                f"{picture.duration_in_seconds:.2f}. They may be of another video, or of another frame rate."
            )

    def _length_of_part(self, start: float | None, end: float | None, read: Poses, several: bool) -> PosesLength | str:
        try:
            first, last = pose_files.part_of_clip(len(read), start, end, read.frames_per_second, f"'{self.place}'")
        except ValueError as error:
            return str(error)
        return self._length(last - first, read, several)

    def _length(self, num_frames: int, read: Poses, several: bool) -> PosesLength:
        return PosesLength(num_frames, read.frames_per_second, read.extractor, several)


@contextmanager
def told_of_people() -> Iterator[list[str]]:
    """Collects what is said of several people in a file: it belongs in the report, not in the terminal."""
    told: list[str] = []

    def keep(record: logging.LogRecord) -> bool:
        told.append(record.getMessage())
        return False

    pose_logger.addFilter(keep)
    try:
        yield told
    finally:
        pose_logger.removeFilter(keep)


def _place(path: Path, array: str | None) -> str:
    return str(path) if array is None else f"{path}#{array}"


@dataclass(frozen=True)
class Picture:
    """What a video says that its poses may not; of a folder of pictures only their size."""

    width: int
    height: int
    frames_per_second: float | None
    duration_in_seconds: float | None


def _picture_of(video: Path) -> Picture | None:
    """None for a video that cannot be read, which is said where it is prepared itself."""
    is_file = video.is_file()
    try:
        decoded = decode_video(video if is_file else list_pictures(video)[:1], sample_frame_indices=lambda *_: [0])
    except (OSError, VideoDecodingError):
        return None
    height, width = decoded.frames.shape[-2:]
    rate = decoded.fps if is_file else None
    return Picture(width, height, rate, decoded.num_source_frames / rate if rate else None)


def _in_picture(read: Poses, picture: Picture) -> Poses:
    """Keypoints in pixels of the picture: fractions are multiplied by its size."""
    keypoints = read.keypoints
    if are_fractions(keypoints, read.scores):
        keypoints = keypoints * np.array([picture.width, picture.height], np.float32)
    return replace(read, keypoints=keypoints, width=float(picture.width), height=float(picture.height))


class PosesPlan(Plan):
    """
    The poses of each clip alone.

    Args:
        frames_per_second: of those whose files do not state it.

    Raises:
        ValueError: if the rate of some files is not known.
    """

    columns = POSE_COLUMNS
    unit, kind = "clip", "file of poses"

    def __init__(self, clips: Sequence[RawClip], frames_per_second: float | None):
        self.frames_per_second = frames_per_second
        if frames_per_second is None and clips:
            self._check_rate(clips[0])

    def _check_rate(self, clip: RawClip) -> None:
        """A corpus has poses of one kind: what the first file does not state, the others do not state either."""
        try:
            rate = pose_files.pose_facts(_place(clip.video, clip.array)).frames_per_second
        except ValueError:  # of this file alone, which its task will say
            return
        if rate is None:
            raise ValueError(
                f"Files such as {clip.video.name} do not state their frame rate: pass --frames_per_second, that of the "
                "videos that the poses were extracted from."
            )

    @property
    def settings(self) -> dict[str, Any]:
        return {"frames_per_second": self.frames_per_second}

    def tasks(
        self, clips: Sequence[RawClip], source_folder: Path, output_dir: Path
    ) -> list[tuple[ClipTask, list[RawClip]]]:
        shown = [str(clip.video).removeprefix(str(source_folder)).lstrip("/\\") for clip in clips]
        addresses = [f"{name}#{clip.array}#{clip.start}#{clip.end}" for name, clip in zip(shown, clips, strict=True)]
        names = unique_names([clip.split for clip in clips], [clip.name for clip in clips], addresses)
        return [
            (self._task((clip.video, clip.array), None, [clip], name, output_dir), [clip])
            for clip, name in zip(clips, names, strict=True)
        ]

    def _task(
        self, place: tuple[Path, str | None], video: Path | None, clips: Sequence[RawClip], name: str, output_dir: Path
    ) -> PosesTask:
        return PosesTask(
            split=clips[0].split,
            source=place[0],
            file_name=f"{name}.safetensors",
            split_folder=output_dir / clips[0].split,
            work_folder=output_dir / STATE_FOLDER,
            intervals=tuple((clip.start, clip.end) for clip in clips),
            array=place[1],
            frames_per_second=self.frames_per_second,
            video=video,
        )

    def values_of(self, length: PosesLength) -> dict[str, Any]:
        return {
            "duration_in_seconds": round(length.duration_in_seconds, 6),
            "num_frames": length.num_frames,
            "frames_per_second": length.frames_per_second,
        }

    def notes(self, outcomes: Mapping[str, ClipOutcome]) -> list[str]:
        made_by = extractors_of(outcomes.values())
        several = sum(length.shows_several_people for length in _lengths(outcomes.values()))
        notes = []
        if None in made_by:
            notes.append(f"the poses of {made_by[None]} clip(s) do not say what extracted them")
        if len(made_by) > 1:
            notes.append("the poses are of several extractors: a model that learns from one reads others worse")
        if several:
            notes.append(
                f"{several} clip(s) show several people: kept are the poses of the one whose body is the largest"
            )
        return notes


class PosesBesideVideosPlan(PosesPlan):
    """The poses of whole videos, in a folder beside them; `start` and `end` of a clip are then those of both."""

    def tasks(
        self, clips: Sequence[RawClip], source_folder: Path, output_dir: Path
    ) -> list[tuple[ClipTask, list[RawClip]]]:
        clips_of: dict[tuple[str, tuple[Path, str | None], Path], list[RawClip]] = defaultdict(list)
        for clip in clips:
            clips_of[clip.split, clip.poses, clip.video].append(clip)
        names = [of_it[0].name if len(of_it) == 1 else video.stem for (_, _, video), of_it in clips_of.items()]
        addresses = [f"{path}#{array}".removeprefix(str(source_folder)) for _, (path, array), _ in clips_of]
        unique = unique_names([split for split, *_ in clips_of], names, addresses)
        return [
            (self._task(place, video, of_it, f"{SUBFOLDER}/{name}", output_dir), of_it)
            for ((_, place, video), of_it), name in zip(clips_of.items(), unique, strict=True)
        ]


def extractors_of(outcomes: Iterable[ClipOutcome]) -> dict[str | None, int]:
    """How many clips each extractor has made, most frequent first; None for those that do not say it."""
    return dict(Counter(length.extractor for length in _lengths(outcomes)).most_common())


def _lengths(outcomes: Iterable[ClipOutcome]) -> list[PosesLength]:
    return [
        length
        for outcome in outcomes
        if outcome.how is not None
        for length in outcome.lengths
        if isinstance(length, PosesLength)
    ]
