"""
Reads uploaded videos, or files of poses, in separate processes: a file made to crash the decoder, to keep it busy or to
fill the memory ends only its process. The visitor gets a message, and the next one a new process.
"""

import importlib
import multiprocessing
import resource
import threading
from collections.abc import Callable
from concurrent.futures import TimeoutError
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from films import as_mp4
from pebble import ProcessExpired, ProcessPool
from transformers import AutoProcessor

LONGEST_VIDEO_IN_SECONDS = 30 * 60
LARGEST_WIDTH_IN_PIXELS, LARGEST_HEIGHT_IN_PIXELS = 4096, 2304  # either may be the upright side
MEMORY_FOR_ONE_VIDEO_IN_BYTES = 3 * 2**30
NUM_READERS = 2
MOST_ATTEMPTS = 5  # if processes are killed from outside; a video that ends its process is not tried again
# The video processor's reasons, as names of texts; everything else is damage.
PROBLEMS = {
    "empty": "error_empty_file",
    "no_video": "error_no_video_file",
    "no_picture": "error_no_picture",
    "unsupported": "error_unknown_format",
    "outside": "error_nothing_shown",
}
SECONDS_TO_LOOK, SECONDS_TO_READ, SECONDS_TO_SPLIT, SECONDS_TO_EXTRACT = 30, 120, 900, 1800
POSE_INPUT = "pose_values"
# Uni-Sign's pickles and OpenPose's folders are for people who run the model themselves.
POSE_SUFFIXES = (".pose", ".npz", ".safetensors")
MOST_PICTURES_OF_A_FILM = 3000  # each takes a few milliseconds to draw
FILM_HEIGHT_IN_PIXELS = 360

_processor: Any = None  # of a reading process


class VideoProblem(Exception):
    """What is wrong with a video, as a name in `texts` and the values that its sentence needs."""

    def __init__(self, name: str, **values: Any):
        super().__init__(name, values)
        self.name, self.values = name, values

    def __reduce__(self):
        return _video_problem, (self.name, self.values)


def _video_problem(name: str, values: dict[str, Any]) -> VideoProblem:
    return VideoProblem(name, **values)


@dataclass(frozen=True)
class VideoFacts:
    """
    When the picture ends, in seconds from the beginning of the file, and its stored size in pixels; poses have none.
    """

    seconds: float
    width: int | None = None
    height: int | None = None


class VideoReader:
    """Reads the videos that visitors send; each call raises `VideoProblem` if something is wrong with one."""

    def __init__(self, model_id: str, revision: str | None, trust_remote_code: bool):
        self._processor_arguments = (model_id, revision, trust_remote_code)
        self._lock = threading.Lock()
        self._pool = self._new_pool()
        self._pool.schedule(_be_ready).result()  # the first visitor need not wait for it

    def _new_pool(self) -> ProcessPool:
        return ProcessPool(
            max_workers=NUM_READERS,
            context=multiprocessing.get_context("spawn"),  # a fork would copy locks and the accelerator's state
            initializer=_start_reading_process,
            initargs=self._processor_arguments,
        )

    def _working_pool(self) -> ProcessPool:
        """A new one if processes were killed while they waited, which ends a pool for good."""
        with self._lock:
            if not self._pool.active:
                self._pool = self._new_pool()
            return self._pool

    def look(self, path: str) -> VideoFacts:
        return self._ask(SECONDS_TO_LOOK, _look, path)

    def read(self, path: str, start: float | None, end: float | None) -> dict[str, Any]:
        """The part as the pipeline takes it: the model's input, `video_metadata`, `start` and `end`."""
        return self._ask(SECONDS_TO_READ, _read, path, start, end)

    def thumbnails(
        self, path: str, start: float | None, end: float | None, count: int, height_in_pixels: int
    ) -> list[tuple[float, np.ndarray]]:
        """At most `count` pictures: second in the video, uint8 `(height, width, 3)`."""
        return self._ask(SECONDS_TO_READ, _thumbnails, path, start, end, count, height_in_pixels)

    def split_at_rests(self, path: str, start: float | None, end: float | None) -> list[dict[str, float]]:
        """The seconds `start`, `end`, `caption_start` and `caption_end` of each piece."""
        return self._ask(SECONDS_TO_SPLIT, _split_at_rests, path, start, end)

    def film(self, path: str) -> bytes:
        """An MP4 of the skeletons in a file of poses."""
        return self._ask(SECONDS_TO_READ, _film, path)

    def takes_videos(self) -> bool:
        """Whether a program that finds poses in videos is installed, for a model that takes poses."""
        return self._ask(SECONDS_TO_LOOK, _takes_videos)

    def poses_of_video(self, path: str) -> dict[str, Any]:
        """The poses in a video, as the arrays and facts of an `.npz` file."""
        return self._ask(SECONDS_TO_EXTRACT, _poses_of_video, path)

    def close(self) -> None:
        self._pool.stop()
        self._pool.join()

    def _ask(self, seconds: int, function: Callable[..., Any], *arguments: Any) -> Any:
        for attempt in range(MOST_ATTEMPTS):
            pool = self._working_pool()
            try:
                return pool.schedule(function, args=arguments, timeout=seconds).result()
            except TimeoutError as error:
                raise VideoProblem("error_took_too_long") from error
            except (ProcessExpired, MemoryError) as error:
                raise VideoProblem("error_damaged") from error
            except RuntimeError:
                if pool.active or attempt == MOST_ATTEMPTS - 1:
                    raise


def _start_reading_process(model_id: str, revision: str | None, trust_remote_code: bool) -> None:
    global _processor
    if not trust_remote_code:
        importlib.import_module("modeling_flallm")  # registers its classes
    _processor = AutoProcessor.from_pretrained(model_id, revision=revision, trust_remote_code=trust_remote_code)
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_FOR_ONE_VIDEO_IN_BYTES, MEMORY_FOR_ONE_VIDEO_IN_BYTES))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))  # a process that reads strangers' files has none to write
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _be_ready() -> None:
    """Takes as long as a reading process needs to start, and fails if the model's code is too old for this page."""
    modality = getattr(_processor, "modality", None)
    if not hasattr(modality, "has_pictures"):
        raise RuntimeError("The model was pushed by an older version of FLaLLM than this page. Push it again.")
    if not modality.has_pictures:
        raise RuntimeError(f"The model {modality.words.reads}, which this page cannot show: it takes videos or poses.")


def _look(path: str) -> VideoFacts:
    return _checked_facts(_checked_path(path))


def _checked_facts(path: Path) -> VideoFacts:
    facts = _asked(lambda modality: modality.look(path))
    if facts.seconds is None:
        raise VideoProblem("error_no_times")
    if facts.width is not None:
        _check_size_of_picture(facts.width, facts.height)
    if facts.seconds > LONGEST_VIDEO_IN_SECONDS + 1:
        raise VideoProblem("error_too_long", seconds=round(facts.seconds), limit=LONGEST_VIDEO_IN_SECONDS)
    return VideoFacts(facts.seconds, facts.width, facts.height)


def _asked(ask: Callable[[Any], Any]) -> Any:
    """The answer of the processor's modality; its errors become a `VideoProblem`."""
    try:
        return ask(_processor.modality)
    except ValueError as error:
        is_of_poses = _reads_poses() and not hasattr(error, "reason")
        name = "error_damaged_poses" if is_of_poses else PROBLEMS.get(getattr(error, "reason", ""), "error_damaged")
        raise VideoProblem(name) from error


def _reads_poses() -> bool:
    return _processor.modality.input_names[0] == POSE_INPUT


def _checked_path(path: str) -> Path:
    """A path, so that no name is ever mistaken for an address to download from."""
    if _reads_poses() and not path.lower().endswith(POSE_SUFFIXES):
        raise VideoProblem("error_no_pose_file")
    return Path(path)


def _check_size_of_picture(width: int, height: int) -> None:
    if max(width, height) > LARGEST_WIDTH_IN_PIXELS or min(width, height) > LARGEST_HEIGHT_IN_PIXELS:
        limits = {"limit_width": LARGEST_WIDTH_IN_PIXELS, "limit_height": LARGEST_HEIGHT_IN_PIXELS}
        raise VideoProblem("error_too_large_picture", width=width, height=height, **limits)


def _read(path: str, start: float | None, end: float | None) -> dict[str, Any]:
    values, metadata = _asked(lambda modality: modality.open(_checked_path(path), start, end))
    name = _processor.modality.input_names[0]
    prepared = _processor.modality.prepare([values])[name][0].numpy()
    return {name: prepared, "video_metadata": dict(metadata), "start": start, "end": end}


def _thumbnails(
    path: str, start: float | None, end: float | None, count: int, height_in_pixels: int
) -> list[tuple[float, np.ndarray]]:
    return _asked(lambda modality: modality.pictures(_checked_path(path), start, end, count, height_in_pixels))


def _split_at_rests(path: str, start: float | None, end: float | None) -> list[dict[str, float]]:
    segments = _asked(lambda modality: modality.split_at_rests(_checked_path(path), start, end))
    return [{name: second for name, second in vars(segment).items() if name != "cut"} for segment in segments]


def _film(path: str) -> bytes:
    sizes = {"most": MOST_PICTURES_OF_A_FILM, "shorter_side": FILM_HEIGHT_IN_PIXELS}
    pictures = _asked(lambda modality: modality.pictures(_checked_path(path), **sizes))
    return as_mp4(pictures, _look(path).seconds)


def _takes_videos() -> bool:
    return _reads_poses() and _processor.modality.takes_videos()


def _poses_of_video(path: str) -> dict[str, Any]:
    if not _processor.modality.is_video(path):
        raise VideoProblem("error_no_pose_or_video_file")
    _checked_facts(Path(path))
    poses, _ = _asked(lambda modality: modality.poses_of(Path(path)))
    return {name: value for name, value in vars(poses).items() if value is not None}
