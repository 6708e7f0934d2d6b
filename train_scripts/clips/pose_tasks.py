"""Extracts the poses of videos in worker processes, one file each; a broken video costs only itself."""

import contextlib
import functools
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from modeling_flallm.own_processing import (
    PoseExtractor,
    VideoDecodingError,
    extract_poses,
    extract_poses_of_parts,
    load_extractor,
    write_poses,
)

from ..corpora.prepared_videos import FATAL_ERRORS
from ..machine.process_pool import run_in_processes
from ..machine.ray_cluster import RayCluster, run_on_ray

STANDARD_ERROR = 2
SECONDS_FOR_A_VIDEO = 7 * 24 * 3600  # ours: an hour of video takes a day on one slow core


@dataclass(frozen=True)
class ExtractorSettings:
    """How each process loads its extractor: the arguments of `load_extractor`."""

    name: str | None = None
    model_file: str | None = None
    detector_file: str | None = None
    device: str | None = None


@dataclass(frozen=True)
class PoseTask:
    """
    The poses of one video.

    Args:
        source: the video.
        target: the file of poses.
        parts: from when to when they are needed, in seconds; None for the whole video.
        settings: of the extractor.
    """

    source: Path
    target: Path
    parts: tuple[tuple[float | None, float | None], ...] | None
    settings: ExtractorSettings


@dataclass(frozen=True)
class PoseOutcome:
    """
    Args:
        num_frames: of the poses that were written.
        error: what is wrong with the video; no file was written then.
    """

    num_frames: int
    error: str | None = None


class QuietExtractor(PoseExtractor):
    """
    The extractor of some settings, without what its C++ code says of itself: to standard error MediaPipe writes dozens
    of lines for each clip, which no setting of its own turns off, between our progress bar and messages.
    """

    def __init__(self, settings: ExtractorSettings):
        super().__init__()
        with _native_output_hidden():
            self._extractor = load_extractor(**vars(settings))
            # MediaPipe goes on loading in other threads until it has seen a frame.
            self._extractor.start_clip(None)
            self._extractor.find_people(np.zeros((64, 64, 3), np.uint8))
        self.name, self.description = self._extractor.name, self._extractor.description
        self.uses_all_cores = self._extractor.uses_all_cores
        self._hidden = contextlib.ExitStack()

    def start_clip(self, frames_per_second: float | None) -> None:
        """Stays quiet up to the first frame: MediaPipe loads its models again, in other threads."""
        self._hidden.enter_context(_native_output_hidden())
        self._extractor.start_clip(frames_per_second)

    def find_people(self, frame: np.ndarray) -> np.ndarray:
        with _native_output_hidden():
            people = self._extractor.find_people(frame)
        self._hidden.close()
        return people

    def end_clip(self) -> None:
        """Also for a clip without a frame that could be read."""
        self._hidden.close()


@functools.lru_cache(maxsize=1)
def quiet_extractor(settings: ExtractorSettings) -> QuietExtractor:
    """Of a process, the same for all videos."""
    return QuietExtractor(settings)


@contextlib.contextmanager
def _native_output_hidden() -> Iterator[None]:
    """For processes of our own, in which no other thread writes to standard error."""
    kept = os.dup(STANDARD_ERROR)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, STANDARD_ERROR)
        yield
    finally:
        os.dup2(kept, STANDARD_ERROR)
        os.close(kept)
        os.close(nowhere)


def extract_to_file(task: PoseTask) -> PoseOutcome:
    """Write the poses of one video, completely or not at all."""
    # An extractor that cannot be loaded is not the fault of a video.
    extractor = quiet_extractor(task.settings)
    try:
        if task.parts is None:
            poses = extract_poses(task.source, extractor)
        else:
            poses = extract_poses_of_parts(task.source, task.parts, extractor)
    # Corpora hold surprises, and one video must not stop the work on all others.
    except Exception as error:
        if isinstance(error, OSError) and error.errno in FATAL_ERRORS:
            raise
        is_clear = isinstance(error, VideoDecodingError | ValueError)
        return PoseOutcome(0, str(error) if is_clear else f"{type(error).__name__}: {error}")
    finally:
        extractor.end_clip()
    task.target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".flallm-", suffix=".partial", dir=task.target.parent) as folder:
        unfinished = Path(folder) / task.target.name
        write_poses(unfinished, poses)
        os.replace(unfinished, task.target)
    return PoseOutcome(len(poses))


def run_pose_tasks(
    tasks: list[PoseTask], num_workers: int, cluster: RayCluster | None = None
) -> Iterator[tuple[PoseTask, PoseOutcome]]:
    """Outcomes as they finish, in processes of this machine or of a cluster."""
    if cluster is not None:
        return run_on_ray(cluster, extract_to_file, tasks, _lost, SECONDS_FOR_A_VIDEO)
    return run_in_processes(extract_to_file, tasks, num_workers, _lost, SECONDS_FOR_A_VIDEO)


def _lost(task: PoseTask, why: str) -> PoseOutcome:
    return PoseOutcome(0, f"extracting its poses failed: {why}.")
