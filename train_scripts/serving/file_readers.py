"""
Reads the files that clients send, in separate processes with limits of time and memory: a file made to crash the
decoder, to keep it busy or to fill the memory ends only its process. The Space does the same in `decoding.py`, which
runs where this package is not installed.
"""

import threading
from concurrent.futures import TimeoutError
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pebble import ProcessExpired, ProcessPool

from .problems import Problem, full
from .reading_processes import limit_this_process, process_context

LARGEST_WIDTH_IN_PIXELS, LARGEST_HEIGHT_IN_PIXELS = 4096, 2304  # either may be the upright side
MEMORY_FOR_ONE_FILE_IN_BYTES = 3 * 2**30
SECONDS_TO_READ = 120
MOST_ATTEMPTS = 5  # if processes are killed from outside; a file that ends its process is not tried again
DAMAGED = "The file is damaged, or of a kind that cannot be read."
# The reasons of the processor; everything else is damage.
REASONS = {
    "empty": "The file is empty.",
    "no_video": "The file is not a video.",
    "no_picture": "The file has no picture, only sound.",
    "unsupported": "The file is in a format that cannot be read. Send an MP4 with H.264.",
    "outside": "The file has nothing between these seconds.",
}

_processor: Any = None  # of a reading process


@dataclass(frozen=True)
class ReaderLimits:
    """How long a clip may be, in seconds, and how many processes read."""

    max_clip_seconds: float
    num_readers: int


class FileReaders:
    """
    Reads files with the processor of a model.

    Args:
        model: folder or Hub id.
    """

    def __init__(self, model: str, limits: ReaderLimits):
        self._model, self._limits = model, limits
        self._lock = threading.Lock()
        self._pool = self._new_pool()
        self._pool.schedule(_be_ready).result()  # the first client need not wait for it

    def read(self, path: Path, start: float | None, end: float | None) -> tuple[Any, dict[str, Any]]:
        """
        What `open` of the model's modality gives, as an array.

        Raises:
            Problem: if something is wrong with the file.
        """
        for attempt in range(MOST_ATTEMPTS):
            pool = self._working_pool()
            try:
                return pool.schedule(
                    _read, args=(path, start, end, self._limits.max_clip_seconds), timeout=SECONDS_TO_READ
                ).result()
            except TimeoutError as error:
                raise Problem(400, "slow", f"Reading the file took more than {SECONDS_TO_READ} seconds.") from error
            except (ProcessExpired, MemoryError) as error:
                raise Problem(400, "damaged", DAMAGED) from error
            except RuntimeError:  # a pool whose waiting processes were killed ends for good
                if pool.active or attempt == MOST_ATTEMPTS - 1:
                    raise
        raise AssertionError("every attempt returns or raises")

    def close(self) -> None:
        self._pool.stop()
        self._pool.join()

    def _new_pool(self) -> ProcessPool:
        return ProcessPool(
            max_workers=self._limits.num_readers,
            context=process_context(),
            initializer=_start_reading_process,
            initargs=(self._model,),
        )

    def _working_pool(self) -> ProcessPool:
        with self._lock:
            if not self._pool.active:
                self._pool = self._new_pool()
            return self._pool


class Places:
    """So many places, of which one that is free is taken at once, or never."""

    def __init__(self, number: int, who: str):
        self.number, self.who = number, who
        self.num_taken = 0
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        """
        Raises:
            Problem: if no place is free.
        """
        with self._lock:
            if self.num_taken >= self.number:
                raise full(f"{self.number} {self.who}")
            self.num_taken += 1

    def __exit__(self, *_: Any) -> None:
        with self._lock:
            self.num_taken -= 1


# In a reading process


def _start_reading_process(model: str) -> None:
    global _processor
    from ..runs.trained_models import load_processor  # slow, and not for the process of the server

    _processor = load_processor(model)
    limit_this_process(MEMORY_FOR_ONE_FILE_IN_BYTES)


def _be_ready() -> None:
    """Takes as long as a reading process needs to start."""


def _read(path: Path, start: float | None, end: float | None, most_seconds: float) -> tuple[Any, dict[str, Any]]:
    try:
        modality = _processor.modality
        if modality.has_pictures:
            _check_facts(modality.look(path), start, end, most_seconds)
        values, metadata = modality.open(path, start, end)
    except ValueError as error:
        reason = getattr(error, "reason", "damaged")
        raise Problem(400, reason, REASONS.get(reason, DAMAGED)) from None  # its text names our files
    return values.numpy(), dict(metadata)  # torch would share memory by files, of which there may be none


def _check_facts(facts: Any, start: float | None, end: float | None, most_seconds: float) -> None:
    if facts.width is not None:
        width, height = facts.width, facts.height
        if max(width, height) > LARGEST_WIDTH_IN_PIXELS or min(width, height) > LARGEST_HEIGHT_IN_PIXELS:
            raise Problem(
                413,
                "too_large",
                f"Its picture may have {LARGEST_WIDTH_IN_PIXELS} x {LARGEST_HEIGHT_IN_PIXELS} pixels at most, got "
                f"{width} x {height}.",
            )
    seconds = (facts.seconds if end is None else min(end, facts.seconds)) - (start or 0.0)
    if seconds > most_seconds:
        raise Problem(
            413,
            "too_long",
            f"A clip may last {most_seconds:g} seconds at most, got {seconds:.1f}. Send one sentence at a time, or its "
            "`start` and `end`.",
        )


__all__ = ["FileReaders", "Places", "ReaderLimits"]
