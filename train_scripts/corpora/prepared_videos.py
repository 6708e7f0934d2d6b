"""Puts the clips of a raw corpus into place in worker processes: videos are linked, copied or encoded, and measured."""

import errno
import hashlib
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from modeling_flallm.own_processing import VideoDecodingError

from ..machine.process_pool import run_in_processes
from ..machine.ray_cluster import RayCluster, run_on_ray
from .video_encoding import VideoLength, encode_pictures, list_pictures, measure_video

# Faults of the machine, not of a clip: they end the run instead of being listed for every remaining clip.
FATAL_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE)
SECONDS_FOR_A_VIDEO = 12 * 3600  # a decoder that takes longer is stuck


class ClipError(ValueError):
    """What is wrong with a clip, in words for its owner."""


@dataclass(frozen=True)
class ClipTask(ABC):
    """
    One file of one split, with all clips it will contain.

    Args:
        source: what it is made from.
        file_name: within the folder of the split.
        intervals: start and end of each clip.
    """

    split: str
    source: Path
    file_name: str
    split_folder: Path
    work_folder: Path
    intervals: tuple[tuple[float | None, float | None], ...]

    length_class: ClassVar[type]  # a dataclass of what is measured of a clip

    @property
    def target(self) -> Path:
        return self.split_folder / self.file_name

    @property
    def key(self) -> str:
        return f"{self.split}/{self.file_name}"

    @property
    def settings(self) -> list[Any]:
        """What else determines the file, and may differ from clip to clip; JSON-serializable."""
        return []

    @abstractmethod
    def make(self, partial: Path) -> tuple[str | None, list[Any]]:
        """
        Make the file, in a place from where it will be moved to its own.

        Returns:
            How, or None if no clip can be used, and the length of each clip, or what is wrong with it.

        Raises:
            ClipError, VideoDecodingError: for what is wrong with all clips.
        """


@dataclass(frozen=True)
class VideoTask(ClipTask):
    """
    A video.

    Args:
        encoding: frames per second and quality, if the source is a folder of pictures.
    """

    encoding: tuple[float, int] | None

    length_class = VideoLength

    def make(self, partial: Path) -> tuple[str | None, list[VideoLength | str]]:
        """A video is linked, copied or, from pictures, encoded."""
        return _take_file(self, partial) if self.encoding is None else _encode_folder(self, partial)


@dataclass
class ClipOutcome:
    """
    Args:
        how: encoded, linked, copied or written; None if there is no file.
        lengths: of each interval, or what is wrong with it.
    """

    how: str | None
    lengths: list[Any]


def prepare_clips(task: ClipTask) -> ClipOutcome:
    """Put one file into place, completely or not at all, and measure its clips."""
    partial = task.work_folder / f"{hashlib.sha256(task.key.encode()).hexdigest()}.partial"
    try:
        how, lengths = task.make(partial)
        if how is not None:
            os.replace(partial, task.target)
        return ClipOutcome(how, lengths)
    # Corpora hold surprises, and one clip must not stop the work on all others.
    except Exception as error:
        if isinstance(error, OSError) and error.errno in FATAL_ERRORS:
            raise
        gone = next((folder for folder in (task.work_folder, task.target.parent) if not folder.is_dir()), None)
        if gone is not None:  # not the clip's fault
            raise FileNotFoundError(errno.ENOENT, "The folder was removed while it was filled", str(gone)) from error
        return ClipOutcome(None, [_text_of(error)] * len(task.intervals))
    finally:
        partial.unlink(missing_ok=True)  # renaming a hard link onto another one to the same file leaves both


def _take_file(task: VideoTask, partial: Path) -> tuple[str | None, list[VideoLength | str]]:
    source = task.source.resolve()
    if not source.exists():
        raise VideoDecodingError(f"There is no video file '{task.source}'.")
    if not source.is_file():
        raise VideoDecodingError(f"'{task.source}' is neither a file nor a folder.")
    lengths = [_measure(source, start, end) for start, end in task.intervals]
    if all(isinstance(length, str) for length in lengths):
        return None, lengths
    try:
        os.link(source, partial)
        return "linked", lengths
    except OSError:
        shutil.copyfile(source, partial)
        return "copied", lengths


def _encode_folder(task: VideoTask, partial: Path) -> tuple[str | None, list[VideoLength | str]]:
    whole = encode_pictures(list_pictures(task.source), partial, *task.encoding)
    lengths = [
        whole if start is None and end is None else _measure(partial, start, end) for start, end in task.intervals
    ]
    return (None if all(isinstance(length, str) for length in lengths) else "encoded"), lengths


def _measure(path: Path, start: float | None, end: float | None) -> VideoLength | str:
    try:
        return measure_video(path, start, end)
    except VideoDecodingError as error:
        return str(error)


def _text_of(error: Exception) -> str:
    return str(error) if isinstance(error, VideoDecodingError | ClipError) else f"{type(error).__name__}: {error}"


def run_tasks(
    tasks: list[ClipTask], num_workers: int, cluster: RayCluster | None = None
) -> Iterator[tuple[ClipTask, ClipOutcome]]:
    """
    Outcomes as they finish, in processes of this machine or of a cluster. A file that crashes its process, as C
    decoders can, costs only itself.
    """
    if cluster is not None:
        return run_on_ray(cluster, prepare_clips, tasks, _lost, SECONDS_FOR_A_VIDEO)
    return run_in_processes(prepare_clips, tasks, num_workers, _lost, SECONDS_FOR_A_VIDEO)


def _lost(task: ClipTask, why: str) -> ClipOutcome:
    return ClipOutcome(None, [f"decoding it failed: {why}."] * len(task.intervals))
