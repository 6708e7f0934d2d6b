"""Puts the videos of a raw corpus into place in worker processes (linked, copied or encoded) and measures them."""

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from modeling_flallm.own_processing import VideoDecodingError

from ..machine.process_pool import run_in_processes
from .video_encoding import VideoLength, encode_pictures, list_pictures, measure_video

# Faults of the machine, not of a clip: they end the run instead of being listed for every remaining clip.
FATAL_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE)
SECONDS_FOR_A_VIDEO = 12 * 3600  # a decoder that takes longer is stuck


@dataclass(frozen=True)
class VideoTask:
    """
    One video of one split, with all clips it contains.

    Args:
        file_name: within the folder of the split.
        encoding: frames per second and quality, if the source is a folder of pictures.
        intervals: start and end of each clip.
    """

    split: str
    source: Path
    file_name: str
    split_folder: Path
    work_folder: Path
    encoding: tuple[float, int] | None
    intervals: tuple[tuple[float | None, float | None], ...]

    @property
    def target(self) -> Path:
        return self.split_folder / self.file_name

    @property
    def key(self) -> str:
        return f"{self.split}/{self.file_name}"


@dataclass
class VideoOutcome:
    """
    Args:
        how: encoded, linked or copied; None if there is no video.
        lengths: of each interval, or what is wrong with it.
    """

    how: str | None
    lengths: list[VideoLength | str]


def prepare_video(task: VideoTask) -> VideoOutcome:
    """Put one video into place, completely or not at all, and measure its clips."""
    partial = task.work_folder / f"{hashlib.sha256(task.key.encode()).hexdigest()}.partial"
    try:
        if task.encoding is None:
            how, lengths = _take_file(task, partial)
        else:
            how, lengths = _encode_folder(task, partial)
        if how is not None:
            os.replace(partial, task.target)
        return VideoOutcome(how, lengths)
    # Corpora hold surprises, and one clip must not stop the work on all others.
    except Exception as error:
        if isinstance(error, OSError) and error.errno in FATAL_ERRORS:
            raise
        gone = next((folder for folder in (task.work_folder, task.target.parent) if not folder.is_dir()), None)
        if gone is not None:  # not the clip's fault
            raise FileNotFoundError(errno.ENOENT, "The folder was removed while it was filled", str(gone)) from error
        return VideoOutcome(None, [_text_of(error)] * len(task.intervals))
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
    return str(error) if isinstance(error, VideoDecodingError) else f"{type(error).__name__}: {error}"


def run_tasks(tasks: list[VideoTask], num_workers: int) -> Iterator[tuple[VideoTask, VideoOutcome]]:
    """Outcomes as they finish. A video that crashes its process, as C decoders can, costs only itself."""
    return run_in_processes(prepare_video, tasks, num_workers, _lost, SECONDS_FOR_A_VIDEO)


def _lost(task: VideoTask, why: str) -> VideoOutcome:
    return VideoOutcome(None, [f"decoding it failed: {why}."] * len(task.intervals))
