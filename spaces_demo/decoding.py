"""
Reading uploaded videos, in processes of their own: a file that is made to crash the decoder, to keep it busy or to fill
the memory ends its process only. The visitor gets a sentence, and the next one a new process.
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

import av
import numpy as np
from pebble import ProcessExpired, ProcessPool
from transformers import AutoProcessor

LONGEST_VIDEO_IN_SECONDS = 30 * 60
LARGEST_WIDTH_IN_PIXELS, LARGEST_HEIGHT_IN_PIXELS = 4096, 2304  # either may be the upright side
MEMORY_FOR_ONE_VIDEO_IN_BYTES = 3 * 2**30
NUM_READERS = 2
MOST_ATTEMPTS = 5  # where processes are killed from outside; what ends its own process is not tried again
# Files that hold their pictures themselves. Playlists are left out: they could name other files of the server.
VIDEO_FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,flv,asf,ogg,gif"
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
    """Length in seconds, and size in pixels as it is stored."""

    seconds: float
    width: int
    height: int


class VideoReader:
    """Everything that is read of a video that a visitor sent; each call raises `VideoProblem` for what is wrong."""

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
        """A new one where processes were killed while they waited, which ends a pool for good."""
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
        """Of each piece the seconds `start`, `end`, `caption_start` and `caption_end`."""
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
        importlib.import_module("modeling_flallm")  # makes its classes known
    _processor = AutoProcessor.from_pretrained(model_id, revision=revision, trust_remote_code=trust_remote_code)
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_FOR_ONE_VIDEO_IN_BYTES, MEMORY_FOR_ONE_VIDEO_IN_BYTES))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))  # what reads strangers' files has nothing to write
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _be_ready() -> None:
    """Takes as long as a reading process needs to start."""


def _look(path: str) -> VideoFacts:
    if Path(path).stat().st_size == 0:
        raise VideoProblem("error_empty_file")
    try:
        container = av.open(path, options={"format_whitelist": VIDEO_FORMATS, "protocol_whitelist": "file"})
    except (av.FFmpegError, ValueError) as error:
        raise VideoProblem("error_damaged" if _begins_like_a_video(path) else "error_no_video_file") from error
    with container:
        return _facts_of(container)


def _begins_like_a_video(path: str) -> bool:
    with open(path, "rb") as file:
        head = file.read(12)
    return head[4:8] == b"ftyp" or head[:4] in (b"\x1aE\xdf\xa3", b"RIFF")


def _facts_of(container: Any) -> VideoFacts:
    cover_art = av.stream.Disposition.attached_pic
    streams = [stream for stream in container.streams.video if not stream.disposition & cover_art]
    if not streams:
        raise VideoProblem("error_no_picture")
    stream = streams[0]
    _check_size_of_picture(stream.width, stream.height)
    seconds = container.duration / av.time_base if container.duration else _seconds_of_packets(container, stream)
    if seconds > LONGEST_VIDEO_IN_SECONDS + 1:
        raise VideoProblem("error_too_long", seconds=round(seconds), limit=LONGEST_VIDEO_IN_SECONDS)
    return VideoFacts(seconds, stream.width, stream.height)


def _check_size_of_picture(width: int, height: int) -> None:
    if max(width, height) > LARGEST_WIDTH_IN_PIXELS or min(width, height) > LARGEST_HEIGHT_IN_PIXELS:
        limits = {"limit_width": LARGEST_WIDTH_IN_PIXELS, "limit_height": LARGEST_HEIGHT_IN_PIXELS}
        raise VideoProblem("error_too_large_picture", width=width, height=height, **limits)


def _seconds_of_packets(container: Any, stream: Any) -> float:
    """What a browser records says nothing of its length."""
    last = 0.0
    for packet in container.demux(stream):
        if packet.pts is not None:
            last = float((packet.pts + (packet.duration or 0) - (stream.start_time or 0)) * stream.time_base)
    return last


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
    rate = metadata["fps"] or 1.0
    seconds = [(start or 0.0) + index / rate for index in metadata["frames_indices"]]
    return list(zip(seconds, pictures, strict=True))


def _processed(path: str, **options: Any) -> dict[str, Any]:
    try:
        inputs = _processor(videos=path, return_metadata=True, return_tensors="np", **options)
    except ValueError as error:
        raise VideoProblem("error_damaged") from error
    return {
        "pixel_values_videos": inputs["pixel_values_videos"][0],
        "video_metadata": dict(inputs["video_metadata"][0]),
    }


def _split_at_rests(path: str, start: float | None, end: float | None) -> list[dict[str, float]]:
    try:
        segments = _processor.video_processor.split_at_rests(path, start=start, end=end)
    except ValueError as error:
        raise VideoProblem("error_damaged") from error
    return [{name: second for name, second in vars(segment).items() if name != "cut"} for segment in segments]
