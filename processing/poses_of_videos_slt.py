# Copyright 2026 The FLaLLM authors. Licensed under the Apache License, Version 2.0.
"""Poses of videos, for models that take poses: extracted when a clip is opened, and kept for the next part of it."""

import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .pose_extraction_slt import EXTRACTORS, extract_poses
from .poses_slt import Poses
from .video_files_slt import is_video_file

# The parts of a long video follow each other, and detectors take seconds for each second of it.
_kept: dict[tuple[Any, ...], "PosesOfAPart"] = {}
_one_at_a_time = threading.Lock()  # a detector uses all cores by itself


@dataclass(frozen=True)
class PosesOfAPart:
    """The poses of a video from second `start` to second `end`; `None` is its end."""

    poses: Poses
    start: float
    end: float | None

    def covers(self, start: float, end: float | None) -> bool:
        return self.start <= start and (self.end is None or (end is not None and end <= self.end))


def path_of_video(source: Any) -> Path | None:
    """The path of a video, given as a path or as `{"path", "bytes"}` of a data set; None for everything else."""
    if isinstance(source, dict) and source.get("bytes") is None:
        source = source.get("path")
    return Path(source) if isinstance(source, str | os.PathLike) and is_video_file(source) else None


def poses_of_video(video: Path, trained_on: str | None, start: float | None, end: float | None) -> PosesOfAPart:
    """
    Extract the poses of a video, at least those from `start` to `end` in seconds.

    Args:
        trained_on: what made the poses that the model was trained on, such as "rtmlib 0.0.13 rtmw-x-l 384x288"; if it
            is none of ours, or not known, the one that is installed.

    Raises:
        ValueError: for a video that cannot be read, and without an extractor.
    """
    start = start or 0.0
    extractor = next((name for name in EXTRACTORS if (trained_on or "").startswith(name)), None)
    with _one_at_a_time:
        facts = os.stat(video)
        key = (str(video), facts.st_mtime_ns, facts.st_size, extractor)
        kept = _kept.get(key)
        if kept is None or not kept.covers(start, end):
            _kept.clear()
            kept = PosesOfAPart(extract_poses(video, extractor, start, end), start, end)
            _kept[key] = kept
    return kept
