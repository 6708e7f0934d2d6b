"""Clips as `flallm-inspect` finds them: what their rows say, and each of them decoded to its end."""

import hashlib
import io
import logging
import multiprocessing
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import torch
from PIL import Image
from tqdm import tqdm

from modeling_flallm.own_processing import VideoDecodingError, decode_video

from .corpus_schema import Problem
from .languages import primary_language
from .sign_language_translation_score.sign_language_translation_score import CHARACTER_LEVEL_LANGUAGES, comparable

DECODER_LOG = logging.getLogger(decode_video.__module__)  # where a damaged file is told of
STRIP_HEIGHT_IN_PIXELS = 96
NUM_STRIP_FRAMES = 5


@dataclass
class Measurement:
    """One clip as it was decoded; `error` says why it was not, `warning` what is damaged, `strip` is a JPEG."""

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
    """One row of a split; `row` counts from 1, `index` is its place in a data set of the Hub."""

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

    @property
    def where(self) -> str:
        return f"{self.split}, row {self.row} ({self.name or 'no file_name'})"

    @property
    def is_readable(self) -> bool:
        return self.measured.num_frames > 0

    def shares_frames_with(self, other: "Clip") -> bool:
        """Whether two parts of files of the same content have more than half of the shorter one in common."""
        if not (self.is_readable and other.is_readable):
            return False
        starts = [clip.start or 0.0 for clip in (self, other)]
        lengths = [clip.measured.duration_in_seconds or 0.0 for clip in (self, other)]
        ends = [start + length for start, length in zip(starts, lengths, strict=True)]
        return starts[0] == starts[1] or min(ends) - max(starts) > min(lengths) / 2

    def units(self) -> list[str]:
        """Words, or characters where the language is scored by character, in the form in which sentences are scored."""
        language = primary_language(self.spoken_language) if self.spoken_language else None
        words = comparable(self.text).split()
        return list("".join(words)) if language in CHARACTER_LEVEL_LANGUAGES else words


@dataclass
class Corpus:
    """Clips with what was found while they were read: `errors` make the exit status 1, `warnings` do not."""

    clips: list[Clip] = field(default_factory=list)
    errors: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)
    on_hub: dict[str, datasets.Dataset] = field(default_factory=dict)

    def of(self, split: str) -> list[Clip]:
        return [clip for clip in self.clips if clip.split == split]


# Decoding


_hub_splits: dict[str, datasets.Dataset] = {}  # in a decoding process: what it inherited


def _start_worker(on_hub: dict[str, datasets.Dataset]) -> None:
    torch.set_num_threads(1)
    DECODER_LOG.propagate = False
    _hub_splits.update(on_hub)


def measure_clips(corpus: Corpus, num_workers: int) -> None:
    """
    Decode every clip that has a file, and note what could not be read or is damaged.

    Raises:
        ValueError: if a file brings a decoding process down.
    """
    files: dict[Any, list[Clip]] = defaultdict(list)
    for clip in corpus.clips:
        if clip.path is not None or clip.split in corpus.on_hub:
            files[clip.path or (clip.split, clip.row)].append(clip)
    context = multiprocessing.get_context("fork")  # a data set of the Hub is inherited, not sent
    try:
        with ProcessPoolExecutor(
            num_workers, mp_context=context, initializer=_start_worker, initargs=(corpus.on_hub,)
        ) as pool:
            results = pool.map(_measure_file, files.values())
            for clips, measurements in zip(
                files.values(), tqdm(results, total=len(files), unit="file", desc="decoding"), strict=True
            ):
                for clip, measured in zip(clips, measurements, strict=True):
                    clip.measured = measured
    except BrokenProcessPool as error:
        raise ValueError("A decoding process ended suddenly: too little memory, or a file that crashes it.") from error
    for clip in corpus.clips:
        if clip.measured.error:
            corpus.errors.append(Problem(clip.where, clip.measured.error))
        elif clip.measured.warning:
            corpus.errors.append(Problem(clip.where, clip.measured.warning))


def _measure_file(clips: list[Clip]) -> list[Measurement]:
    """All clips of one file, read once for its hash; each part is decoded from the keyframe before it."""
    first = clips[0]
    try:
        if first.path is None:
            video = _hub_splits[first.split][first.row - 1]["video"]
            content = video["bytes"]
            digest = hashlib.sha256(Path(video["path"]).read_bytes() if content is None else content).hexdigest()
        else:
            video = first.path
            with video.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        return [Measurement(error=str(error)) for _ in clips]
    return [_measure(video, clip, digest) for clip in clips]


def _measure(video: Any, clip: Clip, digest: str) -> Measurement:
    measured = Measurement(content_hash=digest)
    sizes: list[tuple[int, int]] = []
    warnings = _LogLines()

    def shrink(frame: torch.Tensor) -> torch.Tensor:
        sizes.append(tuple(frame.shape[-2:]))
        return _shrink(frame)

    DECODER_LOG.addHandler(warnings)
    try:
        decoded = decode_video(video, clip.start, clip.end, None, _evenly_spaced, shrink)
    except (VideoDecodingError, OSError, ValueError) as error:
        measured.error = _without_folder(str(error), clip)
        return measured
    finally:
        DECODER_LOG.removeHandler(warnings)
    measured.warning = _without_folder(" ".join(warnings.lines), clip)
    measured.num_frames = decoded.num_source_frames
    measured.frames_per_second = decoded.fps
    measured.duration_in_seconds = decoded.duration_in_seconds
    measured.height, measured.width = sizes[0]
    measured.strip = _strip(decoded.frames) if clip.wants_strip else None
    return measured


def _without_folder(text: str, clip: Clip) -> str:
    """A report may be passed on: it names the file, not where it lies on this disk."""
    return text if clip.path is None else text.replace(str(clip.path.absolute()), clip.name)


class _LogLines(logging.Handler):
    def __init__(self):
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def _evenly_spaced(num_frames: int, _: float | None) -> list[int]:
    """First to last: the decoder has to go through all of them, and only these are kept."""
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
