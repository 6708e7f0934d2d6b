"""
Reads uploaded videos in separate processes: a file made to crash the decoder, to keep it busy or to fill the memory
ends only its process. The visitor gets a message, and the next one a new process.
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
SECONDS_TO_LOOK, SECONDS_TO_READ, SECONDS_TO_SPLIT = 30, 120, 900

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
    """When the picture ends, in seconds from the beginning of the file, and its stored size in pixels."""

    seconds: float
    width: int
    height: int


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
        """The part as the pipeline takes it: `pixel_values_videos`, `video_metadata`, `start` and `end`."""
        return self._ask(SECONDS_TO_READ, _read, path, start, end)

    def thumbnails(
        self, path: str, start: float | None, end: float | None, count: int, height_in_pixels: int
    ) -> list[tuple[float, np.ndarray]]:
        """At most `count` pictures: second in the video, uint8 `(height, width, 3)`."""
        return self._ask(SECONDS_TO_READ, _thumbnails, path, start, end, count, height_in_pixels)

    def split_at_rests(self, path: str, start: float | None, end: float | None) -> list[dict[str, float]]:
        """The seconds `start`, `end`, `caption_start` and `caption_end` of each piece."""
        return self._ask(SECONDS_TO_SPLIT, _split_at_rests, path, start, end)

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
    if not hasattr(_processor.video_processor, "preprocess_frames"):
        raise RuntimeError("The model was pushed by an older version of FLaLLM than this page. Push it again.")


def _look(path: str) -> VideoFacts:
    facts = _asked(lambda: _processor.video_processor.look(path))
    _check_size_of_picture(facts.width, facts.height)
    if facts.end > LONGEST_VIDEO_IN_SECONDS + 1:
        raise VideoProblem("error_too_long", seconds=round(facts.end), limit=LONGEST_VIDEO_IN_SECONDS)
    return VideoFacts(facts.end, facts.width, facts.height)


def _asked(ask: Callable[[], Any]) -> Any:
    """The video processor's answer; its errors become a `VideoProblem`."""
    try:
        return ask()
    except ValueError as error:
        raise VideoProblem(PROBLEMS.get(getattr(error, "reason", ""), "error_damaged")) from error


def _check_size_of_picture(width: int, height: int) -> None:
    if max(width, height) > LARGEST_WIDTH_IN_PIXELS or min(width, height) > LARGEST_HEIGHT_IN_PIXELS:
        limits = {"limit_width": LARGEST_WIDTH_IN_PIXELS, "limit_height": LARGEST_HEIGHT_IN_PIXELS}
        raise VideoProblem("error_too_large_picture", width=width, height=height, **limits)


def _read(path: str, start: float | None, end: float | None) -> dict[str, Any]:
    return {**_processed(path, start=start, end=end), "start": start, "end": end}


def _thumbnails(
    path: str, start: float | None, end: float | None, count: int, height_in_pixels: int
) -> list[tuple[float, np.ndarray]]:
    inputs = _processed(
        path,
        start=start,
        end=end,
        size={"shortest_edge": height_in_pixels},
        do_center_crop=False,
        do_rescale=False,
        do_normalize=False,
        frame_sampling_rate=1.0,
        max_num_frames=count,
    )
    metadata = inputs["video_metadata"]
    pictures = inputs["pixel_values_videos"].transpose(0, 2, 3, 1)
    rate, begin = metadata["fps"] or 1.0, metadata["start_in_seconds"] or 0.0
    seconds = [begin + index / rate for index in metadata["frames_indices"]]
    return list(zip(seconds, pictures, strict=True))


def _processed(path: str, **options: Any) -> dict[str, Any]:
    # A path, so that no name is ever mistaken for an address to download from.
    inputs = _asked(lambda: _processor(videos=Path(path), return_metadata=True, return_tensors="np", **options))
    return {
        "pixel_values_videos": inputs["pixel_values_videos"][0],
        "video_metadata": dict(inputs["video_metadata"][0]),
    }


def _split_at_rests(path: str, start: float | None, end: float | None) -> list[dict[str, float]]:
    segments = _asked(lambda: _processor.video_processor.split_at_rests(Path(path), start=start, end=end))
    return [{name: second for name, second in vars(segment).items() if name != "cut"} for segment in segments]
