"""
Reads the frames of streams, in processes of their own: they decode pictures, measure motion, and find sentences. Only
one thread of a process runs Python at a time, and the many small steps of the model would wait for those of the frames.
"""

import asyncio
import logging
import signal
import threading
import time
import traceback
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from modeling_flallm.own_processing import Task

from .problems import Problem, internal
from .reading_processes import limit_this_process, process_context
from .sent_frames import SECONDS_BEFORE_A_FRAME, decoded_picture, decoded_pose

logger = logging.getLogger(__name__)

MOST_PROCESSES = 4
# Frames of several streams go to a process together: each message costs time in the process of the model.
SECONDS_BETWEEN_READINGS = 0.02
SECONDS_TO_END = 5


@dataclass(frozen=True)
class FrameLimits:
    """Frames per second of a stream at most, and pixels of a frame."""

    max_frame_rate: float
    max_frame_pixels: int


@dataclass(frozen=True)
class Reading:
    """
    What a process has to do for the stream with this number: read frames as they came, end the stream after them, or
    forget it.
    """

    number: int
    frames: list[bytes] = field(default_factory=list)
    is_end: bool = False
    is_closed: bool = False


@dataclass(frozen=True)
class FoundTask:
    """A task whose part has no frames, and those of them that were not sent before, by their numbers."""

    task: Task
    frames: dict[int, Any]


@dataclass(frozen=True)
class Unexpected:
    """An error of our own while frames were read, as Python tells it: a reading process may not write a log."""

    text: str


# In the process of the server

Answer = Future[list[FoundTask]]


class FramesOfStream:
    """The frames of one stream, in the process that reads them."""

    def __init__(self, process: "ReadingProcess", number: int):
        self._process, self._number = process, number
        self._frames: dict[int, torch.Tensor] = {}

    async def read(self, frames: list[bytes], is_end: bool = False) -> list[Task]:
        """
        Read what came, and end the stream if nothing follows -> sentences to translate, for `ask_for` of a
        `StreamingTranslator`: those that ended, and after them the one that is signed.

        Raises:
            Problem: for a frame that cannot be read.
            ConnectionError: if the process has ended.
        """
        found = await asyncio.wrap_future(self._process.ask(Reading(self._number, frames, is_end)))
        return [self._with_frames(each) for each in found]

    def close(self) -> None:
        self._process.num_streams -= 1
        self._process.ask(Reading(self._number, is_closed=True))

    def _with_frames(self, found: FoundTask) -> Task:
        task = found.task
        if task.part is None:
            return task
        self._frames = _since(self._frames, task) | {n: torch.from_numpy(each) for n, each in found.frames.items()}
        return replace(task, part=replace(task.part, frames=[self._frames[number] for number in task.numbers]))


class FrameReaders:
    """
    Processes that read frames, each those of some streams.

    Args:
        model: folder or Hub id.
        number: of processes.
    """

    def __init__(self, model: str, limits: FrameLimits, number: int):
        self._model, self._limits = model, limits
        self._num_opened = 0
        self._processes = [self._new_process() for _ in range(number)]
        for process in self._processes:
            process.ask(Reading(0, is_closed=True)).result()  # the first client need not wait for it

    def open(self) -> FramesOfStream:
        """A new stream, in the process that has the fewest."""
        self._processes = [each if each.is_alive else self._new_process() for each in self._processes]
        process = min(self._processes, key=lambda each: each.num_streams)
        process.num_streams += 1
        self._num_opened += 1
        return FramesOfStream(process, self._num_opened)

    def close(self) -> None:
        for process in self._processes:
            process.close()

    def _new_process(self) -> "ReadingProcess":
        return ReadingProcess(self._model, self._limits)


class ReadingProcess:
    """One process, and a thread that gives it all that came while it was busy, and takes its answers."""

    def __init__(self, model: str, limits: FrameLimits):
        self.num_streams = 0
        context = process_context()
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_read_for, args=(theirs, model, limits), name="frames", daemon=True)
        self._process.start()
        theirs.close()
        self._changed = threading.Condition()
        self._asked: list[tuple[Reading, Answer]] = []
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="frames", daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive() and self._process.is_alive()

    def ask(self, reading: Reading) -> Answer:
        """What is found; an error if the process is no more."""
        answer: Answer = Future()
        with self._changed:
            if self._is_closed:
                answer.set_exception(_ended())
            else:
                self._asked.append((reading, answer))
                self._changed.notify_all()
        return answer

    def close(self) -> None:
        """End after what it is doing, if that does not take too long."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        self._thread.join(SECONDS_TO_END)
        if self._thread.is_alive():
            self._process.kill()
            self._thread.join()

    def _run(self) -> None:
        asked: list[tuple[Reading, Answer]] = []
        try:
            while (asked := self._next()) is not None:
                self._connection.send([reading for reading, _ in asked])
                for (_, answer), found in zip(asked, self._connection.recv(), strict=True):
                    give(answer, found)
        except Exception as error:
            logger.error("A process that reads frames has ended, and with it its streams: %r", error)
        with self._changed:
            self._is_closed = True
            asked = [*(asked or []), *self._asked]
        for _, answer in asked:
            if answer.running() or answer.set_running_or_notify_cancel():
                answer.set_exception(_ended())
        self._connection.close()
        self._process.join()

    def _next(self) -> list[tuple[Reading, Answer]] | None:
        """What was asked since, as far as anybody still waits for it; None at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._asked or self._is_closed)
        time.sleep(SECONDS_BETWEEN_READINGS)
        with self._changed:
            if self._is_closed:
                return None
            asked, self._asked = self._asked, []
        return [(reading, answer) for reading, answer in asked if answer.set_running_or_notify_cancel()]


def give(answer: Answer, found: list[FoundTask] | Problem | Unexpected) -> None:
    if isinstance(found, Unexpected):
        logger.error("Frames could not be read.\n%s", found.text)
        found = internal()
    answer.set_exception(found) if isinstance(found, Problem) else answer.set_result(found)


def _ended() -> ConnectionError:
    return ConnectionError("The process that reads the frames of this stream has ended.")


def _since(by_number: dict[int, Any], task: Task) -> dict[int, Any]:
    """Without the frames before a sentence: no later one has them."""
    return {number: each for number, each in by_number.items() if number >= task.numbers[0]}


# In a reading process


class StreamReader:
    """Reads the frames of one stream. Numbers of frames begin with its first one."""

    def __init__(self, modality: Any, limits: FrameLimits):
        self._limits = limits
        self._clip = modality.live()
        self._takes_pictures = modality.has_space
        self._last_second = -float("inf")
        self._sent: dict[int, Any] = {}

    def read(self, reading: Reading) -> list[FoundTask]:
        """
        Those that ended, and the newest of the others.

        Raises:
            Problem: for a frame that cannot be read.
        """
        found: list[Task] = []
        for task in self._tasks(reading):
            if found and not found[-1].is_final:
                found.pop()
            found.append(task)
        return [self._to_send(task) for task in found]

    def _tasks(self, reading: Reading) -> Iterator[Task]:
        """Frames much closer together than allowed are left out: no sentence has too many."""
        for content in reading.frames:
            (second,) = SECONDS_BEFORE_A_FRAME.unpack_from(content)
            if 0 < second - self._last_second < 0.5 / self._limits.max_frame_rate:
                continue
            self._last_second = second
            frame = self._decoded(content[SECONDS_BEFORE_A_FRAME.size :])
            try:
                yield from self._clip.take(frame, second)
            except ValueError as error:
                raise Problem(422, "frame", str(error)) from None
        if reading.is_end:
            yield from self._clip.end()

    def _decoded(self, content: bytes) -> Any:
        return (
            decoded_picture(content, self._limits.max_frame_pixels) if self._takes_pictures else decoded_pose(content)
        )

    def _to_send(self, task: Task) -> FoundTask:
        """Without the frames that were sent. Poses are smoothed with those that came since, and sent again."""
        if task.part is None:
            return FoundTask(task, {})
        frames = dict(zip(task.numbers, task.part.frames, strict=True))
        self._sent = _since(self._sent, task)
        new = {number: frame for number, frame in frames.items() if self._sent.get(number) is not frame}
        self._sent |= new
        plain = replace(task, part=replace(task.part, frames=[]))
        return FoundTask(plain, {number: frame.numpy() for number, frame in new.items()})


class StreamReaders:
    """The streams of one process."""

    def __init__(self, modality: Any, limits: FrameLimits):
        self._modality, self._limits = modality, limits
        self._streams: dict[int, StreamReader] = {}

    def answers(self, readings: Iterable[Reading]) -> list[list[FoundTask] | Problem | Unexpected]:
        """What is found for each, or what is wrong with it."""
        return [self._answer(reading) for reading in readings]

    def _answer(self, reading: Reading) -> list[FoundTask] | Problem | Unexpected:
        if reading.is_closed:
            self._streams.pop(reading.number, None)
            return []
        try:
            if reading.number not in self._streams:
                self._streams[reading.number] = StreamReader(self._modality, self._limits)
            return self._streams[reading.number].read(reading)
        except Problem as problem:
            return problem
        except Exception:
            return Unexpected(traceback.format_exc())


def _read_for(connection: Any, model: str, limits: FrameLimits) -> None:
    """All of a reading process, until the other end is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the server
    torch.set_num_threads(1)
    from ..runs.trained_models import load_processor  # slow, and not for the process of the server

    readers = StreamReaders(load_processor(model).modality, limits)
    limit_this_process()  # of memory, the size of a picture is limited before it is decoded
    while True:
        try:
            readings = connection.recv()
        except EOFError:
            return
        connection.send(readers.answers(readings))


__all__ = ["FrameLimits", "FrameReaders", "FramesOfStream", "StreamReaders"]
