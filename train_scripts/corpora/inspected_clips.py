"""Clips as `flallm inspect` finds them: the content of their rows, and the result of decoding each one to its end."""

import hashlib
import io
import logging
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from modeling_flallm.own_processing import VideoDecodingError, decode_video, decoder_logger

from ..languages.languages import primary_language
from ..machine.process_pool import run_in_processes
from ..scores.sign_language_translation_score.sign_language_translation_score import (
    CHARACTER_LEVEL_LANGUAGES,
    comparable,
)
from .corpus_schema import Problem
from .inspected_poses import PoseMeasurement, PosesToMeasure, measure_poses
from .prepared_videos import SECONDS_FOR_A_VIDEO

STRIP_HEIGHT_IN_PIXELS = 96
NUM_STRIP_FRAMES = 5


@dataclass
class Measurement:
    """Result of decoding one clip; `error` says why it failed, `warning` what is damaged, `strip` is a JPEG."""

    error: str = ""
    warning: str = ""
    num_frames: int = 0
    frames_per_second: float | None = None
    duration_in_seconds: float | None = None
    height: int = 0
    width: int = 0
    content_hash: str = ""
    strip: bytes | None = None


@dataclass
class Clip:
    """
    One row of a split; `row` counts from 1. Its video is the file `path` or on the Hub; `poses`, beside it or instead,
    are a file or, on the Hub, an array.
    """

    split: str
    row: int
    name: str
    text: str
    path: Path | None = None
    start: float | None = None
    end: float | None = None
    signer: str | None = None
    spoken_language: str | None = None
    sign_language: str | None = None
    wants_strip: bool = False
    measured: Measurement = field(default_factory=Measurement)
    poses: Any = None
    measured_poses: PoseMeasurement | None = None

    @property
    def where(self) -> str:
        return f"{self.split}, row {self.row} ({self.name or 'no file_name'})"

    @property
    def is_readable(self) -> bool:
        return self.measured.num_frames > 0

    def shares_frames_with(self, other: "Clip") -> bool:
        """Whether two clips of files with the same content overlap by more than half of the shorter clip."""
        if not (self.is_readable and other.is_readable):
            return False
        starts = [clip.start or 0.0 for clip in (self, other)]
        lengths = [clip.measured.duration_in_seconds or 0.0 for clip in (self, other)]
        ends = [start + length for start, length in zip(starts, lengths, strict=True)]
        return starts[0] == starts[1] or min(ends) - max(starts) > min(lengths) / 2

    def units(self) -> list[str]:
        """Words, or characters if the language is scored by character, normalised as for the scores."""
        language = primary_language(self.spoken_language) if self.spoken_language else None
        words = comparable(self.text).split()
        return list("".join(words)) if language in CHARACTER_LEVEL_LANGUAGES else words


@dataclass
class Corpus:
    """Clips with what was found while reading them: `errors` set the exit status to 1, `warnings` do not."""

    clips: list[Clip] = field(default_factory=list)
    errors: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)
    on_hub: dict[str, datasets.Dataset] = field(default_factory=dict)
    has_videos: bool = True

    def of(self, split: str) -> list[Clip]:
        return [clip for clip in self.clips if clip.split == split]


# Decoding


@dataclass
class FileToMeasure:
    """A file, or the `{"path", "bytes"}` of a video on the Hub, with the clips it contains."""

    video: Path | dict[str, Any] | None
    clips: list[Clip]


def measure_clips(corpus: Corpus, num_workers: int) -> None:
    """
    Decode every clip that has a file, and record what cannot be read or is damaged. A file that crashes the process
    decoding it costs only its own clips.

    Raises:
        ChildProcessError: if no process can start.
    """
    files: dict[Any, list[Clip]] = defaultdict(list)
    for clip in corpus.clips:
        if not clip.measured.error and (clip.path is not None or clip.split in corpus.on_hub):
            files[clip.path or (clip.split, clip.row)].append(clip)
    results = run_in_processes(_measure_file, _to_measure(corpus, files), num_workers, _lost, SECONDS_FOR_A_VIDEO)
    for file, measurements in tqdm(results, total=len(files), unit="file", desc="decoding", disable=not files):
        for clip, measured in zip(file.clips, measurements, strict=True):
            clip.measured = measured
    _measure_all_poses(corpus, num_workers)
    for clip in corpus.clips:
        if clip.measured.error:
            corpus.errors.append(Problem(clip.where, clip.measured.error))
        elif clip.measured.warning:
            corpus.errors.append(Problem(clip.where, clip.measured.warning))


def _measure_all_poses(corpus: Corpus, num_workers: int) -> None:
    """The poses of a data set without videos are its clips."""
    files: dict[Any, list[Clip]] = defaultdict(list)
    for clip in corpus.clips:
        if clip.poses is not None and not clip.measured.error:
            files[clip.poses if isinstance(clip.poses, str) else (clip.split, clip.row)].append(clip)
    tasks = [PosesToMeasure(clips[0].poses, clips) for clips in files.values()]
    results = run_in_processes(measure_poses, tasks, num_workers, _lost_poses, SECONDS_FOR_A_VIDEO)
    for task, measurements in tqdm(results, total=len(tasks), unit="file", desc="reading poses", disable=not tasks):
        for clip, measured in zip(task.clips, measurements, strict=True):
            clip.measured_poses = measured
            if measured.error:
                corpus.errors.append(Problem(clip.where, _without_folder(measured.error, clip)))
            if not corpus.has_videos:
                clip.measured = _as_measurement(measured)


def _lost_poses(task: PosesToMeasure, why: str) -> list[PoseMeasurement]:
    return [PoseMeasurement(error=f"reading its poses failed: {why}") for _ in task.clips]


def _as_measurement(poses: PoseMeasurement) -> Measurement:
    """Their error is already listed."""
    return Measurement(
        num_frames=poses.num_frames,
        frames_per_second=poses.frames_per_second,
        duration_in_seconds=poses.duration_in_seconds,
        height=int(poses.height or 0),
        width=int(poses.width or 0),
        content_hash=poses.content_hash,
    )


def _to_measure(corpus: Corpus, files: dict[Any, list[Clip]]) -> Iterator[FileToMeasure]:
    """One at a time, because videos from the Hub may come with their bytes."""
    for place, clips in files.items():
        if isinstance(place, Path):
            yield FileToMeasure(place, clips)
        else:
            split, row = place
            yield FileToMeasure(corpus.on_hub[split][row - 1]["video"], clips)


def _lost(file: FileToMeasure, why: str) -> list[Measurement]:
    return [Measurement(error=f"decoding it failed: {why}") for _ in file.clips]


def _measure_file(file: FileToMeasure) -> list[Measurement]:
    """Measures all clips of one file, which is hashed once; each clip is decoded from the keyframe before it."""
    torch.set_num_threads(1)  # there are as many processes as cores
    if file.video is None or isinstance(file.video, dict) and not any(file.video.values()):
        return [Measurement(error="has no video") for _ in file.clips]
    try:
        digest = _digest_of(file.video)
    except OSError as error:
        return [Measurement(error=_without_folder(str(error), clip)) for clip in file.clips]
    return [_measure(file.video, clip, digest) for clip in file.clips]


def _digest_of(video: Path | dict[str, Any]) -> str:
    if isinstance(video, dict) and video["bytes"] is not None:
        return hashlib.sha256(video["bytes"]).hexdigest()
    with open(video["path"] if isinstance(video, dict) else video, "rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _measure(video: Any, clip: Clip, digest: str) -> Measurement:
    measured = Measurement(content_hash=digest)
    sizes: list[tuple[int, int]] = []

    def shrink(frame: torch.Tensor) -> torch.Tensor:
        sizes.append(tuple(frame.shape[-2:]))
        return _shrink(frame)

    try:
        with _decoder_log() as warnings:
            decoded = decode_video(video, clip.start, clip.end, None, _evenly_spaced, shrink)
    # Data sets hold surprises, and one clip must not stop the work on all others.
    except Exception as error:
        is_known = isinstance(error, VideoDecodingError | OSError | ValueError)
        measured.error = _without_folder(str(error) if is_known else f"{type(error).__name__}: {error}", clip)
        return measured
    measured.warning = _without_folder(" ".join(warnings), clip)
    measured.num_frames = decoded.num_source_frames
    measured.frames_per_second = decoded.fps
    measured.duration_in_seconds = decoded.duration_in_seconds
    measured.height, measured.width = sizes[0]
    measured.strip = _strip(decoded.frames) if clip.wants_strip else None
    return measured


def _without_folder(text: str, clip: Clip) -> str:
    """Names the file without its folder on this disk, because a report may be shared."""
    if isinstance(clip.poses, str):
        text = text.replace(clip.poses, Path(clip.poses).name)
    return text if clip.path is None else text.replace(str(clip.path.absolute()), clip.name)


@contextmanager
def _decoder_log() -> Iterator[list[str]]:
    """Collects what the decoder logs about a damaged file: it belongs in the report, not in the terminal."""
    lines: list[str] = []
    handler = _LogLines(lines)
    propagates = decoder_logger.propagate
    decoder_logger.addHandler(handler)
    decoder_logger.propagate = False
    try:
        yield lines
    finally:
        decoder_logger.removeHandler(handler)
        decoder_logger.propagate = propagates


class _LogLines(logging.Handler):
    def __init__(self, lines: list[str]):
        super().__init__()
        self.lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def _evenly_spaced(num_frames: int, _: float | None) -> list[int]:
    """From first to last, so that the decoder has to go through all frames; only these are kept."""
    return torch.linspace(0, num_frames - 1, NUM_STRIP_FRAMES).round().long().tolist()


def _shrink(frame: torch.Tensor) -> torch.Tensor:
    """uint8 `(3, height, width)` -> the same at most `STRIP_HEIGHT_IN_PIXELS` high"""
    _, height, width = frame.shape
    if height <= STRIP_HEIGHT_IN_PIXELS:
        return frame
    size = (STRIP_HEIGHT_IN_PIXELS, max(round(width * STRIP_HEIGHT_IN_PIXELS / height), 1))
    return torch.nn.functional.interpolate(frame[None], size, mode="bilinear", antialias=True)[0]


def _strip(frames: torch.Tensor) -> bytes:
    """uint8 `(frames, 3, height, width)` -> a JPEG of them side by side"""
    file = io.BytesIO()
    Image.fromarray(torch.cat(list(frames), dim=2).permute(1, 2, 0).numpy()).save(file, "JPEG", quality=80)
    return file.getvalue()


def strip_of_poses(pictures: np.ndarray) -> bytes:
    """uint8 `(frames, height, width, 3)` -> a PNG of them side by side: thin lines suffer in a JPEG"""
    file = io.BytesIO()
    Image.fromarray(np.concatenate(list(pictures), axis=1)).quantize(64).save(file, "PNG", optimize=True)
    return file.getvalue()
