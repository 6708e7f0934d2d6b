# Copyright 2026 The FLaLLM authors. Licensed under the Apache License, Version 2.0.
"""From a video to the poses of its signer, with one of the packages that find people in pictures."""

import functools
import importlib.util
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .pose_extractor_mediapipe_slt import MediaPipeExtractor
from .pose_extractor_rtmlib_slt import RtmlibExtractor
from .pose_extractor_slt import PoseExtractor
from .pose_layouts_slt import NUM_POINTS
from .poses_slt import People, Poses, poses_of
from .video_decoding_slt import decode_video
from .video_files_slt import VideoDecodingError
from .video_requests_slt import DecodedVideo
from .video_times_slt import read_facts

# In the order in which they are chosen: the first one gives all points of our layout.
EXTRACTORS: dict[str, type[PoseExtractor]] = {each.name: each for each in (RtmlibExtractor, MediaPipeExtractor)}
# Seconds of a video from when to when; None is its beginning or its end.
Part = tuple[float | None, float | None]


def extract_poses(
    video: Any,
    extractor: str | PoseExtractor | None = None,
    start: float | None = None,
    end: float | None = None,
    fps: float | None = None,
) -> Poses:
    """
    Find the points of the signer in every frame of a video. Only one frame at a time is held in memory.

    Args:
        video: as `decode_video` takes it.
        extractor: "rtmlib", "mediapipe", or one of `load_extractor` with other settings. Default: the first of these
            that is installed.
        start, end: seconds of the part that is read; its first frame is the first of the poses.
        fps: frames per second of arrays and pictures, which state none.

    Raises:
        VideoDecodingError: for a video that cannot be read.
        ValueError: if nobody is seen in any frame, and if no extractor is installed, or not the one that is named.

    Example: `extract_poses("clip.mp4").keypoints.shape`
    """
    watch = _Watch(_loaded(extractor))
    watch.decode(video, start, end, fps)
    return watch.poses(_name_of(video))


def extract_poses_of_parts(
    path: str | os.PathLike, parts: Sequence[Part], extractor: str | PoseExtractor | None = None
) -> Poses:
    """
    The poses of a whole video file, of which only some parts are looked at: in all other frames no point is seen. Times
    are those of the video, so that `start` and `end` mean the same in both.

    Args:
        parts: seconds from when to when.
        extractor: as for `extract_poses`.

    Raises:
        VideoDecodingError, ValueError: as `extract_poses`.
    """
    facts = read_facts(str(path), f"'{path}'")
    watch = _Watch(_loaded(extractor), parts, facts.start)
    watch.decode(path)
    return watch.poses(_name_of(path))


def load_extractor(
    name: str | None = None,
    model_file: str | os.PathLike | None = None,
    detector_file: str | os.PathLike | None = None,
    device: str | None = None,
) -> PoseExtractor:
    """
    Load an extractor; of equal calls, all get the same one.

    Args:
        name: "rtmlib" or "mediapipe". Default: the first of these that is installed.
        model_file: in place of the usual model: for mediapipe a `.task`, for rtmlib a whole-body model in ONNX.
        detector_file: of rtmlib: a YOLOX in ONNX that finds people.
        device: of rtmlib: "cpu" or "cuda".

    Raises:
        ValueError: if it is not installed, for settings that it has not, and for model files that cannot be used.
    """
    name = name or _first_installed()
    if name not in EXTRACTORS:
        raise ValueError(f"The extractor must be {' or '.join(EXTRACTORS)}, got {name!r}.")
    settings = {"model_file": model_file, "detector_file": detector_file, "device": device}
    given = {key: str(value) for key, value in settings.items() if value is not None}
    if name == MediaPipeExtractor.name and given.keys() - {"model_file"}:
        raise ValueError(f"mediapipe takes a model_file only, not {', '.join(given.keys() - {'model_file'})}.")
    return _load(name, tuple(given.items()))


@functools.lru_cache(maxsize=2)
def _load(name: str, settings: tuple[tuple[str, str], ...]) -> PoseExtractor:
    return EXTRACTORS[name](**dict(settings))


def _first_installed() -> str:
    found = [name for name in EXTRACTORS if importlib.util.find_spec(name) is not None]
    if not found:
        extras = " or ".join(f'pip install "flallm[{name}]"' for name in EXTRACTORS)
        raise ValueError(f"Extracting poses from a video needs {' or '.join(EXTRACTORS)}: {extras}.")
    return found[0]


def _loaded(extractor: str | PoseExtractor | None) -> PoseExtractor:
    return extractor if isinstance(extractor, PoseExtractor) else load_extractor(extractor)


class _Watch:
    """
    Shows an extractor the frames of one video, and remembers whom it found.

    Args:
        parts: of a file, if not all of it is looked at; `first_second` is when its picture begins.
    """

    def __init__(self, extractor: PoseExtractor, parts: Sequence[Part] | None = None, first_second: float = 0.0):
        self._extractor = extractor
        self._parts = parts
        self._first_second = first_second
        self._found: list[np.ndarray] = []  # `(people, 133, 3)` of each frame that was looked at
        self._size: tuple[int, int] | None = None
        self._decoded: DecodedVideo | None = None

    def decode(
        self, video: Any, start: float | None = None, end: float | None = None, fps: float | None = None
    ) -> None:
        """One frame at a time: in place of each, the number of its entry in `_found` is kept."""
        with self._extractor.lock:
            self._decoded = decode_video(video, start, end, fps, self._frames_to_look_at, self._look)

    def _frames_to_look_at(self, num_frames: int, fps: float | None) -> list[int]:
        self._extractor.start_clip(fps)
        if self._parts is None or fps is None:
            return list(range(num_frames))
        wanted: set[int] = set()
        for start, end in self._parts:
            first = math.floor(((start or 0.0) - self._first_second) * fps)
            last = num_frames if end is None else math.ceil((end - self._first_second) * fps) + 1
            wanted.update(range(max(first, 0), min(last, num_frames)))
        if not wanted:
            raise VideoDecodingError(
                "The video has no frame in the parts that are needed, of which the first begins at second "
                f"{self._parts[0][0] or 0:g}: it lasts {num_frames / fps:.2f} seconds. Give seconds, not frames.",
                reason="outside",
            )
        return sorted(wanted)

    def _look(self, frame: torch.Tensor) -> torch.Tensor:
        height, width = frame.shape[1:]
        if self._size not in (None, (height, width)):
            raise VideoDecodingError(
                f"All frames of a video must have one size, got {self._size} and {(height, width)} (height, width)."
            )
        self._size = (height, width)
        self._found.append(self._extractor.find_people(frame.permute(1, 2, 0).contiguous().numpy()))
        return torch.tensor([[len(self._found) - 1]])

    def poses(self, name: str) -> Poses:
        """What came of `decode`. Raises `ValueError` if nobody was found."""
        video = self._decoded
        most = max((len(people) for people in self._found), default=0)
        if most == 0:
            raise ValueError(
                f"{self._extractor.name} finds nobody in the {len(self._found)} frame(s) of {name}. Is the signer in "
                "the picture, and large enough?"
            )
        begin = 0 if self._parts is None or video.fps is None else round(self._first_second * video.fps)
        length = begin + video.num_source_frames if self._parts is not None else len(video.frame_indices)
        values = np.full((length, most, NUM_POINTS, 3), np.nan, np.float32)
        for number, (index, entry) in enumerate(zip(video.frame_indices, video.frames.flatten().tolist(), strict=True)):
            people = self._found[entry]
            values[number if self._parts is None else begin + index, : len(people)] = people
        height, width = self._size
        return poses_of(
            People(values[..., :2], values[..., 2], video.fps, width, height, self._extractor.description), name
        )


def _name_of(video: Any) -> str:
    if isinstance(video, dict):
        video = video.get("path")
    return f"'{video}'" if isinstance(video, str | Path) else "the video"
